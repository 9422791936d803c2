"""Frames from video files and network streams."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import SourceError
from szn_runtime.sources.base import Frame, Source
from szn_runtime.sources.content import describe_content

__all__ = ["VideoSource"]

_LIVE_SCHEMES = frozenset({"rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "udp"})
# Counts and durations in headers are at times a little off, a file that ends this early is cut off.
_LEAST_SHARE = 0.9
_SMALL_PIXELS = 1280 * 720


class VideoSource(Source):
    """A video file or a stream that FFmpeg reads, by PyAV.

    A stream is live if its protocol is made for that (RTSP, RTMP, SRT, UDP, ...) or it has no
    duration. Turned recordings of phones are turned upright.

    Args:
        location: A path, or a URL such as `rtsp://host/path` and `https://host/clip.mp4`.
        timeout_s: Seconds to wait for a stream to open, and later for its next data.

    Raises:
        SourceError: If it cannot be opened or holds no video.
    """

    def __init__(self, location: str | Path, *, timeout_s: float = 10.0) -> None:
        url = str(location) if "://" in str(location) else None
        scheme = urlsplit(url).scheme.lower() if url else ""
        self._shown = _without_password(url) if url else str(location)
        self._timeout_s = timeout_s
        self._container = self._open(str(location), scheme)
        videos = self._container.streams.video
        if not videos:
            kinds = ", ".join(stream.type for stream in self._container.streams) or "nothing"
            self._container.close()
            raise SourceError(f"{self._shown} holds no video", got=kinds)
        self._stream: Any = videos[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise SourceError(f"{self._shown} holds a video that FFmpeg cannot decode")
        self.paths: tuple[Path, ...] = () if url else (Path(location),)
        path = PurePosixPath(urlsplit(url).path) if url else Path(location)
        self.name = re.sub(r"[^\w.-]+", "_", path.stem) or scheme or "video"
        self.live = scheme in _LIVE_SCHEMES or (bool(url) and self._duration_s() is None)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.frame_rate: Fraction | None = Fraction(rate) if rate and 0 < rate <= 1000 else None
        context = self._stream.codec_context
        sized = context.height > 0 and context.width > 0
        self.frame_hw = (context.height, context.width) if sized else None
        self.time_base: Fraction | None = self._stream.time_base
        self.frame_count: int | None = None if self.live else self._expected_frames()
        # Decoding frames in parallel delays them; slices do not. Small frames decode faster than
        # any network takes them, and more threads would only take the cores away from it.
        small = sized and context.height * context.width <= _SMALL_PIXELS
        self._stream.thread_type = "SLICE" if self.live or small else "AUTO"
        if small:
            context.thread_count = 1
        self._reformatter = VideoReformatter()
        self._damaged = 0

    def _open(self, location: str, scheme: str) -> Any:
        options = {"fflags": "nobuffer", "flags": "low_delay"} if scheme in _LIVE_SCHEMES else {}
        if scheme in ("rtsp", "rtsps"):
            options["rtsp_transport"] = "tcp"  # UDP loses packets, which smears pictures
        try:
            return av.open(
                location,
                options=options,
                metadata_errors="ignore",
                timeout=(self._timeout_s, self._timeout_s) if scheme else None,
            )
        except (av.error.FFmpegError, OSError) as error:
            if scheme:
                raise SourceError(
                    f"{self._shown} cannot be opened",
                    got=self._reason(error),
                    fix="check the address, and that the sender runs",
                ) from error
            raise self._not_a_video(Path(location), error) from error

    def _reason(self, error: Exception) -> str:
        if isinstance(error, av.error.ExitError):  # FFmpeg was interrupted by the timeout
            return f"no data for {self._timeout_s:g} s"
        return getattr(error, "strerror", None) or str(error)

    def _not_a_video(self, path: Path, error: Exception) -> SourceError:
        try:
            with path.open("rb") as file:
                head = file.read(512)
        except OSError as reading:
            return SourceError(f"{path} cannot be read", got=reading.strerror)
        if not isinstance(error, av.error.InvalidDataError):
            return SourceError(f"{path} cannot be opened", got=self._reason(error))
        return SourceError(
            f"{path} is not a video",
            got=describe_content(head),
            expected="a complete file that FFmpeg decodes",
            fix="check the file",
        )

    def _duration_s(self) -> float | None:
        """Length of the video in seconds, None where nothing says so."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        # the container's is that of its longest stream
        if self._container.duration is not None and len(self._container.streams) == 1:
            return float(self._container.duration / av.time_base)
        return None

    def _expected_frames(self) -> int | None:
        if self._stream.frames:
            return int(self._stream.frames)
        duration_s = self._duration_s()
        if duration_s is None or self.frame_rate is None:
            return None
        return max(1, round(duration_s * self.frame_rate))

    def __iter__(self) -> Iterator[Frame]:
        """Decode the frames.

        Damaged parts of a file are passed over, so that as many frames as possible come; the error
        follows the last one. A live stream goes on after damaged packets.

        Raises:
            SourceError: At the end, if a file is damaged, cut off or holds no frame, or if a live
                stream ends or stops.
        """
        self._damaged = 0
        index, first_pts, end_s = 0, None, 0.0
        for decoded, start_s in self._decode():
            self._damaged += bool(decoded.is_corrupt)
            image = self._upright(decoded)
            first_pts = decoded.pts if first_pts is None else first_pts
            timestamp_s = None
            if decoded.pts is not None and decoded.time_base is not None:
                timestamp_s = float((decoded.pts - first_pts) * decoded.time_base)
                end_s = timestamp_s + float((decoded.duration or 0) * decoded.time_base)
            yield Frame(
                image_bgr=image,
                index=index,
                timestamp_s=timestamp_s,
                captured_at_s=start_s,
                decode_ms=1e3 * (time.perf_counter() - start_s),
                name=f"{self.name}_{index:06d}",
                source=self.name,
            )
            index += 1
        self._check_complete(index, end_s)

    def _decode(self) -> Iterator[tuple[Any, float]]:
        """Decoded pictures in the order of presentation, and when work on each began."""
        packets = self._container.demux(self._stream)
        start_s = time.perf_counter()
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                yield from self._flush()
                raise SourceError(
                    f"{self._shown} {'stops' if self.live else 'is damaged or cut off'}",
                    got=self._reason(error),
                    fix="the frames before are kept",
                ) from error
            if packet is None:
                return
            if self.live:  # waiting for data is no work
                start_s = time.perf_counter()
            self._damaged += bool(packet.is_corrupt)
            try:
                decoded = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self._damaged += not packet.is_corrupt
                continue
            for picture in decoded:
                yield picture, start_s
                start_s = time.perf_counter()

    def _flush(self) -> Iterator[tuple[Any, float]]:
        """What the decoder still holds."""
        start_s = time.perf_counter()
        try:
            rest = self._stream.codec_context.decode(None)
        except av.error.FFmpegError:
            return
        for picture in rest:
            yield picture, start_s
            start_s = time.perf_counter()

    def _upright(self, decoded: Any) -> NDArray[np.uint8]:
        """Convert to BGR and apply the recording's rotation, counter-clockwise degrees."""
        converted = self._reformatter.reformat(decoded, format="bgr24")
        image: NDArray[np.uint8] = np.ascontiguousarray(converted.to_ndarray())
        turn = {
            90: cv2.ROTATE_90_COUNTERCLOCKWISE,
            180: cv2.ROTATE_180,
            270: cv2.ROTATE_90_CLOCKWISE,
        }.get(decoded.rotation % 360)
        return image if turn is None else cv2.rotate(image, turn)

    def _check_complete(self, frames: int, end_s: float) -> None:
        """Say so if a file gave less than it should have, or a live stream ended."""
        if frames == 0:
            raise SourceError(f"{self._shown} holds no frame that can be decoded")
        if self.live:
            return
        facts = f"{frames} frames"
        if self._damaged:
            facts += f", {self._damaged} part{'s' if self._damaged > 1 else ''} damaged"
        elif self._stream.frames:
            if frames >= _LEAST_SHARE * self._stream.frames:
                return
        elif end_s >= _LEAST_SHARE * (self._duration_s() or 0.0):
            return
        raise SourceError(
            f"{self._shown} is damaged or cut off",
            got=facts,
            expected=self.frame_count,
            fix="the frames that could be decoded are kept",
        )

    def close(self) -> None:
        """Close the file or the connection."""
        self._container.close()


def _without_password(url: str) -> str:
    """The URL for messages: cameras have their password in it."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
