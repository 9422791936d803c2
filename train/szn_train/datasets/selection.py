"""Which images of a split train which part of the network (thesis section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError, TrainingError
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets.base import Dataset
from szn_train.datasets.void_free import VoidFreeDataset

__all__ = ["LEAST_HELD", "Selection", "check_held", "choose", "hold_out", "select", "value_counts"]

LEAST_HELD = 8
"""Images held out of both steps, of whatever labels, that an operating point can be chosen on."""

_MOST_HELD = 2000
"""Images that are held out of the largest data sets: more tell nothing new."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Image ids for the two training steps, and what was left out.

    Attributes:
        embedding_ids: Images whose labelled pixels are all in train_seen.
        seenmask_ids: Images whose labelled pixels are in train_seen or train_unseen; holds
            `embedding_ids`.
        dropped_unseen: Number of images with a class of U.
        dropped_empty: Number of images with void pixels only.
        dropped_void: Number of images that the data set left out for having any void pixel.
        pixels: Of shape (labels,): pixels per label over the whole split.
        hold_ids: Images without a class of U that neither step trains on.
    """

    embedding_ids: tuple[str, ...]
    seenmask_ids: tuple[str, ...]
    dropped_unseen: int
    dropped_empty: int
    pixels: NDArray[np.int64]
    dropped_void: int = 0
    hold_ids: tuple[str, ...] = ()

    def facts(self, split: ClassSplit) -> dict[str, object]:
        """Plain values for the run folder and the console."""
        return {
            "tuple": list(split.sizes),
            "embedding_images": len(self.embedding_ids),
            "seenmask_images": len(self.seenmask_ids),
            "hold": list(self.hold_ids),
            "dropped_unseen": self.dropped_unseen,
            "dropped_empty": self.dropped_empty,
            "dropped_void": self.dropped_void,
            "pixels": dict(zip(split.labels, self.pixels.tolist(), strict=True)),
        }

    def lines(self, split: ClassSplit) -> tuple[str, ...]:
        """What was kept and dropped at each step, and the pixels of each label, for the console."""
        dropped_train_unseen = len(self.seenmask_ids) - len(self.embedding_ids)
        total = (
            len(self.seenmask_ids) + len(self.hold_ids) + self.dropped_unseen + self.dropped_empty
        )
        labelled = max(int(self.pixels.sum()), 1)
        width = max(map(len, split.labels))
        return (
            f"classes {split.sizes}, {total + self.dropped_void} images"
            + (f", {self.dropped_void} dropped for void pixels" if self.dropped_void else ""),
            f"embedding: {len(self.embedding_ids)} images kept; dropped "
            f"{self.dropped_unseen} with a class of U, {dropped_train_unseen} with one of "
            f"train_unseen, {self.dropped_empty} all void",
            f"seenmask: {len(self.seenmask_ids)} images kept; dropped "
            f"{self.dropped_unseen} with a class of U, {self.dropped_empty} all void"
            if split.train_unseen
            else "seenmask: not trained, as train_unseen is empty",
            *((f"held out of both: {len(self.hold_ids)} images",) if self.hold_ids else ()),
            *(
                f"  {name:{width}} {count:>13,} pixels {100 * count / labelled:5.1f} % "
                f"{split.role(name)}"
                for name, count in zip(split.labels, self.pixels.tolist(), strict=True)
            ),
        )


def select(
    dataset: Dataset, split: ClassSplit, *, hold_share: float = 0.0, seed: int = 0
) -> Selection:
    """Choose the images for both steps from the classes that their masks show.

    Void pixels never drop an image. Every mask and every image size is checked on the way, so
    that bad data is found before hours are spent.

    Args:
        dataset: Where the images come from.
        split: The classes.
        hold_share: Share of the images that is held out of both steps (`hold_out`), at most about
            2,000 images.
        seed: Of their choice.

    Raises:
        InputError: If a mask is bad, or no image is left for a step that is needed.
    """
    counts = {image_id: value_counts(dataset.pair(image_id)[1]) for image_id in dataset.ids}
    dropped = dataset.dropped if isinstance(dataset, VoidFreeDataset) else 0
    chosen = choose(dataset, split, counts, dropped_void=dropped)
    return hold_out(chosen, split, counts, hold_share, seed) if hold_share else chosen


def value_counts(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of shape (256,): how many pixels of a mask (H, W) have each value."""
    return np.bincount(mask.ravel(), minlength=VOID + 1)


def choose(
    dataset: Dataset,
    split: ClassSplit,
    counts: Mapping[str, NDArray[np.int64]],
    *,
    dropped_void: int = 0,
) -> Selection:
    """Choose the images for both steps from what their masks hold.

    Args:
        dataset: Named in messages; it is not read.
        split: The classes.
        counts: Image id to the `value_counts` of its mask.
        dropped_void: Number of images that were left out before.

    Raises:
        InputError: If no image is left for a step that is needed.
    """
    values = [split.names.index(name) for name in split.labels]
    seen, unseen = split.is_member(split.train_seen), split.is_member(split.unseen)
    pixels = np.zeros(len(split.labels), dtype=np.int64)
    embedding_ids, seenmask_ids = [], []
    dropped_unseen = dropped_empty = 0
    for image_id, all_values in counts.items():
        labelled = all_values[values]  # (256,) -> (labels,)
        pixels += labelled
        present = labelled > 0
        if not present.any():
            dropped_empty += 1
        elif (present & unseen).any():
            dropped_unseen += 1
        else:
            seenmask_ids.append(image_id)
            if not (present & ~seen).any():
                embedding_ids.append(image_id)
    if not embedding_ids:
        raise InputError(
            f"split {dataset.split!r} of {dataset.root} leaves no image for the embedding",
            expected="images whose pixels are all in train_seen",
            fix="shorten --train-unseen or --unseen",
        )
    if split.train_unseen and len(seenmask_ids) == len(embedding_ids):
        raise InputError(
            f"split {dataset.split!r} of {dataset.root} has no image of "
            f"{', '.join(split.train_unseen)} without a class of U",
            fix="choose another --train-unseen",
        )
    return Selection(
        embedding_ids=tuple(embedding_ids),
        seenmask_ids=tuple(seenmask_ids),
        dropped_unseen=dropped_unseen,
        dropped_empty=dropped_empty,
        dropped_void=dropped_void,
        pixels=pixels,
    )


def hold_out(
    selection: Selection,
    split: ClassSplit,
    counts: Mapping[str, NDArray[np.int64]],
    share: float,
    seed: int,
) -> Selection:
    """Hold images out of both steps, about the same share of those of every label.

    The rarest labels choose first. Of no label more than half of the images are taken, in either
    step, so that each keeps what it is taught with. Of more than about 2,000 images the share is
    lowered to what would hold out so many.

    Args:
        selection: Of both steps.
        split: The classes.
        counts: Image id to the `value_counts` of its mask.
        share: Of each label's images, in (0, 0.5].
        seed: Of the choice.
    """
    values = [split.names.index(name) for name in split.labels]
    ids = selection.seenmask_ids
    shows = np.array([counts[image_id][values] > 0 for image_id in ids])  # (images, labels)
    in_first = np.isin(ids, selection.embedding_ids)
    steps = (shows, shows & in_first[:, None])
    most = [step.sum(axis=0) // 2 for step in steps]
    taken = [np.zeros(len(values), np.int64) for _ in steps]
    held = np.zeros(len(ids), np.bool_)
    share = min(share, _MOST_HELD / len(ids))
    order = np.random.default_rng(seed).permutation(len(ids))
    totals = shows.sum(axis=0)
    for label in np.argsort(totals, kind="stable").tolist():
        wanted = math.floor(share * totals[label] + 0.5)
        for row in order[shows[order, label]].tolist():
            if taken[0][label] >= wanted:
                break
            after = [sums + step[row] for sums, step in zip(taken, steps, strict=True)]
            keeps = all((sums <= limit).all() for sums, limit in zip(after, most, strict=True))
            if keeps and not held[row]:
                held[row], taken = True, after
    names = {ids[row] for row in np.flatnonzero(held).tolist()}
    return replace(
        selection,
        embedding_ids=tuple(i for i in selection.embedding_ids if i not in names),
        seenmask_ids=tuple(i for i in ids if i not in names),
        hold_ids=tuple(i for i in ids if i in names),
    )


def check_held(selection: Selection, split: ClassSplit, share: float) -> None:
    """Refuse what a seenmask of statistics cannot be fitted on, before a network is trained for it.

    Args:
        selection: With its held-out images.
        split: The classes.
        share: That was to be held out, for the message.

    Raises:
        TrainingError: If train_seen has one label, or fewer than `LEAST_HELD` images are held out.
    """
    if len(split.train_seen) < 2:
        raise TrainingError(
            "labels of train_seen for a seenmask of statistics",
            got=len(split.train_seen),
            expected="2 or more",
            fix="give --seenmask linear, or shorten --train-unseen or --unseen",
        )
    if len(selection.hold_ids) < LEAST_HELD:
        raise TrainingError(
            "images held out to choose the seenmask's operating point on",
            got=f"{len(selection.hold_ids)}, with hold_share {share:g}",
            expected=f"{LEAST_HELD} or more",
            fix="give --seenmask linear, raise hold_share in a preset, or add images",
        )
