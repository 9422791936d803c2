"""Results in a window."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from szn_runtime._cv import cv2
from szn_runtime.errors import SinkError
from szn_runtime.sinks.base import Result, Sink

__all__ = ["WindowSink"]

_ESCAPE = 27
# OpenCV's window library ends the whole process where it finds no display, so another one tries
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
_PROBE_TIMEOUT_S = 30


class WindowSink(Sink):
    """Overlays in a window; `q`, Escape or closing it ends the run.

    To be used from the main thread.

    Args:
        on_quit: Called when the user ends the run.
        name: Of the source, for the title where there are several windows.

    Raises:
        SinkError: If there is no display, or OpenCV was built without windows.
    """

    wants_overlay: bool = True
    path: Path | None = None

    def __init__(self, on_quit: Callable[[], None], *, name: str | None = None) -> None:
        if not _has_display():
            raise SinkError(
                "no window can be opened",
                expected="a display, and OpenCV with windows (opencv-python, not -headless)",
                fix="leave out --show, or write a video with -o",
            )
        self._on_quit = on_quit
        self._title = f"szn-run {name} (q ends)" if name else "szn-run (q ends)"
        self._open = False

    def write(self, result: Result) -> None:
        """Show an overlay; see `Sink.write`."""
        try:
            if self._open and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                self._on_quit()
                return
            cv2.imshow(self._title, result.picture())
            self._open = True
            if cv2.waitKey(1) & 0xFF in (ord("q"), _ESCAPE):
                self._on_quit()
        except cv2.error as error:
            raise SinkError("the window failed", got=error) from error

    def close(self) -> None:
        """Close the window."""
        if self._open:
            cv2.destroyWindow(self._title)
            self._open = False


def _has_display() -> bool:
    """Whether a window can be opened, found by opening one in another process."""
    if sys.platform == "linux" and not ({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()):
        return False
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0
