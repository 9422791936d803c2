"""A logistic regression on statistics of cells, with its operating point, as a seenmask.

It tells seen cells of held-out images from cells of train_unseen. A bias moves the operating point
as far towards unseen as it costs at most so many points of train_seen mIoU on the held-out cells,
whose logits are of regressions without their image. `szn_train.seenmask_fit` makes the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import TrainingError
from szn_train.calibration import class_balance, lost_share, seen_bias
from szn_train.classes import ClassSplit
from szn_train.logistic import Logistic, fit_logistic
from szn_train.metrics import confusion_matrix, scores
from szn_train.seen_statistics import SeenStatistics
from szn_train.seenmask_head import StatisticalSeenmask

__all__ = ["LINEAR_INSTEAD", "CellTable", "SeenCells", "SeenmaskFit", "fit_sides", "fit_table"]

LINEAR_INSTEAD = "give --seenmask linear, or more images of these classes"
"""What to do where there are too few cells."""

_FOLDS = 3
_SHARES = (0.4, 0.3, 0.25, 0.2, *np.arange(0.15, 0.0, -0.01).tolist(), 0.005)
"""Of the held-out seen cells that may be called unseen, the ones that are tried."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class CellTable:
    """Cells with what the regression is fitted on.

    Attributes:
        statistics: (P, 8) float32.
        nearest: (P,) position in train_seen of the label that is most similar.
        labels: (P,) uint8 label index, never `VOID`.
        images: (P,) number of the cell's image.
    """

    statistics: NDArray[np.float32]
    nearest: NDArray[np.int64]
    labels: NDArray[np.uint8]
    images: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenCells:
    """Held-out cells of train_seen, on which an operating point is chosen.

    Args:
        labels: (P,) position in train_seen of their label.
        nearest: (P,) position of the label that is most similar.
        count: Labels of train_seen.
    """

    labels: NDArray[np.int64]
    nearest: NDArray[np.int64]
    count: int

    def miou(self, logits: Array) -> float:
        """Train_seen mIoU in percent, those called unseen being wrong."""
        called = np.where(logits > 0, self.nearest, self.count)
        confusion = confusion_matrix(self.labels, called, self.count + 1)
        return scores(confusion, np.arange(self.count + 1) < self.count).miou

    @property
    def perfect(self) -> float:
        """Train_seen mIoU in percent if no cell is called unseen: FCN-JE's."""
        return self.miou(np.ones(len(self.labels)))

    def bias(self, logits: Array, drop: float) -> float:
        """A bias on logits (P,) that costs at most `drop` points of mIoU.

        Of those that call 40 % of the cells unseen, down to 0.5 % in 20 steps, it is the first that
        does not cost more; else the one that calls none unseen.
        """
        least = self.perfect - drop
        for share in _SHARES:
            bias = seen_bias(logits, share)
            if self.miou(logits + bias) >= least:
                return bias
        return seen_bias(logits, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenmaskFit:
    """What a fit gave.

    Attributes:
        head: The seenmask.
        lost: Share of the held-out seen cells that it calls unseen.
        miou: Train_seen mIoU on them, in percent.
        fcn_je_miou: The same if nothing were called unseen.
        found: Share of the cells of train_unseen that it calls unseen; it was fitted on them.
    """

    head: StatisticalSeenmask
    lost: float
    miou: float
    fcn_je_miou: float
    found: float

    def line(self) -> str:
        """For the console."""
        return (
            f"seenmask: calls {100 * self.lost:.1f} % of held-out seen cells unseen and "
            f"{100 * self.found:.1f} % of those of train_unseen; "
            f"mIoU of train_seen {self.fcn_je_miou:.1f} to {self.miou:.1f}"
        )


def fit_sides(
    inputs: NDArray[np.floating],
    labels: NDArray[np.integer],
    seen: NDArray[np.bool_],
    *,
    l2: float = 1e-3,
) -> Logistic:
    """Seen against unseen, both sides and in each side all labels counting the same.

    Args:
        inputs: (P, F).
        labels: (P,).
        seen: (P,) the side of each.
        l2: Penalty on standardised weights.

    Raises:
        InputError: If a side is empty.
    """
    weights = np.empty(len(labels))
    for side in (seen, ~seen):
        weights[side] = class_balance(labels[side])
    return fit_logistic(inputs, seen, weights, l2=l2)


def fit_table(
    statistics: SeenStatistics,
    unseen: CellTable,
    hold: CellTable,
    split: ClassSplit,
    *,
    drop: float,
) -> SeenmaskFit:
    """Regression and operating point from tables of cells.

    Args:
        statistics: That the tables hold.
        unseen: Cells of train_unseen in training images.
        hold: Cells of train_seen and train_unseen in held-out images.
        split: Classes of the run.
        drop: Points of train_seen mIoU that the operating point may cost.

    Raises:
        TrainingError: If there are no cells of a side.
    """
    members = split.is_member(split.train_seen)
    seen = members[hold.labels]
    found = len(unseen.labels) + int((~seen).sum())
    if not seen.any() or not found:
        raise TrainingError(
            "no cell of the grid tells seen from unseen",
            got=f"{int(seen.sum())} held-out cells of train_seen, {found} of train_unseen",
            fix=LINEAR_INSTEAD,
        )
    sides = np.concatenate([np.zeros(len(unseen.labels), np.bool_), seen])
    inputs = np.concatenate([unseen.statistics, hold.statistics])
    labels = np.concatenate([unseen.labels, hold.labels])
    # images count among those that have cells, and one fold may be all that a side has
    _, number = np.unique(hold.images, return_inverse=True)
    folds = np.concatenate([np.full(len(unseen.labels), -1), number % _FOLDS])
    model = fit_sides(inputs, labels, sides)
    held = model(hold.statistics[seen])
    for fold in range(_FOLDS):
        kept = folds != fold
        if sides[kept].any() and (~sides[kept]).any():
            rows = folds[-len(seen) :][seen] == fold
            held[rows] = fit_sides(inputs[kept], labels[kept], sides[kept])(
                hold.statistics[seen][rows]
            )
    position = np.zeros(len(members), np.int64)
    position[split.indices(split.train_seen)] = np.arange(len(split.train_seen))
    cells = SeenCells(
        labels=position[hold.labels[seen]], nearest=hold.nearest[seen], count=len(split.train_seen)
    )
    bias = cells.bias(held, drop)
    return SeenmaskFit(
        head=StatisticalSeenmask(
            statistics=statistics, statistic_weight=model.weight, bias=model.bias + bias
        ),
        lost=lost_share(held, bias),
        miou=cells.miou(held + bias),
        fcn_je_miou=cells.perfect,
        found=lost_share(model(inputs[~sides]), bias),
    )
