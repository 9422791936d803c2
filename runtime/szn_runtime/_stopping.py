"""Ctrl-C that lets a run finish its frames in flight."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interruption", "stopping"]


class Interruption:
    """Whether the user asked for the end.

    Attributes:
        signal_number: Of the first signal that came, None without one.
    """

    signal_number: int | None = None

    @property
    def exit_code(self) -> int:
        """What shells expect of a program that a signal ended: 130 after Ctrl-C; 0 without one."""
        return 0 if self.signal_number is None else 128 + self.signal_number


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[Interruption]:
    """Call `stop` at the first SIGINT or SIGTERM; the second one raises `KeyboardInterrupt`.

    Outside the main thread, which alone receives signals, nothing changes.

    Args:
        stop: Asks the run to end; called inside a signal handler.
    """
    interruption = Interruption()

    def handle(number: int, _: FrameType | None) -> None:
        if interruption.signal_number is not None:
            raise KeyboardInterrupt
        interruption.signal_number = number
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before: dict[int, Any] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
