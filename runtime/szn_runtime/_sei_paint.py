"""Compiled kernels of `sei.py`: from a cell's candidates to the labels of its pixels.

The score of a label at a pixel is the sum of its four corner scores times the pixel's four weights,
in one order of operations for all labels: rounding then keeps the order of two labels, so that one
that is below another at all corners is never above it inside, and equal labels stay equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LATTICE", "gather", "paint_block", "prune"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

LATTICE = 16  # 3 x 3 pixels of a block, filled up to whole vectors
_LOWEST = np.float32(-3e38)
# Up to so many candidates it costs less to carry a hopeless one than to find it.
_FEW = 4

_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})


@_fast
def gather(cell: int, start: I64, label: I32, score: F32, to_label: I32, to_score: F32) -> int:
    """Copy the candidates of one cell from all blocks of labels.

    Args:
        cell: Column of `start`.
        start: (blocks, cells + 1), with `label` (m,) and `score` (4, m) what
            `collect_candidates` gives.
        to_label: (n,) written, ascending.
        to_score: (4, n) written.

    Returns:
        How many there are.
    """
    count = 0
    for b in range(start.shape[0]):
        first = start[b, cell]
        more = start[b, cell + 1] - first
        for p in range(more):
            to_label[count + p] = label[first + p]
        for c in range(4):
            for p in range(more):
                to_score[c, count + p] = score[c, first + p]
        count += more
    return count


@_fast
def _winners(
    weights: F32, points: int, label: I32, score: F32, count: int, best: F32, won: I32
) -> None:
    """Best score and its label at each point, the first label where several are best.

    Args:
        weights: (4, n) float32 of the corners at each point.
        points: How many points there are.
        label: (m,) int32 candidates.
        score: (4, m) float32 their scores at the corners.
        count: How many candidates there are, at least 1.
        best: (n,) float32 scratch.
        won: (n,) int32 written.
    """
    for p in range(count):
        s0, s1, s2, s3 = score[0, p], score[1, p], score[2, p], score[3, p]
        candidate = label[p]
        for i in range(points):
            value = weights[0, i] * s0 + weights[1, i] * s1 + weights[2, i] * s2
            value += weights[3, i] * s3
            top = best[i] if p > 0 else _LOWEST
            won[i] = candidate if value > top else won[i]
            best[i] = value if value > top else top


@_fast
def prune(
    label: I32,
    score: F32,
    count: int,
    y_weight: F32,
    x_weight: F32,
    y0: int,
    y1: int,
    x0: int,
    x1: int,
    to_label: I32,
    to_score: F32,
    places: I32,
    weights: F32,
    best: F32,
    won: I32,
    corner: F32,
    alive: U8,
) -> int:
    """Copy the candidates that can win in a block of pixels.

    Dropped are those that the winner at one of 3 x 3 pixels beats at all four corners of the block.

    Args:
        label: (n,) int32 candidates, ascending.
        score: (4, n) float32 their scores at the corners of the cell.
        count: How many there are, at least 1.
        y_weight: (2, H) float32 weights of the upper and lower nodes.
        x_weight: (2, W) float32 weights of the left and right nodes.
        y0: First row; `y1` the row after the last.
        x0: First column; `x1` the column after the last.
        to_label: (n,) written; may be `label`.
        to_score: (4, n) written; may be `score`.
        places: (n,) int32 that counts from 0.
        weights: (4, LATTICE) float32 scratch.
        best: (LATTICE,) float32 scratch.
        won: (LATTICE,) int32 scratch.
        corner: (4, n) float32 scratch.
        alive: (n,) uint8 scratch.

    Returns:
        How many are kept: 1 if one label wins in the whole block.
    """
    for i in range(LATTICE):
        at = i if i < 9 else 0
        # the corners come first
        row = (0 if at < 2 else 2) if at < 4 else (0 if at == 4 else 2 if at == 8 else 1)
        column = (at & 1) * 2 if at < 4 else (1 if at in (4, 6, 8) else 0 if at == 5 else 2)
        y = y0 if row == 0 else y1 - 1 if row == 2 else (y0 + y1 - 1) // 2
        x = x0 if column == 0 else x1 - 1 if column == 2 else (x0 + x1 - 1) // 2
        for c in range(4):
            weights[c, i] = y_weight[c >> 1, y] * x_weight[c & 1, x]
    _winners(weights, LATTICE, places, score, count, best, won)
    if won[0] == won[1] and won[0] == won[2] and won[0] == won[3]:
        place = won[0]
        to_label[0] = label[place]
        for c in range(4):
            to_score[c, 0] = score[c, place]
        return 1
    alive[:count] = 1
    if count > _FEW:
        for c in range(4):
            w0, w1, w2, w3 = weights[0, c], weights[1, c], weights[2, c], weights[3, c]
            for p in range(count):
                value = w0 * score[0, p] + w1 * score[1, p] + w2 * score[2, p]
                corner[c, p] = value + w3 * score[3, p]
        for i in range(9):
            known = False
            for q in range(i):
                known = known or won[q] == won[i]
            if not known:
                _drop_beaten(corner, count, won[i], alive)
    kept = 0
    for p in range(count):
        if alive[p]:
            to_label[kept] = label[p]
            for c in range(4):
                to_score[c, kept] = score[c, p]
            kept += 1
    return kept


@_fast
def _drop_beaten(corner: F32, count: int, m: int, alive: U8) -> None:
    m0, m1, m2, m3 = corner[0, m], corner[1, m], corner[2, m], corner[3, m]
    # where both score the same the lower label wins: it is dropped only if beaten outright
    for p in range(m):
        alive[p] &= (
            (corner[0, p] >= m0)
            | (corner[1, p] >= m1)
            | (corner[2, p] >= m2)
            | (corner[3, p] >= m3)
        )
    for p in range(np.uint64(m + 1), np.uint64(count)):
        alive[p] &= (
            (corner[0, p] > m0) | (corner[1, p] > m1) | (corner[2, p] > m2) | (corner[3, p] > m3)
        )


@_fast
def paint_block(
    label: I32,
    score: F32,
    counts: I64,
    difference: F64,
    y_weight: F32,
    x_weight: F32,
    y0: int,
    y1: int,
    x0: int,
    x1: int,
    weights: F32,
    best: F32,
    won: I32,
    flags: NDArray[np.bool_],
    labels: NDArray[Any],
    seen: NDArray[np.bool_],
) -> None:
    """Paint a block of pixels of one cell.

    Args:
        label: (2, n) int32 candidates of seen and of unseen pixels, ascending.
        score: (2, 4, n) float32 their scores at the corners of the cell.
        counts: (2,) how many there are; 0 if no pixel is of that kind, never twice.
        difference: (4,) float64 seen minus unseen logit at the corners, used if both counts are
            above 0.
        y_weight: (2, H) float32 weights of the upper and lower nodes.
        x_weight: (2, W) float32 weights of the left and right nodes.
        y0: First row; `y1` the row after the last.
        x0: First column; `x1` the column after the last.
        weights: (4, n) float32 scratch for some rows of pixels, at least one.
        best: (n,) float32 scratch.
        won: (2, n) int32 scratch.
        flags: (K,) bool, what to write to `seen` where a label wins.
        labels: (H, W) map, written.
        seen: (H, W) bool, written.
    """
    mixed = counts[0] > 0 and counts[1] > 0
    kind = 0 if counts[0] > 0 else 1
    # unsigned, so that no index can count from the end: these loops are plain fills and copies
    begin, end = np.uint64(x0), np.uint64(x1)
    if not mixed and counts[kind] == 1:
        sole = label[kind, 0]
        flag = flags[sole]
        for y in range(y0, y1):
            for x in range(begin, end):
                labels[y, x] = sole
            for x in range(begin, end):
                seen[y, x] = flag
        return
    width = x1 - x0
    rows = max(best.size // width, 1)
    for top in range(y0, y1, rows):
        bottom = min(top + rows, y1)
        points = (bottom - top) * width
        for y in range(top, bottom):
            shift = np.uint64((y - top) * width) - begin
            for c in range(4):
                v = y_weight[c >> 1, y]
                for x in range(begin, end):
                    weights[c, shift + x] = v * x_weight[c & 1, x]
        for k in range(2):
            if counts[k] > 0:
                _winners(weights, points, label[k], score[k], counts[k], best, won[k])
        if mixed:
            d0, d1, d2, d3 = difference[0], difference[1], difference[2], difference[3]
            for i in range(points):
                d = (
                    weights[0, i] * d0
                    + weights[1, i] * d1
                    + weights[2, i] * d2
                    + weights[3, i] * d3
                )
                # `best` is done with and takes the kind
                best[i] = d > 0
                won[0, i] = won[0, i] if d > 0 else won[1, i]
        for y in range(top, bottom):
            shift = np.uint64((y - top) * width) - begin
            source = 0 if mixed else kind
            for x in range(begin, end):
                labels[y, x] = won[source, shift + x]
            if mixed:
                for x in range(begin, end):
                    seen[y, x] = best[shift + x] > 0
            else:
                for x in range(begin, end):
                    seen[y, x] = flags[won[source, shift + x]]
