"""The gate: artefacts are compared with PyTorch on real images before they are written.

What counts is what a user sees: the share of pixels whose final label differs, the share whose
seenmask differs, and, where the images have masks, mIoU. Shapes come first, since the cheapest way
to be wrong is another grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_export.quality import Quality, QualityMeter
from szn_export.reference import Batch, Reference
from szn_runtime.backends import Backend, Grids
from szn_runtime.errors import GateError, UsageError
from szn_runtime.labels import LabelSet
from szn_runtime.sei import segment_grid

__all__ = [
    "DEFAULT_BUDGETS",
    "Budget",
    "Comparison",
    "Flips",
    "check",
    "compare",
]

Image = NDArray[np.uint8]

_MOST_PICTURES = 4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an artefact may differ by.

    Args:
        label_flips: Percent of pixels whose label differs.
        seenmask_flips: Percent of pixels whose seenmask differs.
        miou_points: Points that FCN-JE's mIoU and the harmonic mIoU of SZN-PS may be lower, where
            the images have masks; None for no such limit.
    """

    label_flips: float
    seenmask_flips: float
    miou_points: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value <= 100:
                raise UsageError(f"budget {name}", got=value, expected="0 to 100 percent")


_HALF = Budget(label_flips=0.5, seenmask_flips=0.5)
DEFAULT_BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {
        "fp32": Budget(label_flips=0.01, seenmask_flips=0.01),
        "fp16": _HALF,
        "bf16": _HALF,
        "int8": Budget(label_flips=4, seenmask_flips=4, miou_points=1.5),
    }
)
"""Budgets per precision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Flips:
    """A frame with the pixels whose label an artefact changes.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        reference: (H, W) labels that PyTorch leads to.
        found: (H, W) labels that the artefact leads to.
    """

    image: Image
    reference: NDArray[np.integer]
    found: NDArray[np.integer]

    @property
    def share(self) -> float:
        """Share of the pixels that differ."""
        return float((self.reference != self.found).mean())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far an artefact is from PyTorch.

    Attributes:
        images: Number of images, counted once.
        frames: Number of frames compared: images at several sizes.
        sizes_hw: Network input sizes (height, width) that occurred.
        batches: Batch sizes that occurred.
        embedding_max: Largest absolute difference of the embedding.
        embedding_mean: Mean absolute difference of the embedding.
        embedding_scale: Largest absolute value of PyTorch's embedding.
        seenmask_max: Largest absolute difference of the seenmask's scores.
        label_flips: Percent of pixels whose label differs.
        seenmask_flips: Percent of pixels whose seenmask differs.
        quality: Scores of the artefact, None without masks.
        reference_quality: Those of PyTorch.
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
    quality: Quality | None = None
    reference_quality: Quality | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def points_lost(self) -> dict[str, float]:
        """Points of mIoU that the artefact is below PyTorch, where both are known."""
        if self.quality is None or self.reference_quality is None:
            return {}
        ours, theirs = self.quality.limited(), self.reference_quality.limited()
        lost = {name: theirs[name] - ours[name] for name in ours}
        return {name: points for name, points in lost.items() if not np.isnan(theirs[name])}


def compare(
    reference: Reference, backend: Backend, *, advance: Callable[[], None] = lambda: None
) -> tuple[Comparison, list[Flips]]:
    """Run an artefact on the frames of the reference.

    Args:
        reference: What it is compared with.
        backend: The artefact in the backend that will run it.
        advance: Called after each batch.

    Returns:
        The numbers; and the frames with the most flips, worst first.

    Raises:
        GateError: If an output's shape differs.
    """
    totals = _Totals()
    meter = QualityMeter(reference.data)
    worst: list[Flips] = []
    for batch in reference.batches:
        grids = backend.infer(reference.tensor(batch))
        for name in ("embedding", "seenmask"):
            ours, theirs = getattr(grids, name), getattr(batch.grids, name)
            if ours.shape != theirs.shape:
                raise GateError(
                    f"output {name} has another shape for {len(batch.numbers)} frames of "
                    f"{batch.layout.padded_hw[0]} x {batch.layout.padded_hw[1]}",
                    got=ours.shape,
                    expected=f"PyTorch's {theirs.shape}",
                )
        totals.add_grids(grids, batch.grids)
        if batch.nominal:
            meter.add(batch.numbers, grids, batch.geometry)
        for row, number in enumerate(batch.numbers):
            found, expected = (
                _decide(each, row, reference.labels, batch) for each in (grids, batch.grids)
            )
            totals.add_labels(found, expected)
            if batch.nominal:
                worst.append(
                    Flips(
                        image=reference.data.images[number], reference=expected[0], found=found[0]
                    )
                )
                worst = sorted(worst, key=lambda flips: -flips.share)[:_MOST_PICTURES]
        advance()
    comparison = Comparison(
        images=len(reference.data.images),
        frames=sum(len(batch.numbers) for batch in reference.batches),
        sizes_hw=tuple(sorted({batch.layout.padded_hw for batch in reference.batches})),
        batches=tuple(sorted({len(batch.numbers) for batch in reference.batches})),
        quality=meter.result(),
        reference_quality=reference.quality,
        **totals.result(),
    )
    return comparison, [flips for flips in worst if flips.share > 0]


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
                fix="it was not written; raise --budget only if you accept the difference",
            )
    if budget.miou_points is None:
        return
    for name, points in comparison.points_lost().items():
        if not points <= budget.miou_points:
            raise GateError(
                f"{artefact} is worse than PyTorch: {name}",
                got=f"{points:.2f} points less on {comparison.images} images",
                expected=f"at most {budget.miou_points:g}",
                fix="it was not written; calibrate on images such as the camera will see",
            )


class _Totals:
    """Sums over all frames."""

    def __init__(self) -> None:
        self._maxima = {"embedding_max": 0.0, "embedding_scale": 0.0, "seenmask_max": 0.0}
        self._difference = 0.0
        self._values = self._pixels = self._labels = self._seen = 0

    def add_grids(self, ours: Grids, theirs: Grids) -> None:
        difference = np.abs(ours.embedding - theirs.embedding)
        self._difference += float(difference.sum(dtype=np.float64))
        self._values += difference.size
        self._raise("embedding_max", difference)
        self._raise("embedding_scale", np.abs(theirs.embedding))
        self._raise("seenmask_max", np.abs(ours.seenmask - theirs.seenmask))

    def add_labels(
        self,
        ours: tuple[NDArray[np.integer], NDArray[np.bool_]],
        theirs: tuple[NDArray[np.integer], NDArray[np.bool_]],
    ) -> None:
        self._labels += int((ours[0] != theirs[0]).sum())
        self._seen += int((ours[1] != theirs[1]).sum())
        self._pixels += ours[0].size

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
    grids: Grids, row: int, labels: LabelSet, batch: Batch
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """Labels and seenmask of one frame, as the runtime decides them."""
    return segment_grid(
        grids.embedding[row],
        grids.seenmask[row],
        labels,
        geometry=batch.geometry,
        size_hw=batch.layout.frame_hw,
    )
