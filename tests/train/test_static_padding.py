from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from szn_train.backbones import create_backbone
from szn_train.static_padding import StaticSameConv2d, make_padding_static


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    grid_hw=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_a_static_convolution_equals_timms_to_the_bit(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    grid_hw: tuple[int, int],
    groups: int,
    bias: bool,
) -> None:
    torch.manual_seed(0)
    dynamic = nn.Sequential(
        Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation, groups=groups, bias=bias)
    )
    frames = torch.randn(2, 4, grid_hw[0] * stride[0], grid_hw[1] * stride[1])
    expected = dynamic(frames)
    assert expected.shape == (2, 6, *grid_hw)
    assert make_padding_static(dynamic) == 1
    assert isinstance(dynamic[0], StaticSameConv2d)
    assert torch.equal(dynamic(frames), expected)


def test_every_dynamic_convolution_is_replaced_and_no_other() -> None:
    network = nn.Sequential(
        Conv2dSame(3, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sequential(nn.ReLU(), nn.Sequential(Conv2dSame(4, 4, 5, stride=2, groups=4))),
    )
    plain = network[1]
    assert make_padding_static(network) == 2
    assert not any(isinstance(module, Conv2dSame) for module in network.modules())
    assert network[1] is plain
    assert make_padding_static(network) == 0


def test_the_weights_stay() -> None:
    network = nn.Sequential(Conv2dSame(3, 4, 3, stride=2, bias=True))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    make_padding_static(network)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_the_whole_network_equals_timms_to_the_bit(stride: int) -> None:
    torch.manual_seed(1)
    backbone = create_backbone("efficientnet_lite0", stride=stride, weights="none").eval()
    original = timm.create_model("tf_efficientnet_lite0", num_classes=0, output_stride=stride)
    renamed = {
        name.removeprefix("body.network."): value for name, value in backbone.state_dict().items()
    }
    original.load_state_dict(renamed)
    original.eval()
    assert any(isinstance(module, Conv2dSame) for module in original.modules())
    assert not any(isinstance(module, Conv2dSame) for module in backbone.modules())
    for grid_hw in ((1, 1), (2, 3), (5, 4)):
        frames = torch.randn(2, 3, grid_hw[0] * stride, grid_hw[1] * stride)
        with torch.inference_mode():
            ours, theirs = backbone(frames), original.forward_features(frames)
        assert ours.shape == (2, 1280, *grid_hw)
        assert torch.equal(ours, theirs)
