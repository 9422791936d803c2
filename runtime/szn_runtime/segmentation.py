"""The result for one frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet

if TYPE_CHECKING:
    from szn_runtime.regions import Region

__all__ = ["UNKNOWN", "Segmentation"]

UNKNOWN = "unknown"
"""Name of pixels that are like no label, where a threshold is set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """A labelled frame.

    Args:
        labels: (H, W) indices into `names`: uint8 up to 255 names, uint16 up to 65535, else int32.
        names: What the indices stand for: the names of `label_set`, then perhaps `UNKNOWN`.
        seen: For each of `names`, whether the network was trained on it.
        label_set: What was chosen among.
        seenmask: (H, W) True where the pixel was taken for something of the seen labels.
        image_bgr: (H, W, 3) uint8 BGR, the frame itself, not a copy.
        embedding: (j, h, w) float32, the network's grid that the labels come from.
        geometry: Where the grid's nodes lie among the frame's pixels.
        cosines: (H, W) float32 of each pixel with its label (the best one, where it is unknown), if
            they were needed; `confidence` finds them otherwise.

    Raises:
        InputError: If the sizes differ.
    """

    labels: NDArray[np.integer]
    names: tuple[str, ...]
    seen: NDArray[np.bool_]
    label_set: LabelSet
    seenmask: NDArray[np.bool_]
    image_bgr: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    geometry: GridGeometry
    cosines: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        size_hw = self.labels.shape
        if self.seenmask.shape != size_hw or self.image_bgr.shape != (*size_hw, 3):
            raise InputError(
                "label map, seenmask and frame differ in size",
                got=f"{size_hw}, {self.seenmask.shape} and {self.image_bgr.shape}",
            )

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """(H, W) cosine of each pixel's embedding with its label's, -1 to 1."""
        from szn_runtime.confidence import label_cosines

        if self.cosines is not None:
            return self.cosines
        return label_cosines(self.embedding, self.labels, self.label_set, geometry=self.geometry)

    def regions(self, top_k: int = 5, least_share: float = 0.005) -> list[Region]:
        """Connected regions of one label, largest first, each with its most similar labels.

        Args:
            top_k: Labels to name for each region.
            least_share: Share of the frame's pixels that a region has at least.

        Raises:
            UsageError: If `top_k` is less than 1.
        """
        from szn_runtime.regions import find_regions

        return find_regions(
            self.labels,
            self.embedding,
            self.label_set,
            geometry=self.geometry,
            top_k=top_k,
            least_share=least_share,
        )

    @cached_property
    def present(self) -> tuple[tuple[int, float], ...]:
        """Index and share of the pixels of each label that is present, largest first."""
        from szn_runtime.overlay import label_counts

        counts = label_counts(self.labels, len(self.names))  # (K,)
        found = np.flatnonzero(counts)
        order = found[np.argsort(-counts[found], kind="stable")]
        return tuple((int(row), float(counts[row] / self.labels.size)) for row in order)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each label that is present, largest first."""
        return {self.names[row]: share for row, share in self.present}

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> NDArray[np.uint8]:
        """The frame with its labels' colours.

        Args:
            alpha: Share of the label's colour, 0 to 1.
            legend: Whether to draw the names of the labels that are present.

        Returns:
            (H, W, 3) uint8 BGR, a new array.
        """
        from szn_runtime.overlay import render

        return render(
            self.image_bgr, self.labels, self.names, self.seen, alpha=alpha, legend=legend
        )
