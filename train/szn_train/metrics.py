"""Segmentation metrics from a confusion matrix, in two readings.

`standard`: the IoU of each class comes from the full confusion matrix; a subset's score averages
over the classes of the subset that the truth shows.

`thesis`: the rows of the subset alone, as the thesis' tables were made: false positives from
pixels of other classes vanish, and a class outside the subset that was wrongly predicted enters
the mean with an IoU of 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ClassScores",
    "Mode",
    "Scores",
    "class_scores",
    "confusion_matrix",
    "harmonic_mean",
    "row_percent",
    "scores",
]

Mode = Literal["standard", "thesis"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Metrics in percent, NaN where the truth shows no pixel of the subset.

    Attributes:
        pa: Pixel accuracy.
        ca: Class accuracy, the mean recall.
        miou: Mean intersection over union.
        wiou: IoU weighted by the frequency of the class (the thesis' equation 10, without its
            stray factor 1 / n_cl).
    """

    pa: float
    ca: float
    miou: float
    wiou: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassScores:
    """Metrics of each class, (K,) float64 in percent, from the full confusion matrix.

    Attributes:
        pixels: Of the truth, a count.
        iou: Intersection over union; NaN where the truth shows no pixel of the class.
        recall: Of the class' pixels, how many were called it; NaN likewise.
        precision: Of the pixels called it, how many are; NaN where none is called it.
    """

    pixels: NDArray[np.int64]
    iou: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


def confusion_matrix(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Pixels of true class (row) that were called a class (column), as (classes, classes).

    Truth values of `classes` or more (void) are left out; predictions must be less.
    """
    known = truth < classes
    pair = truth[known].astype(np.int64) * classes + prediction[known]
    return np.bincount(pair, minlength=classes**2).reshape(classes, classes)


def scores(
    confusion: NDArray[np.int64], subset: NDArray[np.bool_] | None = None, mode: Mode = "standard"
) -> Scores:
    """Metrics of the pixels whose true class is in `subset` (all by default).

    Args:
        confusion: (K, K), rows truth, columns prediction.
        subset: (K,) which classes count.
        mode: How false positives from outside the subset count; see the module.
    """
    members = np.ones(len(confusion), dtype=np.bool_) if subset is None else subset
    rows = np.where(members[:, None], confusion, 0)  # truth in the subset only
    hits = np.diagonal(rows).astype(np.float64)
    truth = rows.sum(axis=1).astype(np.float64)
    called = (rows if mode == "thesis" else confusion).sum(axis=0).astype(np.float64)
    if truth.sum() == 0:
        return Scores(pa=np.nan, ca=np.nan, miou=np.nan, wiou=np.nan)
    present = truth > 0
    recall = hits[present] / truth[present]
    union = truth + called - hits
    # In thesis mode every class with a row or a column counts, hence the zeros of wrong calls.
    counted = union > 0 if mode == "thesis" else present
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    return Scores(
        pa=100 * hits.sum() / truth.sum(),
        ca=100 * float(recall.mean()),
        miou=100 * float(iou[counted].mean()),
        wiou=100 * float((truth * iou).sum() / truth.sum()),
    )


def class_scores(confusion: NDArray[np.int64]) -> ClassScores:
    """Metrics of each class of a confusion matrix (K, K), rows truth, columns prediction."""
    hits = np.diagonal(confusion)
    truth, called = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        pixels=truth,
        iou=_percent(hits, np.where(truth > 0, truth + called - hits, 0)),
        recall=_percent(hits, truth),
        precision=_percent(hits, called),
    )


def row_percent(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """The confusion matrix (K, K) in percent of each row's pixels, NaN in rows without pixels."""
    return _percent(confusion, confusion.sum(axis=1, keepdims=True))


def _percent(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """100 * part / whole, NaN where the whole is 0."""
    shares = np.full(part.shape, np.nan)
    np.divide(part, whole, out=shares, where=np.broadcast_to(whole > 0, part.shape))
    return 100 * shares


def harmonic_mean(a: float, b: float) -> float:
    """`2 a b / (a + b)`, the usual joint score of seen and unseen mIoU; 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b > 0 else (0.0 if a + b == 0 else float("nan"))
