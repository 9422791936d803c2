"""Compiled kernels of `overlay.py`: count labels and find the borders between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32, int64, njit, types, uint8, uint16
from numpy.typing import NDArray

__all__ = ["count_labels", "lighten", "mark_edges"]

# one version for each type of label map, and for those that must not be written
_MAPS = [types.Array(kind, 2, "C", readonly=True) for kind in (uint8, uint16, int32)]
_PICTURE = types.Array(uint8, 2, "C")


@njit(
    [types.void(labels, int64[::1]) for labels in _MAPS],
    nogil=True,
    cache=True,
    error_model="numpy",
)
def count_labels(labels: NDArray[Any], counts: NDArray[np.int64]) -> None:
    """Add the pixels of each label to `counts` (K,); labels come in runs along the rows."""
    width = labels.shape[1]
    for y in range(labels.shape[0]):
        row = labels[y]
        start = 0
        for x in range(1, width):
            if row[x] != row[x - 1]:
                counts[row[start]] += x - start
                start = x
        if width > 0:
            counts[row[start]] += width - start


@njit(
    [types.void(labels, _PICTURE) for labels in _MAPS],
    nogil=True,
    cache=True,
    error_model="numpy",
)
def mark_edges(labels: NDArray[Any], edge: NDArray[np.uint8]) -> None:
    """Write 1 into `edge` (H, W) where the label is not that of the left or upper pixel, else 0."""
    height, width = labels.shape
    for y in range(height):
        row, above = labels[y], labels[max(y - 1, 0)]
        edge[y, 0] = row[0] != above[0]
        for x in range(np.uint64(1), np.uint64(width)):
            edge[y, x] = (row[x] != row[x - np.uint64(1)]) | (row[x] != above[x])


@njit(types.void(_PICTURE, _PICTURE), nogil=True, cache=True, error_model="numpy")
def lighten(edge: NDArray[np.uint8], picture: NDArray[np.uint8]) -> None:
    """Mix 65 % white into the pixels of `picture` (H, W * 3) where `edge` (H, W) is not 0."""
    for y in range(edge.shape[0]):
        row = edge[y]
        for x in range(row.size):
            if row[x]:
                for i in range(3 * x, 3 * x + 3):
                    # 0.35 and 0.65 * 255 in parts of 256, rounded
                    picture[y, i] = (90 * np.int32(picture[y, i]) + 42_330 + 128) >> 8
