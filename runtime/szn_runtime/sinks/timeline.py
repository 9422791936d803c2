"""Exact presentation times for an output video."""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["Timeline"]

# containers keep ticks a second in 32 bits
_MOST_TICKS = 1 << 31
_USUAL_TICKS = 90_000


class Timeline:
    """Turns a source's timestamps into integer ticks, exact for constant and variable rates.

    A timestamp within one tick of the source's own clock of a multiple of the frame duration is
    that multiple: Matroska rounds 1001/30000 s to milliseconds, the output need not. Any other one
    is kept. Without timestamps frames follow each other at the frame rate.

    Args:
        frame_rate: Frames per second, exact: 30000/1001, not 29.97.
        source_time_base: Unit of the timestamps in seconds, None where there are none.
    """

    def __init__(self, frame_rate: Fraction, source_time_base: Fraction | None = None) -> None:
        self._rate = frame_rate
        # a difference of two rounded timestamps is off by one tick at most, and by float rounding
        self._tolerance_s = 1.01 * float(source_time_base or 0)
        clock = source_time_base.denominator if source_time_base else 1
        ticks = math.lcm(frame_rate.numerator, clock)
        if ticks > _MOST_TICKS:
            ticks = math.lcm(frame_rate.numerator, _USUAL_TICKS)
        self.time_base = Fraction(1, min(ticks, _MOST_TICKS))
        self._first_s: float | None = None
        self._frames, self._last = 0, -1

    def place(self, timestamp_s: float | None) -> int:
        """Presentation time of the next frame in units of `time_base`; each is above the last.

        Args:
            timestamp_s: Of the frame in its source; the first one becomes 0.
        """
        position: Fraction = self._frames / self._rate
        if timestamp_s is not None:
            self._first_s = timestamp_s if self._first_s is None else self._first_s
            elapsed_s = timestamp_s - self._first_s
            nearest = round(elapsed_s * self._rate) / self._rate
            near = abs(elapsed_s - float(nearest)) <= self._tolerance_s
            position = nearest if near else Fraction(elapsed_s)
        self._frames += 1
        self._last = max(self._last + 1, round(position / self.time_base))
        return self._last
