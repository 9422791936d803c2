"""Steadier labels in video: the network's grids, smoothed over the frames of a source."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError, UsageError

__all__ = ["GridSmoother"]

Grid = NDArray[np.float32]


class GridSmoother:
    """Exponential smoothing: `E_t = share * E_(t-1) + (1 - share) * E_new`, frame by frame.

    What was seen once has lost half of its weight after `ln 0.5 / ln share` frames: 1 for a share
    of 0.5, 3.1 for 0.8, 6.6 for 0.9.

    Frames of one key must come in their order, from one thread at a time.

    Args:
        share: Of the past, 0 to below 1; 0 passes the grids on as they are.

    Raises:
        UsageError: If the share is out of range.

    Example:
        >>> smooth = GridSmoother(0.5)
        >>> one, two = np.zeros((1, 1, 1), np.float32), np.zeros((2, 1, 1), np.float32)
        >>> _ = smooth("camera 0", one, two)
        >>> float(smooth("camera 0", one + 8, two)[0][0, 0, 0])
        4.0
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise UsageError(
                "the past's share in the smoothing is out of range",
                got=share,
                expected="0 to below 1",
            )
        self.share = float(share)
        self._states: dict[Hashable, tuple[Grid, Grid]] = {}

    def __call__(self, key: Hashable, embedding: Grid, seenmask: Grid) -> tuple[Grid, Grid]:
        """Take a frame's grids and give the smoothed ones.

        The first frame of a key, or the first one of another shape, comes back as it is.

        Args:
            key: Of the source that the frame belongs to.
            embedding: (j, h, w) float32; not changed, and not kept.
            seenmask: (2, h, w) float32 logits; likewise.

        Returns:
            Embedding and seenmask, float32 arrays of their own; with a share of 0, the arguments.

        Raises:
            InputError: If a grid has another type or shape, or is not finite: it would spoil all
                frames to come.
        """
        if self.share == 0:
            return embedding, seenmask
        _check(embedding, seenmask)
        past = self._states.get(key)
        if past is None or past[0].shape != embedding.shape:
            now = (embedding.copy(), seenmask.copy())
        else:
            gain = np.float32(1 - self.share)
            # the difference first: what stays the same stays so to the bit
            now = (
                past[0] + gain * (embedding - past[0]),
                past[1] + gain * (seenmask - past[1]),
            )
        self._states[key] = now
        return now[0].copy(), now[1].copy()

    def forget(self, key: Hashable) -> None:
        """Start anew with the next frame of a source; one that is not known is no error."""
        self._states.pop(key, None)


def _check(embedding: Grid, seenmask: Grid) -> None:
    """Refuse grids of other types, shapes that do not fit together, and numbers not finite."""
    for name, grid in (("embedding", embedding), ("seenmask", seenmask)):
        if grid.dtype != np.float32 or grid.ndim != 3:
            raise InputError(
                f"{name} is no grid",
                got=f"{grid.dtype} {grid.shape}",
                expected="float32 (channels, h, w)",
            )
        if not np.isfinite(grid).all():
            raise InputError(f"{name} holds numbers that are not finite")
    if seenmask.shape != (2, *embedding.shape[1:]):
        raise InputError(
            "seenmask and embedding do not fit together",
            got=f"{seenmask.shape} and {embedding.shape}",
            expected="(2, h, w) and (j, h, w)",
        )
