"""From what a user types to a source."""

from __future__ import annotations

import glob
import re
from fractions import Fraction
from pathlib import Path

from szn_runtime.errors import SourceError
from szn_runtime.sources.base import Source
from szn_runtime.sources.camera import CameraSource
from szn_runtime.sources.content import describe_content
from szn_runtime.sources.images import IMAGE_SUFFIXES, ImageSource
from szn_runtime.sources.video import VideoSource

__all__ = ["open_source"]

_CAMERA = "camera:"


def open_source(location: str | Path, *, frame_rate: Fraction | None = None) -> Source:
    """Open an image, a folder or glob of images, a video, a camera or a stream.

    Args:
        location: A path; a glob such as `photos/*.jpg` (`**` for folders within); `camera:0`, or
            `camera:` and a GStreamer pipeline; or a URL that FFmpeg reads.
        frame_rate: Frames per second of images, which have none of their own.

    Returns:
        A source, open; use it as a context manager.

    Raises:
        SourceError: If there is no such thing, or it is not what its name says.
    """
    text = str(location)
    if text.startswith(_CAMERA):
        device = text.removeprefix(_CAMERA)
        return CameraSource(int(device) if device.isdecimal() else device)
    if "://" in text:
        return VideoSource(text)
    path = Path(text).expanduser()
    if path.is_dir():
        return _images(list(path.iterdir()), f"folder {text}", path.resolve().name, frame_rate)
    if not path.exists() and glob.has_magic(text):
        # Path.glob takes no absolute pattern
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        if not matches:
            raise SourceError(f"no file matches {text}", fix="check the pattern, and quote it")
        return _images(matches, text, path.parent.resolve().name, frame_rate)
    if not path.exists():
        raise SourceError(f"{text} does not exist", fix="check the path")
    if path.suffix.lower() in IMAGE_SUFFIXES or _has_image_signature(path):
        return ImageSource([path], name=path.stem, frame_rate=frame_rate)
    return VideoSource(path)


def _images(paths: list[Path], shown: str, name: str, frame_rate: Fraction | None) -> ImageSource:
    """The images among the files, in natural order."""
    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not images:
        raise SourceError(
            f"{shown} holds no image",
            got=f"{len(paths)} other files" if paths else "nothing",
            expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    return ImageSource(sorted(images, key=_natural), name=name, frame_rate=frame_rate)


def _natural(path: Path) -> list[tuple[str, int, str]]:
    """Sort key under which `frame_2` comes before `frame_10`."""
    parts = re.findall(r"(\D*)(\d*)", str(path))
    return [(text.lower(), int(digits or 0), text) for text, digits in parts]


def _has_image_signature(path: Path) -> bool:
    """Whether a file is a JPEG or PNG under another name."""
    try:
        with path.open("rb") as file:
            return describe_content(file.read(16)).endswith(("JPEG image", "PNG image"))
    except OSError as error:
        raise SourceError(f"{path} cannot be read", got=error.strerror) from error
