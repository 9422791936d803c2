"""Train a network in two steps (thesis section 4.3) and leave a run folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from szn_runtime.errors import TrainingError
from szn_train.batches import BYTES_PER_PIXEL
from szn_train.checkpoint import (
    save_weights,
)
from szn_train.config import TrainConfig
from szn_train.datasets import open_dataset, select
from szn_train.datasets.selection import check_held
from szn_train.history import History
from szn_train.label_words import words_of
from szn_train.pretrained import load_pretrained
from szn_train.processes import Processes
from szn_train.progress import Progress
from szn_train.run import Run, build_network, class_split, open_run, saved_label_space
from szn_train.run_folder import checkpoint_to_resume, keep_workers, plain_values, start_folder
from szn_train.semantic import label_space
from szn_train.two_steps import TwoSteps
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
    facts = {"config": plain_values(config), "processes": processes.count}
    checkpoint = checkpoint_to_resume(folder, facts) if resume else None
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
            keep_workers(folder, config)
    elif processes.is_main:
        start_folder(folder, config, dataset, selection.facts(split), space)
    processes.wait()
    processes.placed(network)
    history = History(folder, checkpoint, facts=facts, writes=processes.is_main)
    with history, progress:
        steps = TwoSteps(
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


def _batch_bytes(config: TrainConfig) -> int | None:
    """What a batch takes at most in either step; None where frames keep their own size."""
    side = math.ceil(config.long_side / config.stride) * config.stride
    steps = [config.embedding_step, *([] if config.fits_seenmask else [config.seenmask_step])]
    if not config.resize and not all(step.augment for step in steps):
        return None
    frames = [math.prod(config.crop_hw) if step.augment else side**2 for step in steps]
    pixels = max(step.batch_size * each for step, each in zip(steps, frames, strict=True))
    return pixels * BYTES_PER_PIXEL
