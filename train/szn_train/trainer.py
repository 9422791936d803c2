"""Train a network in two steps (thesis section 4.3) and leave a run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from szn_runtime.errors import TrainingError
from szn_train import losses
from szn_train.batches import Batches
from szn_train.checkpoint import (
    load_checkpoint,
    save_label_space,
    save_weights,
    write_json,
)
from szn_train.classes import ClassSplit
from szn_train.config import StepConfig, TrainConfig
from szn_train.datasets import Dataset, Selection, open_dataset, select
from szn_train.history import History
from szn_train.model import SeenmaskZeroShotNetwork, upsample
from szn_train.progress import Progress
from szn_train.run import Run, build_network, class_split, open_run
from szn_train.semantic import LabelSpace, label_space
from szn_train.step import Loss, TrainingStep
from szn_train.transforms import augmented, plain, preprocess_of

__all__ = ["train"]


def train(config: TrainConfig, folder: Path, *, progress: Progress, resume: bool = False) -> Run:
    """Run both steps, or go on where a run stopped.

    Args:
        config: What to train; when resuming, the run's own configuration.
        folder: Run folder, made if need be. It gets `config.json`, `selection.json`,
            `label_space.npz`, `checkpoint.pt`, `history.csv`, TensorBoard events and, once
            finished, `model.safetensors`.
        progress: Where lines and bars go.
        resume: Go on from the folder's checkpoint.

    Raises:
        InputError: If the data cannot be used.
        TrainingError: If the loss is not finite, or the checkpoint is missing or damaged.
    """
    dataset = open_dataset(config, Path(config.data), config.train_split)
    split = class_split(config, dataset.class_names)
    selection = select(dataset, split)
    for line in selection.lines(split):
        progress.line(line)
    space = label_space(split.labels, source=config.embeddings, dim=config.dim)
    if space.explained_variance is not None:
        progress.line(
            f"{space.source}: PCA to {config.dim} dimensions keeps "
            f"{100 * space.explained_variance:.1f} % of the variance"
        )
    torch.manual_seed(config.seed)
    network = build_network(config, weights="none" if resume else config.weights)
    checkpoint = load_checkpoint(folder / "checkpoint.pt") if resume else None
    if checkpoint is None:
        _start_folder(folder, config, dataset, selection.facts(split), space)
    else:
        try:
            network.load_state_dict(checkpoint["network"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise TrainingError(f"{folder}/checkpoint.pt does not fit its config.json") from error

    def batches(ids: tuple[str, ...], step: StepConfig) -> Batches:
        preprocess = preprocess_of(network.backbone.info, config.long_side)
        transform = augmented(preprocess, config.crop_hw) if step.augment else plain(preprocess)
        return Batches(dataset, split, ids, transform=transform, batch_size=step.batch_size)

    with History(folder, checkpoint) as history, progress:
        step = TrainingStep(
            "embedding",
            config.embedding_step,
            seed=config.seed,
            network=network,
            body=list(network.backbone.parameters()),
            heads=list(network.embedding_head.parameters()),
        )
        step.run(
            batches(selection.embedding_ids, config.embedding_step),
            _embedding_loss(config, network, split, space),
            history,
            progress,
        )
        if split.train_unseen:
            # Frozen means frozen: batch-norm statistics and dropout too.
            network.requires_grad_(False)
            network.seenmask_head.requires_grad_(True)
            network.eval()
            step = TrainingStep(
                "seenmask",
                config.seenmask_step,
                seed=config.seed,
                network=network,
                body=[],
                heads=list(network.seenmask_head.parameters()),
            )
            step.run(
                batches(selection.seenmask_ids, config.seenmask_step),
                _seenmask_loss(config, network, split, selection),
                history,
                progress,
            )
    save_weights(folder / "model.safetensors", network.state_dict())
    return open_run(folder)


def _start_folder(
    folder: Path,
    config: TrainConfig,
    dataset: Dataset,
    facts: dict[str, object],
    space: LabelSpace,
) -> None:
    """A run folder without results; those of an earlier run are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoint.pt", "model.safetensors", "history.csv", "eval-*.json", "eval-*.csv"):
        for path in folder.glob(name):
            path.unlink()
    names = list(dataset.class_names)
    write_json(folder / "config.json", {"config": config.to_dict(), "class_names": names})
    write_json(folder / "selection.json", facts)
    save_label_space(folder / "label_space.npz", space)


def _embedding_loss(
    config: TrainConfig, network: SeenmaskZeroShotNetwork, split: ClassSplit, space: LabelSpace
) -> Loss:
    """Loss of the first step: FCN and embedding head, pixels of train_seen."""
    labels = torch.from_numpy(space.unit)
    seen = torch.from_numpy(split.is_member(split.train_seen))

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        grid = network.embedding_head(network.backbone(frames))
        pixels = upsample(grid, (target.shape[1], target.shape[2]), network.geometry)
        if config.loss == "cosine":
            return losses.cosine_loss(pixels, target, labels)
        return losses.cosine_ce_loss(pixels, target, labels, seen, config.similarity_scale)

    return loss


def _seenmask_loss(
    config: TrainConfig,
    network: SeenmaskZeroShotNetwork,
    split: ClassSplit,
    selection: Selection,
) -> Loss:
    """Loss of the second step: seenmask head on the frozen FCN, all labels but U."""
    seen = torch.from_numpy(split.is_member(split.train_seen))
    weights = _balance(split, selection.pixels) if config.balance_seenmask else None

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            features = network.backbone(frames)
        grid = network.seenmask_head(features)
        pixels = upsample(grid, (target.shape[1], target.shape[2]), network.geometry)
        return losses.seenmask_loss(pixels, target, seen, weights)

    return loss


def _balance(split: ClassSplit, pixels: NDArray[np.int64]) -> Tensor:
    """Weights (unseen, seen) that give both sides of the seenmask the same sum."""
    seen = float(pixels[split.indices(split.train_seen)].sum())
    unseen = float(pixels[split.indices(split.train_unseen)].sum())
    return torch.tensor([(seen + unseen) / (2 * unseen), (seen + unseen) / (2 * seen)])
