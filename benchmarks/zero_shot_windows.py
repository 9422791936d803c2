"""Means over windows of a grid's nodes: smoother inputs for the seenmasks that are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError

__all__ = ["smoothed"]


def smoothed(grid: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """Mean of each node's neighbours (h, w) in a square window; nodes past the border don't count.

    Average pooling with stride 1, on arrays.

    Args:
        grid: (h, w) float32.
        window: Nodes along each side, odd; 1 changes nothing.

    Raises:
        InputError: If the window is not odd and positive.
    """
    if window < 1 or window % 2 == 0:
        raise InputError("window of nodes", got=window, expected="1, 3, 5, ...")
    if window == 1:
        return grid
    sums, counts = (_box(each, window) for each in (grid, np.ones_like(grid)))
    mean: NDArray[np.float32] = (sums / counts).astype(np.float32)
    return mean


def _box(grid: NDArray[np.float32], window: int) -> NDArray[np.float64]:
    """Sums over a square window, zeros past the border."""
    margin = window // 2
    padded = np.pad(grid.astype(np.float64), ((margin + 1, margin), (margin + 1, margin)))
    total = padded.cumsum(axis=0).cumsum(axis=1)
    result: NDArray[np.float64] = (
        total[window:, window:] - total[:-window, window:]
        - total[window:, :-window] + total[:-window, :-window]
    )  # fmt: skip
    return result
