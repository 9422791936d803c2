"""Train a network in two steps (thesis section 4.3) and leave a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from szn_runtime.errors import TrainingError
from szn_train.batches import Batches
from szn_train.checkpoint import (
    load_checkpoint,
    save_label_space,
    save_weights,
    write_json,
)
from szn_train.config import StepConfig, TrainConfig
from szn_train.datasets import FolderDataset, select
from szn_train.history import History
from szn_train.objectives import embedding_objective, seenmask_objective
from szn_train.pretrained import load_pretrained
from szn_train.progress import Progress
from szn_train.run import Run, build_network, class_split, open_run
from szn_train.semantic import LabelSpace, label_space
from szn_train.step import TrainingStep
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
    dataset = FolderDataset(root=Path(config.data), split=config.train_split)
    split = class_split(config, dataset.class_names)
    if config.embeddings == "one-hot":
        config = replace(config, dim=len(split.labels))
    selection = select(dataset, split)
    progress.line(
        f"classes {split.sizes}: {len(selection.embedding_ids)} images for the embedding, "
        f"{len(selection.seenmask_ids)} for the seenmask, "
        f"{selection.dropped_unseen} dropped for a class of U"
    )
    space = label_space(split.labels, source=config.embeddings, dim=config.dim)
    if space.explained_variance is not None:
        progress.line(
            f"{space.source}: PCA to {config.dim} dimensions keeps "
            f"{100 * space.explained_variance:.1f} % of the variance"
        )
    starts = "none" if resume else config.weights
    torch.manual_seed(config.seed)
    network = build_network(config, weights="imagenet" if starts == "imagenet" else "none")
    if starts not in {"imagenet", "none"}:
        progress.line(load_pretrained(network, Path(starts)))
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
        transform = (
            augmented(preprocess, config.crop_hw, resize=config.resize)
            if step.augment
            else plain(preprocess, resize=config.resize)
        )
        return Batches(dataset, split, ids, transform=transform, batch_size=step.batch_size)

    def embedding_grid(frames: Tensor) -> Tensor:
        grid: Tensor = network.embedding_head(network.backbone(frames))
        return grid

    def seenmask_grid(frames: Tensor) -> Tensor:
        with torch.no_grad():
            features = network.backbone(frames)
        grid: Tensor = network.seenmask_head(features)
        return grid

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
            embedding_objective(config, split, space, embedding_grid, network.geometry).loss,
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
                seenmask_objective(
                    config, split, selection.pixels, seenmask_grid, network.geometry
                ).loss,
                history,
                progress,
            )
    save_weights(folder / "model.safetensors", network.state_dict())
    return open_run(folder)


def _start_folder(
    folder: Path,
    config: TrainConfig,
    dataset: FolderDataset,
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
