"""Compiled kernels of `sei.py`: drop most labels of a large vocabulary early (docs/sei.md)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from szn_runtime._sei_candidates import HUGE, LANES, multiply_four, update_bounds

__all__ = ["label_filter"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

CENTRES = LANES  # directions that stand for the nodes
DROPPED, WINNER = -1, -2  # rows of labels that are not kept so far
_ROUNDS = 2  # of moving them
# Fewer nodes than this are compared with the labels themselves.
_NODES = 2 * CENTRES
# Of a grid whose greatest number is about 1: shorter nodes have no exact direction.
_SHORT = np.float32(1e-30)

# Finite numbers only (checked before), so a maximum may be taken in any order.
_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})


@_fast
def _raise_best(scores: F32, q: int, row: int, best: F32, winner: I32) -> None:
    for n in range(best.size):
        value = scores[q, n]
        winner[n] = row if value > best[n] else winner[n]
        best[n] = value if value > best[n] else best[n]


@_fast
def _reach(scores: F32, threshold: F32) -> int:
    """Which of four labels reach the threshold at any node: bits of a number.

    Args:
        scores: (4, n) float32.
        threshold: (n,) float32.
    """
    h0 = h1 = h2 = h3 = np.int32(0)
    for n in range(threshold.size):
        t = threshold[n]
        h0 = np.int32(1) if scores[0, n] >= t else h0
        h1 = np.int32(2) if scores[1, n] >= t else h1
        h2 = np.int32(4) if scores[2, n] >= t else h2
        h3 = np.int32(8) if scores[3, n] >= t else h3
    return int(h0 | h1 | h2 | h3)


@_fast
def _centres(unit: F32, lanes: F32) -> tuple[F32, I32]:
    """A few directions near all nodes, by k-means on the sphere.

    Args:
        unit: (n, j) float32 directions of the nodes.
        lanes: (j, width) float32 the same, transposed and filled up with zeros.

    Returns:
        (CENTRES, j) float32 of unit length, and (n,) int32 the nearest centre of each node.
    """
    count, dim = unit.shape
    width = lanes.shape[1]
    centres = np.empty((CENTRES, dim), np.float32)
    scores = np.empty((4, width), np.float32)
    best, member = np.full(width, -HUGE, np.float32), np.zeros(width, np.int32)
    farthest = 0
    for m in range(CENTRES):  # begin with the nodes that are farthest from each other
        for d in range(dim):
            centres[m, d] = unit[farthest, d]
        multiply_four(lanes, centres, m, m, m, m, width, scores)
        _raise_best(scores, m - m, m, best, member)
        for n in range(count):
            farthest = n if best[n] < best[farthest] else farthest
    total = np.empty((CENTRES, dim), np.float32)
    for turn in range(_ROUNDS):
        best[:] = -HUGE
        for m in range(0, CENTRES, 4):
            multiply_four(lanes, centres, m, m + 1, m + 2, m + 3, width, scores)
            for q in range(4):
                _raise_best(scores, q, m + q, best, member)
        if turn == _ROUNDS - 1:
            break
        total[:] = 0
        for n in range(count):
            for d in range(dim):
                total[member[n], d] += unit[n, d]
        for m in range(CENTRES):
            square = np.float32(0)
            for d in range(dim):
                square += total[m, d] * total[m, d]
            if square > 0:
                for d in range(dim):
                    centres[m, d] = total[m, d] / np.sqrt(square)
    return centres, member[:count].copy()


@_fast
def _centre_thresholds(
    unit: F32, norm: F32, centres: F32, member: I32, threshold: F32, out: F32
) -> None:
    """What a label must reach at a centre to reach the threshold at any of its nodes.

    Angles on the sphere obey the triangle inequality: a label within the angle a of a node that is
    the angle b from its centre is within a + b of the centre.

    Args:
        unit: (n, j) float32 directions of the nodes, `norm` (n,) their lengths; those of length 0
            reach nothing.
        centres: (CENTRES, j) float32 and `member` (n,) int32 as `_centres` gives.
        threshold: (n,) or more, float32 scores to be reached at the nodes.
        out: (CENTRES,) float32, overwritten: cosines.
    """
    dim = unit.shape[1]
    slack = 1e-6 * (dim + 8)
    out[:] = HUGE
    for n in range(unit.shape[0]):
        if norm[n] == 0:
            continue
        m = member[n]
        square = 0.0
        for d in range(dim):
            square += (np.float64(unit[n, d]) - np.float64(centres[m, d])) ** 2
        # of the angle b between node and centre, from the chord, which is exact for small ones
        cosine, sine = 1 - square / 2, np.sqrt(square * max(1 - square / 4, 0.0))
        wanted = np.float64(threshold[n]) / np.float64(norm[n])
        if cosine + wanted <= 0 or norm[n] < _SHORT:
            least = -1.0  # a + b is pi or more, or not known
        else:
            least = wanted * cosine - np.sqrt(max(1 - wanted * wanted, 0.0)) * sine
        out[m] = min(out[m], np.float32(least - slack))


@_fast
def label_filter(
    nodes: F32, norm: F32, slack: F32, embeddings: F32, ids: I32, corners: I32, start: int
) -> tuple[I32, I32]:
    """Drop the labels that stay below the bounds of every cell, in one pass over all labels.

    A label is kept if at some node it reaches the least bound of the cells around it. The bounds
    come from the winners among the labels so far, and are valid whatever labels they come from.
    Many nodes are alike: most labels are already too far from the few directions that stand for
    them.

    Args:
        nodes: (n, j) float32 and `norm`, `slack`, `corners` as for the bounds.
        embeddings: (K, j) float32 of all labels, of unit length.
        ids: (k,) int32 labels to choose from, ascending.
        start: Labels to find the first winners among.

    Returns:
        The kept part of `ids`, which holds every label that wins anywhere, and for each node the
        row of its best label there.
    """
    count_nodes, dim = nodes.shape
    width = -(-count_nodes // LANES) * LANES
    lanes = np.zeros((dim, width), np.float32)
    unit, unit_lanes = np.zeros((count_nodes, dim), np.float32), np.zeros((dim, width), np.float32)
    for n in range(count_nodes):
        unit[n, 0] = unit_lanes[0, n] = 1  # any direction, where there is none
        for d in range(dim):
            lanes[d, n] = nodes[n, d]
            if norm[n] >= _SHORT:
                unit[n, d] = unit_lanes[d, n] = nodes[n, d] / norm[n]
    by_centres = count_nodes >= _NODES
    centres, member = np.empty((0, dim), np.float32), np.empty(0, np.int32)
    centre_lanes = np.zeros((dim, CENTRES), np.float32)
    if by_centres:
        centres, member = _centres(unit, unit_lanes)
        for m in range(CENTRES):
            for d in range(dim):
                centre_lanes[d, m] = centres[m, d]
    scores, centre_scores = np.empty((4, width), np.float32), np.empty((4, CENTRES), np.float32)
    centre_threshold = np.full(CENTRES, HUGE, np.float32)
    best = np.full(width, -HUGE, np.float32)
    winner = np.zeros(width, np.int32)
    bound = np.empty((corners.shape[0], 4), np.float32)
    known = np.full((corners.shape[0], 4), -1, np.int32)
    threshold = np.full(width, HUGE, np.float32)
    kept = np.empty(ids.size, np.int32)
    kept_row = np.full(ids.size, DROPPED, np.int32)
    count = 0
    last = ids.size - 1
    for row in range(0, min(start, ids.size), 4):
        k1, k2, k3 = min(row + 1, last), min(row + 2, last), min(row + 3, last)
        multiply_four(lanes, embeddings, ids[row], ids[k1], ids[k2], ids[k3], width, scores)
        for k in range(row, k3 + 1):
            _raise_best(scores, k - row, k, best, winner)
    # kept whatever rounding does; the first label too, which wins where all tie
    kept_row[0] = WINNER
    for n in range(count_nodes):
        kept_row[winner[n]] = WINNER
    refresh = 0
    pending = np.zeros(8, np.int64)  # rows that are not yet compared with the nodes
    waiting = 0
    for row in range(0, ids.size, 4):
        if row >= refresh:
            update_bounds(
                nodes, norm, slack, embeddings, ids, corners, winner, known, np.bool_(False), bound
            )
            threshold[:count_nodes] = HUGE
            for i in range(corners.shape[0]):
                for c in range(4):
                    n = corners[i, c]
                    threshold[n] = min(threshold[n], bound[i, c])
            if by_centres:
                _centre_thresholds(unit, norm, centres, member, threshold, centre_threshold)
            refresh = max(start, 2 * row)
        k1, k2, k3 = min(row + 1, last), min(row + 2, last), min(row + 3, last)
        near = 15
        if by_centres:
            multiply_four(
                centre_lanes, embeddings, ids[row], ids[k1], ids[k2], ids[k3],
                centre_threshold.size, centre_scores,
            )  # fmt: skip
            near = _reach(centre_scores, centre_threshold)
        for k in range(row, k3 + 1):
            pending[waiting] = k
            waiting += ((near >> (k - row)) & 1) | (kept_row[k] == WINNER)
        while waiting >= 4 or (waiting > 0 and k3 == last):
            for q in range(waiting, 4):
                pending[q] = pending[0]
            multiply_four(
                lanes, embeddings, ids[pending[0]], ids[pending[1]], ids[pending[2]],
                ids[pending[3]], width, scores,
            )  # fmt: skip
            reached = _reach(scores, threshold)
            for q in range(min(waiting, 4)):
                k = pending[q]
                if (reached >> q) & 1 or kept_row[k] == WINNER:
                    _raise_best(scores, q, k, best, winner)
                    kept[count] = ids[k]
                    kept_row[k] = count
                    count += 1
            for q in range(4):
                pending[q] = pending[q + 4]
            waiting = max(waiting - 4, 0)
    for n in range(count_nodes):
        winner[n] = kept_row[winner[n]]
    return kept[:count].copy(), winner[:count_nodes].copy()
