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
from szn_train.cell_sample import Cells, CellSample, GridReader
from szn_train.classes import VOID, ClassSplit
from szn_train.memory import memory_for
from szn_train.seen_statistics import COMPONENTS, SeenStatistics, fit_statistics
from szn_train.seenmask_regression import LINEAR_INSTEAD, CellTable, SeenmaskFit, fit_table
from szn_train.semantic import LabelSpace

__all__ = ["MOST_CELLS", "fit_seen", "fit_seenmask"]

MOST_CELLS = 40_000
"""Of train_seen that the statistics are fitted on."""
_MOST_UNSEEN = 200_000
"""Cells of each label of train_unseen in training images; more are a sample."""


def fit_seen(
    labels: NDArray[np.uint8],
    features: NDArray[np.floating],
    split: ClassSplit,
    space: LabelSpace,
    *,
    scale: float,
) -> SeenStatistics:
    """Fit the statistics on seen cells, which are not needed after that.

    Beside the cells that takes twice 256 MiB at first, of cells that `GridReader` sampled; then
    once and, of C channels, about 45 C^2 bytes for their covariance, its eigenvectors in float64
    and the solver: 0.75 GB with VGG16's 4096, 75 MB with EfficientNet-Lite0's 1280.

    Args:
        labels: (P,) of cells of train_seen, in images for training (`GridReader.seen_features`).
        features: (P, C) of them.
        split: The classes.
        space: Their embeddings.
        scale: Factor on cosines, as in training.

    Raises:
        TrainingError: If there is no cell or too little memory.
    """
    if not len(labels):
        raise TrainingError("no cell of the grid shows a class of train_seen", fix=LINEAR_INSTEAD)
    with memory_for("the statistics of the seenmask"):
        return fit_statistics(
            features,
            labels,
            space.unit[split.indices(split.train_seen)],
            scale=scale,
            components=min(COMPONENTS, features.shape[1]),
        )


def fit_seenmask(
    statistics: SeenStatistics,
    grids: GridReader,
    split: ClassSplit,
    space: LabelSpace,
    *,
    taught_ids: Sequence[str],
    hold_ids: Sequence[str],
    drop: float,
    seed: int,
) -> SeenmaskFit:
    """Fit a seenmask on a trained network, which is not changed.

    The held-out images pass the network once. So do those of train_unseen, which have passed for
    the seen cells as well: the statistics come of all of those, and cells without statistics would
    have to be kept with all their features.

    Beside the network memory is bounded: cells are about 60 bytes each, at most 200,000 of each
    label of train_unseen, about twice as many while images are read, and all of the held-out
    images, whose number `hold_out` bounds.

    Args:
        statistics: Of the seen cells (`fit_seen`).
        grids: Of the network.
        split: The classes.
        space: Their embeddings.
        taught_ids: Images for training that show train_unseen and no class of U.
        hold_ids: Images without a class of U that the network was not trained on.
        drop: Points of train_seen mIoU that the operating point may cost.
        seed: Of the sample of train_unseen.

    Raises:
        TrainingError: If there are too few cells or too little memory.
        InputError: If an image cannot be read.
    """
    unseen, seen = split.indices(split.train_unseen), split.indices(split.train_seen)
    tables = [
        _table(grids.read(ids, what), statistics, space.unit[seen], wanted, most, seed)
        for ids, what, wanted, most in (
            (taught_ids, "cells of train_unseen", unseen, _MOST_UNSEEN),
            (hold_ids, "cells of held-out images", np.concatenate([seen, unseen]), None),
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
