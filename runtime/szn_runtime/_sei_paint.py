"""Compiled kernels of `sei.py`: from candidates to the labels of pixels.

A *box* is a block of pixels: first row, row after the last, first column, column after the last.
Along a row of a cell a score goes in a line from the left edge's to the right edge's, which lie
between the corners' likewise. Each of these products and sums is rounded on its own, in one order
for all labels (no fused operations, which the compiler may choose differently from loop to loop).
Rounding then keeps the order of two labels, so that one that is below another at all corners is
never above it inside, and equal labels stay equal. Of two labels only the difference is followed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LATTICE", "fill", "paint_many", "paint_two", "prune"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Corners = tuple[float, float, float, float]

LATTICE = 16  # 3 x 3 pixels of a box, filled up to whole vectors
_LOWEST = np.float32(-3e38)

_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})


@_fast
def prune(
    label: I32,
    score: F32,
    first: int,
    count: int,
    to: int,
    y_weight: F32,
    x_weight: F32,
    box: Box,
    weights: F32,
    best: F32,
    won: I32,
    value: F32,
    alive: U8,
) -> int:
    """Copy the candidates that can win in a box.

    Dropped are those that the winner at one of 3 x 3 pixels beats at all four corners of the box.

    Args:
        label: (n,) int32 labels; the candidates are `count` >= 1 from `first` on, ascending.
        score: (4, n) float32 their scores at the corners of the cell.
        to: Index to copy them to, beyond the candidates.
        y_weight: (2, H) float32 weights of the upper and lower nodes.
        x_weight: (2, W) float32 weights of the left and right nodes.
        box: The pixels.
        weights: (4, LATTICE) float32 scratch, finite.
        best: (LATTICE,) float32 scratch.
        won: (LATTICE,) int32 scratch.
        value: (4, n) float32 scratch.
        alive: (n,) uint8 scratch.

    Returns:
        How many are kept: 1 if one label wins in the whole box.
    """
    y0, y1, x0, x1 = box
    for i in range(9):
        y, x = y0 + (i // 3) * (y1 - 1 - y0) // 2, x0 + (i % 3) * (x1 - 1 - x0) // 2
        for c in range(4):
            weights[c, i] = y_weight[c >> 1, y] * x_weight[c & 1, x]
    for i in range(LATTICE):
        best[i] = _LOWEST
    for p in range(first, first + count):
        s0, s1, s2, s3 = score[0, p], score[1, p], score[2, p], score[3, p]
        at = np.int32(p)
        for i in range(LATTICE):
            v = weights[0, i] * s0 + weights[1, i] * s1 + weights[2, i] * s2 + weights[3, i] * s3
            won[i] = at if v > best[i] else won[i]
            best[i] = v if v > best[i] else best[i]
    if won[0] == won[2] and won[0] == won[6] and won[0] == won[8]:
        label[to] = label[won[0]]
        for c in range(4):
            score[c, to] = score[c, won[0]]
        return 1
    for c in range(4):
        i = (c >> 1) * 6 + (c & 1) * 2
        w0, w1, w2, w3 = weights[0, i], weights[1, i], weights[2, i], weights[3, i]
        for p in range(first, first + count):
            v = w0 * score[0, p] + w1 * score[1, p] + w2 * score[2, p] + w3 * score[3, p]
            value[c, p - first] = v
    for p in range(count):
        alive[p] = 1
    for i in range(9):
        known = False
        for q in range(i):
            known = known or won[q] == won[i]
        if known:
            continue
        m = won[i] - first
        m0, m1, m2, m3 = value[0, m], value[1, m], value[2, m], value[3, m]
        # where both score the same the lower label wins: it is dropped only if beaten outright
        for p in range(m):
            low = (value[0, p] >= m0) | (value[1, p] >= m1)
            alive[p] &= low | (value[2, p] >= m2) | (value[3, p] >= m3)
        for p in range(np.uint64(m + 1), np.uint64(count)):
            low = (value[0, p] > m0) | (value[1, p] > m1)
            alive[p] &= low | (value[2, p] > m2) | (value[3, p] > m3)
    kept = 0
    for p in range(count):
        if alive[p]:
            label[to + kept] = label[first + p]
            for c in range(4):
                score[c, to + kept] = score[c, first + p]
            kept += 1
    return kept


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
def paint_two(
    difference: Corners,
    above: int,
    above_flag: bool,
    below: int,
    below_flag: bool,
    y_weight: F32,
    x_weight: F32,
    box: Box,
    labels: NDArray[Any],
    seen: Flags,
) -> None:
    """Paint a box with two labels, `above` where the interpolated difference is above 0."""
    begin, end = np.uint64(box[2]), np.uint64(box[3])
    d0, d1, d2, d3 = difference
    for y in range(box[0], box[1]):
        left = y_weight[0, y] * d0 + y_weight[1, y] * d2
        right = y_weight[0, y] * d1 + y_weight[1, y] * d3
        for x in range(begin, end):
            d = x_weight[0, x] * left + x_weight[1, x] * right
            labels[y, x] = above if d > 0 else below
            seen[y, x] = above_flag if d > 0 else below_flag


@_fast
def _better(score: float, label: int, best: float, won: int) -> tuple[float, int]:
    return (score, label) if score > best else (best, won)


@_fast
def paint_many(
    label: I32,
    score: F32,
    seen_first: int,
    seen_count: int,
    unseen_first: int,
    unseen_count: int,
    difference: Corners,
    y_weight: F32,
    x_weight: F32,
    box: Box,
    best: F32,
    won: I32,
    flags: Flags,
    labels: NDArray[Any],
    seen: Flags,
) -> None:
    """Paint a box with any number of labels.

    Args:
        label: (n,) int32 labels, ascending on each side, with `score` (4, n) float32 at the
            corners of the cell.
        seen_first: First candidate of seen pixels; `seen_count` 0 if no pixel is seen.
        unseen_first: First candidate of unseen pixels, and `unseen_count` likewise.
        difference: Seen minus unseen logit at the corners, used if both counts are above 0.
        y_weight: (2, H) float32 weights of the upper and lower nodes.
        x_weight: (2, W) float32 weights of the left and right nodes.
        box: The pixels.
        best: (n,) float32 scratch for a row.
        won: (2, n) int32 scratch for a row.
        flags: (K,) bool, what to write to `seen` where a label wins.
        labels: (H, W) map, written.
        seen: (H, W) bool, written.
    """
    begin, end = np.uint64(box[2]), np.uint64(box[3])
    mixed = seen_count > 0 and unseen_count > 0
    d0, d1, d2, d3 = difference
    one_flag, flag = True, flags[label[seen_first if seen_count > 0 else unseen_first]]
    if not mixed:
        for p in range(seen_first, seen_first + seen_count):
            one_flag = one_flag and flags[label[p]] == flag
    for side in range(2):
        if (unseen_count if side else seen_count) == 1:
            a = label[unseen_first if side else seen_first]
            for x in range(begin, end):
                won[side, x - begin] = a
    seen_row, unseen_row = seen_count > 0, unseen_count > 0
    for y in range(box[0], box[1]):
        v0, v1 = y_weight[0, y], y_weight[1, y]
        left, right = v0 * d0 + v1 * d2, v0 * d1 + v1 * d3
        if mixed:  # many rows are of one kind from end to end
            z = end - np.uint64(1)
            start_seen = x_weight[0, begin] * left + x_weight[1, begin] * right > 0
            end_seen = x_weight[0, z] * left + x_weight[1, z] * right > 0
            seen_row, unseen_row = start_seen or end_seen, not (start_seen and end_seen)
            flag = seen_row
        for side in range(2):
            first = unseen_first if side else seen_first
            stop = first + (unseen_count if side else seen_count)
            if stop - first == 1 or not (unseen_row if side else seen_row):
                continue
            for p in range(first, stop, 4):
                # four at a time, filled up with the first one, which is not above itself
                p1 = p + 1 if p + 1 < stop else p
                p2 = p + 2 if p + 2 < stop else p
                p3 = p + 3 if p + 3 < stop else p
                a0, a1 = v0 * score[0, p] + v1 * score[2, p], v0 * score[1, p] + v1 * score[3, p]
                b0 = v0 * score[0, p1] + v1 * score[2, p1]
                b1 = v0 * score[1, p1] + v1 * score[3, p1]
                c0 = v0 * score[0, p2] + v1 * score[2, p2]
                c1 = v0 * score[1, p2] + v1 * score[3, p2]
                e0 = v0 * score[0, p3] + v1 * score[2, p3]
                e1 = v0 * score[1, p3] + v1 * score[3, p3]
                a, b, c, e = label[p], label[p1], label[p2], label[p3]
                if p == first:
                    for x in range(begin, end):
                        x0, x1 = x_weight[0, x], x_weight[1, x]
                        top, at = x0 * a0 + x1 * a1, a
                        top, at = _better(x0 * b0 + x1 * b1, b, top, at)
                        top, at = _better(x0 * c0 + x1 * c1, c, top, at)
                        top, at = _better(x0 * e0 + x1 * e1, e, top, at)
                        best[x - begin] = top
                        won[side, x - begin] = at
                else:
                    for x in range(begin, end):
                        x0, x1 = x_weight[0, x], x_weight[1, x]
                        top, at = best[x - begin], won[side, x - begin]
                        top, at = _better(x0 * a0 + x1 * a1, a, top, at)
                        top, at = _better(x0 * b0 + x1 * b1, b, top, at)
                        top, at = _better(x0 * c0 + x1 * c1, c, top, at)
                        top, at = _better(x0 * e0 + x1 * e1, e, top, at)
                        best[x - begin] = top
                        won[side, x - begin] = at
        if seen_row and unseen_row:
            for x in range(begin, end):
                d = x_weight[0, x] * left + x_weight[1, x] * right
                labels[y, x] = won[0, x - begin] if d > 0 else won[1, x - begin]
                seen[y, x] = d > 0
            continue
        only = 0 if seen_row else 1
        for x in range(begin, end):
            labels[y, x] = won[only, x - begin]
        if one_flag:
            for x in range(begin, end):
                seen[y, x] = flag
        else:
            for x in range(begin, end):
                seen[y, x] = flags[won[only, x - begin]]
