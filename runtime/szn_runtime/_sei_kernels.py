"""Compiled kernels of `sei.py`: the grid as tiles of cells, each labelled on its own (docs/sei.md).

Tiles keep the node embeddings and the scores of a block of labels in cache, and the memory apart
from the output small whatever the size of frame and vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from szn_runtime._sei_candidates import collect_candidates, label_filter
from szn_runtime._sei_paint import LATTICE, gather, paint_block, prune

__all__ = ["label_grid"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

SEEN, UNSEEN = 1, 2  # bits: which label lists a cell needs

# A cell with more candidates and more pixels than this is painted in quarters, each with its own.
MANY, SMALL = 8, 64
PIXELS = 1024  # painted at a time, so that their weights stay in the first-level cache

# A score's rounding error is below (j + 2) / 2^24 of |E_c|; four times that, and some.
_ROUNDING = 4.0 / 2**24

_plain = njit(nogil=True, cache=True, error_model="numpy")


@_plain
def _needs(
    difference: F64,
    masked: bool,
    y_first: int,
    y_start: I64,
    x_first: int,
    x_start: I64,
    cy0: int,
    cy1: int,
    cx0: int,
    cx1: int,
) -> U8:
    """Which label lists each cell of a tile needs, 0 for cells without pixels."""
    h, w = difference.shape
    needs = np.zeros((cy1 - cy0, cx1 - cx0), np.uint8)
    for cy in range(cy0, cy1):
        if y_start[cy] == y_start[cy + 1]:
            continue
        r0, r1 = max(y_first + cy, 0), min(y_first + cy + 1, h - 1)
        for cx in range(cx0, cx1):
            if x_start[cx] == x_start[cx + 1]:
                continue
            need = SEEN
            if masked:
                c0, c1 = max(x_first + cx, 0), min(x_first + cx + 1, w - 1)
                low = min(
                    min(difference[r0, c0], difference[r0, c1]),
                    min(difference[r1, c0], difference[r1, c1]),
                )
                high = max(
                    max(difference[r0, c0], difference[r0, c1]),
                    max(difference[r1, c0], difference[r1, c1]),
                )
                need = SEEN if low > 0 else UNSEEN if high <= 0 else SEEN | UNSEEN
            needs[cy - cy0, cx - cx0] = need
    return needs


@_plain
def _candidates(
    embedding: F32,
    scale: float,
    embeddings: F32,
    ids: I32,
    needs: U8,
    bit: int,
    y_first: int,
    x_first: int,
    cy0: int,
    cx0: int,
    block: int,
    filter_from: int,
) -> tuple[I32, I32, I64, I32, F32, int]:
    """Candidates of the cells of a tile that need the labels `ids`.

    Returns:
        `index` (rows, columns) number of each cell among those, -1 for the others; then `start`,
        `label`, `score` as `collect_candidates` gives; then the most candidates a cell has.
    """
    dim, h, w = embedding.shape
    index = np.full(needs.shape, -1, np.int32)
    column = np.full((needs.shape[0] + 1, needs.shape[1] + 1), -1, np.int32)
    r_low, c_low = max(y_first + cy0, 0), max(x_first + cx0, 0)
    cells = 0
    for cell in needs.flat:
        cells += (cell & bit) != 0
    if cells == 0:
        return (
            index,
            np.empty(0, np.int32),
            np.zeros((1, 1), np.int64),
            np.empty(0, np.int32),
            np.empty((4, 0), np.float32),
            0,
        )
    corners = np.empty((cells, 4), np.int32)
    nodes = np.empty((column.size, dim), np.float32)
    norm = np.empty(column.size, np.float32)
    count = 0
    i = 0
    for cy in range(needs.shape[0]):
        for cx in range(needs.shape[1]):
            if needs[cy, cx] & bit == 0:
                continue
            index[cy, cx] = i
            for c in range(4):
                r = min(max(y_first + cy0 + cy + (c >> 1), 0), h - 1)
                q = min(max(x_first + cx0 + cx + (c & 1), 0), w - 1)
                if column[r - r_low, q - c_low] < 0:
                    column[r - r_low, q - c_low] = count
                    square = 0.0
                    for d in range(dim):
                        value = embedding[d, r, q] * scale
                        nodes[count, d] = value
                        square += value * value
                    norm[count] = np.sqrt(square)
                    count += 1
                corners[i, c] = column[r - r_low, q - c_low]
            i += 1
    nodes, norm = nodes[:count], norm[:count]
    slack = (norm * (_ROUNDING * (dim + 8))).astype(np.float32)
    winner = np.empty(0, np.int32)
    if ids.size >= filter_from:
        ids, winner = label_filter(nodes, norm, slack, embeddings, ids, corners, 2 * block)
    sole, start, label, score = collect_candidates(
        nodes, norm, slack, embeddings, ids, corners, winner, block
    )
    most = 0
    for i in range(cells):
        total = 0
        for b in range(start.shape[0]):
            total += start[b, i + 1] - start[b, i]
        most = max(most, total)
    return index, sole, start, label, score, most


@_plain
def label_grid(
    embedding: F32,
    scale: float,
    difference: F64,
    masked: bool,
    embeddings: F32,
    seen_ids: I32,
    unseen_ids: I32,
    flags: NDArray[np.bool_],
    y_first: int,
    y_start: I64,
    y_weight: F32,
    x_first: int,
    x_start: I64,
    x_weight: F32,
    tile_cells: int,
    block: int,
    filter_from: int,
    labels: NDArray[Any],
    seen: NDArray[np.bool_],
) -> None:
    """Label every pixel.

    Args:
        embedding: (j, h, w) float32 grid, finite.
        scale: Power of two that brings the grid to about 1.
        difference: (h, w) float64 seen minus unseen logit, bias included.
        masked: Whether the difference decides between the two label lists; `seen_ids` else.
        embeddings: (K, j) float32 unit rows.
        seen_ids: (k,) int32 ascending indices of labels, as `unseen_ids`.
        flags: (K,) bool, what `seen` says where a label wins.
        y_first: Upper node (-1: none, the first one is repeated) of the first row of cells.
        y_start: (rows + 1,) int64 first pixel of each row of cells, and the end.
        y_weight: (2, H) float32 weights of the upper and lower node; x_* likewise.
        tile_cells: About how many cells make a tile.
        block: Labels scored at a time, a multiple of 64.
        filter_from: Number of labels from which they are filtered first.
        labels: (H, W) label map, written.
        seen: (H, W) bool, written.
    """
    h, w = difference.shape
    tile_rows = max(int(np.sqrt(tile_cells)), 1)
    tile_columns = -(-tile_cells // tile_rows)
    down = -(-(y_start.size - 1) // tile_rows)
    across = -(-(x_start.size - 1) // tile_columns)
    longest = 0
    for i in range(y_start.size - 1):
        longest = max(longest, y_start[i + 1] - y_start[i])
    for i in range(x_start.size - 1):
        longest = max(longest, x_start[i + 1] - x_start[i])
    pixels = max(longest, PIXELS)
    # zeros, since what is left in memory may be a NaN, which the compiled code assumes away
    weights, best = np.zeros((4, pixels), np.float32), np.zeros(pixels, np.float32)
    won = np.empty((2, pixels), np.int32)
    lattice, lattice_best = np.zeros((4, LATTICE), np.float32), np.zeros(LATTICE, np.float32)
    lattice_won = np.empty(LATTICE, np.int32)
    delta = np.empty(4, np.float64)
    counts, part_counts = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for tile in range(down * across):
        ty, tx = tile // across, tile % across
        cy0, cy1 = (y_start.size - 1) * ty // down, (y_start.size - 1) * (ty + 1) // down
        cx0, cx1 = (x_start.size - 1) * tx // across, (x_start.size - 1) * (tx + 1) // across
        needs = _needs(difference, masked, y_first, y_start, x_first, x_start, cy0, cy1, cx0, cx1)
        s_index, s_sole, s_start, s_label, s_score, s_most = _candidates(
            embedding,
            scale,
            embeddings,
            seen_ids,
            needs,
            SEEN,
            y_first,
            x_first,
            cy0,
            cx0,
            block,
            filter_from,
        )
        u_index, u_sole, u_start, u_label, u_score, u_most = _candidates(
            embedding,
            scale,
            embeddings,
            unseen_ids,
            needs,
            UNSEEN,
            y_first,
            x_first,
            cy0,
            cx0,
            block,
            filter_from,
        )
        most = max(s_most, u_most)
        most = max(most, 1)
        label, score = np.empty((2, most), np.int32), np.empty((2, 4, most), np.float32)
        part_label, part_score = np.empty_like(label), np.empty_like(score)
        places = np.arange(most).astype(np.int32)
        corner, alive = np.empty((4, most), np.float32), np.empty(most, np.uint8)
        for cy in range(cy0, cy1):
            y0, y1 = y_start[cy], y_start[cy + 1]
            for cx in range(cx0, cx1):
                need = needs[cy - cy0, cx - cx0]
                x0, x1 = x_start[cx], x_start[cx + 1]
                if need == 0:
                    continue
                counts[:] = 0
                if need & SEEN:
                    i = s_index[cy - cy0, cx - cx0]
                    if s_sole[i] >= 0:
                        label[0, 0] = s_sole[i]
                        score[0, :, 0] = 0  # any number: it is compared with none
                        counts[0] = 1
                    else:
                        counts[0] = gather(i, s_start, s_label, s_score, label[0], score[0])
                if need & UNSEEN:
                    i = u_index[cy - cy0, cx - cx0]
                    if u_sole[i] >= 0:
                        label[1, 0] = u_sole[i]
                        score[1, :, 0] = 0  # any number: it is compared with none
                        counts[1] = 1
                    else:
                        counts[1] = gather(i, u_start, u_label, u_score, label[1], score[1])
                for k in range(2):
                    if counts[k] > 1:
                        counts[k] = prune(
                            label[k],
                            score[k],
                            counts[k],
                            y_weight,
                            x_weight,
                            y0,
                            y1,
                            x0,
                            x1,
                            label[k],
                            score[k],
                            places,
                            lattice,
                            lattice_best,
                            lattice_won,
                            corner,
                            alive,
                        )
                if need == SEEN | UNSEEN:
                    for c in range(4):
                        r = min(max(y_first + cy + (c >> 1), 0), h - 1)
                        q = min(max(x_first + cx + (c & 1), 0), w - 1)
                        delta[c] = difference[r, q]
                if max(counts[0], counts[1]) <= MANY or (y1 - y0) * (x1 - x0) <= SMALL:
                    paint_block(
                        label,
                        score,
                        counts,
                        delta,
                        y_weight,
                        x_weight,
                        y0,
                        y1,
                        x0,
                        x1,
                        weights,
                        best,
                        won,
                        flags,
                        labels,
                        seen,
                    )
                    continue
                for quarter in range(4):
                    ya, xa = (y0 + y1) // 2, (x0 + x1) // 2
                    yb, xb = ya, xa
                    if quarter & 2:
                        yb = y1
                    else:
                        ya = y0
                    if quarter & 1:
                        xb = x1
                    else:
                        xa = x0
                    if ya == yb or xa == xb:
                        continue
                    for k in range(2):
                        part_counts[k] = counts[k]
                        if counts[k] > 0:
                            part_counts[k] = prune(
                                label[k],
                                score[k],
                                counts[k],
                                y_weight,
                                x_weight,
                                ya,
                                yb,
                                xa,
                                xb,
                                part_label[k],
                                part_score[k],
                                places,
                                lattice,
                                lattice_best,
                                lattice_won,
                                corner,
                                alive,
                            )
                    paint_block(
                        part_label,
                        part_score,
                        part_counts,
                        delta,
                        y_weight,
                        x_weight,
                        ya,
                        yb,
                        xa,
                        xb,
                        weights,
                        best,
                        won,
                        flags,
                        labels,
                        seen,
                    )
