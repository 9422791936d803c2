"""Train a network in two steps (thesis section 4.3) and leave a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from szn_runtime.errors import TrainingError
from szn_train.batches import BYTES_PER_PIXEL, Batches
from szn_train.cell_sample import GridReader
from szn_train.checkpoint import (
    load_checkpoint,
    read_json,
    save_label_space,
    save_weights,
    write_json,
)
from szn_train.classes import ClassSplit
from szn_train.config import StepConfig, TrainConfig
from szn_train.datasets import Dataset, Selection, open_dataset, select
from szn_train.datasets.selection import check_held
from szn_train.embedding_refit import fit_embedding, most_cells
from szn_train.history import History
from szn_train.label_words import words_of
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.objectives import Objective, embedding_objective, seenmask_objective
from szn_train.pretrained import load_pretrained
from szn_train.processes import Processes
from szn_train.progress import Progress
from szn_train.run import Run, build_network, class_split, open_run, saved_label_space
from szn_train.seenmask_fit import MOST_CELLS, fit_seen, fit_seenmask
from szn_train.semantic import LabelSpace, label_space
from szn_train.step import TrainingStep
from szn_train.transforms import Transform, augmented, plain, preprocess_of
from szn_train.validation import Validation
from szn_train.workers import refuse_in_workers, worker_count

__all__ = ["train"]


def train(config: TrainConfig, folder: Path, *, progress: Progress, resume: bool = False) -> Run:
    """Run both steps, or go on where a run stopped.

    After the first step the first process fits the embedding head anew and then a seenmask of
    statistics, as configured; a run that was stopped meanwhile fits them again.

    Under `torchrun` or `accelerate launch` every process calls this with the same arguments and
    the same folder, which they must share; the first one writes and prints.

    With workers, the default on GPUs, a script calls this under `if __name__ == "__main__":`, since
    they import it.

    Args:
        config: What to train; when resuming, the run's own configuration.
        folder: Run folder, made if need be. It gets `config.json`, `selection.json`,
            `label_space.npz`, `checkpoint.pt`, `history.csv`, TensorBoard events, `best.pt` where
            a step may stop early and, once finished, `model.safetensors`.
        progress: Where lines and bars go.
        resume: Go on from the folder's checkpoint. Another number of workers stays the run's.

    Raises:
        InputError: If the data cannot be used.
        TrainingError: If there are too few labels, images or cells for a seenmask of statistics,
            the loss is not finite, memory or disk are full, the checkpoint is missing, damaged or
            of another configuration, or workers end, as where their import of a script calls this.
    """
    refuse_in_workers()
    processes = Processes(config.precision)
    if not processes.is_main:
        progress = Progress(quiet=True)
    if processes.count > 1:
        progress.line(f"{processes.count} processes, this one on {processes.device}")
    workers = worker_count(
        config.workers,
        device=processes.device.type,
        processes=processes.count,
        batch_bytes=_batch_bytes(config),
        progress=progress,
    )
    dataset = open_dataset(config, Path(config.data), config.train_split)
    split = class_split(config, dataset.class_names)
    if config.embeddings == "one-hot":
        config = replace(config, dim=len(split.labels))
    fits = config.fits_seenmask
    share = config.hold_share if fits else 0.0
    selection = select(dataset, split, hold_share=share, seed=config.seed)
    for line in selection.lines(split):
        progress.line(line)
    facts = {"config": _plain(config), "processes": processes.count}
    checkpoint = _checkpoint(folder, facts) if resume else None
    if checkpoint is None:
        space = label_space(
            split.labels,
            source=config.embeddings,
            dim=config.dim,
            words=words_of(split.labels, config.label_words, progress=progress),
            progress=progress,
        )
    else:  # to the bit, whatever has become of the word vectors
        space = saved_label_space(folder, config, split)
    if fits:
        check_held(selection, split, config.hold_share)
    if space.explained_variance is not None:
        progress.line(
            f"{space.source}: PCA to {config.dim} dimensions keeps "
            f"{100 * space.explained_variance:.1f} % of the variance"
        )
    validation = None
    trains = bool(split.train_unseen) and not fits  # a linear seenmask, in the second step
    if config.embedding_step.early_stop or (trains and config.seenmask_step.early_stop):
        held_out = open_dataset(config, Path(config.data), config.val_split)
        validation = Validation(config, held_out, split, space, processes)
    starts = "none" if checkpoint else config.weights
    torch.manual_seed(config.seed)
    network = build_network(config, split, weights="imagenet" if starts == "imagenet" else "none")
    if starts not in {"imagenet", "none"}:
        progress.line(load_pretrained(network, Path(starts)))
    if checkpoint is not None:
        try:
            network.load_state_dict(checkpoint["network"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise TrainingError(f"{folder}/checkpoint.pt does not fit its config.json") from error
        if processes.is_main:
            _keep_workers(folder, config)
    elif processes.is_main:
        _start_folder(folder, config, dataset, selection.facts(split), space)
    processes.wait()
    processes.placed(network)
    history = History(folder, checkpoint, facts=facts, writes=processes.is_main)
    with history, progress:
        steps = _Steps(
            config=config,
            dataset=dataset,
            split=split,
            network=network,
            processes=processes,
            history=history,
            progress=progress,
            validation=validation,
            workers=workers,
        )
        exposed = selection.seenmask_ids if config.exposure else selection.embedding_ids
        steps.embedding(exposed, space)
        steps.fit(selection, space)
        if trains:
            steps.seenmask(selection.seenmask_ids, selection.pixels)
    if processes.is_main:
        save_weights(folder / "model.safetensors", network.state_dict())
    processes.wait()
    return open_run(folder)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Steps:
    """Both steps over one network, and what they share."""

    config: TrainConfig
    dataset: Dataset
    split: ClassSplit
    network: SeenmaskZeroShotNetwork
    processes: Processes
    history: History
    progress: Progress
    validation: Validation | None
    workers: int

    def embedding(self, ids: tuple[str, ...], space: LabelSpace) -> None:
        """FCN and embedding head on some images."""
        network = self.network
        grid = self.processes.shared(nn.Sequential(network.backbone, network.embedding_head))
        objective = embedding_objective(self.config, self.split, space, grid, network.geometry)
        step = TrainingStep(
            "embedding",
            self.config.embedding_step,
            seed=self.config.seed,
            network=network,
            body=list(network.backbone.parameters()),
            heads=list(network.embedding_head.parameters()),
            processes=self.processes,
            shared=grid,
        )
        score = self.validation.embedding if self.validation else None
        self._run(step, self.config.embedding_step, ids, objective, score)

    def fit(self, selection: Selection, space: LabelSpace) -> None:
        """Embedding head anew and a seenmask of statistics on the frozen FCN, as configured.

        The first process fits, and only that one has the seenmask then.
        """
        config, network, split = self.config, self.network.eval(), self.split
        checkpoint = self.history.checkpoint
        # a later step's checkpoint holds the refitted head
        refits = config.refit_embedding and (not checkpoint or checkpoint["step"] == "embedding")
        if self.processes.is_main and (refits or config.fits_seenmask):
            grids = GridReader(network, self.dataset, split, self._unaugmented(), self.progress)
            wanted = [(selection.embedding_ids, most_cells(split))] if refits else []
            wanted += [(selection.seenmask_ids, MOST_CELLS)] if config.fits_seenmask else []
            cells = grids.seen_features(wanted, seed=config.seed)
            if refits:
                head = fit_embedding(
                    *cells.pop(0),
                    split,
                    space,
                    scale=config.similarity_scale,
                    seed=config.seed,
                )
                head.load_into(network.embedding_head)
                self.progress.line("embedding: head fitted anew on balanced cells")
            if config.fits_seenmask:
                # the sample is gone before images are read for the rest
                statistics = fit_seen(*cells.pop(), split, space, scale=config.similarity_scale)
                kept = set(selection.embedding_ids)
                found = fit_seenmask(
                    statistics,
                    grids,
                    split,
                    space,
                    taught_ids=[i for i in selection.seenmask_ids if i not in kept],
                    hold_ids=selection.hold_ids,
                    drop=config.seenmask_drop,
                    seed=config.seed,
                )
                network.seenmask_head = found.head.to(self.processes.device)
                self.progress.line(found.line())
        if refits:
            self.processes.broadcast(network.embedding_head)

    def seenmask(self, ids: tuple[str, ...], pixels: NDArray[np.int64]) -> None:
        """Seenmask head on the frozen FCN and some images; `pixels` a label balance the loss."""
        network = self.network
        # Frozen means frozen: batch-norm statistics and dropout too.
        network.requires_grad_(False)
        network.seenmask_head.requires_grad_(True)
        network.eval()
        head = self.processes.shared(network.seenmask_head)

        def grid(frames: Tensor) -> Tensor:
            with torch.no_grad(), self.processes.autocast():
                features = network.backbone(frames)
            scores: Tensor = head(features)
            return scores

        objective = seenmask_objective(self.config, self.split, pixels, grid, network.geometry)
        step = TrainingStep(
            "seenmask",
            self.config.seenmask_step,
            seed=self.config.seed,
            network=network,
            body=[],
            heads=list(network.seenmask_head.parameters()),
            processes=self.processes,
            shared=head,
        )
        score = self.validation.seenmask if self.validation else None
        self._run(step, self.config.seenmask_step, ids, objective, score)

    def _unaugmented(self) -> Transform:
        """What evaluation does to an image."""
        preprocess = preprocess_of(self.network.backbone.info, self.config.long_side)
        return plain(preprocess, resize=self.config.resize)

    def _run(
        self,
        step: TrainingStep,
        settings: StepConfig,
        ids: tuple[str, ...],
        objective: Objective,
        score: Callable[[nn.Module], float] | None,
    ) -> None:
        config = self.config
        transform = self._unaugmented()
        if settings.augment:
            preprocess = preprocess_of(self.network.backbone.info, config.long_side)
            transform = augmented(preprocess, config.crop_hw, resize=config.resize)
        with Batches(
            self.dataset,
            self.split,
            ids,
            transform=transform,
            batch_size=settings.batch_size,
            rank=self.processes.rank,
            processes=self.processes.count,
            workers=self.workers,
            pinned=self.processes.device.type == "cuda",
        ) as batches:
            step.run(
                batches,
                objective.loss,
                self.history,
                self.progress,
                weight=objective.weight,
                score=score,
            )


def _batch_bytes(config: TrainConfig) -> int | None:
    """What a batch takes at most in either step; None where frames keep their own size."""
    side = math.ceil(config.long_side / config.stride) * config.stride
    steps = [config.embedding_step, *([] if config.fits_seenmask else [config.seenmask_step])]
    if not config.resize and not all(step.augment for step in steps):
        return None
    frames = [math.prod(config.crop_hw) if step.augment else side**2 for step in steps]
    pixels = max(step.batch_size * each for step, each in zip(steps, frames, strict=True))
    return pixels * BYTES_PER_PIXEL


def _plain(config: TrainConfig) -> dict[str, Any]:
    """A configuration as JSON holds it."""
    values: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    return values


def _checkpoint(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint to go on from; None if the run was stopped before its first.

    Raises:
        TrainingError: If it is damaged or of another run, or the folder holds no run.
    """
    path = folder / "checkpoint.pt"
    for left in folder.glob(".*.pt.*.tmp"):  # of a process that was killed as it wrote
        left.unlink(missing_ok=True)
    if not path.is_file() and (folder / "config.json").is_file():
        return None
    state = load_checkpoint(path)
    was, is_now = dict(state.get("config", {})), dict(facts["config"])
    for values in (was, is_now):
        values.pop("data", None)  # a data set may move
        values.pop("workers", None)  # and where batches are prepared changes none
    odd = next((key for key in is_now if key in was and was[key] != is_now[key]), None)
    if odd is not None:
        raise TrainingError(
            f"{path} does not fit its config.json",
            got=f"{odd} {was[odd]}",
            expected=f"{odd} {is_now[odd]}",
            fix="resume with the configuration that it was written with",
        )
    if state.get("processes", facts["processes"]) != facts["processes"]:
        raise TrainingError(
            f"{path} was written by another number of processes",
            got=facts["processes"],
            expected=state["processes"],
            fix="resume with as many",
        )
    return state


def _keep_workers(folder: Path, config: TrainConfig) -> None:
    """Write the number of workers that a run is resumed with, for those who resume it next."""
    path = folder / "config.json"
    values = read_json(path)
    if values["config"].get("workers", "auto") != config.workers:
        values["config"]["workers"] = config.workers
        write_json(path, values)


def _start_folder(
    folder: Path,
    config: TrainConfig,
    dataset: Dataset,
    facts: dict[str, object],
    space: LabelSpace,
) -> None:
    """A run folder without results; those of an earlier run are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    old = ("config.json", "checkpoint.pt", "best.pt", "model.safetensors", "history.csv")
    for name in (*old, "eval-*.json", "eval-*.csv"):
        for path in folder.glob(name):
            path.unlink()
    names = list(dataset.class_names)
    write_json(folder / "config.json", {"config": config.to_dict(), "class_names": names})
    write_json(folder / "selection.json", facts)
    save_label_space(folder / "label_space.npz", space)
