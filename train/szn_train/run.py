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
from szn_train.seenmask_head import StatisticalSeenmask
from szn_train.semantic import LabelSpace

__all__ = ["Run", "build_network", "class_split", "open_run", "saved_config", "saved_label_space"]


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
    config, class_names = saved_config(folder)
    split = class_split(config, class_names)
    network = build_network(config, split, weights="none")
    weights = load_weights(folder / "model.safetensors")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{folder}/model.safetensors does not fit its config.json") from error
    space = saved_label_space(folder, config, split)
    return Run(folder=folder, config=config, split=split, space=space, network=network.eval())


def saved_config(folder: Path) -> tuple[TrainConfig, tuple[str, ...]]:
    """Configuration of a run, finished or not, and the class names of its data set.

    Raises:
        TrainingError: If the folder is no run or its `config.json` is damaged.
    """
    path = folder / "config.json"
    saved = read_json(path)
    config, names = saved.get("config"), saved.get("class_names")
    if not isinstance(config, dict) or not isinstance(names, list):
        raise TrainingError(f"{path} is damaged", expected="'config' and 'class_names'")
    # runs that do not say were made when there was no other
    return TrainConfig.from_dict({"seenmask": "linear", **config}), tuple(map(str, names))


def saved_label_space(folder: Path, config: TrainConfig, split: ClassSplit) -> LabelSpace:
    """The labels in the joint embedding space, as a run is trained with them.

    Raises:
        TrainingError: If the file is missing or damaged, or has other labels or dimensions.
    """
    space = load_label_space(folder / "label_space.npz")
    if space.names != split.labels or space.embeddings.shape[1] != config.dim:
        raise TrainingError(f"{folder}/label_space.npz does not fit its config.json")
    return space


def class_split(config: TrainConfig, class_names: tuple[str, ...]) -> ClassSplit:
    """The split that a configuration makes of a data set's classes."""
    return ClassSplit(
        names=class_names,
        void=config.void,
        train_unseen=config.train_unseen,
        unseen=config.unseen,
    )


def build_network(
    config: TrainConfig, split: ClassSplit, *, weights: Weights = "none"
) -> SeenmaskZeroShotNetwork:
    """The network of a configuration, channels last, which is faster on CPUs.

    Its seenmask is one of statistics if the configuration fits one; it has to be fitted or loaded.

    Raises:
        TrainingError: If the configuration does not go with its backbone, or the weights cannot be
            had.
        InputError: If statistics are to tell unseen from a single label of train_seen.
    """
    backbone = create_backbone(
        config.backbone,
        stride=config.stride,
        weights=weights,
        padding=config.padding,
        pixels=config.pixels,
    )
    network = SeenmaskZeroShotNetwork(backbone, config.dim, config.head_init)
    if config.fits_seenmask:
        network.seenmask_head = StatisticalSeenmask.unfitted(
            channels=backbone.info.channels,
            dim=config.dim,
            labels=len(split.train_seen),
            scale=config.similarity_scale,
        )
    return network.to(memory_format=torch.channels_last)
