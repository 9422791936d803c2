"""Compiled kernels of `sei.py`: the grid as tiles of cells, each labelled on its own (docs/sei.md).

Tiles keep the node embeddings and the scores of a block of labels in cache, and the memory apart
from the output small whatever the size of frame and vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from szn_runtime._sei_candidates import collect_candidates
from szn_runtime._sei_filter import label_filter
from szn_runtime._sei_tile import paint_tile

__all__ = ["BAD_EMBEDDING", "BAD_SEENMASK", "label_grid"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Axis = tuple[int, I64, F32]
Candidates = tuple[I32, I32, I64, I32, F32]

BAD_EMBEDDING, BAD_SEENMASK = 1, 2  # what `label_grid` returns for numbers that are not finite

# Bits: which label lists a cell needs. Numba compiles a function anew for a plain number.
SEEN, UNSEEN = np.uint8(1), np.uint8(2)

# A score's rounding error is below (j + 2) / 2^24 of |E_c|; four times that, and some.
_ROUNDING = 4.0 / 2**24

_plain = njit(nogil=True, cache=True, error_model="numpy")


@_plain
def _largest(grid: F32) -> float:
    """Largest absolute value, infinite if a number is not finite."""
    bits = grid.view(np.uint32)
    largest = np.zeros(1, np.uint32)
    # without the sign, floats are ordered as the integers of the same bits, NaN above infinity
    for c in range(bits.shape[0]):
        for r in range(bits.shape[1]):
            top = np.uint32(0)
            for q in range(bits.shape[2]):
                top = max(top, np.uint32(bits[c, r, q] & np.uint32(0x7FFFFFFF)))
            largest[0] = max(largest[0], top)
    value = float(largest.view(np.float32)[0])
    return value if value < np.inf else np.inf


@_plain
def _axis(nodes: int, pixels: int, stride: float, offset: float) -> Axis:
    """Where the pixels of one axis fall between its nodes.

    Cell i lies between nodes i and i + 1; cells -1 and `nodes - 1` have their one node twice.

    Returns:
        The first cell with pixels; (cells + 1,) the first pixel of each cell, then the end; and
        (2, pixels) the weights of both nodes.
    """
    weight = np.empty((2, pixels), np.float32)
    cell = np.empty(pixels, np.int32)
    for p in range(np.uint64(pixels)):
        at = (np.float64(p) - offset) / stride
        floor = min(max(np.floor(at), -1.0), nodes - 1.0)
        cell[p] = np.int32(floor)
        weight[0, p] = 1 - (at - floor)
        weight[1, p] = at - floor
    first, last = int(cell[0]), int(cell[pixels - 1])
    start = np.empty(last - first + 2, np.int64)
    i = 0
    for p in range(pixels):
        while i <= cell[p] - first:
            start[i] = p
            i += 1
    start[i] = pixels
    return first, start, weight


@_plain
def _needs(
    difference: F64,
    masked: bool,
    y_axis: Axis,
    x_axis: Axis,
    cy0: int,
    cy1: int,
    cx0: int,
    cx1: int,
) -> U8:
    """Which label lists each cell of a tile needs, 0 for cells without pixels."""
    h, w = difference.shape
    y_first, y_start, _ = y_axis
    x_first, x_start, _ = x_axis
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
    bit: np.uint8,
    origin: tuple[int, int],
    block: int,
    filter_from: int,
    limit: int,
) -> Candidates:
    """Candidates of the cells of a tile, whose first node is `origin`, that need the labels `ids`.

    Returns:
        `index` (rows, columns) number of each cell among those, -1 for the others; then `sole`,
        `start`, `label`, `score` as `collect_candidates` gives, the same for no cell.
    """
    dim, h, w = embedding.shape
    index = np.full(needs.shape, -1, np.int32)
    column = np.full((needs.shape[0] + 1, needs.shape[1] + 1), -1, np.int32)
    r_low, c_low = max(origin[0], 0), max(origin[1], 0)
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
                r = min(max(origin[0] + cy + (c >> 1), 0), h - 1)
                q = min(max(origin[1] + cx + (c & 1), 0), w - 1)
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
        nodes, norm, slack, embeddings, ids, corners, winner, block, limit
    )
    return index, sole, start, label, score


@_plain
def label_grid(
    embedding: F32,
    seenmask: F32,
    use_seenmask: bool,
    seen_bias: float,
    embeddings: F32,
    flags: Flags,
    stride_yx: tuple[float, float],
    offset_yx: tuple[float, float],
    tile_cells: int,
    block: int,
    filter_from: int,
    limit: int,
    labels: NDArray[Any],
    seen: Flags,
) -> int:
    """Label every pixel.

    Args:
        embedding: (j, h, w) float32 grid.
        seenmask: (2, h, w) float32 logits; of any size if it is not used.
        use_seenmask: Whether it decides between seen and unseen labels where there are both.
        seen_bias: Added to its difference.
        embeddings: (K, j) float32 unit rows.
        flags: (K,) bool, which labels are seen.
        stride_yx: Pixels between two nodes; `offset_yx` pixel position of the first.
        tile_cells: About how many cells make a tile.
        block: Labels scored at a time, a multiple of 64.
        filter_from: Number of labels from which they are filtered first.
        limit: Candidates of a tile's cells to hold at a time.
        labels: (H, W) label map, written.
        seen: (H, W) bool, written.

    Returns:
        0, or BAD_EMBEDDING or BAD_SEENMASK, and nothing is written.
    """
    _, h, w = embedding.shape
    largest = _largest(embedding)
    if largest == np.inf:
        return BAD_EMBEDDING
    if _largest(seenmask) == np.inf:
        return BAD_SEENMASK
    scale = math.ldexp(1.0, -math.frexp(largest)[1])  # brings the grid to about 1
    first_ids, second_ids = np.empty(flags.size, np.int32), np.empty(flags.size, np.int32)
    counts = np.zeros(2, np.int64)
    for k in range(flags.size):
        first_ids[counts[0]] = second_ids[counts[1]] = k
        counts[0] += flags[k]
        counts[1] += not flags[k]
    masked = use_seenmask and counts[0] > 0 and counts[1] > 0
    difference = np.zeros((h, w), np.float64)
    if masked:
        for r in range(h):
            for q in range(w):
                logit = np.float64(seenmask[1, r, q]) - np.float64(seenmask[0, r, q])
                difference[r, q] = logit + seen_bias
        first_ids, second_ids = first_ids[: counts[0]], second_ids[: counts[1]]
    else:
        first_ids, second_ids = np.arange(flags.size).astype(np.int32), second_ids[:0]
    y_axis = _axis(h, labels.shape[0], stride_yx[0], offset_yx[0])
    x_axis = _axis(w, labels.shape[1], stride_yx[1], offset_yx[1])
    rows, columns = y_axis[1].size - 1, x_axis[1].size - 1
    tile_rows = max(int(np.sqrt(tile_cells)), 1)
    tile_columns = -(-tile_cells // tile_rows)
    down, across = -(-rows // tile_rows), -(-columns // tile_columns)
    # tiles to do; one with too many candidates is halved, at most to single cells
    todo = np.empty((down * across + 64, 4), np.int64)
    for tile in range(down * across):
        ty, tx = tile // across, tile % across
        todo[tile, 0], todo[tile, 1] = rows * ty // down, rows * (ty + 1) // down
        todo[tile, 2], todo[tile, 3] = columns * tx // across, columns * (tx + 1) // across
    left = down * across
    while left > 0:
        left -= 1
        cy0, cy1, cx0, cx1 = todo[left, 0], todo[left, 1], todo[left, 2], todo[left, 3]
        needs = _needs(difference, masked, y_axis, x_axis, cy0, cy1, cx0, cx1)
        origin = (y_axis[0] + cy0, x_axis[0] + cx0)
        seen_of = _candidates(
            embedding, scale, embeddings, first_ids, needs, SEEN, origin, block, filter_from, limit
        )
        unseen_of = _candidates(
            embedding, scale, embeddings, second_ids, needs, UNSEEN, origin, block, filter_from,
            limit,
        )  # fmt: skip
        if seen_of[1].size <= seen_of[0].max() or unseen_of[1].size <= unseen_of[0].max():
            todo[left + 1] = todo[left]
            if cy1 - cy0 > cx1 - cx0:
                todo[left, 1] = todo[left + 1, 0] = (cy0 + cy1) // 2
            else:
                todo[left, 3] = todo[left + 1, 2] = (cx0 + cx1) // 2
            left += 2
            continue
        paint_tile(seen_of, unseen_of, difference, y_axis, x_axis, cy0, cx0, flags, labels, seen)
    return 0
