"""Every figure of an evaluated run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError, MissingDependencyError
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import Dataset
from szn_train.decisions import Predictor
from szn_train.evaluate import Evaluation
from szn_train.figures.bars import bars_figure
from szn_train.figures.confusion import confusion_figure
from szn_train.figures.curves import history_figure, line_figure
from szn_train.figures.predictions import Picture, predictions_figure
from szn_train.metrics import class_scores
from szn_train.run import Run
from szn_train.variance import explained_variance
from szn_train.word_vectors import load_word_vectors

__all__ = ["draw_evaluation", "draw_predictions", "file_name"]


def draw_evaluation(
    run: Run, evaluation: Evaluation, dataset: Dataset, folder: Path, *, images: int = 6
) -> list[Path]:
    """Draw confusion matrices, IoU of each class, curves and some images of a run.

    The curves are those of the training and of the words' explained variance.

    Args:
        run: The run.
        evaluation: Its evaluation on the data set.
        dataset: What was evaluated.
        folder: Where the files go, made if need be.
        images: Number of images to draw; those with classes of U come first.

    Returns:
        The files written.
    """
    sizes = evaluation.split.sizes
    paths: list[Path] = []
    for model, confusion in evaluation.confusions.items():
        paths += confusion_figure(
            confusion,
            run.split,
            folder / f"confusion-{file_name(model)}",
            title=f"{model} {sizes}, {dataset.split}",
        )
    iou = {
        model: dict(zip(run.split.labels, class_scores(confusion).iou.tolist(), strict=True))
        for model, confusion in evaluation.confusions.items()
    }
    paths += bars_figure(
        iou, folder / "class-iou", title=f"IoU of each class {sizes}", y="IoU, percent",
        numbers=False,
    )  # fmt: skip
    history = run.folder / "history.csv"
    if history.is_file():  # a run folder that was copied for its weights may lack it
        paths += history_figure(history, folder / "history", title=f"training {sizes}")
    paths += _draw_variance(run, folder)
    return paths + draw_predictions(run, dataset, folder, images=images)


def _draw_variance(run: Run, folder: Path) -> list[Path]:
    """Explained variance over j (thesis table 1), where the labels came from words by a PCA."""
    if run.space.basis is None:
        return []
    try:
        words = load_word_vectors(run.config.embeddings)
    except (InputError, MissingDependencyError):  # a run may outlive the file of its words
        return []
    percent = (100 * explained_variance(words.vectors)).tolist()
    chosen = run.config.dim
    return line_figure(
        {
            words.source: list(enumerate(percent, start=1)),
            f"this run: j = {chosen}": [(chosen, percent[chosen - 1])],
        },
        folder / "variance",
        title="explained variance",
        x="j",
        y="percent of the variance",
    )


def draw_predictions(
    run: Run, dataset: Dataset, folder: Path, *, images: int, model: str | None = None
) -> list[Path]:
    """Draw the two-row figures of some images of a data set.

    Args:
        run: The run.
        dataset: Where the images come from.
        folder: Where the files go.
        images: Number of images; those with classes of U come first, then of train_unseen.
        model: Name of the model; by default SZN, or the baseline where it is the only one.

    Returns:
        The files written.
    """
    predict = Predictor(run)
    chosen = model or ("SZN" if "SZN" in predict.models else predict.models[0])
    lookup = run.split.mask_lookup()
    is_seen = run.split.is_member(run.split.train_seen)
    paths: list[Path] = []
    for image_id in _first(dataset, run.split, images):
        image, mask = dataset.pair(image_id)
        truth = lookup[mask]
        maps, seenmask = predict(image, truth)
        if chosen == "SZN-PS":
            seenmask = is_seen[np.where(truth == VOID, 0, truth)]
        elif chosen != "SZN":
            seenmask = is_seen[maps[chosen]]  # without a seenmask the label says it
        paths += predictions_figure(
            Picture(
                name=image_id,
                image=image,
                truth=truth,
                prediction=maps[chosen],
                seenmask=seenmask,
            ),
            run.split,
            folder / f"{file_name(chosen)}-{file_name(image_id)}",
            title=f"{chosen} {run.split.sizes}, {image_id}",
        )
    return paths


def file_name(text: str) -> str:
    """A name as a part of a file name: `FCN-JE (all labels)` to `fcn-je-all-labels`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"


def _first(dataset: Dataset, split: ClassSplit, count: int) -> list[str]:
    """Image ids with the most pixels of U, then of train_unseen, then in the data set's order."""
    lookup = split.mask_lookup()
    unseen, taught = split.is_member(split.unseen), split.is_member(split.train_unseen)

    def rank(image_id: str) -> tuple[float, float]:
        labels: NDArray[np.uint8] = lookup[dataset.pair(image_id)[1]]
        known = labels[labels != VOID]
        if not known.size:
            return 0.0, 0.0
        return -float(unseen[known].mean()), -float(taught[known].mean())

    # A sort of the ranks alone keeps the data set's order among equals.
    return sorted(dataset.ids, key=rank)[:count]
