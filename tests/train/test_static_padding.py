from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import Conv2dSame

from szn_train.static_padding import StaticSameConv2d, make_padding_static


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 12), (2, 2), (64, 32)])
def test_equals_timm_to_the_bit_where_the_stride_divides_the_size(
    kernel: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    theirs = Conv2dSame(3, 4, kernel, stride=2)
    ours = StaticSameConv2d(3, 4, kernel, stride=2)
    ours.load_state_dict(theirs.state_dict())
    frames = torch.randn(2, 3, *size)
    assert torch.equal(ours(frames), theirs(frames))


@pytest.mark.parametrize("stride", [32, 16])
def test_the_whole_network_stays_the_same(stride: int) -> None:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0, output_stride=stride)
    network.eval()
    frames = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = network.forward_features(frames)
        replaced = make_padding_static(network)
        after = network.forward_features(frames)
    assert replaced > 0
    assert not [m for m in network.modules() if isinstance(m, Conv2dSame)]
    assert torch.equal(before, after)
