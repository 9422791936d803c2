"""From a frame to the network's input: resize, normalise, pad."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry
from szn_runtime.manifest import Preprocess

__all__ = ["Layout", "Normaliser", "check_frame", "normalise_into", "plan", "warm_up"]

# 16 times a 4K frame; more is a mistake in the options, and would fill the memory
_MAX_SIDE = 1 << 16
_MAX_PIXELS = 1 << 27


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes on the way from a frame to the network's input, each (height, width) in pixels.

    Args:
        frame_hw: Of the frame.
        resized_hw: After resizing; the frame's aspect ratio up to rounding.
        padded_hw: With zeros added on the right and at the bottom.
    """

    frame_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    padded_hw: tuple[int, int]

    @property
    def scale_yx(self) -> tuple[float, float]:
        """Network pixels per frame pixel along each axis."""
        (fh, fw), (rh, rw) = self.frame_hw, self.resized_hw
        return rh / fh, rw / fw

    def grid_geometry(self, base: GridGeometry) -> GridGeometry:
        """Where the nodes of the network's grid lie among the pixels of the frame.

        Args:
            base: Where they lie among the pixels of the network's input.
        """
        return base.scaled(self.scale_yx)


def plan(frame_hw: tuple[int, int], *, long_side: int, multiple: int) -> Layout:
    """Choose the network's input size for a frame size.

    The longer side becomes `long_side`, up or down; the other one is rounded to the nearest pixel,
    and is at least 1.

    Args:
        frame_hw: Height and width of the frame in pixels.
        long_side: Length of the resized frame's longer side in pixels.
        multiple: Height and width are padded up to multiples of this.

    Raises:
        InputError: If a size is not positive or the result is absurdly large.
    """
    height, width = int(frame_hw[0]), int(frame_hw[1])
    if height < 1 or width < 1:
        raise InputError("frame is empty", got=f"{width} x {height} pixels")
    if not 1 <= long_side <= _MAX_SIDE or not 1 <= multiple <= _MAX_SIDE:
        raise InputError(
            "the network's input size is out of range",
            got=f"long side {long_side}, multiple {multiple}",
            expected=f"1 to {_MAX_SIDE}",
        )
    longest = max(height, width)

    def resized(side: int) -> int:
        # halves upwards, exact in integers: no platform rounds differently
        return max(1, (2 * side * long_side + longest) // (2 * longest))

    def padded(side: int) -> int:
        return math.ceil(side / multiple) * multiple

    resized_hw = resized(height), resized(width)
    padded_hw = padded(resized_hw[0]), padded(resized_hw[1])
    if padded_hw[0] * padded_hw[1] > _MAX_PIXELS:
        raise InputError(
            "the network's input would be too large",
            got=f"{padded_hw[1]} x {padded_hw[0]} pixels",
            expected=f"at most {_MAX_PIXELS} pixels",
            fix="choose a smaller size",
        )
    return Layout(frame_hw=(height, width), resized_hw=resized_hw, padded_hw=padded_hw)


def check_frame(image_bgr: object) -> NDArray[np.uint8]:
    """Refuse what is no colour frame.

    Returns:
        The same array.

    Raises:
        InputError: If it is not a non-empty (H, W, 3) uint8 array.
    """
    if not isinstance(image_bgr, np.ndarray):
        raise InputError(
            "frame is not an array",
            got=type(image_bgr).__name__,
            expected="(H, W, 3) uint8 BGR",
            fix="check that cv2.imread found the file" if image_bgr is None else None,
        )
    shape, fix = image_bgr.shape, None
    if image_bgr.dtype != np.uint8:
        fix = "scale it to 0..255 and convert it to uint8"
    elif image_bgr.ndim == 2 or (image_bgr.ndim == 3 and shape[2] == 1):
        fix = "convert grey frames with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)"
    elif image_bgr.ndim == 3 and shape[2] == 4:
        fix = "drop the alpha channel with cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)"
    elif image_bgr.ndim == 3 and shape[2] == 3 and image_bgr.size:
        return image_bgr
    raise InputError(
        "frame is not a colour image",
        got=f"{image_bgr.dtype} {shape}",
        expected="(H, W, 3) uint8 BGR",
        fix=fix,
    )


class Normaliser:
    """Writes normalised frames into buffers; holds the tables and scratch memory for it.

    One thread at a time may use an instance.

    Args:
        preprocess: Mean, deviation and channel order of the network.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        levels = np.arange(256, dtype=np.float64)
        mean, std = (np.array(v, np.float64)[:, None] for v in (preprocess.mean, preprocess.std))
        # (3, 256): for each channel of the network its value for each level
        self._tables = ((levels - mean) / std).astype(np.float32)
        self._scale = (1 / std[:, 0]).astype(np.float32)
        self._shift = (-mean / std)[:, 0].astype(np.float32)
        # the plane of a BGR frame that each channel of the network takes
        self._planes_of = (2, 1, 0) if preprocess.channel_order == "rgb" else (0, 1, 2)
        self._resized = np.empty((0, 0, 3), np.uint8)
        self._planes = [np.empty((0, 0), np.uint8)] * 3
        self._areas: tuple[Layout, tuple[NDArray[Any], ...]] | None = None

    def __call__(
        self, image_bgr: NDArray[np.uint8], layout: Layout, out: NDArray[np.float32]
    ) -> None:
        """Resize, normalise and pad one frame.

        Args:
            image_bgr: (H, W, 3) uint8 BGR of the layout's frame size; not changed.
            layout: From `plan`.
            out: (3, H', W') float32 of the layout's padded size, all of it written. Rows must be
                contiguous; the array may be a view into a larger one.

        Raises:
            InputError: If frame or buffer do not fit the layout.
        """
        check_frame(image_bgr)
        if image_bgr.shape[:2] != layout.frame_hw:
            raise InputError(
                "frame has another size", got=image_bgr.shape[:2], expected=layout.frame_hw
            )
        if out.shape != (3, *layout.padded_hw) or out.dtype != np.float32 or out.strides[2] != 4:
            raise InputError(
                "buffer does not fit the frame",
                got=f"{out.dtype} {out.shape}",
                expected=f"float32 {(3, *layout.padded_hw)} with contiguous rows",
            )
        (height, width), (frame_h, frame_w) = layout.resized_hw, layout.frame_hw
        inner = out[:, :height, :width]
        if layout.frame_hw == layout.resized_hw:
            self._look_up(image_bgr, inner)
        elif height > frame_h or width > frame_w or (2 * height, 2 * width) == layout.frame_hw:
            # where the sides are halved OpenCV's averaging is fastest, and enlarging needs none
            halves = (2 * height, 2 * width) == layout.frame_hw
            method = cv2.INTER_AREA if halves else cv2.INTER_LINEAR
            if self._resized.shape[:2] != (height, width):
                self._resized = np.empty((height, width, 3), np.uint8)
            cv2.resize(image_bgr, (width, height), dst=self._resized, interpolation=method)
            self._look_up(self._resized, inner)
        else:
            self._shrink(image_bgr, layout, inner)
        out[:, height:] = 0
        out[:, :height, width:] = 0

    def _look_up(self, image_bgr: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Normalise (h, w, 3) into (3, h, w)."""
        if self._planes[0].shape != image_bgr.shape[:2]:
            self._planes = [np.empty(image_bgr.shape[:2], np.uint8) for _ in range(3)]
        planes = cv2.split(image_bgr, self._planes)  # (h, w, 3) -> 3 of (h, w)
        for channel, table in enumerate(self._tables):
            # in place: OpenCV takes the row-strided view as it is
            cv2.LUT(planes[self._planes_of[channel]], table[None], out[channel])

    def _shrink(
        self, image_bgr: NDArray[np.uint8], layout: Layout, out: NDArray[np.float32]
    ) -> None:
        """Average over areas, which keeps a shrunk frame free of aliasing, and normalise.

        OpenCV's INTER_AREA up to one level where a mean is close to a half; two to four times as
        fast for ratios that are no integers, as those of most cameras.
        """
        from szn_runtime._area_kernels import shrink_into

        if self._areas is None or self._areas[0] != layout:
            rows, columns = (
                _areas(*sides) for sides in zip(layout.frame_hw, layout.resized_hw, strict=True)
            )
            first = 3 * columns[0] + np.array(self._planes_of, np.int32)[:, None]  # (3, w)
            self._areas = (layout, (*rows, first.astype(np.int32), columns[1]))
        flat = np.ascontiguousarray(image_bgr).reshape(layout.frame_hw[0], -1)  # (H, W * 3)
        shrink_into(flat, *self._areas[1], self._scale, self._shift, out)


def _areas(pixels: int, smaller: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """What each pixel of a shrunk side covers.

    Returns:
        (n,) int32 the first pixel under each; and (m, n) float32 the shares of the pixels from
        there, their sum 1; m >= 2.
    """
    edges = np.arange(smaller + 1) * (pixels / smaller)
    low, high = edges[:-1], edges[1:]
    start = np.minimum(np.floor(low + 1e-9), pixels - 1).astype(np.int32)
    pixel = start + np.arange(math.ceil(pixels / smaller) + 1)[:, None]  # (m, n)
    share = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    share[(share < 1e-6) | (pixel >= pixels)] = 0
    share /= share.sum(axis=0)
    used = max(2, int(np.flatnonzero(share.any(axis=1)).max()) + 1)
    return start, share[:used].astype(np.float32)


def normalise_into(
    image_bgr: NDArray[np.uint8], layout: Layout, preprocess: Preprocess, out: NDArray[np.float32]
) -> None:
    """Resize, normalise and pad one frame, without a `Normaliser` to keep; see its call."""
    Normaliser(preprocess)(image_bgr, layout, out)


def warm_up(preprocess: Preprocess) -> None:
    """Compile the kernel that shrinks frames, or load it from the cache on disk."""
    layout = Layout(frame_hw=(3, 3), resized_hw=(2, 2), padded_hw=(2, 2))
    frame, out = np.zeros((3, 3, 3), np.uint8), np.empty((3, 2, 2), np.float32)
    Normaliser(preprocess)(frame, layout, out)
