"""Weights that others trained: VGG16 of torchvision, FCN-32s of pytorch-fcn, other runs of SZN.

Three kinds of state dicts are known by their names:

- `features.0.weight` ...: torchvision's VGG16. Its fully connected layers become fc6 and fc7, the
  classifier's last layer is not used. Caffe's weights in this form (`vgg16_from_caffe.pth`) need
  the configuration's pixels "caffe".
- `conv1_1.weight` ... `fc6.weight`, `score_fr.weight`: FCN-32s of pytorch-fcn and what is converted
  from caffe. The score layer becomes the embedding head where it has as many channels.
- `backbone. ...`: `model.safetensors` of another run; heads too, where they fit;
  a seenmask of statistics is fitted anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from szn_runtime.errors import TrainingError
from szn_train.model import SeenmaskZeroShotNetwork

__all__ = ["load_pretrained"]

_CONVOLUTIONS: Mapping[str, int] = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7,
    "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
    "conv4_1": 17, "conv4_2": 19, "conv4_3": 21,
    "conv5_1": 24, "conv5_2": 26, "conv5_3": 28,
    "fc6": 31, "fc7": 34,
}  # fmt: skip
"""Layer names of caffe to positions in the body of `szn_train.backbones.vgg16`."""

_CLASSIFIER = {"fc6": "classifier.0", "fc7": "classifier.3"}


def load_pretrained(network: SeenmaskZeroShotNetwork, path: Path) -> str:
    """Copy a file's weights into a network.

    Returns:
        What was taken and what starts anew, as a line for the console.

    Raises:
        TrainingError: If the file is missing or damaged, holds another network or lacks a tensor,
            or its network expects other pixels or another upsampling.
    """
    state = _read(path)
    if "conv1_1.weight" in state:
        return _load_fcn(network, state, path)
    if "features.0.weight" in state:
        names = {
            layer: _CLASSIFIER.get(layer, f"features.{position}")
            for layer, position in _CONVOLUTIONS.items()
        }
        _load_vgg(network, state, names, path)
        return f"{path.name}: VGG16 as torchvision names it; heads start anew"
    if any(name.startswith("backbone.") for name in state):
        return _load_own(network, state, path)
    raise TrainingError(
        f"{path} holds another network",
        got=", ".join(list(state)[:3]) or "no tensor",
        expected="the names of torchvision's VGG16, of FCN-32s or of a run of szn-train",
    )


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or PyTorch file by name; nothing in it is executed."""
    if not path.is_file():
        raise TrainingError(f"no weights at {path}", expected="imagenet, none or a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets
        raise TrainingError(
            f"{path} is no file of weights ({type(error).__name__})",
            expected=".safetensors, or a state dict that torch.save wrote",
        ) from error
    # checkpoints of pytorch-fcn and of Lightning hold the weights beside other things
    for key in ("model_state_dict", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise TrainingError(f"{path} is no state dict", got=type(state).__name__)
    return {
        str(name).removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _load_fcn(network: SeenmaskZeroShotNetwork, state: Mapping[str, Tensor], path: Path) -> str:
    """FCN-32s: it was trained on caffe's pixels."""
    info = network.backbone.info
    if info.channel_order != "bgr":
        raise TrainingError(
            f"{path} is of a network that takes caffe's pixels",
            got="pixels 'imagenet'",
            fix="give --pixels caffe, or --protocol thesis",
        )
    for name, value in state.items():
        if name.startswith("upscore") and name.endswith("weight"):
            _check_upsampling(name, value, path)
    _load_vgg(network, state, {layer: layer for layer in _CONVOLUTIONS}, path)
    head = network.embedding_head
    score = state.get("score_fr.weight")
    if score is None or score.shape != head.weight.shape:
        return f"{path.name}: FCN-32s; heads start anew"
    _copy(head, state, "score_fr", path)
    return f"{path.name}: FCN-32s; its score layer is the embedding head"


def _check_upsampling(name: str, kernel: Tensor, path: Path) -> None:
    """Refuse a transposed convolution (C, C, 64, 64) that is not bilinear, a channel to itself."""
    side = kernel.shape[-1]
    ramp = 1 - (torch.arange(side) - (side - 1) / 2).abs() / (side / 2)
    wanted = torch.zeros_like(kernel, dtype=torch.float32)
    diagonal = torch.arange(min(kernel.shape[:2]))
    wanted[diagonal, diagonal] = ramp[:, None] * ramp[None]
    difference = float((kernel.float() - wanted).abs().max())
    if difference > 1e-3:
        raise TrainingError(
            f"{path}: the upsampling {name} was trained",
            got=f"weights up to {difference:.2g} from bilinear",
            expected="fixed bilinear upsampling",
        )


def _load_vgg(
    network: SeenmaskZeroShotNetwork,
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    path: Path,
) -> None:
    """Convolutions, fc6 and fc7, from the names that the file has for them."""
    info, body = network.backbone.info, network.backbone.body
    if info.name != "vgg16" or not isinstance(body, torch.nn.Sequential):
        raise TrainingError(f"{path} is of VGG16", got=f"backbone {info.name}", expected="vgg16")
    for layer, position in _CONVOLUTIONS.items():
        _copy(body[position], state, names[layer], path)


def _copy(layer: torch.nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Weight and bias of a convolution; a linear layer's is folded out (C h w -> C, h, w)."""
    with torch.no_grad():
        for kind in ("weight", "bias"):
            target = layer.get_parameter(kind)
            source = state.get(f"{name}.{kind}")
            if source is None:
                raise TrainingError(f"{path} has no {name}.{kind}")
            folds = source.ndim == 2 and source.shape[0] == target.shape[0]
            if source.shape != target.shape and not (folds and source.numel() == target.numel()):
                raise TrainingError(
                    f"{path}: {name}.{kind}", got=tuple(source.shape), expected=tuple(target.shape)
                )
            target.copy_(source.reshape(target.shape))


def _load_own(network: SeenmaskZeroShotNetwork, state: Mapping[str, Tensor], path: Path) -> str:
    """Another run's backbone, and its heads where they have as many channels."""
    target = network.state_dict()
    taken = {name: value for name, value in target.items() if name.startswith("backbone.")}
    for name, value in taken.items():
        if name not in state or state[name].shape != value.shape:
            raise TrainingError(
                f"{path} is of a run with another backbone",
                got=f"{name} {tuple(state[name].shape)}" if name in state else f"no {name}",
                expected=f"{network.backbone.info.name}: {tuple(value.shape)}",
            )
    heads = []
    for head in ("embedding_head", "seenmask_head"):
        names = [f"{head}.weight", f"{head}.bias"]
        if all(n in target and n in state and state[n].shape == target[n].shape for n in names):
            heads.append(head)
            taken |= {n: target[n] for n in names}
    network.load_state_dict({**target, **{name: state[name] for name in taken}})
    kept = " and ".join(heads) if heads else "no head"
    return f"{path.name}: weights of another run, backbone and {kept}"
