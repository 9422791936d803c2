"""Cells of images under a frozen network, and a bounded sample of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.cells import node_labels
from szn_train.classes import ClassSplit
from szn_train.datasets import Dataset
from szn_train.memory import memory_for
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.transforms import Transform

__all__ = ["CellSample", "Cells", "GridReader"]

_MOST_BYTES = 1 << 28  # of sampled features as float32

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """All nodes of an image: features (P, C), embedding (P, j) float32 and labels (P,) uint8."""

    features: NDArray[np.float32]
    embedding: NDArray[np.float32]
    labels: NDArray[np.uint8]


class GridReader:
    """The frozen network on images, as cells.

    Args:
        network: In evaluation mode, on the device that computes.
        dataset: Where the images come from.
        split: Its classes.
        transform: Without augmentation.
        progress: Where bars go.
    """

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
        self._seen = split.indices(split.train_seen)
        self._device = next(network.parameters()).device

    def read(self, ids: Sequence[str], what: str) -> Iterator[Cells]:
        """Cells of one image after the other, with a bar.

        Raises:
            InputError: If an image cannot be read.
            TrainingError: If there is too little memory.
        """
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
                yield Cells(features=rows[0], embedding=rows[1], labels=labels.ravel())
                task.advance()

    def seen_features(
        self, wanted: Sequence[tuple[Sequence[str], int]], *, seed: int
    ) -> list[tuple[NDArray[np.uint8], NDArray[np.float16]]]:
        """Samples of cells of train_seen, for which no image passes the network twice.

        Each takes 128 MiB at most, all of them two to four times that while images are read.

        Args:
            wanted: Of each sample its images, in an order that all samples share, each once, and
                about how many cells it has at most: fewer if their features took more memory.
            seed: Of each sample, which does not depend on the others.

        Returns:
            Of each sample labels (P,) in increasing order and features (P, C).

        Raises:
            InputError: If there is no image, one cannot be read, or the samples share no order.
            TrainingError: If there is too little memory.
        """
        every = _in_order([ids for ids, _ in wanted])
        channels = self._network.backbone.info.channels
        quotas = [_affordable(most, channels) // len(self._seen) for _, most in wanted]
        samples = [
            (set(ids), CellSample(self._seen, max(1, quota), seed))
            for (ids, _), quota in zip(wanted, quotas, strict=True)
        ]
        for image_id, cells in zip(every, self.read(every, "cells of train_seen"), strict=True):
            for ids, sample in samples:
                if image_id in ids:
                    sample.add(cells.labels, cells.features.astype(np.float16))
        found = [sample.taken() for _, sample in samples]
        return [(found_labels, features) for found_labels, (features,) in found]


class CellSample:
    """Cells of some labels, label after label: at most so many of each, every one as likely.

    Which ones stay depends on the seed and on the cells, not on how they are dealt out to `add`.

    Args:
        labels: Those that are kept; cells of others are passed over.
        most: Cells of each label; None keeps all. While cells come in up to twice as many are held.
        seed: Of the choice.
    """

    def __init__(
        self, labels: Sequence[int] | NDArray[np.intp], most: int | None, seed: int
    ) -> None:
        self._most, self._random = most, np.random.default_rng(seed)
        self._kept: dict[int, list[tuple[Array, ...]]] = {int(label): [] for label in labels}
        self._empty: tuple[Array, ...] | None = None

    def add(self, labels: NDArray[np.uint8], *columns: Array) -> None:
        """Take cells in; those with the smallest of random numbers stay.

        Args:
            labels: (P,).
            columns: (P, ...) each, what is kept of the cells; the same kinds each time.
        """
        keys = self._random.random(len(labels))
        self._empty = tuple(column[:0].copy() for column in columns)
        for label, kept in self._kept.items():
            rows = labels == label
            if not rows.any():
                continue
            kept.append((keys[rows], *(column[rows] for column in columns)))
            if self._most is not None and sum(len(part[0]) for part in kept) > 2 * self._most:
                kept[:] = [self._smallest(kept)]

    def taken(self) -> tuple[NDArray[np.uint8], tuple[Array, ...]]:
        """Labels (P,) and the columns, rows of a label in the order in which they came.

        Raises:
            InputError: If nothing was added, not even an image without these labels.
        """
        if self._empty is None:
            raise InputError("there is no image to take cells of")
        for kept in filter(None, self._kept.values()):
            kept[:] = [self._smallest(kept)]  # in turn, so that what is left out goes at once
        parts = [(label, kept[0][1:]) for label, kept in self._kept.items() if kept]
        labels = [np.full(len(columns[0]), label, np.uint8) for label, columns in parts]
        return (
            np.concatenate([np.zeros(0, np.uint8), *labels]),
            _joined([self._empty, *(columns for _, columns in parts)]),
        )

    def _smallest(self, kept: list[tuple[Array, ...]]) -> tuple[Array, ...]:
        keys = np.concatenate([part[0] for part in kept])
        rows = np.sort(np.argsort(keys, kind="stable")[: self._most])
        return keys[rows], *(column[rows] for column in _joined([part[1:] for part in kept]))


def _in_order(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Images of all lists, each once and in every list's order.

    A sample draws its random numbers image after image: in another order it would be another.

    Raises:
        InputError: If there is no such order, or a list names an image twice.
    """
    order: TopologicalSorter[str] = TopologicalSorter()
    for ids in lists:
        for image_id in ids[:1]:
            order.add(image_id)
        for before, image_id in pairwise(ids):
            order.add(image_id, before)
    try:
        return tuple(order.static_order())
    except CycleError as error:
        raise InputError(
            "order of the images to sample cells of",
            got=" before ".join(map(repr, error.args[1][:5])),
            expected="one that all samples share, and each image once",
        ) from error


def _joined(parts: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Columns of the parts' rows."""
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _affordable(most: int, channels: int) -> int:
    """Cells of which the features as float32 take 256 MiB at most."""
    return min(most, _MOST_BYTES // (4 * channels))
