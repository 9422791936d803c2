"""Small videos for tests, and what is in videos."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

RATE = Fraction(25)


def ramp_frame(index: int, *, size_hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A grey frame, (H, W, 3), whose brightness tells its number (0 to 40 or so)."""
    return np.full((*size_hw, 3), 20 + 5 * index, np.uint8)


def number_of(image: NDArray[np.uint8]) -> int:
    """The number of a `ramp_frame` that went through a codec."""
    return round((float(image.mean()) - 20) / 5)


def write_clip(
    path: Path,
    *,
    frames: int = 12,
    size_hw: tuple[int, int] = (48, 64),
    rate: Fraction = RATE,
    times_s: Sequence[float] | None = None,
    noise: bool = False,
    **options: Any,
) -> Path:
    """Encode ramp frames as H.264.

    Args:
        path: The suffix chooses the container.
        frames: How many.
        size_hw: Even height and width.
        rate: Frames per second, exact.
        times_s: Presentation times, for a variable rate; by default constant.
        noise: Whether to encode random frames, which take more bytes.
        options: Of `av.open`.
    """
    rng = np.random.default_rng(5)
    time_base = 1 / rate if times_s is None else Fraction(1, 90_000)
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 5
        stream.codec_context.time_base = time_base
        for index in range(frames):
            image = ramp_frame(index % 40, size_hw=size_hw)
            if noise:
                image = rng.integers(0, 256, (*size_hw, 3), np.uint8)
            planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.time_base = time_base
            picture.pts = index if times_s is None else round(times_s[index] * 90_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> list[NDArray[np.uint8]]:
    """Every frame of a video, BGR."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="bgr24") for f in container.decode(video=0)]


def times_of(path: Path) -> list[Fraction]:
    """Presentation times of a video in seconds, exact."""
    with av.open(str(path)) as container:
        return [f.pts * f.time_base for f in container.decode(video=0)]
