"""Compiled kernel of `regions.py`: what each node of the grid adds to the pixels of a region."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["node_weights"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

# the sums of a row may be taken in any order, so that they run in lanes
_sums = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract", "reassoc"}
)


@_sums
def node_weights(
    components: I32,
    number: int,
    left: int,
    top: int,
    y_first: int,
    y_start: I64,
    y_weight: F32,
    x_first: int,
    x_start: I64,
    x_weight: F32,
    out: F64,
) -> None:
    """Sum of the bilinear weights of each node over the pixels of one component.

    Args:
        components: (m, n) int32 numbers of components in a part of the frame.
        number: Of the component to sum over.
        left: Column of the frame where that part begins.
        top: Row of the frame where that part begins.
        y_first: Upper node (-1: none, the first one is repeated) of the first row of cells.
        y_start: (rows + 1,) int64 first pixel of each row of cells, and the end.
        y_weight: (2, H) float32 weights of the upper and lower node.
        x_first: As `y_first`, of columns.
        x_start: As `y_start`, of columns.
        x_weight: As `y_weight`, of columns.
        out: (h, w) float64, overwritten.
    """
    h, w = out.shape
    bottom, right = top + components.shape[0], left + components.shape[1]
    out[:] = 0
    for cy in range(y_start.size - 1):
        y0, y1 = max(y_start[cy], top), min(y_start[cy + 1], bottom)
        if y0 >= y1:
            continue
        r0, r1 = max(y_first + cy, 0), min(y_first + cy + 1, h - 1)
        for cx in range(x_start.size - 1):
            x0, x1 = max(x_start[cx], left), min(x_start[cx + 1], right)
            if x0 >= x1:
                continue
            c0, c1 = max(x_first + cx, 0), min(x_first + cx + 1, w - 1)
            # unsigned, so that no index can count from the end
            begin, end, shift = np.uint64(x0), np.uint64(x1), np.uint64(left)
            sum_00, sum_01, sum_10, sum_11 = 0.0, 0.0, 0.0, 0.0
            for y in range(y0, y1):
                row = y - top
                part_0, part_1 = np.float32(0), np.float32(0)
                for x in range(begin, end):
                    inside = components[row, x - shift] == number
                    part_0 += x_weight[0, x] if inside else np.float32(0)
                    part_1 += x_weight[1, x] if inside else np.float32(0)
                sum_00 += np.float64(y_weight[0, y]) * part_0
                sum_01 += np.float64(y_weight[0, y]) * part_1
                sum_10 += np.float64(y_weight[1, y]) * part_0
                sum_11 += np.float64(y_weight[1, y]) * part_1
            out[r0, c0] += sum_00
            out[r0, c1] += sum_01
            out[r1, c0] += sum_10
            out[r1, c1] += sum_11
