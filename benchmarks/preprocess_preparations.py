"""What the variants of `preprocess.py` do before the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.manifest import Preprocess
from szn_runtime.preprocess import Layout, Normaliser

__all__ = ["OURS", "Array", "Image", "Prepare", "preparations"]

Image = NDArray[np.uint8]
"""(H, W, 3) BGR."""

Array = NDArray[Any]
"""What goes into a graph or comes out of it."""

Prepare = Callable[[], Array]
"""Makes the input of a graph from the frame."""

OURS = "ours"
"""The variant that the others are compared with."""


def preparations(frame: Image, layout: Layout, preprocess: Preprocess) -> dict[str, Prepare]:
    """What each variant does before the graph."""
    normaliser = Normaliser(preprocess)
    buffer = np.empty((1, 3, *layout.padded_hw), np.float32)
    scratch = np.empty((*layout.resized_hw, 3), np.uint8)
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    swap = preprocess.channel_order == "rgb"

    def resized() -> Image:
        if layout.frame_hw == layout.resized_hw:
            return frame
        cv2.resize(frame, layout.resized_hw[::-1], dst=scratch, interpolation=cv2.INTER_AREA)
        return scratch

    def ours() -> Array:
        normaliser(frame, layout, buffer[0])
        return buffer

    def levels() -> Array:
        return resized()[None]  # (1, H, W, 3) uint8

    def naive() -> Array:
        image = resized()[:, :, ::-1] if swap else resized()
        planes = ((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)  # -> (3, H, W)
        return np.ascontiguousarray(planes[None])

    def blob() -> Array:
        scale = 1 / float(std[0]) if len(set(std.tolist())) == 1 else 1.0
        made: Array = cv2.dnn.blobFromImage(
            resized(), scale, mean=tuple(map(float, mean)), swapRB=swap
        )
        return made if scale != 1 else made / std[:, None, None]

    return {
        OURS: ours,
        "in graph": levels,
        "OpenVINO": levels,
        "folded": levels,
        "numpy": naive,
        "blobFromImage": blob,
    }
