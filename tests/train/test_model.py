from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from szn_runtime.geometry import GridGeometry
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.model import SeenmaskZeroShotNetwork, interpolation_matrix, upsample

nodes = st.integers(1, 5)
strides = st.sampled_from([8, 16, 32])


def half_pixel(stride: int) -> GridGeometry:
    return GridGeometry.square(stride, (stride - 1) / 2)


def bilinear_kernel(stride: int, channels: int) -> Tensor:
    """FCN's fixed upsampling filter (channels, 1, 2 s, 2 s) for one group a channel."""
    ramp = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride
    kernel: Tensor = (ramp[:, None] * ramp[None]).expand(channels, 1, -1, -1)
    return kernel


def transposed(grid: Tensor, stride: int, size_hw: tuple[int, int]) -> Tensor:
    """The fixed bilinear transposed convolution, cropped to pixels 0 to size."""
    channels = grid.shape[1]
    kernel = bilinear_kernel(stride, channels)
    whole = F.conv_transpose2d(
        grid, kernel, stride=stride, padding=stride // 2, groups=channels
    )  # (N, C, h, w) -> (N, C, s h, s w)
    return whole[:, :, : size_hw[0], : size_hw[1]]


@settings(max_examples=25, deadline=None)
@given(h=nodes, w=nodes, stride=strides, cut=st.tuples(st.integers(0, 7), st.integers(0, 7)))
def test_upsampling_is_the_transposed_convolution_up_to_a_positive_scale(
    h: int, w: int, stride: int, cut: tuple[int, int]
) -> None:
    grid = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(h * 7 + w))
    size_hw = (h * stride - cut[0], w * stride - cut[1])
    ours = upsample(grid, size_hw, half_pixel(stride))
    theirs = transposed(grid, stride, size_hw)
    assert ours.shape == theirs.shape == (2, 3, *size_hw)
    # what the convolution makes of ones is the scale: less than 1 past the outermost nodes alone
    scale = transposed(torch.ones_like(grid), stride, size_hw)
    assert scale.min() > 0
    torch.testing.assert_close(ours * scale, theirs, atol=1e-5, rtol=1e-5)
    half = stride // 2
    inner = scale[:, :, half : (h - 1) * stride + half, half : (w - 1) * stride + half]
    torch.testing.assert_close(inner, torch.ones_like(inner), atol=1e-6, rtol=0)
    # hence the same cosines, whatever they are compared with
    torch.testing.assert_close(F.normalize(ours), F.normalize(theirs), atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    h=nodes,
    w=nodes,
    stride=st.floats(0.7, 40),
    offset=st.floats(-20, 40),
    size_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_upsampling_is_linear_interpolation(
    h: int, w: int, stride: float, offset: float, size_hw: tuple[int, int]
) -> None:
    grid = np.random.default_rng(h * 7 + w).normal(size=(h, w))
    geometry = GridGeometry.square(stride, offset)
    ours = upsample(torch.tensor(grid)[None, None], size_hw, geometry)[0, 0].numpy()

    def along(values: NDArray[np.float64], pixels: int) -> NDArray[np.float64]:
        positions = stride * np.arange(len(values)) + offset
        return np.stack(
            [np.interp(np.arange(pixels), positions, column) for column in values.T], axis=1
        )

    expected = along(along(grid, size_hw[0]).T, size_hw[1]).T
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@given(count=nodes, pixels=st.integers(1, 80), stride=st.floats(0.7, 40), offset=st.floats(-50, 50))
def test_interpolation_weights_are_shares(
    count: int, pixels: int, stride: float, offset: float
) -> None:
    matrix = interpolation_matrix(count, pixels, stride, offset)
    assert matrix.shape == (pixels, count)
    assert matrix.dtype == torch.float32
    assert matrix.min() >= 0
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(pixels))
    assert ((matrix > 0).sum(dim=1) <= 2).all()


def test_interpolation_weights_by_hand() -> None:
    matrix = interpolation_matrix(2, 8, 4, 1.5)
    expected = [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    torch.testing.assert_close(matrix[:, 1], torch.tensor(expected))


def test_a_single_node_fills_the_frame() -> None:
    grid = torch.tensor([[[[2.0]], [[-3.0]]]])  # (1, 2, 1, 1)
    pixels = upsample(grid, (5, 7), half_pixel(32))
    torch.testing.assert_close(pixels, grid.expand(1, 2, 5, 7))


def test_both_axes_have_their_own_geometry() -> None:
    grid = torch.tensor([[[[0.0, 1.0], [10.0, 11.0]]]])
    geometry = GridGeometry(stride_yx=(2, 4), offset_yx=(0, 1))
    pixels = upsample(grid, (3, 6), geometry)[0, 0]
    torch.testing.assert_close(pixels[:, 1], torch.tensor([0.0, 5.0, 10.0]))
    torch.testing.assert_close(pixels[0], torch.tensor([0.0, 0.0, 0.25, 0.5, 0.75, 1.0]))


def test_gradients_reach_the_nodes_by_their_weights() -> None:
    grid = torch.zeros(1, 1, 2, 1, requires_grad=True)
    upsample(grid, (8, 1), GridGeometry.square(4, 1.5)).sum().backward()  # type: ignore[no-untyped-call]
    assert grid.grad is not None
    torch.testing.assert_close(grid.grad.flatten(), torch.tensor([4.0, 4.0]))


# the network ----------------------------------------------------------------------------------


@pytest.fixture
def network() -> SeenmaskZeroShotNetwork:
    """Heads on an average pool, so that the features are known."""
    info = BackboneInfo(
        name="pool",
        channels=3,
        stride=16,
        node_offset=7.5,
        multiple=16,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    torch.manual_seed(0)
    return SeenmaskZeroShotNetwork(Backbone(nn.AvgPool2d(16), info), dim=5)


def test_the_heads_are_linear_in_the_features(network: SeenmaskZeroShotNetwork) -> None:
    frames = torch.randn(2, 3, 32, 48)
    grids = network(frames)
    features = F.avg_pool2d(frames, 16)
    assert grids.embedding.shape == (2, 5, 2, 3)
    assert grids.seenmask.shape == (2, 2, 2, 3)
    for grid, head in (
        (grids.embedding, network.embedding_head),
        (grids.seenmask, network.seenmask_head),
    ):
        assert head.bias is not None
        weight = head.weight[:, :, 0, 0]  # (out, C, 1, 1) -> (out, C)
        expected = torch.einsum("nchw,oc->nohw", features, weight) + head.bias[:, None, None]
        torch.testing.assert_close(grid, expected)


def test_the_heads_start_small_and_without_bias(network: SeenmaskZeroShotNetwork) -> None:
    wide = SeenmaskZeroShotNetwork(
        Backbone(nn.Identity(), BackboneInfo(**{**vars(network.backbone.info), "channels": 1000})),
        dim=20,
    )
    for head in (wide.embedding_head, wide.seenmask_head):
        assert head.bias is not None
        assert (head.bias == 0).all()
        assert 0.009 < head.weight.std().item() < 0.011


def test_the_heads_may_start_as_torchs_convolutions(network: SeenmaskZeroShotNetwork) -> None:
    torch.manual_seed(5)
    ours = SeenmaskZeroShotNetwork(network.backbone, dim=5, head_init="torch").embedding_head
    torch.manual_seed(5)
    theirs = nn.Conv2d(3, 5, 1)
    assert torch.equal(ours.weight, theirs.weight)
    assert ours.bias is not None
    assert theirs.bias is not None
    assert torch.equal(ours.bias, theirs.bias)


def test_the_geometry_is_the_backbones(network: SeenmaskZeroShotNetwork) -> None:
    assert network.geometry == GridGeometry.square(16, 7.5)


def test_upsampling_is_no_part_of_the_weights(network: SeenmaskZeroShotNetwork) -> None:
    assert set(network.state_dict()) == {
        "embedding_head.weight",
        "embedding_head.bias",
        "seenmask_head.weight",
        "seenmask_head.bias",
    }
