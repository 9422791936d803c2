"""Compiled kernels of `confidence.py`: cosines cell by cell, from scores and a Gram matrix.

Terms as in `_sei_kernels.py`: a *cell* is the pixels between four nodes, its *corners* are top
left, top right, bottom left, bottom right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["grid_cosines"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

# |v|^2 of which no digit is left after float32 weights: 1e-7 of the nodes' weighted lengths
_UNRESOLVED = 1e-14
# The least square beside a longest corner of 1, well above the least float32.
_LEAST = np.float32(1e-36)
_MIX = 0x9E3779B1  # odd, golden ratio of 2^32: spreads neighbouring labels over the table

# Finite numbers only (checked before).
_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})
_sums = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract", "reassoc"}
)


@_sums
def _dot(a: F32, b: F32) -> float:
    total = 0.0
    for d in range(a.size):
        total += np.float64(a[d]) * np.float64(b[d])
    return total


@_fast
def _place(label: int, table: I32, found: I32) -> int:
    """Where the hash table holds a label, or the empty place that it is to take.

    Args:
        label: To look for.
        table: (n,) int32 numbers of labels, -1 where empty; n is a power of two, not all taken.
        found: (m,) int32, the labels by their numbers.
    """
    mask = table.size - 1
    place = (label * _MIX >> 7) & mask
    while table[place] >= 0 and found[table[place]] != label:
        place = (place + 1) & mask
    return place


@_fast
def _fill_lengths(
    gram: F64,
    length: F64,
    y_weight: F32,
    x_weight: F32,
    y0: int,
    y1: int,
    x0: int,
    x1: int,
    out: F32,
) -> None:
    """Squared lengths of the embeddings of a cell.

    Args:
        gram: (4, 4) float64 products of the corners.
        length: (4,) float64 lengths of the corners.
        y_weight: (2, H) float32 weights of the upper and lower corners.
        x_weight: (2, W) float32 weights of the left and right corners.
        y0: First row.
        y1: The row after the last.
        x0: First column.
        x1: The column after the last.
        out: (y1 - y0, W) float32, written; 0 where nothing but rounding is left.
    """
    # unsigned, so that no index can count from the end
    begin, end = np.uint64(x0), np.uint64(x1)
    for y in range(y0, y1):
        u, v = np.float64(y_weight[0, y]), np.float64(y_weight[1, y])
        left = u * u * gram[0, 0] + 2 * u * v * gram[0, 2] + v * v * gram[2, 2]
        cross = u * u * gram[0, 1] + u * v * (gram[0, 3] + gram[1, 2]) + v * v * gram[2, 3]
        right = u * u * gram[1, 1] + 2 * u * v * gram[1, 3] + v * v * gram[3, 3]
        reach_left = u * length[0] + v * length[2]
        reach_right = u * length[1] + v * length[3]
        row = y - y0
        for x in range(begin, end):
            a, b = np.float64(x_weight[0, x]), np.float64(x_weight[1, x])
            square = a * a * left + 2 * a * b * cross + b * b * right
            reach = a * reach_left + b * reach_right
            out[row, x] = np.float32(square if square > _UNRESOLVED * reach * reach else 0.0)


@_fast
def _divide(square: F32, y0: int, y1: int, out: F32) -> None:
    """Turn scores into cosines: divide by the root, 0 where there is no length.

    Args:
        square: (n, W) float32 squared lengths of the rows from `y0` on.
        y0: First row.
        y1: The row after the last.
        out: (H, W) float32 scores, overwritten.
    """
    end = np.uint64(out.shape[1])
    for y in range(y0, y1):
        row = y - y0
        for x in range(np.uint64(0), end):
            cosine = out[y, x] / np.sqrt(max(square[row, x], _LEAST))
            cosine = min(max(cosine, np.float32(-1)), np.float32(1))
            out[y, x] = cosine if square[row, x] > _LEAST else np.float32(0)


@_fast
def grid_cosines(
    nodes: F32,
    embeddings: F32,
    labels: NDArray[Any],
    y_first: int,
    y_start: I64,
    y_weight: F32,
    x_first: int,
    x_start: I64,
    x_weight: F32,
    out: F32,
) -> None:
    """Cosine of every pixel's embedding with that of its label.

    Args:
        nodes: (h, w, j) float32 grid, finite.
        embeddings: (K, j) float32 unit rows.
        labels: (H, W) indices below K.
        y_first: Upper node (-1: none, the first one is repeated) of the first row of cells.
        y_start: (rows + 1,) int64 first pixel of each row of cells, and the end.
        y_weight: (2, H) float32 weights of the upper and lower node.
        x_first: As `y_first`, of columns.
        x_start: As `y_start`, of columns.
        x_weight: As `y_weight`, of columns.
        out: (H, W) float32, written.
    """
    h, w, dim = nodes.shape
    tallest, widest = 0, 0
    for i in range(y_start.size - 1):
        tallest = max(tallest, y_start[i + 1] - y_start[i])
    for i in range(x_start.size - 1):
        widest = max(widest, x_start[i + 1] - x_start[i])
    most = min(tallest * widest, embeddings.shape[0])  # labels of one cell
    size = 4
    while size < 2 * most:
        size *= 2
    table, places = np.full(size, -1, np.int32), np.empty(most, np.int64)
    found, scores = np.empty(most, np.int32), np.empty((most, 4), np.float64)
    square = np.empty((tallest, labels.shape[1]), np.float32)
    corners = np.empty((4, dim), np.float32)
    gram, length = np.empty((4, 4), np.float64), np.empty(4, np.float64)
    for cy in range(y_start.size - 1):
        y0, y1 = y_start[cy], y_start[cy + 1]
        if y0 == y1:
            continue
        for cx in range(x_start.size - 1):
            x0, x1 = x_start[cx], x_start[cx + 1]
            if x0 == x1:
                continue
            longest = 0.0
            for c in range(4):
                r = min(max(y_first + cy + (c >> 1), 0), h - 1)
                q = min(max(x_first + cx + (c & 1), 0), w - 1)
                corners[c] = nodes[r, q]
                for e in range(c + 1):
                    gram[c, e] = gram[e, c] = _dot(corners[c], corners[e])
                length[c] = np.sqrt(gram[c, c])
                longest = max(longest, length[c])
            # the longest corner gets length 1, so that float32 holds all that follows
            scale = 1 / longest if longest > 0 else 0.0
            for c in range(4):
                length[c] *= scale
                for e in range(4):
                    gram[c, e] *= scale * scale
            _fill_lengths(gram, length, y_weight, x_weight, y0, y1, x0, x1, square)
            count, last, number = 0, -1, -1
            end = np.uint64(x1)
            for y in range(y0, y1):
                u, v = np.float64(y_weight[0, y]), np.float64(y_weight[1, y])
                x = np.uint64(x0)
                while x < end:
                    begin, label = x, labels[y, x]
                    while x < end and labels[y, x] == label:
                        x += np.uint64(1)
                    if label != last:
                        last = int(label)
                        place = _place(last, table, found)
                        number = table[place]
                        if number < 0:
                            number = count
                            table[place], places[count], found[count] = count, place, last
                            for c in range(4):
                                scores[count, c] = scale * _dot(corners[c], embeddings[last])
                            count += 1
                    left = np.float32(u * scores[number, 0] + v * scores[number, 2])
                    right = np.float32(u * scores[number, 1] + v * scores[number, 3])
                    for i in range(begin, x):
                        out[y, i] = x_weight[0, i] * left + x_weight[1, i] * right
            for i in range(count):
                table[places[i]] = -1
        _divide(square, y0, y1, out)
