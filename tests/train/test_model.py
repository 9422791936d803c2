from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from szn_runtime.geometry import GridGeometry
from szn_train.backbones import create_backbone
from szn_train.model import SeenmaskZeroShotNetwork, interpolation_matrix, upsample


def bilinear_kernel(stride: int) -> torch.Tensor:
    """The fixed filter of FCN's transposed convolution, of size 2 x stride."""
    at = torch.arange(2 * stride)
    one = 1 - (at - (2 * stride - 1) / 2).abs() / stride
    return one[:, None] * one[None]


@pytest.mark.parametrize("stride", [16, 32])
def test_upsampling_is_the_fixed_transposed_convolution_up_to_a_positive_scale(stride: int) -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 3, 4, 5)
    weight = torch.zeros(3, 3, 2 * stride, 2 * stride)
    for channel in range(3):
        weight[channel, channel] = bilinear_kernel(stride)
    dense = F.conv_transpose2d(grid, weight, stride=stride, padding=stride // 2)
    size_hw = (dense.shape[2], dense.shape[3])
    ours = upsample(grid, size_hw, GridGeometry.square(stride, (stride - 1) / 2))
    inner = slice(stride // 2, -(stride // 2))
    torch.testing.assert_close(ours[..., inner, inner], dense[..., inner, inner])
    # past the border nodes only the length differs
    torch.testing.assert_close(F.normalize(ours, dim=1), F.normalize(dense, dim=1))


@given(
    nodes=st.integers(1, 8), pixels=st.integers(1, 90), stride=st.sampled_from([8, 16, 32]),
    offset=st.floats(-8, 40),
)  # fmt: skip
@settings(deadline=None)
def test_interpolation_weights_sum_to_one(
    nodes: int, pixels: int, stride: int, offset: float
) -> None:
    matrix = interpolation_matrix(nodes, pixels, stride, offset)
    assert matrix.shape == (pixels, nodes)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(pixels))
    assert ((matrix > 0).sum(dim=1) <= 2).all()


def test_interpolation_between_two_nodes_by_hand() -> None:
    matrix = interpolation_matrix(2, 6, 4, 1.0)  # nodes at pixels 1 and 5
    torch.testing.assert_close(matrix[:, 1], torch.tensor([0.0, 0.0, 0.25, 0.5, 0.75, 1.0]))


@pytest.mark.parametrize("stride", [16, 32])
def test_grids_have_the_stride(stride: int) -> None:
    network = SeenmaskZeroShotNetwork(
        create_backbone("efficientnet_lite0", stride=stride, weights="none"), 7
    ).eval()
    with torch.inference_mode():
        grids = network(torch.zeros(2, 3, 64, 96))
    assert grids.embedding.shape == (2, 7, 64 // stride, 96 // stride)
    assert grids.seenmask.shape == (2, 2, 64 // stride, 96 // stride)
    assert isinstance(network.embedding_head, nn.Conv2d)
    assert network.embedding_head.kernel_size == (1, 1)  # linear, so that SEI on the grid is exact
    assert network.geometry == GridGeometry.square(stride, (stride - 1) / 2)
