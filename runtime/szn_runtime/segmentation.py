"""The result for one frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_runtime.labels import LabelSet

__all__ = ["Segmentation"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """A labelled frame.

    Args:
        labels: (H, W) indices into `label_set.names`: uint8 up to 255 labels, uint16 up to 65535,
            else int32.
        label_set: What was chosen among.
        seenmask: (H, W) True where the pixel was taken for something of the seen labels.
        image_bgr: (H, W, 3) uint8 BGR, the frame itself, not a copy.

    Raises:
        InputError: If the sizes differ.
    """

    labels: NDArray[np.integer]
    label_set: LabelSet
    seenmask: NDArray[np.bool_]
    image_bgr: NDArray[np.uint8]

    def __post_init__(self) -> None:
        size_hw = self.labels.shape
        if self.seenmask.shape != size_hw or self.image_bgr.shape != (*size_hw, 3):
            raise InputError(
                "label map, seenmask and frame differ in size",
                got=f"{size_hw}, {self.seenmask.shape} and {self.image_bgr.shape}",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the label map's indices stand for."""
        return self.label_set.names

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each label that is present, largest first."""
        from szn_runtime.overlay import label_counts

        counts = label_counts(self.labels, len(self.label_set))  # (K,)
        present = np.flatnonzero(counts)
        order = present[np.argsort(-counts[present], kind="stable")]
        return {self.names[row]: float(counts[row] / self.labels.size) for row in order}

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> NDArray[np.uint8]:
        """The frame with its labels' colours.

        Args:
            alpha: Share of the label's colour, 0 to 1.
            legend: Whether to draw the names of the labels that are present.

        Returns:
            (H, W, 3) uint8 BGR, a new array.
        """
        from szn_runtime.overlay import render

        return render(self.image_bgr, self.labels, self.label_set, alpha=alpha, legend=legend)
