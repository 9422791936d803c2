"""Runs of a plan: trained once, kept in folders, taken up again where they stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from run_lock import locked
from thesis_plan import Plan

from szn_runtime.errors import TrainingError
from szn_train.checkpoint import load_checkpoint, write_json
from szn_train.config import TrainConfig
from szn_train.datasets import open_dataset, select
from szn_train.evaluate import Evaluation, evaluate, saved_evaluation
from szn_train.progress import Progress
from szn_train.report import write_report
from szn_train.run import Run, class_split, open_run
from szn_train.trainer import train

__all__ = ["Runs"]


class Runs:
    """The runs of a plan in a folder, one sub-folder each.

    A sub-folder is named after the variant and a digest of the values that it was trained with,
    so other values make another run and the same values find the old one.

    Args:
        plan: What may be trained.
        data: Folder of the data set.
        folder: Where the runs are kept, made if need be.
        words: Source of the embeddings, if not the plan's.
        sizes: Values that all variants get.
        progress: Where lines and bars go.
    """

    def __init__(
        self,
        plan: Plan,
        data: Path,
        folder: Path,
        *,
        words: str | None = None,
        sizes: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self._plan, self._data, self._folder = plan, data, folder
        self._words, self._sizes, self._progress = words, sizes, progress

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder.

        Raises:
            InputError: On entering, if one is there already.
        """
        return locked(self._folder)

    def config(self, variant: str) -> TrainConfig:
        """Configuration of a variant.

        Raises:
            UsageError: If a value does not fit.
            InputError: If the data cannot be used.
        """
        values = self._plan.values(variant, words=self._words, sizes=self._sizes)
        config = TrainConfig.from_dict({**values, "data": str(self._data)})
        if not self._plan.same_images:
            return config
        # only what chooses the images, so that few variants read them all
        images, of_embedding, of_seenmask = _images(
            TrainConfig(
                data=config.data,
                dataset=config.dataset,
                drop_void=config.drop_void,
                train_split=config.train_split,
                void=config.void,
                train_unseen=config.train_unseen,
                unseen=config.unseen,
            )
        )
        values = dict(values)
        for step, kept in (("embedding_step", of_embedding), ("seenmask_step", of_seenmask)):
            epochs = max(1, round(getattr(config, step).epochs * images / kept))
            values[step] = {**values.get(step, {}), "epochs": epochs}
        return TrainConfig.from_dict({**values, "data": str(self._data)})

    def folder(self, variant: str) -> Path:
        """Run folder of a variant."""
        # what a linear seenmask does not know of makes no other run, nor do later keys that are off
        others = {"data", "seenmask", "hold_share", "seenmask_drop", "workers"}
        values = {k: v for k, v in self.config(variant).to_dict().items() if k not in others}
        for key in ("label_words", "refit_embedding"):
            if not values[key]:
                del values[key]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        return self._folder / f"{variant}-{digest}"

    def finished(self, variant: str) -> Evaluation | None:
        """The evaluation of a variant that an earlier start left, or None."""
        try:
            return saved_evaluation(self.folder(variant), self.config(variant).val_split)
        except TrainingError:  # not there, or not whole
            return None

    def run(self, variant: str) -> Run:
        """The run of a variant, trained as far as it is not yet.

        Raises:
            InputError: If the data cannot be used.
            TrainingError: If training fails.
        """
        folder, config = self.folder(variant), self.config(variant)
        try:
            return open_run(folder)
        except TrainingError:  # not finished
            pass
        resume = _has_checkpoint(folder)
        self._progress.line(f"{'going on with' if resume else 'training'} {folder.name}")
        started = time.perf_counter()
        run = train(config, folder, progress=self._progress, resume=resume)
        minutes = (time.perf_counter() - started) / 60
        write_json(
            folder / "variant.json",
            {"variant": variant, "minutes": None if resume else minutes, "resumed": resume},
        )
        return run

    def evaluation(self, variant: str) -> Evaluation:
        """The evaluation of a variant on its validation split, which its folder keeps.

        Raises:
            InputError: If the data cannot be used.
            TrainingError: If training fails.
        """
        found = self.finished(variant)
        if found is None:
            run = self.run(variant)
            found = evaluate(run, progress=self._progress)
            write_report(found, run.folder, run.config.val_split)
        return found


def _has_checkpoint(folder: Path) -> bool:
    """Whether a run can be taken up; one whose checkpoint is damaged starts anew."""
    try:
        load_checkpoint(folder / "checkpoint.pt")
    except TrainingError:
        return False
    return (folder / "config.json").is_file()


@cache
def _images(config: TrainConfig) -> tuple[int, int, int]:
    """Images of the training split, and of them those for the embedding and for the seenmask."""
    dataset = open_dataset(config, Path(config.data), config.train_split)
    chosen = select(dataset, class_split(config, dataset.class_names))
    return len(dataset.ids), len(chosen.embedding_ids), len(chosen.seenmask_ids)
