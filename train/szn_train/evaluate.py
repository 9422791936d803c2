"""Confusion matrices and scores of a run's models on a split (thesis chapter 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError, TrainingError
from szn_train.checkpoint import read_json
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import Dataset, open_dataset
from szn_train.decisions import Predictor
from szn_train.metrics import (
    Mode,
    Scores,
    class_scores,
    confusion_matrix,
    harmonic_mean,
    scores,
)
from szn_train.mistakes import role
from szn_train.progress import Progress
from szn_train.run import Run, class_split, saved_config

__all__ = ["GROUPS", "MODES", "Evaluation", "evaluate", "open_split", "saved_evaluation"]

GROUPS = ("overall", "seen", "train_seen", "unseen")
"""Subsets of the labels that are scored: `seen` is train_seen and train_unseen as in the thesis,
`unseen` is U."""

MODES: tuple[Mode, ...] = ("standard", "thesis")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Confusion matrices of a run's models on a split.

    Attributes:
        split: The classes.
        images: Number of images.
        confusions: Model name (see `szn_train.decisions`) to (labels, labels), rows truth.
        seenmask_accuracy: Percent of labelled pixels whose seenmask is right, or None.
    """

    split: ClassSplit
    images: int
    confusions: dict[str, NDArray[np.int64]]
    seenmask_accuracy: float | None

    def scores(self, model: str, group: str, mode: Mode = "standard") -> Scores:
        """Metrics of one model over one of `GROUPS`."""
        members = {
            "overall": self.split.labels,
            "seen": self.split.train_seen + self.split.train_unseen,
            "train_seen": self.split.train_seen,
            "unseen": self.split.unseen,
        }[group]
        return self.scores_of(model, members, mode)

    def scores_of(self, model: str, labels: tuple[str, ...], mode: Mode = "standard") -> Scores:
        """Metrics of one model over some labels."""
        return scores(self.confusions[model], self.split.is_member(labels), mode)

    def harmonic_miou(self, model: str, mode: Mode = "standard") -> float:
        """Harmonic mean of train_seen and unseen mIoU."""
        return harmonic_mean(
            self.scores(model, "train_seen", mode).miou, self.scores(model, "unseen", mode).miou
        )

    def to_dict(self) -> dict[str, Any]:
        """Every number and the confusion matrices, as JSON holds them."""
        return {
            "tuple": list(self.split.sizes),
            "labels": list(self.split.labels),
            "images": self.images,
            "seenmask_accuracy": self.seenmask_accuracy,
            "scores": {
                mode: {
                    model: {
                        **{g: self.scores(model, g, mode).to_dict() for g in GROUPS},
                        "harmonic_miou": self.harmonic_miou(model, mode),
                    }
                    for model in self.confusions
                }
                for mode in MODES
            },
            "classes": self.class_rows(),
            "confusions": {model: matrix.tolist() for model, matrix in self.confusions.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], split: ClassSplit) -> Evaluation:
        """What `to_dict` gave, for the split that it was made with.

        Raises:
            TrainingError: If the values are not of an evaluation of that split.
        """
        size = len(split.labels)
        try:
            confusions = {
                str(model): np.asarray(matrix, dtype=np.int64)
                for model, matrix in values["confusions"].items()
            }
            fits = tuple(values["labels"]) == split.labels and all(
                matrix.shape == (size, size) for matrix in confusions.values()
            )
            if fits:
                accuracy = values["seenmask_accuracy"]
                return cls(
                    split=split,
                    images=int(values["images"]),
                    confusions=confusions,
                    seenmask_accuracy=None if accuracy is None else float(accuracy),
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(f"the evaluation is damaged ({type(error).__name__})") from error
        raise TrainingError("the evaluation is of other labels than the run")

    def rows(self) -> list[dict[str, str | float]]:
        """The scores as a flat table."""
        return [
            {
                "mode": mode,
                "model": model,
                "group": group,
                **self.scores(model, group, mode).to_dict(),
                "harmonic_miou": self.harmonic_miou(model, mode),
            }
            for mode in MODES
            for model in self.confusions
            for group in GROUPS
        ]

    def class_rows(self) -> list[dict[str, str | int | float]]:
        """Scores of each class as a flat table, in percent, from the full confusion matrices."""
        rows: list[dict[str, str | int | float]] = []
        for model, confusion in self.confusions.items():
            found = class_scores(confusion)
            for index, label in enumerate(self.split.labels):
                rows.append(
                    {
                        "model": model,
                        "class": label,
                        "set": role(self.split, label),
                        "pixels": int(found.pixels[index]),
                        "iou": float(found.iou[index]),
                        "recall": float(found.recall[index]),
                        "precision": float(found.precision[index]),
                    }
                )
        return rows


def evaluate(
    run: Run, *, split_name: str | None = None, data: Path | None = None, progress: Progress
) -> Evaluation:
    """Segment every image of a split and compare at the masks' own pixels.

    Args:
        run: The finished run.
        split_name: Split of the data set; by default the run's validation split.
        data: Folder of the data set; by default the run's.
        progress: Where the bar goes.

    Raises:
        InputError: If the data cannot be used or has other classes than the run.
    """
    dataset = open_split(run, split_name=split_name, data=data)
    split, lookup = run.split, run.split.mask_lookup()
    predict = Predictor(run)
    confusions = {m: np.zeros((len(split.labels),) * 2, dtype=np.int64) for m in predict.models}
    right = known = 0
    is_seen = split.is_member(split.train_seen)
    with progress, progress.task(f"evaluate {dataset.split}", len(dataset.ids)) as task:
        for image_id in dataset.ids:
            image, mask = dataset.pair(image_id)
            truth = lookup[mask]
            maps, seenmask = predict(image, truth)
            for model in predict.models:
                confusions[model] += confusion_matrix(truth, maps[model], len(split.labels))
            labelled = truth != VOID
            right += int((seenmask == is_seen[truth % len(is_seen)])[labelled].sum())
            known += int(labelled.sum())
            task.advance()
    return Evaluation(
        split=split,
        images=len(dataset.ids),
        confusions=confusions,
        seenmask_accuracy=100 * right / max(known, 1) if "SZN" in predict.models else None,
    )


def open_split(run: Run, *, split_name: str | None = None, data: Path | None = None) -> Dataset:
    """The data that a run is evaluated on.

    Args:
        run: The run.
        split_name: Split of the data set; by default the run's validation split.
        data: Folder of the data set; by default the run's.

    Raises:
        InputError: If the data cannot be used or has other classes than the run.
    """
    dataset = open_dataset(
        run.config, data or Path(run.config.data), split_name or run.config.val_split
    )
    if dataset.class_names != run.split.names:
        odd = sorted(set(dataset.class_names) ^ set(run.split.names))
        raise InputError(
            f"data set {dataset.root} has other classes than the run",
            got=f"{', '.join(odd[:5])} in one of them" if odd else "another order",
            fix="evaluate on a data set with the classes.txt of the training",
        )
    return dataset


def saved_evaluation(folder: Path, split_name: str) -> Evaluation:
    """The evaluation that `szn-train` or `szn-eval` left in a run's folder.

    Raises:
        TrainingError: If there is none, or it is damaged.
    """
    config, class_names = saved_config(folder)
    values = read_json(folder / f"eval-{split_name}.json")
    return Evaluation.from_dict(values, class_split(config, class_names))
