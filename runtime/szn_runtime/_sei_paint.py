"""Compiled kernels of `sei.py`: from a cell's candidates to the labels of its pixels.

A block of pixels is a *box*: first row, row after the last, first column, column after the last.
Along a row of a cell a score is linear: it goes from the left edge's to the right edge's, which lie
between the corners' likewise. Each of these products and sums is rounded on its own, in one order
for all labels (no fused operations, which the compiler may choose differently from loop to loop).
Rounding then keeps the order of two labels, so that one that is below another at all corners is
never above it inside, and equal labels stay equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LATTICE", "fill", "gather", "paint_block", "prune"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Box = tuple[int, int, int, int]

LATTICE = 16  # 3 x 3 pixels of a block, filled up to whole vectors
_LOWEST = np.float32(-3e38)

_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})


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
def prune(
    label: I32,
    score: F32,
    count: int,
    y_weight: F32,
    x_weight: F32,
    box: Box,
    to_label: I32,
    to_score: F32,
    weights: F32,
    value: F32,
    alive: U8,
) -> int:
    """Copy the candidates that can win in a box.

    Dropped are those that the winner at one of 3 x 3 pixels beats at all four corners of the box.

    Args:
        label: (n,) int32 candidates, ascending.
        score: (4, n) float32 their scores at the corners of the cell.
        count: How many there are, at least 1.
        y_weight: (2, H) float32 weights of the upper and lower nodes.
        x_weight: (2, W) float32 weights of the left and right nodes.
        box: The pixels.
        to_label: (n,) written; may be `label`.
        to_score: (4, n) written; may be `score`.
        weights: (4, LATTICE) float32 scratch.
        value: (4, n) float32 scratch.
        alive: (n,) uint8 scratch.

    Returns:
        How many are kept: 1 if one label wins in the whole box.
    """
    y0, y1, x0, x1 = box
    best, won = np.full(LATTICE, _LOWEST, np.float32), np.empty(LATTICE, np.int32)
    for i in range(9):
        y, x = y0 + (i // 3) * (y1 - 1 - y0) // 2, x0 + (i % 3) * (x1 - 1 - x0) // 2
        for c in range(4):
            weights[c, i] = y_weight[c >> 1, y] * x_weight[c & 1, x]
    for p in range(count):
        s0, s1, s2, s3 = score[0, p], score[1, p], score[2, p], score[3, p]
        for i in range(LATTICE):
            v = weights[0, i] * s0 + weights[1, i] * s1 + weights[2, i] * s2 + weights[3, i] * s3
            won[i] = p if v > best[i] else won[i]
            best[i] = v if v > best[i] else best[i]
    if won[0] == won[2] and won[0] == won[6] and won[0] == won[8]:
        to_label[0] = label[won[0]]
        for c in range(4):
            to_score[c, 0] = score[c, won[0]]
        return 1
    alive[:count] = 1
    for c in range(4):
        i = (c >> 1) * 6 + (c & 1) * 2
        w0, w1, w2, w3 = weights[0, i], weights[1, i], weights[2, i], weights[3, i]
        for p in range(count):
            v = w0 * score[0, p] + w1 * score[1, p] + w2 * score[2, p]
            value[c, p] = v + w3 * score[3, p]
    for i in range(9):
        known = False
        for q in range(i):
            known = known or won[q] == won[i]
        if not known:
            _drop_beaten(value, count, won[i], alive)
    kept = 0
    for p in range(count):
        if alive[p]:
            to_label[kept] = label[p]
            for c in range(4):
                to_score[c, kept] = score[c, p]
            kept += 1
    return kept


@_fast
def _drop_beaten(value: F32, count: int, m: int, alive: U8) -> None:
    m0, m1, m2, m3 = value[0, m], value[1, m], value[2, m], value[3, m]
    # where both score the same the lower label wins: it is dropped only if beaten outright
    for p in range(m):
        alive[p] &= (
            (value[0, p] >= m0) | (value[1, p] >= m1) | (value[2, p] >= m2) | (value[3, p] >= m3)
        )
    for p in range(np.uint64(m + 1), np.uint64(count)):
        alive[p] &= (
            (value[0, p] > m0) | (value[1, p] > m1) | (value[2, p] > m2) | (value[3, p] > m3)
        )


@_fast
def fill(label: int, flag: bool, box: Box, labels: NDArray[Any], seen: Flags) -> None:
    """Paint a box with one label."""
    # unsigned here and below, so that no index can count from the end: these are plain fills
    begin, end = np.uint64(box[2]), np.uint64(box[3])
    for y in range(box[0], box[1]):
        for x in range(begin, end):
            labels[y, x] = label
        for x in range(begin, end):
            seen[y, x] = flag


@_fast
def _paint_two(
    d0: float, d1: float, d2: float, d3: float, above: int, below: int, above_flag: bool,
    below_flag: bool, y_weight: F32, x_weight: F32, box: Box, labels: NDArray[Any], seen: Flags,
) -> None:  # fmt: skip
    """Paint a box with two labels, `above` where the number between d0 to d3 is above 0."""
    begin, end = np.uint64(box[2]), np.uint64(box[3])
    for y in range(box[0], box[1]):
        left = y_weight[0, y] * d0 + y_weight[1, y] * d2
        right = y_weight[0, y] * d1 + y_weight[1, y] * d3
        for x in range(begin, end):
            d = x_weight[0, x] * left + x_weight[1, x] * right
            labels[y, x] = above if d > 0 else below
            seen[y, x] = above_flag if d > 0 else below_flag


@_fast
def _paint_many(
    label: I32,
    score: F32,
    counts: I64,
    difference: F64,
    y_weight: F32,
    x_weight: F32,
    box: Box,
    best: F32,
    won: I32,
    flags: Flags,
    labels: NDArray[Any],
    seen: Flags,
) -> None:
    """Paint a box with any number of labels of one or both sides; arguments as `paint_block`."""
    begin, end = np.uint64(box[2]), np.uint64(box[3])
    mixed = counts[0] > 0 and counts[1] > 0
    k = 0 if counts[0] > 0 else 1
    flag, one_kind = flags[label[k, 0]], True
    for p in range(counts[k]):
        one_kind = one_kind and flags[label[k, p]] == flag
    for side in range(2):
        if counts[side] == 1:
            for x in range(begin, end):
                won[side, x - begin] = label[side, 0]
    for y in range(box[0], box[1]):
        v0, v1 = y_weight[0, y], y_weight[1, y]
        # four labels at a time; a call for each row would cost more than the row
        for side in range(2):
            count = counts[side]
            if count < 2:
                continue
            for p in range(0, count, 4):
                # filled up with the first one, which is not above itself
                p1 = p + 1 if p + 1 < count else p
                p2 = p + 2 if p + 2 < count else p
                p3 = p + 3 if p + 3 < count else p
                a0 = v0 * score[side, 0, p] + v1 * score[side, 2, p]
                a1 = v0 * score[side, 1, p] + v1 * score[side, 3, p]
                b0 = v0 * score[side, 0, p1] + v1 * score[side, 2, p1]
                b1 = v0 * score[side, 1, p1] + v1 * score[side, 3, p1]
                c0 = v0 * score[side, 0, p2] + v1 * score[side, 2, p2]
                c1 = v0 * score[side, 1, p2] + v1 * score[side, 3, p2]
                e0 = v0 * score[side, 0, p3] + v1 * score[side, 2, p3]
                e1 = v0 * score[side, 1, p3] + v1 * score[side, 3, p3]
                a, b, c, e = label[side, p], label[side, p1], label[side, p2], label[side, p3]
                for x in range(begin, end):
                    x0, x1 = x_weight[0, x], x_weight[1, x]
                    at = won[side, x - begin]
                    top = best[x - begin] if p > 0 else _LOWEST
                    value = x0 * a0 + x1 * a1
                    at = a if value > top else at
                    top = value if value > top else top
                    value = x0 * b0 + x1 * b1
                    at = b if value > top else at
                    top = value if value > top else top
                    value = x0 * c0 + x1 * c1
                    at = c if value > top else at
                    top = value if value > top else top
                    value = x0 * e0 + x1 * e1
                    at = e if value > top else at
                    top = value if value > top else top
                    best[x - begin] = top
                    won[side, x - begin] = at
        if mixed:
            left = v0 * difference[0] + v1 * difference[2]
            right = v0 * difference[1] + v1 * difference[3]
            for x in range(begin, end):
                d = x_weight[0, x] * left + x_weight[1, x] * right
                labels[y, x] = won[0, x - begin] if d > 0 else won[1, x - begin]
                seen[y, x] = d > 0
            continue
        for x in range(begin, end):
            labels[y, x] = won[k, x - begin]
        if one_kind:
            for x in range(begin, end):
                seen[y, x] = flag
        else:
            for x in range(begin, end):
                seen[y, x] = flags[won[k, x - begin]]


@_fast
def paint_block(
    label: I32,
    score: F32,
    counts: I64,
    difference: F64,
    y_weight: F32,
    x_weight: F32,
    box: Box,
    best: F32,
    won: I32,
    flags: Flags,
    labels: NDArray[Any],
    seen: Flags,
) -> None:
    """Paint a box of one cell.

    Args:
        label: (2, n) int32 candidates of seen and of unseen pixels, ascending.
        score: (2, 4, n) float32 their scores at the corners of the cell.
        counts: (2,) how many there are; 0 if no pixel is of that kind, never twice.
        difference: (4,) float64 seen minus unseen logit at the corners, used if both counts are
            above 0; else overwritten.
        y_weight: (2, H) float32 weights of the upper and lower nodes.
        x_weight: (2, W) float32 weights of the left and right nodes.
        box: The pixels.
        best: (n,) float32 scratch for a row.
        won: (2, n) int32 scratch for a row.
        flags: (K,) bool, what to write to `seen` where a label wins.
        labels: (H, W) map, written.
        seen: (H, W) bool, written.
    """
    mixed = counts[0] > 0 and counts[1] > 0
    k = 0 if counts[0] > 0 else 1
    first = label[k, 0]
    if not mixed and counts[k] == 1:
        fill(first, flags[first], box, labels, seen)
    elif mixed and counts[0] == 1 and counts[1] == 1:
        _paint_two(
            difference[0], difference[1], difference[2], difference[3], first, label[1, 0], True,
            False, y_weight, x_weight, box, labels, seen,
        )  # fmt: skip
    elif not mixed and counts[k] == 2:
        second = label[k, 1]
        _paint_two(
            np.float64(score[k, 0, 1]) - np.float64(score[k, 0, 0]),
            np.float64(score[k, 1, 1]) - np.float64(score[k, 1, 0]),
            np.float64(score[k, 2, 1]) - np.float64(score[k, 2, 0]),
            np.float64(score[k, 3, 1]) - np.float64(score[k, 3, 0]),
            second, first, flags[second], flags[first], y_weight, x_weight, box, labels, seen,
        )  # fmt: skip
    else:
        _paint_many(
            label, score, counts, difference, y_weight, x_weight, box, best, won, flags, labels,
            seen,
        )  # fmt: skip
