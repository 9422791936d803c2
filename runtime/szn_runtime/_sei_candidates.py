"""Compiled kernels of `sei.py`: which labels can win in which cell of the grid (docs/sei.md).

Terms: a *node* is a position of the network's grid, a *cell* the pixels between four nodes (its
*corners*: top left, top right, bottom left, bottom right). A *row* of a label list is a position in
`ids`, which holds the labels' indices in ascending order; comparing rows compares labels.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["HUGE", "LANES", "collect_candidates", "multiply_four", "update_bounds"]

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

HUGE = np.float32(3e38)  # stands for infinity, which `ninf`-like assumptions would not survive
LANES = 64  # vector loops run over multiples of this, so that equal labels get equal bits

# Finite numbers only (checked before), so a maximum may be taken in any order.
_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})


@_fast
def multiply_four(
    lanes: F32, weights: F32, m0: int, m1: int, m2: int, m3: int, width: int, out: F32
) -> None:
    """Scores of four labels at many nodes, or of many labels at four nodes.

    Args:
        lanes: (j, n) float32, n a multiple of LANES.
        weights: (m, j) float32, of which the rows `m0` to `m3` are used.
        width: Columns to compute, a multiple of LANES.
        out: (4, n) float32, overwritten: `out[i, c] = <weights[m_i], lanes[:, c]>`.
    """
    dim = lanes.shape[0]
    out0, out1, out2, out3 = out[0], out[1], out[2], out[3]
    out[:, :width] = np.float32(0)
    whole = dim - dim % 4
    for d in range(0, whole, 4):
        x0, x1, x2, x3 = lanes[d], lanes[d + 1], lanes[d + 2], lanes[d + 3]
        a0, a1, a2, a3 = weights[m0, d], weights[m0, d + 1], weights[m0, d + 2], weights[m0, d + 3]
        b0, b1, b2, b3 = weights[m1, d], weights[m1, d + 1], weights[m1, d + 2], weights[m1, d + 3]
        c0, c1, c2, c3 = weights[m2, d], weights[m2, d + 1], weights[m2, d + 2], weights[m2, d + 3]
        e0, e1, e2, e3 = weights[m3, d], weights[m3, d + 1], weights[m3, d + 2], weights[m3, d + 3]
        for n in range(width):
            # read first: for all the compiler knows, writing out0 could change the lanes
            y0, y1, y2, y3 = x0[n], x1[n], x2[n], x3[n]
            out0[n] = (((out0[n] + a0 * y0) + a1 * y1) + a2 * y2) + a3 * y3
            out1[n] = (((out1[n] + b0 * y0) + b1 * y1) + b2 * y2) + b3 * y3
            out2[n] = (((out2[n] + c0 * y0) + c1 * y1) + c2 * y2) + c3 * y3
            out3[n] = (((out3[n] + e0 * y0) + e1 * y1) + e2 * y2) + e3 * y3
    for d in range(whole, dim):
        x0 = lanes[d]
        a0, b0, c0, e0 = weights[m0, d], weights[m1, d], weights[m2, d], weights[m3, d]
        for n in range(width):
            y0 = x0[n]
            out0[n] += a0 * y0
            out1[n] += b0 * y0
            out2[n] += c0 * y0
            out3[n] += e0 * y0


@_fast
def update_bounds(
    nodes: F32,
    norm: F32,
    slack: F32,
    embeddings: F32,
    ids: I32,
    corners: I32,
    winner: I32,
    known: I32,
    skip_sole: bool,
    bound: F32,
) -> None:
    """Bounds of the cells whose corner winners have changed since `known`.

    For weights `l_m >= 0` of sum 1 over labels m, a label beaten at all four corners by the mixture
    `g_c = sum_m l_m S_mc` is beaten in the whole cell by one of the m. Of the equal-weight mixtures
    of the corner winners, take the one whose least `g_c / |E_c|` is greatest.

    Args:
        nodes: (n, j) float32 embeddings of the nodes, `norm` (n,) their lengths, `slack` (n,) what
            rounding can move a score there.
        corners: (cells, 4) int32 nodes of each cell.
        winner: (n,) int32 row of the best label so far at each node.
        known: (cells, 4) int32 winners that `bound` was made from, updated.
        skip_sole: Whether cells with one winner need no bound.
        bound: (cells, 4) float32 `g_c - slack`, updated; HUGE at nodes of length 0, where all
            labels tie.
    """
    share = np.empty((4, 4), np.float32)  # (distinct winner, corner) score / length of the node
    distinct = np.empty(4, np.int32)
    for i in range(corners.shape[0]):
        changed = False
        for c in range(4):
            row = winner[corners[i, c]]
            if known[i, c] != row:
                known[i, c] = row
                changed = True
        if not changed or (skip_sole and _is_sole(winner, corners, i)):
            continue
        n0, n1, n2, n3 = corners[i, 0], corners[i, 1], corners[i, 2], corners[i, 3]
        count = 0
        for c in range(4):
            new = True
            for q in range(count):
                new = new and distinct[q] != known[i, c]
            if new:
                distinct[count] = known[i, c]
                count += 1
        for q in range(count):
            label = ids[distinct[q]]
            s0 = s1 = s2 = s3 = np.float32(0)
            for d in range(nodes.shape[1]):
                value = embeddings[label, d]
                s0 += nodes[n0, d] * value
                s1 += nodes[n1, d] * value
                s2 += nodes[n2, d] * value
                s3 += nodes[n3, d] * value
            # where a node has no length all labels tie
            share[q, 0] = s0 / norm[n0] if norm[n0] > 0 else np.float32(2)
            share[q, 1] = s1 / norm[n1] if norm[n1] > 0 else np.float32(2)
            share[q, 2] = s2 / norm[n2] if norm[n2] > 0 else np.float32(2)
            share[q, 3] = s3 / norm[n3] if norm[n3] > 0 else np.float32(2)
        greatest = -HUGE
        for subset in range(1, 1 << count):
            size = np.float32(0)
            g0 = g1 = g2 = g3 = np.float32(0)
            for q in range(count):
                if (subset >> q) & 1:
                    size += np.float32(1)
                    g0 += share[q, 0]
                    g1 += share[q, 1]
                    g2 += share[q, 2]
                    g3 += share[q, 3]
            least = min(min(g0, g1), min(g2, g3)) / size
            if least > greatest:
                greatest = least
                bound[i, 0], bound[i, 1] = g0 / size, g1 / size
                bound[i, 2], bound[i, 3] = g2 / size, g3 / size
        for c in range(4):
            n = corners[i, c]
            bound[i, c] = bound[i, c] * norm[n] - slack[n] if norm[n] > 0 else HUGE


@_fast
def _find_best(
    scores: F32, size: int, first_row: int, n0: int, n1: int, best: F32, winner: I32
) -> None:
    """Update the best label of the nodes n0 to n1 - 1 from a block of `size` scores."""
    whole = size - size % 8
    for n in range(n0, n1):
        # eight at a time, which do not wait for each other
        b0 = b1 = b2 = b3 = b4 = b5 = b6 = b7 = best[n]
        for k in range(0, whole, 8):
            b0 = scores[n, k] if scores[n, k] > b0 else b0
            b1 = scores[n, k + 1] if scores[n, k + 1] > b1 else b1
            b2 = scores[n, k + 2] if scores[n, k + 2] > b2 else b2
            b3 = scores[n, k + 3] if scores[n, k + 3] > b3 else b3
            b4 = scores[n, k + 4] if scores[n, k + 4] > b4 else b4
            b5 = scores[n, k + 5] if scores[n, k + 5] > b5 else b5
            b6 = scores[n, k + 6] if scores[n, k + 6] > b6 else b6
            b7 = scores[n, k + 7] if scores[n, k + 7] > b7 else b7
        for k in range(whole, size):
            b0 = scores[n, k] if scores[n, k] > b0 else b0
        top = max(max(max(b0, b1), max(b2, b3)), max(max(b4, b5), max(b6, b7)))
        if top > best[n]:
            k = 0
            while scores[n, k] != top:
                k += 1
            best[n], winner[n] = top, first_row + k


@_fast
def _flag(
    scores: F32, n0: int, n1: int, n2: int, n3: int, bound: F32, i: int, size: int, flags: U8
) -> None:
    b0, b1, b2, b3 = bound[i, 0], bound[i, 1], bound[i, 2], bound[i, 3]
    for k in range(size):
        low = (scores[n0, k] >= b0) | (scores[n1, k] >= b1)
        flags[k] = low | (scores[n2, k] >= b2) | (scores[n3, k] >= b3)


@_fast
def collect_candidates(
    nodes: F32,
    norm: F32,
    slack: F32,
    embeddings: F32,
    ids: I32,
    corners: I32,
    winner: I32,
    block: int,
    limit: int,
) -> tuple[I32, NDArray[np.int64], I32, F32]:
    """Labels that can win somewhere in a cell, for all cells, with their scores at the corners.

    Args:
        nodes: (n, j) float32 and `norm`, `slack`, `corners` as for the bounds.
        embeddings: (K, j) float32 of all labels.
        ids: (k,) int32 labels to choose from, ascending.
        winner: (n,) int32 row of the best label at each node, or empty: it is found on the way.
        block: Labels whose scores are held at a time, a multiple of LANES.
        limit: Candidates to give up at, if there is more than one cell.

    Returns:
        `sole` (cells,) the label that wins at all corners and thus in the whole cell, or -1: then
        the labels that can win in cell i are, for each block b, at `start[b, i]` to
        `start[b, i + 1]` in `label` (m,), ascending, with `score` (4, m) at the corners. `sole` is
        empty if it gave up.
    """
    count_nodes, dim = nodes.shape
    cells = corners.shape[0]
    search = winner.size == 0
    block = min(block, -(-ids.size // LANES) * LANES)
    blocks = -(-ids.size // block)
    lanes = np.zeros((dim, block), np.float32)
    scores = np.empty((count_nodes + 3, block), np.float32)
    best = np.full(count_nodes, -HUGE, np.float32)
    if search:
        winner = np.zeros(count_nodes, np.int32)
    bound = np.empty((cells, 4), np.float32)
    known = np.full((cells, 4), -1, np.int32)
    skip_sole = not search or blocks == 1
    flags = np.zeros(block, np.uint8)
    words = flags.view(np.uint64)
    rows = np.empty(block + 1, np.int32)
    start = np.empty((blocks, cells + 1), np.int64)
    capacity = 16 * cells + block
    label = np.empty(capacity, np.int32)
    score = np.empty((4, capacity), np.float32)
    count = np.int64(0)
    last = count_nodes - 1
    for b in range(blocks):
        first_row = b * block
        size = min(block, ids.size - first_row)
        width = -(-size // LANES) * LANES
        for k in range(size):
            for d in range(dim):
                lanes[d, k] = embeddings[ids[first_row + k], d]
        for n in range(0, count_nodes, 4):
            n1, n2, n3 = min(n + 1, last), min(n + 2, last), min(n + 3, last)
            multiply_four(lanes, nodes, n, n1, n2, n3, width, scores[n : n + 4])
        if search:
            _find_best(scores, size, first_row, 0, count_nodes, best, winner)
        update_bounds(nodes, norm, slack, embeddings, ids, corners, winner, known, skip_sole, bound)
        for i in range(cells):
            start[b, i] = count
            if skip_sole and _is_sole(winner, corners, i):
                continue
            n0, n1, n2, n3 = corners[i, 0], corners[i, 1], corners[i, 2], corners[i, 3]
            flags[size - size % 8 :] = 0
            _flag(scores, n0, n1, n2, n3, bound, i, size, flags)
            if b == 0 and min(min(norm[n0], norm[n1]), min(norm[n2], norm[n3])) == 0:
                flags[0] = 1  # wins where all labels tie
            found = 0
            for q in range(-(-size // 8)):
                if words[q]:  # few are: eight at a time
                    for k in range(8 * q, 8 * q + 8):
                        rows[found] = k
                        found += flags[k]
            if count + found > limit and cells > 1:
                return np.empty(0, np.int32), start, label, score
            if count + found > capacity:
                capacity = 2 * capacity + found
                label, score = _grown(label, score, count, capacity)
            for p in range(found):
                k = rows[p]
                label[count + p] = ids[first_row + k]
                score[0, count + p] = scores[n0, k]
                score[1, count + p] = scores[n1, k]
                score[2, count + p] = scores[n2, k]
                score[3, count + p] = scores[n3, k]
            count += found
        start[b, cells] = count
    sole = np.full(cells, -1, np.int32)
    for i in range(cells):
        if _is_sole(winner, corners, i):
            sole[i] = ids[winner[corners[i, 0]]]
    return sole, start, label, score


@_fast
def _is_sole(winner: I32, corners: I32, i: int) -> bool:
    row = winner[corners[i, 0]]
    return (
        row == winner[corners[i, 1]]
        and row == winner[corners[i, 2]]
        and row == winner[corners[i, 3]]
    )


@_fast
def _grown(label: I32, score: F32, count: int, capacity: int) -> tuple[I32, F32]:
    more_label, more_score = np.empty(capacity, np.int32), np.empty((4, capacity), np.float32)
    for p in range(count):
        more_label[p] = label[p]
        for c in range(4):
            more_score[c, p] = score[c, p]
    return more_label, more_score
