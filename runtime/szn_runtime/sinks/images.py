"""Results as image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import SinkError
from szn_runtime.sinks.base import Result, Sink, cannot_write, check_file, check_folder
from szn_runtime.sinks.png import encode_label_png

__all__ = ["ConfidenceFolder", "MaskFolder", "OverlayFolder", "OverlayImage", "write_png"]

_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 2]


def write_png(path: Path, image_bgr: NDArray[np.uint8]) -> None:
    """Write a picture.

    Args:
        path: The file.
        image_bgr: (H, W, 3) uint8 BGR, or (H, W) uint8 grey.

    Raises:
        SinkError: If it cannot be written.
    """
    _write(path, cv2.imencode(".png", image_bgr, _FAST)[1].tobytes())


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise cannot_write(path, error) from error


class OverlayImage(Sink):
    """The overlay of the only frame, as a PNG file.

    Args:
        path: The file.

    Raises:
        SinkError: If it cannot be written.
    """

    wants_overlay: bool = True

    def __init__(self, path: Path) -> None:
        check_file(path)
        self.path: Path | None = path
        self._file, self._written = path, False

    def write(self, result: Result) -> None:
        """Write the file; see `Sink.write`."""
        if self._written:
            raise SinkError(
                f"{self._file} holds one frame", fix="give a folder or a video as the output"
            )
        write_png(self._file, result.picture())
        self._written = True


class _FrameFolder(Sink):
    """A file `<name>.png` in a folder for every frame.

    Args:
        folder: The folder; made if it is missing.

    Raises:
        SinkError: If it cannot be written to.
    """

    wants_overlay: bool = False

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self.path: Path | None = folder
        self._folder = folder

    def _file(self, result: Result) -> Path:
        return self._folder / f"{result.frame.name}.png"


class OverlayFolder(_FrameFolder):
    """The overlay of every frame, as `<name>.png` in a folder.

    Args:
        folder: The folder; made if it is missing.

    Raises:
        SinkError: If it cannot be written to.
    """

    wants_overlay: bool = True

    def write(self, result: Result) -> None:
        """Write the frame's file; see `Sink.write`."""
        write_png(self._file(result), result.picture())


class MaskFolder(_FrameFolder):
    """The label map of every frame, as `<name>.png` in a folder; see `encode_label_png`.

    Args:
        folder: The folder; made if it is missing.

    Raises:
        SinkError: If it cannot be written to.
    """

    def write(self, result: Result) -> None:
        """Write the frame's file; see `Sink.write`."""
        segmentation = result.segmentation
        data = encode_label_png(segmentation.labels, len(segmentation.names))
        _write(self._file(result), data)


class ConfidenceFolder(_FrameFolder):
    """How sure each pixel of every frame is, as `<name>.png` in a folder: 8-bit grey.

    255 is a cosine of 1 between the pixel's embedding and its label's, 0 one of 0 or less.

    Args:
        folder: The folder; made if it is missing.

    Raises:
        SinkError: If it cannot be written to.
    """

    def write(self, result: Result) -> None:
        """Write the frame's file; see `Sink.write`."""
        scaled = np.rint(255 * np.maximum(result.segmentation.confidence, 0)).astype(np.uint8)
        write_png(self._file(result), scaled)
