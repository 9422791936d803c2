"""Compiled kernels of `sei.py`: from a cell's candidates to the labels of its pixels.

A cell's scores are `w0 * a + w1 * b`, products and sum rounded apart (no fused operations), so
that rounding keeps the order of two labels: one that is below another at all corners is never
above it inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["gather", "paint_cell", "prune"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

_LOWEST = np.float32(-3e38)
_CHUNK = 64
# Below this many candidates it costs less to carry a hopeless one than to find it.
_FEW = 4

# The order of operations is kept; only NaN is excluded, which the input checks have done.
_ordered = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})


@_ordered
def gather(cell: int, start: I64, label: I32, score: F32, to_label: I32, to_score: F32) -> int:
    """Copy the candidates of one cell from all blocks.

    Args:
        cell: Column of `start`.
        start: (blocks, cells + 1), `label` (m,) and `score` (4, m) as `collect_candidates` gives.
        to_label: (n,) and `to_score` (4, n), overwritten.

    Returns:
        How many there are; their labels ascend.
    """
    count = 0
    for b in range(start.shape[0]):
        for p in range(start[b, cell], start[b, cell + 1]):
            to_label[count] = label[p]
            for c in range(4):
                to_score[c, count] = score[c, p]
            count += 1
    return count


@_ordered
def _first_best(values: F32, count: int) -> int:
    top = _LOWEST
    at = 0
    for p0 in range(0, count, _CHUNK):
        p1 = min(p0 + _CHUNK, count)
        higher = np.int32(0)
        for p in range(p0, p1):
            higher = np.int32(1) if values[p] > top else higher
        if higher:
            for p in range(p0, p1):
                if values[p] > top:
                    top = values[p]
                    at = p
    return at


@_ordered
def prune(
    label: I32, score: F32, count: int, y_weight: F32, x_weight: F32,
    y0: int, y1: int, x0: int, x1: int,
    to_label: I32, to_score: F32, corner: F32, alive: NDArray[np.uint8],
) -> int:
    """Copy the candidates that can win in a block of pixels.

    Dropped are those that the winner at a corner of the block, or in its middle, beats at all four
    corners.

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
        corner: (5, n) float32 scratch.
        alive: (n,) uint8 scratch.

    Returns:
        How many are kept: 1 if one label wins in the whole block.
    """
    s0, s1, s2, s3 = score[0], score[1], score[2], score[3]
    c0, c1, c2, c3, middle = corner[0], corner[1], corner[2], corner[3], corner[4]
    v0, v1 = y_weight[0, y0], y_weight[1, y0]
    v2, v3 = y_weight[0, y1 - 1], y_weight[1, y1 - 1]
    u0, u1 = x_weight[0, x0], x_weight[1, x0]
    u2, u3 = x_weight[0, x1 - 1], x_weight[1, x1 - 1]
    for p in range(count):
        left, right = u0 * s0[p] + u1 * s1[p], u2 * s0[p] + u3 * s1[p]  # along the upper nodes
        left2, right2 = u0 * s2[p] + u1 * s3[p], u2 * s2[p] + u3 * s3[p]
        c0[p], c1[p] = v0 * left + v1 * left2, v0 * right + v1 * right2
        c2[p], c3[p] = v2 * left + v3 * left2, v2 * right + v3 * right2
        middle[p] = (c0[p] + c1[p]) + (c2[p] + c3[p])
    m0, m1 = _first_best(c0, count), _first_best(c1, count)
    m2, m3 = _first_best(c2, count), _first_best(c3, count)
    if m0 == m1 and m0 == m2 and m0 == m3:
        to_label[0] = label[m0]
        for c in range(4):
            to_score[c, 0] = score[c, m0]
        return 1
    alive[:count] = 1
    if count > _FEW:
        _drop_beaten(corner, count, m0, alive)
        if m1 != m0:
            _drop_beaten(corner, count, m1, alive)
        if m2 != m0 and m2 != m1:
            _drop_beaten(corner, count, m2, alive)
        if m3 != m0 and m3 != m1 and m3 != m2:
            _drop_beaten(corner, count, m3, alive)
        m4 = _first_best(middle, count)
        if m4 != m0 and m4 != m1 and m4 != m2 and m4 != m3:
            _drop_beaten(corner, count, m4, alive)
    kept = 0
    for p in range(count):
        if alive[p]:
            to_label[kept] = label[p]
            to_score[0, kept], to_score[1, kept] = s0[p], s1[p]
            to_score[2, kept], to_score[3, kept] = s2[p], s3[p]
            kept += 1
    return kept


@_ordered
def _drop_beaten(corner: F32, count: int, m: int, alive: NDArray[np.uint8]) -> None:
    c0, c1, c2, c3 = corner[0], corner[1], corner[2], corner[3]
    m0, m1, m2, m3 = c0[m], c1[m], c2[m], c3[m]
    # where both score the same the lower label wins: it is dropped only if beaten outright
    for p in range(np.uint64(m)):
        alive[p] &= (c0[p] >= m0) | (c1[p] >= m1) | (c2[p] >= m2) | (c3[p] >= m3)
    for p in range(np.uint64(m + 1), np.uint64(count)):
        alive[p] &= (c0[p] > m0) | (c1[p] > m1) | (c2[p] > m2) | (c3[p] > m3)


@_ordered
def _best_at(a: F32, b: F32, count: int, w0: np.float32, w1: np.float32) -> int:
    top = w0 * a[0] + w1 * b[0]
    at = 0
    for p in range(1, count):
        value = w0 * a[p] + w1 * b[p]
        if value > top:
            top = value
            at = p
    return at


@_ordered
def _runs(
    a: F32, b: F32, count: int, weight: F32, low: int, high: int, first: int, last: int,
    run_end: I64, run_at: I64,
) -> int:
    """Which candidate wins along a line of pixels, as runs.

    Scores change linearly along the line, so a candidate that wins at two pixels wins between them:
    only the pixels beside the changes are looked at.

    Args:
        a: (n,) scores at one end of the cell and `b` (n,) at the other.
        count: How many candidates there are.
        weight: (2, pixels) weights of `a` and `b` at each pixel.
        low: First pixel and `high` last, inclusive.
        first: Winner at `low` and `last` at `high`.
        run_end: (pixels,) scratch: the pixel after each run.
        run_at: (pixels,) scratch: the winner of each run.

    Returns:
        The number of runs.
    """
    runs = 0
    current = first
    while True:
        end, far = high, last
        while far != current:
            # where the line of `far` crosses that of `current`; a guess that is off by rounding
            # costs a further round, nothing else
            behind = (weight[0, low] * a[current] + weight[1, low] * b[current]) - (
                weight[0, low] * a[far] + weight[1, low] * b[far]
            )
            ahead = (weight[0, end] * a[far] + weight[1, end] * b[far]) - (
                weight[0, end] * a[current] + weight[1, end] * b[current]
            )
            split = low + 1
            if behind + ahead > 0:
                split = low + int(np.ceil((end - low) * behind / (behind + ahead)))
            split = min(max(split, low + 1), end)
            before = split - 1
            winner = current
            if before > low:
                winner = _best_at(a, b, count, weight[0, before], weight[1, before])
            end, far = before, winner
        run_end[runs] = end + 1
        run_at[runs] = current
        runs += 1
        low = end + 1
        if low > high:
            return runs
        current = last
        if low < high:
            current = _best_at(a, b, count, weight[0, low], weight[1, low])


@_ordered
def _edge(
    score: F32, count: int, y_weight: F32, x_weight: F32, y0: int, y1: int, x: int,
    a: F32, b: F32, run_end: I64, run_at: I64, winner: I64,
) -> None:
    """Winners of the pixels y0 to y1 - 1 of column x, into `winner` from 0."""
    u0, u1 = x_weight[0, x], x_weight[1, x]
    for p in range(count):
        a[p] = u0 * score[0, p] + u1 * score[1, p]
        b[p] = u0 * score[2, p] + u1 * score[3, p]
    first = _best_at(a, b, count, y_weight[0, y0], y_weight[1, y0])
    last = _best_at(a, b, count, y_weight[0, y1 - 1], y_weight[1, y1 - 1])
    runs = _runs(a, b, count, y_weight, y0, y1 - 1, first, last, run_end, run_at)
    y = y0
    for r in range(runs):
        while y < run_end[r]:
            winner[y - y0] = run_at[r]
            y += 1


@_ordered
def _is_seen(d0: float, d1: float, weight: F32, x: int) -> bool:
    return weight[0, x] * d0 + weight[1, x] * d1 > 0


@_ordered
def _sign_change(d0: float, d1: float, weight: F32, x0: int, x1: int) -> int:
    """First pixel in (x0, x1] that is not of the kind of x0; x1 is of the other kind."""
    kind = _is_seen(d0, d1, weight, x0)
    split = x0 + 1
    if d0 != d1:
        # the weights grow evenly along the row
        w, z = weight[1, x0], weight[1, x1]
        split = x0 + int((d0 / (d0 - d1) - w) / (z - w) * (x1 - x0))
    split = min(max(split, x0 + 1), x1)
    while split > x0 + 1 and _is_seen(d0, d1, weight, split - 1) != kind:
        split -= 1
    while _is_seen(d0, d1, weight, split) == kind:
        split += 1
    return split


@_ordered
def paint_cell(
    label: I32, score: F32, counts: I64, difference: F64, y_weight: F32, x_weight: F32,
    y0: int, y1: int, x0: int, x1: int,
    a: F32, b: F32, run_end: I64, run_at: I64, left: I64, right: I64,
    flags: NDArray[np.bool_], labels: NDArray[Any], seen: NDArray[np.bool_],
) -> None:
    """Paint the pixels of one cell.

    Args:
        label: (2, n) int32 candidates of seen and of unseen pixels, ascending.
        score: (2, 4, n) float32 their scores at the corners.
        counts: (2,) how many there are; 0 if no pixel is of that kind, never twice.
        difference: (4,) float64 seen minus unseen logit at the corners, used if both counts are
            above 0.
        y_weight: (2, H) float32 weights of the upper and lower nodes.
        x_weight: (2, W) float32 weights of the left and right nodes.
        y0: First row; `y1` the row after the last.
        x0: First column; `x1` the column after the last.
        a: (n,) float32 scratch, as `b`.
        run_end: (pixels,) int64 scratch, as `run_at`, `left` and `right`.
        flags: (K,) bool, what to write to `seen` where a label wins.
        labels: (H, W) map, written.
        seen: (H, W) bool, written.
    """
    mixed = counts[0] > 0 and counts[1] > 0
    sole = 0 if counts[0] > 0 else 1
    edges = not mixed and counts[sole] > 1
    if edges:
        count = counts[sole]
        _edge(score[sole], count, y_weight, x_weight, y0, y1, x0, a, b, run_end, run_at, left)
        _edge(score[sole], count, y_weight, x_weight, y0, y1, x1 - 1, a, b, run_end, run_at, right)
    for y in range(y0, y1):
        v0, v1 = y_weight[0, y], y_weight[1, y]
        kind, split = sole, x1
        if mixed:
            d0 = v0 * difference[0] + v1 * difference[2]
            d1 = v0 * difference[1] + v1 * difference[3]
            kind = 0 if _is_seen(d0, d1, x_weight, x0) else 1
            if (kind == 0) != _is_seen(d0, d1, x_weight, x1 - 1):
                split = _sign_change(d0, d1, x_weight, x0, x1 - 1)
        low = x0
        for part in range(2):
            if low == x1:
                break
            if part == 1:
                kind, split = 1 - kind, x1
            high = split - 1
            count = counts[kind]
            first = last = 0
            if edges:
                first, last = left[y - y0], right[y - y0]
            if count > 1 and not (edges and first == last):
                for p in range(count):
                    a[p] = v0 * score[kind, 0, p] + v1 * score[kind, 2, p]
                    b[p] = v0 * score[kind, 1, p] + v1 * score[kind, 3, p]
                if not edges:
                    first = _best_at(a, b, count, x_weight[0, low], x_weight[1, low])
                    last = _best_at(a, b, count, x_weight[0, high], x_weight[1, high])
                runs = _runs(a, b, count, x_weight, low, high, first, last, run_end, run_at)
            else:
                runs = 1
                run_end[0] = split
                run_at[0] = first
            for r in range(runs):
                won = label[kind, run_at[r]]
                flag = flags[won] if not mixed else kind == 0
                # unsigned, so that no index can count from the end: then this is a plain fill
                begin, end = np.uint64(low), np.uint64(run_end[r])
                for x in range(begin, end):
                    labels[y, x] = won
                for x in range(begin, end):
                    seen[y, x] = flag
                low = run_end[r]
