"""Frames that nobody recorded, for measuring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import UsageError
from szn_runtime.sources.base import Frame, Source

__all__ = ["SyntheticSource"]

_DIFFERENT = 8


class SyntheticSource(Source):
    """Moving waves of colour. They are drawn once, so that reading them costs nothing.

    Args:
        frame_count: Frames in all.
        size_hw: Height and width in pixels.
        rate: Frames per second that arrive at most, as from a camera; None for as fast as they are
            read.

    Raises:
        UsageError: If a number is less than 1.
    """

    live: bool = False
    time_base: Fraction | None = None
    paths: tuple[Path, ...] = ()

    def __init__(
        self,
        *,
        frame_count: int = 300,
        size_hw: tuple[int, int] = (480, 640),
        rate: Fraction | None = None,
    ) -> None:
        if min(frame_count, *size_hw) < 1 or (rate is not None and rate <= 0):
            raise UsageError(
                "synthetic frames are out of range",
                got=(frame_count, size_hw, rate),
                expected="> 0",
            )
        self.name = f"synthetic-{size_hw[1]}x{size_hw[0]}"
        self.frame_count: int | None = frame_count
        self.frame_hw: tuple[int, int] | None = size_hw
        self.frame_rate: Fraction | None = rate or Fraction(30)
        self.live = rate is not None
        self._count, self._rate = frame_count, rate
        self._images = [_waves(size_hw, number) for number in range(_DIFFERENT)]

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames, at their rate if they have one."""
        start_s = time.perf_counter()
        for index in range(self._count):
            if self._rate is not None:
                # due times from the start: a late one makes none of the others late
                time.sleep(max(0.0, start_s + float(index / self._rate) - time.perf_counter()))
            yield Frame(
                image_bgr=self._images[index % _DIFFERENT],
                index=index,
                timestamp_s=None if self._rate is None else float(index / self._rate),
                captured_at_s=time.perf_counter(),
                decode_ms=0.0,
                name=f"{self.name}_{index:06d}",
                source=self.name,
            )


def _waves(size_hw: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8; read-only, since frames share it."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)  # (H, W) each
    phase = 2 * np.pi * number / _DIFFERENT
    planes = [np.sin(x / (30 + 9 * c) + y / (50 - 7 * c) + phase + 2 * c) for c in range(3)]
    image = np.rint(127.5 + 120 * np.stack(planes, axis=-1)).astype(np.uint8)
    image.setflags(write=False)
    return image
