"""What is in a data set and what is wrong with it, told before hours are spent on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from szn_runtime.errors import InputError, SznError, TrainingError
from szn_train.classes import VOID, ClassSplit
from szn_train.config import TrainConfig
from szn_train.datasets import open_dataset
from szn_train.datasets.base import Dataset
from szn_train.datasets.selection import check_held, choose, hold_out, value_counts
from szn_train.label_words import words_of
from szn_train.run import class_split
from szn_train.semantic import label_space

if TYPE_CHECKING:
    from szn_train.progress import Progress

__all__ = ["DataReport", "SplitContent", "check_data"]

_FEW_IMAGES = 10
"""A class of train_seen in fewer training images than this is named as rare."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitContent:
    """What one split holds.

    Args:
        dataset: The split.
        counts: Id of each readable image to the number of pixels (256,) of each mask value.
        sizes: (width, height) of each readable image.
        unreadable: Why the others could not be read.
    """

    dataset: Dataset
    counts: dict[str, NDArray[np.int64]]
    sizes: tuple[tuple[int, int], ...]
    unreadable: tuple[InputError, ...]

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """Of shape (256,): pixels of each mask value."""
        total = np.zeros(VOID + 1, np.int64)
        for counts in self.counts.values():
            total += counts
        return total

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """Of shape (256,): images that show each mask value."""
        total = np.zeros(VOID + 1, np.int64)
        for counts in self.counts.values():
            total += counts > 0
        return total


@dataclass(frozen=True, kw_only=True, eq=False)
class DataReport:
    """The outcome of `check_data`.

    Attributes:
        split: The classes, or None if they could not be split.
        contents: The splits that could be opened.
        chosen: What both steps of training get, a line each.
        fatal: Problems that end a training run, in the order in which they were found.
        notes: What is odd but can be trained on.
    """

    split: ClassSplit | None = None
    contents: tuple[SplitContent, ...] = ()
    chosen: tuple[str, ...] = ()
    fatal: tuple[SznError, ...] = ()
    notes: tuple[str, ...] = ()

    def tables(self) -> tuple[Table, ...]:
        """Images of each split and, if the classes are known, frequencies of each class."""
        tables = [_split_table(self.contents)]
        if self.split is not None:
            tables.append(_class_table(self.split, self.contents))
        return tuple(tables)


@dataclass
class _Findings:
    """Problems as they are found."""

    fatal: list[SznError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_data(config: TrainConfig, *, progress: Progress) -> DataReport:
    """Read every image and mask of the training and the validation split.

    Everything that would end a training run is found, not only the first of it: data sets that
    cannot be opened, classes that do not fit them or have no embedding, images and masks that
    cannot be read or do not fit one another, splits that leave no images, or too few for a
    seenmask of statistics.

    Args:
        config: What would be trained.
        progress: Where the bars go.
    """
    found = _Findings()
    contents = []
    for name in dict.fromkeys((config.train_split, config.val_split)):
        try:
            dataset = open_dataset(config.dataset, Path(config.data), name)
        except SznError as error:
            found.fatal.append(error)
        else:
            contents.append(_read(dataset, progress))
            found.fatal.extend(contents[-1].unreadable)
    if not contents:
        return DataReport(fatal=tuple(found.fatal))
    try:
        split = class_split(config, contents[0].dataset.class_names)
    except InputError as error:
        return DataReport(contents=tuple(contents), fatal=(error, *found.fatal))
    try:
        dim = len(split.labels) if config.embeddings == "one-hot" else config.dim  # as in train
        label_space(
            split.labels,
            source=config.embeddings,
            dim=dim,
            words=words_of(split.labels, config.label_words, progress=progress),
            progress=progress,
        )
    except SznError as error:
        found.fatal.append(error)
    chosen: tuple[str, ...] = ()
    for content in contents:
        _note_counts(content, found)
        if content.dataset.split == config.train_split:
            chosen = _choose(content, split, config, found)
        _note_classes(content, split, content.dataset.split == config.train_split, found)
    if len(contents) == 2:
        both = set(contents[0].dataset.ids) & set(contents[1].dataset.ids)
        if both:
            found.notes.append(
                f"{len(both)} images are in both splits, such as {min(both)}: "
                "what is measured on them says little"
            )
    return DataReport(
        split=split,
        contents=tuple(contents),
        chosen=chosen,
        fatal=tuple(found.fatal),
        notes=tuple(found.notes),
    )


def _read(dataset: Dataset, progress: Progress) -> SplitContent:
    """Read a whole split, past what cannot be read."""
    counts, sizes, unreadable = {}, [], []
    ids = dataset.ids
    with progress, progress.task(f"check {dataset.split}", len(ids)) as task:
        for image_id in ids:
            try:
                image, mask = dataset.pair(image_id)
            except InputError as error:
                unreadable.append(error)
            else:
                counts[image_id] = value_counts(mask)
                sizes.append((image.shape[1], image.shape[0]))
            task.advance()
    return SplitContent(
        dataset=dataset, counts=counts, sizes=tuple(sizes), unreadable=tuple(unreadable)
    )


def _choose(
    content: SplitContent, split: ClassSplit, config: TrainConfig, found: _Findings
) -> tuple[str, ...]:
    """What both training steps get; nothing if that is a fatal problem."""
    counts = content.counts
    if config.drop_void:
        counts = {image_id: count for image_id, count in counts.items() if not count[VOID]}
    try:
        selection = choose(
            content.dataset, split, counts, dropped_void=len(content.counts) - len(counts)
        )
    except InputError as error:
        found.fatal.append(error)
        return ()
    if config.fits_seenmask:
        selection = hold_out(selection, split, counts, config.hold_share, config.seed)
        try:
            check_held(selection, split, config.hold_share)
        except TrainingError as error:
            found.fatal.append(error)
    return selection.lines(split)[: -len(split.labels)]


def _note_counts(content: SplitContent, found: _Findings) -> None:
    """Compare a split with the published one."""
    dataset = content.dataset
    if dataset.published is not None and dataset.published != len(dataset.ids):
        found.notes.append(
            f"split {dataset.split!r} has {len(dataset.ids)} images, the published one "
            f"{dataset.published}"
        )


def _note_classes(
    content: SplitContent, split: ClassSplit, training: bool, found: _Findings
) -> None:
    """Name classes without pixels, and seen ones that hardly any training image shows."""
    images, name = content.images, content.dataset.split
    for label in split.labels:
        shown = int(images[split.names.index(label)])
        if shown == 0:
            found.notes.append(f"class {label!r} has no pixel in split {name!r}")
        elif training and shown < _FEW_IMAGES and label in split.train_seen:
            found.notes.append(f"class {label!r} is in {shown} images of split {name!r} only")
    empty = sum(not count[: len(split.names)].any() for count in content.counts.values())
    if empty:
        found.notes.append(f"{empty} images of split {name!r} are all void")


def _split_table(contents: tuple[SplitContent, ...]) -> Table:
    """A row for each split: counts and sizes."""
    table = Table(title="images")
    for column in ("split", "listed", "published", "readable", "smallest", "largest", "most often"):
        table.add_column(column, justify="left" if column == "split" else "right")
    table.add_column("void pixels", justify="right")
    for content in contents:
        dataset, sizes = content.dataset, content.sizes
        by_area = sorted(sizes, key=lambda size: size[0] * size[1])
        usual = [size for size, _ in Counter(sizes).most_common(1)]
        shown = [f"{w} x {h}" for w, h in by_area[:1] + by_area[-1:] + usual] or ["", "", ""]
        pixels = content.pixels
        table.add_row(
            dataset.split,
            f"{len(dataset.ids):,}",
            "" if dataset.published is None else f"{dataset.published:,}",
            f"{len(sizes):,}",
            *shown,
            f"{100 * pixels[VOID] / max(pixels.sum(), 1):.1f} %",
        )
    return table


def _class_table(split: ClassSplit, contents: tuple[SplitContent, ...]) -> Table:
    """A row for each class of the data set: its set, its share of the pixels, its images."""
    table = Table(title=f"classes {split.sizes}")
    table.add_column("class")
    table.add_column("set")
    for content in contents:
        table.add_column(f"{content.dataset.split} pixels", justify="right")
        table.add_column("images", justify="right")
    for value, name in enumerate(split.names):
        row = [name, split.role(name)]
        for content in contents:
            pixels = content.pixels
            share = 100 * pixels[value] / max(pixels[: len(split.names)].sum(), 1)
            row += [f"{share:.2f} %", f"{content.images[value]:,}"]
        table.add_row(*row)
    return table
