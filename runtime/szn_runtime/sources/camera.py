"""Frames from a camera."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from szn_runtime._cv import cv2
from szn_runtime.errors import SourceError
from szn_runtime.sources.base import Frame, Source

__all__ = ["CameraSource"]

_MICROSECONDS = Fraction(1, 1_000_000)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV's own lines off standard error while it tries one driver after the other."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


class CameraSource(Source):
    """A camera that OpenCV opens.

    Args:
        device: 0 for the first camera; on Linux the number of `/dev/videoN`. Or a text that OpenCV
            opens: a GStreamer pipeline that ends in `appsink` (where OpenCV was built with it).

    Raises:
        SourceError: If there is no such camera or another program has it.
    """

    live: bool = True
    time_base: Fraction | None = _MICROSECONDS
    frame_count: int | None = None
    paths: tuple[Path, ...] = ()

    def __init__(self, device: int | str) -> None:
        self.name = f"camera{device}" if isinstance(device, int) else "camera"
        with _quiet():
            self._capture = cv2.VideoCapture(device)
            opened = self._capture.isOpened()
        if not opened:
            self._capture.release()
            raise SourceError(
                f"camera {device} cannot be opened",
                fix="check that it is connected, that no other program uses it, and that you may "
                "read it (on Linux /dev/video*, group video)",
            )
        # one frame in the driver's queue, where the driver can: a longer queue only ages them
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        height, width = (
            int(self._capture.get(side))
            for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        )
        self.frame_hw = (height, width) if height > 0 and width > 0 else None
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        usable = math.isfinite(rate) and 1 <= rate <= 1000
        # 29.97 is 30000/1001; a driver that names no rate is not believed
        self.frame_rate = Fraction(rate).limit_denominator(1001) if usable else None

    def __iter__(self) -> Iterator[Frame]:
        """Read until the camera ends.

        Raises:
            SourceError: If the camera delivers no frame, at the start or later.
        """
        first_s: float | None = None
        index = 0
        while True:
            with _quiet():
                grabbed = self._capture.grab()
            captured_at_s = time.perf_counter()
            image = self._capture.retrieve()[1] if grabbed else None
            if image is None:
                raise SourceError(
                    f"{self.name} delivers no frame",
                    got=f"nothing after {index} frames",
                    fix="check its cable, or whether another program took it",
                )
            first_s = captured_at_s if first_s is None else first_s
            yield Frame(
                image_bgr=image,
                index=index,
                timestamp_s=captured_at_s - first_s,
                captured_at_s=captured_at_s,
                decode_ms=1e3 * (time.perf_counter() - captured_at_s),
                name=f"{self.name}_{index:06d}",
                source=self.name,
            )
            index += 1

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()
