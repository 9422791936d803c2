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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szn_runtime.errors import InputError, TrainingError
from szn_train.cells import node_labels
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
_MOST_BYTES = 1 << 28  # of sampled features as float32
_MOST_UNSEEN = 200_000
"""Cells of each label of train_unseen in training images; more are a sample."""

Array = NDArray[Any]


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
    grids = _GridReader(network, dataset, split, transform, progress)
    seen_labels = space.unit[split.indices(split.train_seen)]
    channels = network.backbone.info.channels
    quota = max(1, min(_MOST_CELLS, _MOST_BYTES // (4 * channels)) // len(seen_labels))
    sample = _Sample(split.indices(split.train_seen), quota, seed)
    for cells in grids.read(train_ids, "seenmask: what is known"):
        sample.add(cells.features, cells.labels)
    features, labels = sample.taken()
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
        _table(grids.read(ids, f"seenmask: {what}"), statistics, seen_labels, wanted, most)
        for ids, what, wanted, most in (
            (taught_ids, "train_unseen", unseen, _Thinning(_MOST_UNSEEN, seed)),
            (hold_ids, "held out", np.concatenate([seen, unseen]), None),
        )
    ]
    return fit_table(statistics, tables[0], tables[1], split, drop=drop)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cells:
    """All nodes of an image: features (P, C), embedding (P, j) float32 and labels (P,) uint8."""

    features: NDArray[np.float32]
    embedding: NDArray[np.float32]
    labels: NDArray[np.uint8]


class _GridReader:
    """The frozen network on images, as cells."""

    def __init__(
        self,
        network: SeenmaskZeroShotNetwork,
        dataset: Dataset,
        split: ClassSplit,
        transform: Transform,
        progress: Progress,
    ) -> None:
        self._network, self._dataset, self._transform = network, dataset, transform
        self._lookup, self._progress = split.mask_lookup(), progress
        self._device = next(network.parameters()).device

    def read(self, ids: Sequence[str], what: str) -> Iterator[_Cells]:
        """Cells of one image after the other, with a bar."""
        network, info = self._network, self._network.backbone.info
        with self._progress.task(what, len(ids)) as task:
            for image_id in ids:
                image, mask = self._dataset.pair(image_id)
                frame, target = self._transform(image, self._lookup[mask])
                frames = frame[None].to(self._device, memory_format=torch.channels_last)
                with torch.inference_mode(), memory_for(f"the grid of {image_id}"):
                    features = network.backbone(frames)
                    embedding = network.embedding_head(features)
                h, w = features.shape[2:]
                labels = node_labels(
                    target.numpy().astype(np.uint8), (h, w), info.stride, info.node_offset
                )
                rows = [
                    grid[0].float().flatten(1).T.cpu().numpy() for grid in (features, embedding)
                ]  # (C, h, w) -> (h w, C)
                yield _Cells(features=rows[0], embedding=rows[1], labels=labels.ravel())
                task.advance()


class _Sample:
    """At most so many cells of each label, every one as likely, whatever the order and number."""

    def __init__(self, labels: Sequence[int] | NDArray[np.intp], quota: int, seed: int) -> None:
        self._quota, self._random = quota, np.random.default_rng(seed)
        self._kept: dict[int, list[tuple[Array, Array]]] = {int(label): [] for label in labels}

    def add(self, features: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        """Take cells in; those with the smallest of random numbers stay."""
        keys = self._random.random(len(labels))
        for label, kept in self._kept.items():
            rows = labels == label
            if not rows.any():
                continue
            kept.append((keys[rows], features[rows].astype(np.float16)))
            if sum(len(part) for part, _ in kept) > 2 * self._quota:
                kept[:] = [self._smallest(kept)]

    def taken(self) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Features (P, C) and labels (P,)."""
        for kept in filter(None, self._kept.values()):
            kept[:] = [self._smallest(kept)]  # in turn, so that what is left out goes at once
        parts = [(kept[0][1], label) for label, kept in self._kept.items() if kept]
        if not parts:
            return np.zeros((0, 0), np.float16), np.zeros(0, np.uint8)
        labels = [np.full(len(features), label, np.uint8) for features, label in parts]
        return np.concatenate([features for features, _ in parts]), np.concatenate(labels)

    def _smallest(self, kept: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        keys = np.concatenate([part for part, _ in kept])
        rows = np.sort(np.argsort(keys, kind="stable")[: self._quota])
        return keys[rows], np.concatenate([part for _, part in kept])[rows]


class _Thinning:
    """Rows of a growing table that stay: at most so many of each label, every one as likely.

    Up to that number all of them stay; rows keep their order.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most, self._random = most, np.random.default_rng(seed)

    def keys(self, count: int) -> NDArray[np.float64]:
        """Random numbers (count,) of new rows."""
        return self._random.random(count)

    def __call__(self, columns: tuple[Array, ...]) -> tuple[Array, ...]:
        """Columns (P, ...), the last ones labels (P,) and `keys` (P,), without the largest keys."""
        labels, keys = columns[-2:]
        stays = np.ones(len(labels), np.bool_)
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            if count > self.most:
                rows = np.flatnonzero(labels == label)
                stays[rows[np.argsort(keys[rows], kind="stable")[self.most :]]] = False
        return columns if stays.all() else tuple(column[stays] for column in columns)


def _table(
    cells: Iterator[_Cells],
    statistics: SeenStatistics,
    seen_labels: NDArray[np.float32],
    wanted: NDArray[np.intp],
    thinning: _Thinning | None = None,
) -> CellTable:
    """The wanted labels' cells, as statistics; all of them, or what a thinning leaves."""
    parts: list[tuple[Array, ...]] = []
    is_wanted = np.zeros(VOID + 1, np.bool_)
    is_wanted[wanted] = True
    added, limit = 0, 0 if thinning is None else thinning.most * len(wanted)
    for number, image in enumerate(cells):
        rows = is_wanted[image.labels]
        embedding, labels = image.embedding[rows], image.labels[rows]
        table = statistics.of_cells(image.features[rows], embedding)
        nearest = (embedding @ seen_labels.T).argmax(axis=1)
        keys = np.zeros(len(labels)) if thinning is None else thinning.keys(len(labels))
        parts.append((table, nearest, np.full(len(labels), number), labels, keys))
        added += len(labels)
        if thinning is not None and added > limit:  # the table is at most twice the limit
            parts, added = [thinning(_joined(parts))], 0
    if not parts:
        raise InputError("there is no image to fit the seenmask on")
    columns = _joined(parts) if thinning is None else thinning(_joined(parts))
    return CellTable(
        statistics=columns[0], nearest=columns[1], images=columns[2], labels=columns[3]
    )


def _joined(parts: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Columns of the parts' rows."""
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
