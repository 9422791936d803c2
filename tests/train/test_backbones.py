from __future__ import annotations

import pytest
import torch

from szn_runtime.errors import TrainingError
from szn_train.backbones import create_backbone


def test_lite0_takes_the_imagenet_weights_of_the_package() -> None:
    pretrained = create_backbone("efficientnet_lite0", weights="imagenet")
    stem = pretrained.state_dict()["body.network.conv_stem.weight"]
    assert stem.shape == (32, 3, 3, 3)
    # trained: deep features of a structured frame are neither zero nor exploding
    frame = torch.linspace(-1, 1, 96).expand(1, 3, 96, 96)
    with torch.inference_mode():
        features = pretrained.eval()(frame)
    assert features.shape == (1, 1280, 3, 3)
    assert 0.01 < features.mean().item() < 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("padding", "stride", "grid", "offset"),
    [("same", 32, (2, 3), 15.5), ("same", 16, (4, 6), 7.5), ("caffe", 32, (3, 4), 12.5)],
)
def test_vgg16_grids(padding: str, stride: int, grid: tuple[int, int], offset: float) -> None:
    backbone = create_backbone("vgg16", stride=stride, weights="none", padding=padding)
    with torch.inference_mode():
        features = backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert features.shape == (1, 4096, *grid)
    assert backbone.info.node_offset == offset
    # every pixel of the frame lies within a stride of the grid
    assert offset <= stride
    assert offset + (grid[1] - 1) * stride >= 95 - stride


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet"}, "unknown backbone: got resnet, expected efficientnet_lite0 or vgg16"),
        ({"name": "vgg16", "stride": 8}, "stride of vgg16: got 8, expected 32 or 16"),
        ({"name": "vgg16", "stride": 16, "padding": "caffe"}, "'caffe' at stride 16"),
        ({"name": "efficientnet_lite0", "padding": "caffe"}, "efficientnet_lite0 has one padding"),
        ({"name": "vgg16", "weights": "places"}, "weights of vgg16: got places"),
    ],
)
def test_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        create_backbone(**{"weights": "none", **options})  # type: ignore[arg-type]
