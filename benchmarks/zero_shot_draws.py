"""Draws of classes that are never taught, and the images of each draw.

Every draw takes two classes for train_unseen and two for U out of the 15 object classes of MSRC-21,
pools the published train and val images and splits them anew into `train`, `hold` (held out from
the network's training, to choose operating points on) and `test`. Everything follows from the
draw's seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.checkpoint import write_atomically
from szn_train.classes import VOID
from szn_train.datasets import FolderDataset

__all__ = [
    "MIN_TEST", "OBJECTS", "SEEDS", "SPLITS", "VOID_CLASSES", "Draw", "class_presence", "draw_of",
    "split_images", "write_draw",
]  # fmt: skip

VOID_CLASSES = ("horse", "mountain")
"""Void in the 21-class protocol of MSRC-21."""

STUFF = ("building", "grass", "tree", "sky", "water", "road")
OBJECTS = (
    "cow", "sheep", "aeroplane", "face", "car", "bicycle", "flower", "sign", "bird", "book",
    "chair", "cat", "dog", "body", "boat",
)  # fmt: skip

SEEDS = (1, 3, 4, 6, 9, 10, 11, 12, 13, 14)
"""Seeds of the draws: the first ten from 0 on that `split_images` accepts.

The others part `face` and `body`, which share their images: one of the two would be left without
images to train on.
"""

SPLITS = ("train", "hold", "test")
MIN_TEST = 8
"""Test images of each class of a draw, at least."""
_TEST, _HOLD = 1 / 4, 1 / 8
_MIN_TRAIN = 6


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Classes of a draw.

    Args:
        seed: Of the classes and of the images' order.
        train_unseen: Two classes that teach the seenmask.
        unseen: Two classes, the set U.
    """

    seed: int
    train_unseen: tuple[str, ...]
    unseen: tuple[str, ...]


def draw_of(seed: int) -> Draw:
    """The draw of a seed."""
    order = np.random.default_rng(seed).permutation(len(OBJECTS))[:4]
    names = [OBJECTS[position] for position in order.tolist()]
    return Draw(seed=seed, train_unseen=tuple(names[:2]), unseen=tuple(names[2:]))


def class_presence(
    root: Path, splits: tuple[str, ...] = ("train", "val")
) -> dict[str, NDArray[np.bool_]]:
    """Id of every image of some splits to which classes its mask shows, (classes,) bool.

    Raises:
        InputError: If the data cannot be used, or an image is in two splits.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    for split in splits:
        dataset = FolderDataset(root=root, split=split)
        count = len(dataset.class_names)
        for image_id in dataset.ids:
            if image_id in found:
                raise InputError(f"image {image_id!r} of {root} is in two splits")
            values = np.bincount(dataset.mask(image_id).ravel(), minlength=VOID + 1)
            found[image_id] = values[:count] > 0
    return found


def split_images(
    presence: Mapping[str, NDArray[np.bool_]], class_names: tuple[str, ...], draw: Draw
) -> dict[str, tuple[str, ...]]:
    """Images of `SPLITS` for a draw: about 1/4 in test and 1/8 in hold, class by class.

    Classes choose their images from the rarest on, in the seed's order, so that rare classes get
    their share. No image of U is in hold: hold chooses operating points.

    Args:
        presence: What `class_presence` returns.
        class_names: Classes of the data set.
        draw: The draw.

    Returns:
        Split to ids, in the seed's order.

    Raises:
        InputError: If a class of the draw has fewer than `MIN_TEST` test images, or the network
            would see a label of train_seen, or the seenmask a class of train_unseen, in fewer than
            6 training images.
    """
    labels = [name for name in class_names if name not in VOID_CLASSES]
    column = {name: class_names.index(name) for name in labels}
    ids = sorted(presence)
    ids = [ids[i] for i in np.random.default_rng((draw.seed, 1)).permutation(len(ids)).tolist()]
    shows = {name: [i for i in ids if presence[i][column[name]]] for name in labels}
    of_unseen = {i for name in draw.unseen for i in shows[name]}
    part: dict[str, str] = {}
    for split, share, allowed in (
        ("test", _TEST, set(ids)),
        ("hold", _HOLD, set(ids) - of_unseen),
    ):
        for name in sorted(labels, key=lambda name: (len(shows[name]), name)):
            wanted = round(share * len(shows[name]))
            if split == "test" and name in draw.train_unseen + draw.unseen:
                wanted = max(wanted, MIN_TEST)
            wanted -= sum(part.get(i) == split for i in shows[name])
            free = [i for i in shows[name] if i not in part and i in allowed]
            part.update(dict.fromkeys(free[: max(wanted, 0)], split))
    images = {split: tuple(i for i in ids if part.get(i, "train") == split) for split in SPLITS}
    _check(images, shows, of_unseen, draw, labels)
    return images


def _check(
    images: Mapping[str, tuple[str, ...]],
    shows: Mapping[str, list[str]],
    of_unseen: set[str],
    draw: Draw,
    labels: list[str],
) -> None:
    taught = set(images["train"]) - of_unseen
    embedding = taught - {i for name in draw.train_unseen for i in shows[name]}
    for name in labels:
        in_draw = name in draw.train_unseen + draw.unseen
        tested = len(set(shows[name]) & set(images["test"]))
        if in_draw and tested < MIN_TEST:
            raise InputError(
                f"draw {draw.seed}: test images of {name!r}", got=tested, expected=f">= {MIN_TEST}"
            )
        if name not in draw.unseen:
            kept = taught if name in draw.train_unseen else embedding
            count = len(kept & set(shows[name]))
            if count < _MIN_TRAIN:
                raise InputError(
                    f"draw {draw.seed}: training images of {name!r}",
                    got=count,
                    expected=f">= {_MIN_TRAIN}",
                    fix="take another seed",
                )


def write_draw(root: Path, folder: Path, images: Mapping[str, tuple[str, ...]]) -> Path:
    """A data set in the folder format that shares images and masks with another one by links.

    Args:
        root: The data set with the images.
        folder: Where to write, made if need be.
        images: Split to ids.
    """
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "classes.txt", (root / "classes.txt").read_bytes())
    for name in ("images", "masks"):
        link = folder / name
        target = (root / name).resolve()
        if not (link.is_symlink() and link.resolve() == target):
            link.unlink(missing_ok=True)
            link.symlink_to(target, target_is_directory=True)
    for split, ids in images.items():
        text = "".join(f"{image_id}\n" for image_id in ids)
        write_atomically(folder / "splits" / f"{split}.txt", text.encode())
    return folder
