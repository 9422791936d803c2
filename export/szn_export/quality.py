"""mIoU of FCN-JE, SZN and SZN-PS from the grids of an artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Grids
from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry
from szn_train.classes import ClassSplit
from szn_train.decisions import Decisions
from szn_train.evaluate import Evaluation
from szn_train.metrics import confusion_matrix
from szn_train.semantic import LabelSpace

__all__ = ["GateData", "Quality", "QualityMeter"]


@dataclass(frozen=True, kw_only=True, eq=False)
class GateData:
    """Images for the gate.

    Args:
        images: (H, W, 3) uint8 BGR each, of any sizes.
        truths: For each image its label indices (H, W), 255 is void; None without masks.
        split: The classes that the masks are of; needed with masks.
        space: Their embeddings; likewise.

    Raises:
        InputError: If there is no image, or masks do not fit.
    """

    images: Sequence[NDArray[np.uint8]]
    truths: Sequence[NDArray[np.uint8]] | None = None
    split: ClassSplit | None = None
    space: LabelSpace | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("the gate has no images", expected="at least one")
        if self.truths is not None and (
            self.split is None or self.space is None or len(self.truths) != len(self.images)
        ):
            raise InputError("the gate's masks do not fit its images")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Scores on the gate's images, standard metrics in percent; NaN where nothing can be scored.

    Attributes:
        miou: Model ("FCN-JE", "SZN", "SZN-PS") and group ("train_seen", "unseen", "harmonic") to
            mIoU.
    """

    miou: dict[str, dict[str, float]]

    def limited(self) -> dict[str, float]:
        """The scores that budgets are about."""
        names = {"FCN-JE mIoU": ("FCN-JE", "train_seen")}
        if "SZN-PS" in self.miou:
            names["SZN-PS harmonic mIoU"] = ("SZN-PS", "harmonic")
        return {name: self.miou[model][group] for name, (model, group) in names.items()}


class QualityMeter:
    """Collects the decisions on frames of the nominal size.

    Args:
        data: The images; without masks nothing is collected.
    """

    def __init__(self, data: GateData) -> None:
        self._data = data
        self._images = 0
        if data.truths is not None and data.split is not None and data.space is not None:
            self._split = data.split
            self._decide = Decisions(data.split, data.space)
            size = len(data.split.labels)
            self._confusions = {
                model: np.zeros((size, size), dtype=np.int64) for model in self._decide.models
            }

    def add(self, numbers: Sequence[int], grids: Grids, geometry: GridGeometry) -> None:
        """Take the grids of some images.

        Args:
            numbers: Of the images.
            grids: Of these, in this order.
            geometry: Where the nodes lie among the images' pixels.
        """
        if self._data.truths is None:
            return
        for row, number in enumerate(numbers):
            truth = self._data.truths[number]
            maps, _ = self._decide(grids.embedding[row], grids.seenmask[row], truth, geometry)
            for model, matrix in self._confusions.items():
                matrix += confusion_matrix(truth, maps[model], len(matrix))
            self._images += 1

    def result(self) -> Quality | None:
        """The scores, None without masks."""
        if self._data.truths is None:
            return None
        found = Evaluation(
            split=self._split,
            images=self._images,
            confusions=self._confusions,
            seenmask_accuracy=None,
        )
        return Quality(
            miou={
                model: {
                    **{g: found.scores(model, g).miou for g in ("train_seen", "unseen")},
                    "harmonic": found.harmonic_miou(model),
                }
                for model in self._confusions
            }
        )
