"""PNG files whose pixels are label indices, which OpenCV cannot write."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import SinkError
from szn_runtime.overlay import palette

__all__ = ["encode_label_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3
_LEVEL = 3  # label maps are flat: higher levels cost time and hardly save bytes


def encode_label_png(labels: NDArray[np.integer], count: int) -> bytes:
    """Encode a label map as PASCAL VOC masks are: what is drawn is a colour, what is read an index.

    Args:
        labels: (H, W) label indices, not negative.
        count: Number of labels K. Up to 255 of them give an 8-bit palette file with the VOC colour
            map (index 255 is void there), more give a 16-bit grey one.

    Returns:
        The bytes of a PNG file (ISO/IEC 15948).

    Raises:
        SinkError: If there are more than 65,535 labels, which no pixel format of PNG holds.
    """
    if count > 65535:
        raise SinkError(
            "masks cannot be written as PNG",
            got=f"{count} labels",
            expected="at most 65535",
            fix="choose fewer labels with --labels",
        )
    height, width = labels.shape
    indexed = count <= 255
    depth, pixel = (8, np.dtype("u1")) if indexed else (16, np.dtype(">u2"))
    # each row starts with the number of its filter, 0: none
    rows = np.zeros((height, 1 + width * pixel.itemsize), np.uint8)
    rows[:, 1:] = np.ascontiguousarray(labels, pixel).view(np.uint8)
    colour = _INDEXED if indexed else _GREY
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if indexed:
        chunks.append((b"PLTE", palette(256).tobytes()))
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), _LEVEL)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
