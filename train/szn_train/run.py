"""A run folder: `config.json`, `label_space.npz`, `model.safetensors` and what tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from szn_runtime.errors import TrainingError
from szn_train.backbones import Weights, create_backbone
from szn_train.checkpoint import load_label_space, load_weights, read_json
from szn_train.classes import ClassSplit
from szn_train.config import TrainConfig
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.semantic import LabelSpace

__all__ = ["Run", "build_network", "class_split", "open_run"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished run, as evaluation and export read it.

    Attributes:
        folder: The run folder.
        config: Its configuration.
        split: Its classes.
        space: Its labels in the joint embedding space.
        network: The trained network, in evaluation mode.
    """

    folder: Path
    config: TrainConfig
    split: ClassSplit
    space: LabelSpace
    network: SeenmaskZeroShotNetwork


def open_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        TrainingError: If the folder is no run, the run is not finished or a file is damaged.
    """
    saved = read_json(folder / "config.json")
    config = TrainConfig.from_dict(saved["config"])
    split = class_split(config, tuple(saved["class_names"]))
    network = build_network(config, weights="none")
    weights = load_weights(folder / "model.safetensors")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{folder}/model.safetensors does not fit its config.json") from error
    return Run(
        folder=folder,
        config=config,
        split=split,
        space=load_label_space(folder / "label_space.npz"),
        network=network.eval(),
    )


def class_split(config: TrainConfig, class_names: tuple[str, ...]) -> ClassSplit:
    """The split that a configuration makes of a data set's classes."""
    return ClassSplit(
        names=class_names,
        void=config.void,
        train_unseen=config.train_unseen,
        unseen=config.unseen,
    )


def build_network(config: TrainConfig, *, weights: Weights) -> SeenmaskZeroShotNetwork:
    """The network of a configuration, channels last, which is faster on CPUs."""
    backbone = create_backbone(
        config.backbone,
        stride=config.stride,
        weights=weights,
        padding=config.padding,
    )
    network = SeenmaskZeroShotNetwork(backbone, config.dim)
    return network.to(memory_format=torch.channels_last)
