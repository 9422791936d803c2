"""Overlays as a video that browsers play."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.backends.base import usable_cores
from szn_runtime.errors import SinkError
from szn_runtime.sinks.base import Result, Sink, check_file
from szn_runtime.sinks.timeline import Timeline

__all__ = ["VIDEO_SUFFIXES", "VideoSink"]

# What is on disk plays up to the last two seconds, whatever happens to the process. A complete MP4
# file is an ordinary one: the fragments' index is replaced at the end.
_CONTAINERS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": (
        "mp4",
        {"movflags": "hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"},
    ),
    ".mkv": ("matroska", {"cluster_time_limit": "1000", "flush_packets": "1"}),
}
VIDEO_SUFFIXES = frozenset(_CONTAINERS)
# numbers of ITU-T H.273: BT.601 matrix and primaries (525 lines), limited range
_SMPTE170M, _LIMITED = 6, 1
_MOST_SIDE = 16384


class VideoSink(Sink):
    """Overlays as H.264 in MP4 or Matroska: yuv420p, a key frame each second.

    The first frame sets the size, odd sides padded by one pixel; frames of another size are scaled
    into it with black borders. Times are exact, see `Timeline`.

    Args:
        path: A file that ends in `.mp4` or `.mkv`.
        frame_rate: Frames per second, exact.
        time_base: Unit of the source's timestamps, None where it has none.
        crf: Constant rate factor of x264, 0 (lossless) to 51.
        preset: Of x264: speed against size.

    Raises:
        SinkError: If the file cannot be written or has another suffix.
    """

    wants_overlay: bool = True

    def __init__(
        self,
        path: Path,
        *,
        frame_rate: Fraction,
        time_base: Fraction | None = None,
        crf: int = 20,
        preset: str = "superfast",
    ) -> None:
        if path.suffix.lower() not in _CONTAINERS:
            raise SinkError(f"{path} is no video that can be written", expected=".mp4 or .mkv")
        check_file(path)
        self.path: Path | None = path
        self._file = path
        self._rate = frame_rate
        self._timeline = Timeline(frame_rate, time_base)
        # Without frames out of order a fragmented file starts at 0 without an edit list. What the
        # encoder holds back is lost with the process: a third of a second to look ahead, and a
        # frame for each thread, of which a slow camera therefore gets fewer.
        self._options = {
            "crf": str(crf),
            "preset": preset,
            "bf": "0",
            "rc-lookahead": str(min(10, int(frame_rate / 3))),
            "threads": str(min(usable_cores(), max(1, int(frame_rate / 6)))),
        }
        self._container: Any = None
        self._stream: Any = None
        self._size_hw = (0, 0)
        self._failed = False

    def write(self, result: Result) -> None:
        """Encode an overlay; see `Sink.write`."""
        picture = result.picture()
        try:
            if self._container is None:
                self._open(picture.shape[:2])
            planes = cv2.cvtColor(_fit(picture, self._size_hw), cv2.COLOR_BGR2YUV_I420)
            encodable = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            encodable.time_base = self._timeline.time_base
            encodable.pts = self._timeline.place(result.frame.timestamp_s)
            self._container.mux(self._stream.encode(encodable))
        except (av.error.FFmpegError, OSError) as error:
            self._failed = True
            raise self._cannot_write(error) from error

    def _open(self, frame_hw: tuple[int, int]) -> None:
        height, width = (side + side % 2 for side in frame_hw)
        if max(height, width) > _MOST_SIDE:
            raise SinkError(
                f"frames are too large for {self._file}",
                got=f"{width} x {height}",
                expected=f"at most {_MOST_SIDE} pixels a side",
                fix="write PNG files into a folder",
            )
        self._size_hw = height, width
        name, options = _CONTAINERS[self._file.suffix.lower()]
        self._container = av.open(str(self._file), "w", format=name, options=options)
        self._stream = self._container.add_stream(
            "libx264", rate=self._rate, options=dict(self._options)
        )
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._timeline.time_base
        context.gop_size = max(1, round(self._rate))
        context.color_range = _LIMITED
        context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M

    def _cannot_write(self, error: Exception) -> SinkError:
        return SinkError(
            f"{self._file} cannot be written",
            got=getattr(error, "strerror", None) or error,
            fix="choose another place, or check its rights and free space",
        )

    def close(self) -> None:
        """Write what the encoder still holds and complete the file."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            try:
                if not self._failed:
                    container.mux(self._stream.encode(None))
            finally:
                container.close()
        except (av.error.FFmpegError, OSError) as closing:
            if not self._failed:  # else it was reported by `write`
                raise self._cannot_write(closing) from closing


def _fit(picture: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring a picture to the size of the video.

    Args:
        picture: (h, w, 3) uint8.
        size_hw: Of the video, even.

    Returns:
        (H, W, 3): as it is, with the last row or column repeated, or scaled between black borders.
    """
    (height, width), (h, w) = size_hw, picture.shape[:2]
    if (h, w) == (height, width):
        return picture
    if (h + h % 2, w + w % 2) == (height, width):
        repeated: NDArray[np.uint8] = cv2.copyMakeBorder(
            picture, 0, height - h, 0, width - w, cv2.BORDER_REPLICATE
        )
        return repeated
    scale = min(height / h, width / w)
    inner_h, inner_w = (
        max(1, min(side, round(scale * s))) for side, s in ((height, h), (width, w))
    )
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    fitted[top : top + inner_h, left : left + inner_w] = cv2.resize(
        picture, (inner_w, inner_h), interpolation=method
    )
    return fitted
