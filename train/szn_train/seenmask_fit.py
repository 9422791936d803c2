"""A seenmask of statistics fitted on a frozen network, without gradients, and its operating point.

1. Seen cells of the training images, a bounded sample of each label, give the `SeenStatistics`.
2. A logistic regression on those tells seen cells of held-out images from cells of train_unseen.
   Images that the network was trained on look too well known, so that they give no seen cells.
3. A bias moves the operating point as far towards unseen as it costs at most so many points of
   train_seen mIoU on the held-out cells, whose logits are of regressions without their image.

No class of U takes part: no image of either kind shows one. `benchmarks/ZERO_SHOT.md` has the
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import TrainingError
from szn_train.cell_sample import Cells, CellSample, GridReader, affordable_cells
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import Dataset
from szn_train.memory import memory_for
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.seen_statistics import COMPONENTS, SeenStatistics, fit_statistics
from szn_train.seenmask_regression import LINEAR_INSTEAD, CellTable, SeenmaskFit, fit_table
from szn_train.semantic import LabelSpace
from szn_train.transforms import Transform

__all__ = ["fit_seenmask"]

_MOST_CELLS = 40_000
_MOST_UNSEEN = 200_000
"""Cells of each label of train_unseen in training images; more are a sample."""


def fit_seenmask(
    network: SeenmaskZeroShotNetwork,
    dataset: Dataset,
    split: ClassSplit,
    space: LabelSpace,
    *,
    train_ids: Sequence[str],
    taught_ids: Sequence[str],
    hold_ids: Sequence[str],
    transform: Transform,
    scale: float,
    drop: float,
    seed: int,
    progress: Progress,
) -> SeenmaskFit:
    """Fit a seenmask on a trained network, which is not changed.

    Training and held-out images pass the network once, those of train_unseen for training twice.

    Beside the network memory is bounded. The sample of seen features takes 128 MiB as float16, two
    to four times that while images are read. Fitting the statistics to it takes twice 256 MiB
    more at first; then once and, of C channels, about 45 C^2 bytes for their covariance, its
    eigenvectors in float64 and the solver: 0.75 GB with VGG16's 4096, 75 MB with EfficientNet-
    Lite0's 1280. Other cells are about 60 bytes each: at most 200,000 of each label of
    train_unseen, about twice as many while images are read, and all of the held-out images, whose
    number `hold_out` bounds.

    Args:
        network: In evaluation mode, on the device that computes.
        dataset: Where the images come from.
        split: Its classes.
        space: Their embeddings.
        train_ids: Images for training, without a class of U.
        taught_ids: Those of them that show train_unseen.
        hold_ids: Images without a class of U that it was not trained on.
        transform: Without augmentation.
        scale: Factor on cosines, as in training.
        drop: Points of train_seen mIoU that the operating point may cost.
        seed: Of the sample.
        progress: Where bars go.

    Raises:
        TrainingError: If there are too few cells or too little memory.
        InputError: If an image cannot be read.
    """
    grids = GridReader(network, dataset, split, transform, progress)
    seen_labels = space.unit[split.indices(split.train_seen)]
    channels = network.backbone.info.channels
    quota = affordable_cells(_MOST_CELLS, channels=channels, labels=len(seen_labels))
    sample = CellSample(split.indices(split.train_seen), quota, seed)
    for cells in grids.read(train_ids, "seenmask: what is known"):
        sample.add(cells.labels, cells.features.astype(np.float16))
    labels, (features,) = sample.taken()
    del sample
    if not len(labels):
        raise TrainingError("no cell of the grid shows a class of train_seen", fix=LINEAR_INSTEAD)
    with memory_for("the statistics of the seenmask"):
        statistics = fit_statistics(
            features, labels, seen_labels, scale=scale, components=min(COMPONENTS, channels)
        )
    del features, labels
    unseen, seen = split.indices(split.train_unseen), split.indices(split.train_seen)
    tables = [
        _table(grids.read(ids, f"seenmask: {what}"), statistics, seen_labels, wanted, most, seed)
        for ids, what, wanted, most in (
            (taught_ids, "train_unseen", unseen, _MOST_UNSEEN),
            (hold_ids, "held out", np.concatenate([seen, unseen]), None),
        )
    ]
    return fit_table(statistics, tables[0], tables[1], split, drop=drop)


def _table(
    cells: Iterator[Cells],
    statistics: SeenStatistics,
    seen_labels: NDArray[np.float32],
    wanted: NDArray[np.intp],
    most: int | None = None,
    seed: int = 0,
) -> CellTable:
    """The wanted labels' cells, as statistics and in order; all, or a sample of most a label."""
    is_wanted = np.zeros(VOID + 1, np.bool_)
    is_wanted[wanted] = True
    sample, ends = CellSample(wanted, most, seed), [0]  # of the images' rows
    for image in cells:
        rows = is_wanted[image.labels]
        embedding, labels = image.embedding[rows], image.labels[rows]
        sample.add(
            labels,
            statistics.of_cells(image.features[rows], embedding),
            (embedding @ seen_labels.T).argmax(axis=1),
            np.arange(len(labels)) + ends[-1],
        )
        ends.append(ends[-1] + len(labels))
    labels, (table, nearest, places) = sample.taken()
    order = np.argsort(places)
    return CellTable(
        statistics=table[order],
        nearest=nearest[order],
        images=np.searchsorted(ends[1:], places[order], side="right"),
        labels=labels[order],
    )
