"""The Seenmask Zero-shot Network: an FCN with an embedding head and a seenmask head.

Dimensions: N frames, C feature channels, j embedding channels, (H, W) frame, (h, w) grid.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from szn_runtime.geometry import GridGeometry
from szn_train.backbones import Backbone
from szn_train.seenmask_head import StatisticalSeenmask

__all__ = ["Grids", "SeenmaskZeroShotNetwork", "interpolation_matrix", "upsample"]


class Grids(NamedTuple):
    """What the network says at the nodes of its grid.

    Attributes:
        embedding: (N, j, h, w), not normalised.
        seenmask: (N, 2, h, w), scores of unseen (channel 0) and seen (channel 1).
    """

    embedding: Tensor
    seenmask: Tensor


class SeenmaskZeroShotNetwork(nn.Module):
    """FCN, visual embedding head and seenmask head (thesis chapter 4).

    The fixed bilinear upsampling is not part of the module: it carries no weights, and losses and
    inference apply it where they need it (`upsample`, `szn_runtime.sei`).

    The seenmask head is a convolution of the features, the thesis' own, until it is replaced by a
    `StatisticalSeenmask`, which reads the embedding too.

    Args:
        backbone: The FCN.
        dim: Dimensions j of the embedding.
        head_init: How the heads start: "small" random numbers without bias, or "torch", PyTorch's
            own for convolutions, which the thesis' code has.
    """

    def __init__(
        self, backbone: Backbone, dim: int, head_init: Literal["small", "torch"] = "small"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_head = nn.Conv2d(backbone.info.channels, dim, kernel_size=1)
        linear = nn.Conv2d(backbone.info.channels, 2, kernel_size=1)
        for head in (self.embedding_head, linear) if head_init == "small" else ():
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.seenmask_head: nn.Conv2d | StatisticalSeenmask = linear

    @property
    def geometry(self) -> GridGeometry:
        """Where the nodes lie among the network's own pixels."""
        return GridGeometry.square(self.backbone.info.stride, self.backbone.info.node_offset)

    def forward(self, frames: Tensor) -> Grids:
        """Normalised frames (N, 3, H, W) to grids; H and W are multiples of the stride."""
        features = self.backbone(frames)  # (N, C, h, w)
        embedding = self.embedding_head(features)
        if isinstance(self.seenmask_head, StatisticalSeenmask):
            return Grids(embedding, self.seenmask_head(features, embedding))
        return Grids(embedding, self.seenmask_head(features))


def interpolation_matrix(nodes: int, pixels: int, stride: float, offset: float) -> Tensor:
    """Weights (pixels, nodes) of linear interpolation along one axis, border nodes repeated.

    Equal to the fixed bilinear transposed convolution up to a positive scale past the border,
    which changes neither a cosine nor the sign of the seenmask.
    """
    position = np.clip((np.arange(pixels) - offset) / stride, 0, nodes - 1)
    lower = np.minimum(position.astype(np.int64), max(nodes - 2, 0))
    weight = (position - lower).astype(np.float32)
    matrix = np.zeros((pixels, nodes), dtype=np.float32)
    rows = np.arange(pixels)
    matrix[rows, lower] = 1 - weight
    if nodes > 1:
        matrix[rows, lower + 1] = weight
    return torch.from_numpy(matrix)


def upsample(grid: Tensor, size_hw: tuple[int, int], geometry: GridGeometry) -> Tensor:
    """Fixed bilinear upsampling (N, j, h, w) -> (N, j, H, W)."""
    (stride_y, stride_x), (offset_y, offset_x) = geometry.stride_yx, geometry.offset_yx
    rows = interpolation_matrix(grid.shape[2], size_hw[0], stride_y, offset_y).to(grid)  # (H, h)
    columns = interpolation_matrix(grid.shape[3], size_hw[1], stride_x, offset_x).to(grid)
    return rows @ (grid @ columns.T)  # (N, j, h, w) @ (w, W) -> (N, j, h, W) -> (N, j, H, W)
