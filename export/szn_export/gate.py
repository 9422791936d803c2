"""The gate: an artefact is compared with PyTorch on real images before anything is written.

What counts is what a user sees: the share of pixels whose final label differs, and the share whose
seenmask differs. Shapes come first, since the cheapest way to be wrong is another grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szn_runtime.backends import Backend
from szn_runtime.errors import GateError, UsageError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.manifest import Preprocess
from szn_runtime.preprocess import Layout, normalise_into, plan
from szn_runtime.sei import segment_grid
from szn_train.model import SeenmaskZeroShotNetwork

__all__ = ["DEFAULT_BUDGETS", "Budget", "Comparison", "check", "compare"]

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an artefact may differ by.

    Args:
        label_flips: Percent of pixels whose label differs.
        seenmask_flips: Percent of pixels whose seenmask differs.
    """

    label_flips: float
    seenmask_flips: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 100:
                raise UsageError(f"budget {name}", got=value, expected="0 to 100 percent")


DEFAULT_BUDGETS: Mapping[str, Budget] = {"fp32": Budget(label_flips=0.01, seenmask_flips=0.01)}
"""Budgets per precision."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far an artefact is from PyTorch.

    Attributes:
        images: Number of images, counted once.
        frames: Number of frames compared: every image at every size.
        sizes_hw: Network input sizes (height, width) that occurred.
        batches: Batch sizes that occurred.
        embedding_max: Largest absolute difference of the embedding.
        embedding_mean: Mean absolute difference of the embedding.
        embedding_scale: Largest absolute value of PyTorch's embedding.
        seenmask_max: Largest absolute difference of the seenmask's scores.
        label_flips: Percent of pixels whose label differs.
        seenmask_flips: Percent of pixels whose seenmask differs.
    """

    images: int
    frames: int
    sizes_hw: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    embedding_max: float
    embedding_mean: float
    embedding_scale: float
    seenmask_max: float
    label_flips: float
    seenmask_flips: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(
    network: SeenmaskZeroShotNetwork,
    backend: Backend,
    images: Sequence[Image],
    *,
    labels: LabelSet,
    preprocess: Preprocess,
    scales: Sequence[float] = (1.0, 0.75, 1.5),
    batch_size: int = 3,
) -> Comparison:
    """Run PyTorch and an artefact on the same frames.

    Args:
        network: The reference.
        backend: The artefact in the backend that will run it.
        images: HWC uint8 BGR, of any sizes.
        labels: Labels that are decided among.
        preprocess: Of the bundle.
        scales: Factors on the nominal long side.
        batch_size: Frames of one size are also run in batches of this many; the rest of each
            group runs in smaller ones.

    Raises:
        GateError: If an output's shape differs.
    """
    totals = _Totals()
    sizes: set[tuple[int, int]] = set()
    batches: set[int] = set()
    frames = 0
    network.eval()
    for scale in scales:
        long_side = max(round(preprocess.long_side * scale), preprocess.multiple)
        for group in _by_layout(images, long_side, preprocess.multiple):
            for start in range(0, len(group), batch_size):
                part = group[start : start + batch_size]
                layout = part[0][1]
                tensor = np.empty((len(part), 3, *layout.padded_hw), dtype=np.float32)
                for row, (image, _) in enumerate(part):
                    normalise_into(image, layout, preprocess, tensor[row])
                geometry = layout.grid_geometry(network.geometry)
                totals.add(network, backend, tensor, labels, geometry, layout.frame_hw)
                sizes.add(layout.padded_hw)
                batches.add(len(part))
                frames += len(part)
    return Comparison(
        images=len(images),
        frames=frames,
        sizes_hw=tuple(sorted(sizes)),
        batches=tuple(sorted(batches)),
        **totals.result(),
    )


def check(comparison: Comparison, budget: Budget, artefact: str) -> None:
    """Refuse an artefact that is past its budget.

    Raises:
        GateError: With the numbers, and by how much they are past.
    """
    for name in ("label_flips", "seenmask_flips"):
        got, most = getattr(comparison, name), getattr(budget, name)
        if not got <= most:
            raise GateError(
                f"{artefact} differs from PyTorch: {name.replace('_', ' ')}",
                got=f"{got:.4f} % of the pixels of {comparison.images} images",
                expected=f"at most {most:g} %",
                fix="nothing was written; raise --budget only if you accept the difference",
            )


def _by_layout(
    images: Sequence[Image], long_side: int, multiple: int
) -> list[list[tuple[Image, Layout]]]:
    """Images that have the same size before and after resizing, which can share a batch."""
    groups: dict[Layout, list[tuple[Image, Layout]]] = {}
    for image in images:
        layout = plan(image.shape[:2], long_side=long_side, multiple=multiple)
        groups.setdefault(layout, []).append((image, layout))
    return list(groups.values())


class _Totals:
    """Sums over all frames."""

    def __init__(self) -> None:
        self._maxima = {"embedding_max": 0.0, "embedding_scale": 0.0, "seenmask_max": 0.0}
        self._difference = 0.0
        self._values = self._pixels = self._labels = self._seen = 0

    def add(
        self,
        network: SeenmaskZeroShotNetwork,
        backend: Backend,
        frames: NDArray[np.float32],
        labels: LabelSet,
        geometry: GridGeometry,
        size_hw: tuple[int, int],
    ) -> None:
        with torch.inference_mode():
            reference = [g.contiguous().numpy() for g in network(torch.from_numpy(frames))]
        grids = backend.infer(frames)
        artefact = [grids.embedding, grids.seenmask]
        for name, ours, theirs in zip(("embedding", "seenmask"), artefact, reference, strict=True):
            if ours.shape != theirs.shape:
                raise GateError(
                    f"output {name} has another shape for frames {frames.shape}",
                    got=ours.shape,
                    expected=f"PyTorch's {theirs.shape}",
                )
        difference = np.abs(artefact[0] - reference[0])
        self._difference += float(difference.sum(dtype=np.float64))
        self._values += difference.size
        self._raise("embedding_max", difference)
        self._raise("embedding_scale", np.abs(reference[0]))
        self._raise("seenmask_max", np.abs(artefact[1] - reference[1]))
        for row in range(len(frames)):
            ours_labels, ours_seen = _decide(artefact, row, labels, geometry, size_hw)
            their_labels, their_seen = _decide(reference, row, labels, geometry, size_hw)
            self._labels += int((ours_labels != their_labels).sum())
            self._seen += int((ours_seen != their_seen).sum())
            self._pixels += ours_labels.size

    def _raise(self, name: str, values: NDArray[np.float32]) -> None:
        # written so that a NaN is kept, not lost as the smaller one
        self._maxima[name] = float(np.maximum(self._maxima[name], values.max()))

    def result(self) -> dict[str, float]:
        return {
            **self._maxima,
            "embedding_mean": self._difference / max(self._values, 1),
            "label_flips": 100 * self._labels / max(self._pixels, 1),
            "seenmask_flips": 100 * self._seen / max(self._pixels, 1),
        }


def _decide(
    grids: Sequence[NDArray[np.float32]],
    row: int,
    labels: LabelSet,
    geometry: GridGeometry,
    size_hw: tuple[int, int],
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """Labels and seenmask of one frame, as the runtime decides them."""
    return segment_grid(grids[0][row], grids[1][row], labels, geometry=geometry, size_hw=size_hw)
