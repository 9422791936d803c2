"""Frames from image files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import SourceError
from szn_runtime.sources.base import Frame, Source
from szn_runtime.sources.content import describe_content

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "read_image"]

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file; its EXIF orientation is applied, transparency is dropped.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        SourceError: If the file cannot be read or is no image that OpenCV decodes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read", got=error.strerror) from error
    image = None
    if data:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:  # such as more pixels than OpenCV's own limit
            reason = str(error.err or error)
            raise SourceError(f"{path} cannot be decoded", got=reason) from error
    if image is None:
        raise SourceError(
            f"{path} is not an image",
            got=describe_content(data[:512]),
            expected="an undamaged JPEG, PNG or another image that OpenCV decodes",
            fix="check the file",
        )
    decoded: NDArray[np.uint8] = image
    return decoded


class ImageSource(Source):
    """Image files as frames, in the order given.

    Args:
        paths: The files, at least one.
        name: For messages; by default the first file's name.
        frame_rate: Frames per second if the images are written as a video.

    Raises:
        SourceError: If there is no path.
    """

    live: bool = False
    time_base: Fraction | None = None

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        name: str | None = None,
        frame_rate: Fraction | None = None,
    ) -> None:
        if not paths:
            raise SourceError(f"{name or 'the list of images'} holds no image")
        self.paths: tuple[Path, ...] = tuple(paths)
        self.name = name or self.paths[0].name
        self.frame_rate = frame_rate
        self.frame_count: int | None = len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        """Read the images.

        Raises:
            SourceError: If a file cannot be read or decoded.
        """
        taken: set[str] = set()
        for index, path in enumerate(self.paths):
            start_s = time.perf_counter()
            image = read_image(path)
            yield Frame(
                image_bgr=image,
                index=index,
                timestamp_s=None,
                captured_at_s=start_s,
                decode_ms=1e3 * (time.perf_counter() - start_s),
                name=_unique(path.stem, taken),
                source=self.name,
            )


def _unique(stem: str, taken: set[str]) -> str:
    """The stem, or `stem-2` where a file of another folder or suffix has it already."""
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name
