"""Compiled kernel of `preprocess.py`: shrink a frame by averaging over areas, and normalise it."""

from __future__ import annotations

import numpy as np
from numba import float32, int32, njit, types, uint8
from numpy.typing import NDArray

__all__ = ["shrink_into"]

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

_HALF = np.float32(0.5)  # rounds when the fraction is cut off

# One version for frames that may be written and those that may not, and for buffers of any stride.
_SIGNATURE = types.void(
    types.Array(uint8, 2, "C", readonly=True),
    int32[::1],
    float32[:, ::1],
    int32[:, ::1],
    float32[:, ::1],
    float32[::1],
    float32[::1],
    float32[:, :, :],
)
_fast = njit(
    _SIGNATURE,
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"nnan", "nsz", "contract"},
)


@_fast
def shrink_into(
    image: NDArray[np.uint8],
    y_start: I32,
    y_weight: F32,
    index: I32,
    x_weight: F32,
    scale: F32,
    shift: F32,
    out: F32,
) -> None:
    """Average the pixels under each pixel of the smaller frame, round, and normalise.

    Args:
        image: (H, W * 3) uint8, rows of interleaved channels.
        y_start: (h,) int32 first row under each output row.
        y_weight: (n, h) float32 weights of the rows from there, their sum is 1; those after the
            first may be 0, then there need not be such a row.
        index: (3, w) int32 first value of a row under each output pixel, for each channel.
        x_weight: (m, w) float32 weights of every third value from there, likewise; m >= 2.
        scale: (3,) float32 factor of each channel's levels.
        shift: (3,) float32 added after it.
        out: (3, h, w) float32, written; rows are contiguous.
    """
    # unsigned, so that no index can count from the end: these loops become vector instructions
    columns, width = np.uint64(image.shape[1]), np.uint64(x_weight.shape[1])
    taps = x_weight.shape[0]
    row = np.zeros(columns + np.uint64(3 * taps), np.float32)
    mean = np.empty(width, np.float32)
    for y in range(y_start.size):
        first = y_start[y]
        w = y_weight[0, y]
        source = image[first]
        for i in range(columns):
            row[i] = w * source[i]
        for t in range(1, y_weight.shape[0]):
            w = y_weight[t, y]
            if w > 0:
                source = image[first + t]
                for i in range(columns):
                    row[i] += w * source[i]
        second, w0, w1 = row[3:], x_weight[0], x_weight[1]
        for c in range(3):
            at, to, factor, offset = index[c], out[c, y], scale[c], shift[c]
            if taps == 2:  # ratios up to 2, as of most cameras: all in one pass
                for x in range(width):
                    at_x = np.uint32(at[x])
                    level = np.int32(_HALF + w0[x] * row[at_x] + w1[x] * second[at_x])
                    to[x] = np.float32(level) * factor + offset
                continue
            for x in range(width):
                at_x = np.uint32(at[x])
                mean[x] = _HALF + w0[x] * row[at_x] + w1[x] * second[at_x]
            for t in range(2, taps):
                weight, part = x_weight[t], row[3 * t :]
                for x in range(width):
                    mean[x] += weight[x] * part[np.uint32(at[x])]
            for x in range(width):
                to[x] = np.float32(np.int32(mean[x])) * factor + offset
