"""The operating point of a seenmask, and how well it tells seen from unseen.

A seenmask says seen where its logit is above 0. A bias on the logit moves that point (calibrated
stacking, Chao et al. 2016): it costs nothing at run time, and it is chosen on cells that are not
of U.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError

__all__ = ["class_balance", "lost_share", "recall_at", "roc_auc", "seen_bias"]


def class_balance(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weights (P,) that give every label the same sum, all of them summing to 1.

    Args:
        labels: (P,) label of each cell.
    """
    _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / (counts[position] * max(len(counts), 1))
    return weights


def seen_bias(
    logits: NDArray[np.floating], share: float, weights: NDArray[np.floating] | None = None
) -> float:
    """The least bias with which at most a share of the seen cells is called unseen.

    Args:
        logits: (P,) seen logits of cells of seen labels that training has not used.
        share: In [0, 1): how many of them may be lost.
        weights: (P,) how much each counts; by default all the same.

    Returns:
        What is added to every logit. A cell whose sum is 0 is unseen, as in SEI.

    Raises:
        InputError: If there is no cell, or the share is out of range.
    """
    if not len(logits):
        raise InputError("no seen cell to choose a bias on")
    if not 0 <= share < 1:
        raise InputError("share of seen cells that may be lost", got=share, expected="in [0, 1)")
    values = np.asarray(logits, np.float64)
    order = np.argsort(values)
    counted = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    # lost up to and with each cell, if the threshold stood on it
    lost = np.cumsum(counted[order]) / counted.sum()
    ordered = values[order]
    beyond = int(np.searchsorted(lost, share + 1e-12, side="right"))
    first_kept = ordered[min(beyond, len(ordered) - 1)]
    below = ordered[ordered < first_kept]
    # between the last lost cell and the first that is kept; equal ones are kept together
    threshold = (below[-1] + first_kept) / 2 if len(below) else first_kept - 1.0
    return float(-threshold)


def lost_share(
    logits: NDArray[np.floating], bias: float, weights: NDArray[np.floating] | None = None
) -> float:
    """Share of the cells (P,) that a bias calls unseen; NaN without any."""
    if not len(logits):
        return float("nan")
    unseen = np.asarray(logits, np.float64) + bias <= 0
    return float(np.average(unseen, weights=weights))


def roc_auc(
    seen: NDArray[np.floating],
    unseen: NDArray[np.floating],
    seen_weights: NDArray[np.floating] | None = None,
) -> float:
    """Probability that a seen cell has the greater logit than an unseen one, ties half.

    Args:
        seen: (P,) logits of seen cells.
        unseen: (Q,) logits of unseen cells.
        seen_weights: (P,) how much each seen cell counts.

    Returns:
        In [0, 1]; 0.5 is chance. NaN if a side is empty.
    """
    if not len(seen) or not len(unseen):
        return float("nan")
    ordered = np.sort(unseen)
    below = np.searchsorted(ordered, seen, side="left")
    upto = np.searchsorted(ordered, seen, side="right")
    return float(np.average((below + upto) / 2, weights=seen_weights) / len(ordered))


def recall_at(
    seen: NDArray[np.floating],
    unseen: NDArray[np.floating],
    share: float,
    seen_weights: NDArray[np.floating] | None = None,
) -> float:
    """Share of the unseen cells that are found where at most `share` of the seen ones are lost.

    Args:
        seen: (P,) logits of seen cells.
        unseen: (Q,) logits of unseen cells.
        share: In [0, 1).
        seen_weights: (P,) how much each seen cell counts.

    Raises:
        InputError: As `seen_bias`.
    """
    return lost_share(unseen, seen_bias(seen, share, seen_weights))
