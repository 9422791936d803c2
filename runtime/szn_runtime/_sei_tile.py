"""Compiled kernels of `sei.py`: from the candidates of a tile's cells to the labels of its pixels.

To call a function with many arrays costs as much as to paint a box: there are few calls per cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from szn_runtime._sei_paint import LATTICE, fill, paint_many, paint_two, prune

__all__ = ["paint_tile"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]
Axis = tuple[int, I64, F32]
Candidates = tuple[I32, I32, I64, I32, F32]

FEW = 4  # candidates up to which it costs less to carry a hopeless one than to find it
# A box with more than MANY, and more pixels than SMALL, is painted in quarters, each with its own,
# and these likewise, DEEP times at most.
MANY, SMALL, DEEP = 16, 256, 3

_plain = njit(nogil=True, cache=True, error_model="numpy")


@_plain
def _gather(of: Candidates, used: int, first: I64, count: I64, to_label: I32, to_score: F32) -> int:
    """Bring the candidates of each cell of a tile together, from all blocks of labels.

    Args:
        of: What `_candidates` gives.
        used: Index to begin at in `to_label` (n,) and `to_score` (4, n), which are written.
        first: (rows, columns) index of each cell's first candidate there, written.
        count: (rows, columns) how many each cell has, written; 0 for cells that are not among
            those of `of`.

    Returns:
        The index after the last one written.
    """
    index, sole, start, label, score = of
    for i in range(index.shape[0]):
        for j in range(index.shape[1]):
            cell = index[i, j]
            first[i, j] = used
            count[i, j] = 0
            if cell < 0:
                continue
            if sole[cell] >= 0:
                to_label[used] = sole[cell]
                for c in range(4):
                    to_score[c, used] = 0  # any number: it is compared with none
                used += 1
            for b in range(start.shape[0]):
                for p in range(start[b, cell], start[b, cell + 1] if sole[cell] < 0 else 0):
                    to_label[used] = label[p]
                    for c in range(4):
                        to_score[c, used] = score[c, p]
                    used += 1
            count[i, j] = used - first[i, j]
    return used


@_plain
def _most(start: I64) -> int:
    """The most candidates of a cell, from `start` of `collect_candidates`."""
    most = 1
    for i in range(start.shape[1] - 1):
        total = 0
        for b in range(start.shape[0]):
            total += start[b, i + 1] - start[b, i]
        most = max(most, total)
    return most


@_plain
def paint_tile(
    seen_of: Candidates,
    unseen_of: Candidates,
    difference: F64,
    y_axis: Axis,
    x_axis: Axis,
    cy0: int,
    cx0: int,
    flags: Flags,
    labels: NDArray[Any],
    seen: Flags,
) -> None:
    """Paint the pixels of a tile of cells.

    Args:
        seen_of: Candidates of the cells with seen pixels: `index` (rows, columns) number of each
            cell, -1 for the others, then what `collect_candidates` gives.
        unseen_of: Those of the cells with unseen pixels.
        difference: (h, w) float64 seen minus unseen logit at the nodes, used where there are both.
        y_axis: First node, (rows + 1,) first pixel of each row of cells, and (2, H) weights of the
            upper and lower nodes; `x_axis` likewise.
        cy0: Row of the tile's first cell; `cx0` its column.
        flags: (K,) bool, what to write to `seen` where a label wins.
        labels: (H, W) map, written.
        seen: (H, W) bool, written.
    """
    h, w = difference.shape
    y_first, y_start, y_weight = y_axis
    x_first, x_start, x_weight = x_axis
    rows, columns = seen_of[0].shape
    first, count = np.empty((2, rows, columns), np.int64), np.empty((2, rows, columns), np.int64)
    room = seen_of[1].size + unseen_of[1].size + seen_of[2][-1, -1] + unseen_of[2][-1, -1]
    most = max(_most(seen_of[2]), _most(unseen_of[2]))
    room += 2 * (DEEP + 1) * most
    # zeros here and below, since what is left in memory may be a NaN, which the compiled code
    # assumes away
    label, score = np.zeros(room, np.int32), np.zeros((4, room), np.float32)
    spare = _gather(seen_of, np.int64(0), first[0], count[0], label, score)
    spare = _gather(unseen_of, spare, first[1], count[1], label, score)
    longest = 1
    for j in range(columns):
        longest = max(longest, x_start[cx0 + j + 1] - x_start[cx0 + j])
    best, won = np.zeros(longest, np.float32), np.zeros((2, longest), np.int32)
    weights, top = np.zeros((4, LATTICE), np.float32), np.zeros(LATTICE, np.float32)
    winner = np.zeros(LATTICE, np.int32)
    value, alive = np.zeros((4, most), np.float32), np.zeros(most, np.uint8)
    todo = np.empty((4 * DEEP + 4, 10), np.int64)  # boxes with their candidates, see below
    for i in range(rows):
        y0, y1 = y_start[cy0 + i], y_start[cy0 + i + 1]
        run, run_start, x1 = np.int64(-1), y0, y0
        for j in range(columns):
            n0, n1, p0, p1 = count[0, i, j], count[1, i, j], first[0, i, j], first[1, i, j]
            if n0 + n1 == 0:
                continue
            # cells of one label side by side are painted together
            sole = np.int64(-1)
            if n0 + n1 == 1:
                sole = np.int64(label[p0] if n0 == 1 else label[p1])
            if run >= 0 and sole != run:
                fill(run, flags[run], (y0, y1, run_start, x1), labels, seen)
            x0, x1 = x_start[cx0 + j], x_start[cx0 + j + 1]
            if sole < 0 or sole != run:
                run, run_start = sole, x0
            if sole >= 0:
                continue
            d0 = d1 = d2 = d3 = 0.0
            if n0 > 0 and n1 > 0:
                r, q = y_first + cy0 + i, x_first + cx0 + j
                r0, r1, q0, q1 = max(r, 0), min(r + 1, h - 1), max(q, 0), min(q + 1, w - 1)
                d0, d1 = difference[r0, q0], difference[r0, q1]
                d2, d3 = difference[r1, q0], difference[r1, q1]
            left = 1
            ya, yb, xa, xb, tail, deep = y0, y1, x0, x1, spare, 0
            while left > 0:
                left -= 1
                if deep > 0:
                    ya, yb, xa, xb = todo[left, 0], todo[left, 1], todo[left, 2], todo[left, 3]
                    p0, n0, p1, n1 = todo[left, 4], todo[left, 5], todo[left, 6], todo[left, 7]
                    tail, deep = todo[left, 8], todo[left, 9]
                box = (ya, yb, xa, xb)
                few = FEW if deep == 0 else 1
                if n0 > few:
                    n0 = prune(
                        label, score, p0, n0, tail, y_weight, x_weight, box, weights, top,
                        winner, value, alive,
                    )  # fmt: skip
                    p0 = tail
                    tail += n0
                if n1 > few:
                    n1 = prune(
                        label, score, p1, n1, tail, y_weight, x_weight, box, weights, top,
                        winner, value, alive,
                    )  # fmt: skip
                    p1 = tail
                    tail += n1
                if max(n0, n1) > MANY and (yb - ya) * (xb - xa) > SMALL and deep < DEEP:
                    deep += 1
                    ym, xm = (ya + yb) // 2, (xa + xb) // 2
                    for part in range(4):
                        todo[left, 0], todo[left, 1] = (ym, yb) if part & 2 else (ya, ym)
                        todo[left, 2], todo[left, 3] = (xm, xb) if part & 1 else (xa, xm)
                        todo[left, 4], todo[left, 5], todo[left, 6], todo[left, 7] = p0, n0, p1, n1
                        todo[left, 8], todo[left, 9] = tail, deep
                        left += todo[left, 0] < todo[left, 1] and todo[left, 2] < todo[left, 3]
                    continue
                if n0 + n1 == 1:
                    a = np.int64(label[p0] if n0 == 1 else label[p1])
                    fill(a, flags[a], box, labels, seen)
                elif n0 == 1 and n1 == 1:
                    paint_two(
                        (d0, d1, d2, d3), label[p0], np.bool_(True), label[p1], np.bool_(False),
                        y_weight, x_weight, box, labels, seen,
                    )  # fmt: skip
                elif n0 + n1 == 2:
                    p = p0 if n0 == 2 else p1
                    a, b = label[p], label[p + 1]
                    margin = (
                        np.float64(score[0, p + 1]) - np.float64(score[0, p]),
                        np.float64(score[1, p + 1]) - np.float64(score[1, p]),
                        np.float64(score[2, p + 1]) - np.float64(score[2, p]),
                        np.float64(score[3, p + 1]) - np.float64(score[3, p]),
                    )
                    paint_two(
                        margin, b, flags[b], a, flags[a], y_weight, x_weight, box, labels, seen
                    )
                else:
                    paint_many(
                        label, score, p0, n0, p1, n1, (d0, d1, d2, d3), y_weight, x_weight, box,
                        best, won, flags, labels, seen,
                    )  # fmt: skip
        if run >= 0:
            fill(run, flags[run], (y0, y1, run_start, x1), labels, seen)
