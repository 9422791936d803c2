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
from szn_train.calibration import class_balance, lost_share, seen_bias
from szn_train.cells import node_labels
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import Dataset
from szn_train.logistic import Logistic, fit_logistic
from szn_train.memory import memory_for
from szn_train.metrics import confusion_matrix, scores
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.seen_statistics import COMPONENTS, SeenStatistics, fit_statistics
from szn_train.seenmask_head import StatisticalSeenmask
from szn_train.semantic import LabelSpace
from szn_train.transforms import Transform

__all__ = [
    "CellTable", "SeenCells", "SeenmaskFit", "fit_seenmask", "fit_sides", "fit_table",
]  # fmt: skip

_FOLDS = 3
_MOST_CELLS = 40_000
_MOST_BYTES = 1 << 28  # of sampled features as float32
_SHARES = (0.4, 0.3, 0.25, 0.2, *np.arange(0.15, 0.0, -0.01).tolist(), 0.005)
_FIX = "give --seenmask linear, or more images of these classes"

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class CellTable:
    """Cells with what the regression is fitted on.

    Attributes:
        statistics: (P, 8) float32.
        nearest: (P,) position in train_seen of the label that is most similar.
        labels: (P,) uint8 label index, never `VOID`.
        images: (P,) number of the cell's image.
    """

    statistics: NDArray[np.float32]
    nearest: NDArray[np.int64]
    labels: NDArray[np.uint8]
    images: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenCells:
    """Held-out cells of train_seen, on which an operating point is chosen.

    Args:
        labels: (P,) position in train_seen of their label.
        nearest: (P,) position of the label that is most similar.
        count: Labels of train_seen.
    """

    labels: NDArray[np.int64]
    nearest: NDArray[np.int64]
    count: int

    def miou(self, logits: Array) -> float:
        """Train_seen mIoU in percent, those called unseen being wrong."""
        called = np.where(logits > 0, self.nearest, self.count)
        confusion = confusion_matrix(self.labels, called, self.count + 1)
        return scores(confusion, np.arange(self.count + 1) < self.count).miou

    @property
    def perfect(self) -> float:
        """Train_seen mIoU in percent if no cell is called unseen: FCN-JE's."""
        return self.miou(np.ones(len(self.labels)))

    def bias(self, logits: Array, drop: float) -> float:
        """The least bias on logits (P,) that costs at most `drop` points of mIoU."""
        least = self.perfect - drop
        for share in _SHARES:
            bias = seen_bias(logits, share)
            if self.miou(logits + bias) >= least:
                return bias
        return seen_bias(logits, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenmaskFit:
    """What a fit gave.

    Attributes:
        head: The seenmask.
        lost: Share of the held-out seen cells that it calls unseen.
        miou: Train_seen mIoU on them, in percent.
        fcn_je_miou: The same if nothing were called unseen.
        found: Share of the cells of train_unseen that it calls unseen; it was fitted on them.
    """

    head: StatisticalSeenmask
    lost: float
    miou: float
    fcn_je_miou: float
    found: float

    def line(self) -> str:
        """For the console."""
        return (
            f"seenmask: calls {100 * self.lost:.1f} % of held-out seen cells unseen and "
            f"{100 * self.found:.1f} % of those of train_unseen; "
            f"mIoU of train_seen {self.fcn_je_miou:.1f} to {self.miou:.1f}"
        )


def fit_sides(
    inputs: NDArray[np.floating],
    labels: NDArray[np.integer],
    seen: NDArray[np.bool_],
    *,
    l2: float = 1e-3,
) -> Logistic:
    """Seen against unseen, both sides and in each side all labels counting the same.

    Args:
        inputs: (P, F).
        labels: (P,).
        seen: (P,) the side of each.
        l2: Penalty on standardised weights.

    Raises:
        InputError: If a side is empty.
    """
    weights = np.empty(len(labels))
    for side in (seen, ~seen):
        weights[side] = class_balance(labels[side])
    return fit_logistic(inputs, seen, weights, l2=l2)


def fit_table(
    statistics: SeenStatistics,
    unseen: CellTable,
    hold: CellTable,
    split: ClassSplit,
    *,
    drop: float,
) -> SeenmaskFit:
    """Regression and operating point from tables of cells.

    Args:
        statistics: That the tables hold.
        unseen: Cells of train_unseen in training images.
        hold: Cells of train_seen and train_unseen in held-out images.
        split: Classes of the run.
        drop: Points of train_seen mIoU that the operating point may cost.

    Raises:
        TrainingError: If there are no cells of a side.
    """
    members = split.is_member(split.train_seen)
    seen = members[hold.labels]
    found = len(unseen.labels) + int((~seen).sum())
    if not seen.any() or not found:
        raise TrainingError(
            "no cell of the grid tells seen from unseen",
            got=f"{int(seen.sum())} held-out cells of train_seen, {found} of train_unseen",
            fix=_FIX,
        )
    sides = np.concatenate([np.zeros(len(unseen.labels), np.bool_), seen])
    inputs = np.concatenate([unseen.statistics, hold.statistics])
    labels = np.concatenate([unseen.labels, hold.labels])
    # images count among those that have cells, and one fold may be all that a side has
    _, number = np.unique(hold.images, return_inverse=True)
    folds = np.concatenate([np.full(len(unseen.labels), -1), number % _FOLDS])
    model = fit_sides(inputs, labels, sides)
    held = model(hold.statistics[seen])
    for fold in range(_FOLDS):
        kept = folds != fold
        if sides[kept].any() and (~sides[kept]).any():
            rows = folds[-len(seen) :][seen] == fold
            held[rows] = fit_sides(inputs[kept], labels[kept], sides[kept])(
                hold.statistics[seen][rows]
            )
    position = np.zeros(len(members), np.int64)
    position[split.indices(split.train_seen)] = np.arange(len(split.train_seen))
    cells = SeenCells(
        labels=position[hold.labels[seen]], nearest=hold.nearest[seen], count=len(split.train_seen)
    )
    bias = cells.bias(held, drop)
    return SeenmaskFit(
        head=StatisticalSeenmask(
            statistics=statistics, statistic_weight=model.weight, bias=model.bias + bias
        ),
        lost=lost_share(held, bias),
        miou=cells.miou(held + bias),
        fcn_je_miou=cells.perfect,
        found=lost_share(model(inputs[~sides]), bias),
    )


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

    Memory is bounded whatever the data set holds: sampled features take 128 MiB as float16, and
    twice or three times 256 MiB while the statistics are fitted; other cells are eight numbers.

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
    if not len(labels):
        raise TrainingError("no cell of the grid shows a class of train_seen", fix=_FIX)
    with memory_for("the statistics of the seenmask"):
        statistics = fit_statistics(
            features, labels, seen_labels, scale=scale, components=min(COMPONENTS, channels)
        )
    del features, sample
    unseen, seen = split.indices(split.train_unseen), split.indices(split.train_seen)
    tables = [
        _table(grids.read(ids, f"seenmask: {what}"), statistics, seen_labels, wanted)
        for ids, what, wanted in (
            (taught_ids, "train_unseen", unseen),
            (hold_ids, "held out", np.concatenate([seen, unseen])),
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
        parts = [(self._smallest(kept)[1], label) for label, kept in self._kept.items() if kept]
        if not parts:
            return np.zeros((0, 0), np.float16), np.zeros(0, np.uint8)
        labels = [np.full(len(features), label, np.uint8) for features, label in parts]
        return np.concatenate([features for features, _ in parts]), np.concatenate(labels)

    def _smallest(self, kept: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        keys = np.concatenate([part for part, _ in kept])
        rows = np.sort(np.argsort(keys, kind="stable")[: self._quota])
        return keys[rows], np.concatenate([part for _, part in kept])[rows]


def _table(
    cells: Iterator[_Cells],
    statistics: SeenStatistics,
    seen_labels: NDArray[np.float32],
    wanted: NDArray[np.intp],
) -> CellTable:
    """The wanted labels' cells, as statistics."""
    parts: list[tuple[Array, Array, Array, Array]] = []
    is_wanted = np.zeros(VOID + 1, np.bool_)
    is_wanted[wanted] = True
    for number, image in enumerate(cells):
        rows = is_wanted[image.labels]
        embedding, labels = image.embedding[rows], image.labels[rows]
        table = statistics.of_cells(image.features[rows], embedding)
        nearest = (embedding @ seen_labels.T).argmax(axis=1)
        parts.append((table, nearest, labels, np.full(len(labels), number)))
    if not parts:
        raise InputError("there is no image to fit the seenmask on")
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return CellTable(
        statistics=columns[0], nearest=columns[1], labels=columns[2], images=columns[3]
    )
