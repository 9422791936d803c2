"""Where the nodes of the network's grid lie among the pixels of a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

from szn_runtime.errors import InputError

__all__ = ["GridGeometry"]


@dataclass(frozen=True, kw_only=True)
class GridGeometry:
    """Placement of a grid: node `(r, c)` sits at pixel centre `(stride * r + offset, ...)`.

    Pixel centres are the integers, so that a same-padded, half-pixel aligned network of stride `s`
    has the offset `(s - 1) / 2`: 15.5 for 32.

    Args:
        stride_yx: Pixels between two nodes, vertical and horizontal, greater than 0.
        offset_yx: Pixel position of node 0, vertical and horizontal.

    Raises:
        InputError: If a stride is not positive or a number is not finite.
    """

    stride_yx: tuple[float, float]
    offset_yx: tuple[float, float]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.stride_yx, *self.offset_yx))):
            raise InputError("grid geometry is not finite", got=(self.stride_yx, self.offset_yx))
        if min(self.stride_yx) <= 0:
            raise InputError("grid stride is not positive", got=self.stride_yx, expected="> 0")

    @classmethod
    def square(cls, stride: float, offset: float) -> GridGeometry:
        """The same stride and offset, in pixels, along both axes."""
        return cls(stride_yx=(stride, stride), offset_yx=(offset, offset))

    def scaled(self, scale_yx: tuple[float, float]) -> GridGeometry:
        """Placement of the same nodes among the pixels of the frame before it was resized.

        Args:
            scale_yx: Network pixels per frame pixel along each axis (0.5: the frame was halved).

        Returns:
            With half-pixel alignment, frame pixel `p` lies at network pixel
            `(p + 0.5) * scale - 0.5`; solved for the node's position in the frame.
        """
        (sy, sx), (ky, kx), (oy, ox) = self.stride_yx, scale_yx, self.offset_yx
        return GridGeometry(
            stride_yx=(sy / ky, sx / kx),
            offset_yx=((oy + 0.5) / ky - 0.5, (ox + 0.5) / kx - 0.5),
        )
