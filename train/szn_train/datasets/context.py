"""PASCAL-Context with 33 classes: VOC 2010's images, each pixel of them labelled.

The root that the user names holds what the official archives unpack to:

```
VOCdevkit/VOC2010/     JPEGImages, ImageSets/Main/train.txt and val.txt
labels.txt             "1: accordion" and so on: the 459 labels
trainval/<id>.mat      LabelMap (H, W): number of the label of each pixel
```

Instead of the last two there may be `33_context_labels/<id>.png`, the site's own reduction, which
the thesis' code reads: 0 is void, 1 to 33 the classes. All three may lie in `context` or
`pascal-context` below the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.classes import VOID
from szn_train.datasets.devkit import DEVKITS, find_devkits, first_file, missing, read_ids
from szn_train.datasets.files import (
    checked_pair,
    read_image,
    read_indices,
    read_lines,
    read_mat,
)

__all__ = ["CONTEXT_CLASSES", "ContextDataset"]

CONTEXT_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor", "sky", "grass", "ground", "road", "building", "tree", "water", "mountain", "wall",
    "floor", "track", "keyboard", "ceiling",
)  # fmt: skip
"""The 33 classes in the order of the thesis' label embeddings."""

_NAMES_OF_459 = {"diningtable": "table"}
"""Classes that the 459 labels call otherwise."""

_URL = "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz"
_FOLDERS = (".", "context", "pascal-context")
_PUBLISHED = {"train": 4998, "val": 5105}


@dataclass(frozen=True, kw_only=True)
class ContextDataset:
    """One split of PASCAL-Context-33: VOC 2010's lists, all labels but the 33 void.

    Args:
        root: Folder that the official archives were unpacked in.
        split: "train" or "val".

    Raises:
        InputError: If a list, the folder that it comes from or the labels are missing or damaged.
    """

    root: Path
    split: str

    def __post_init__(self) -> None:
        if self.split not in _PUBLISHED:
            raise InputError(
                f"PASCAL-Context has no split {self.split!r}",
                expected=f"one of {', '.join(_PUBLISHED)}",
            )
        # what the root must hold is looked for now, not at the first image
        _ = self.ids, self._devkits, self._lookup

    @property
    def class_names(self) -> tuple[str, ...]:
        """`CONTEXT_CLASSES`."""
        return CONTEXT_CLASSES

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids of the split, in the order of VOC 2010's list.

        A list of that name beside the labels comes first: with it, the images may be VOC 2012's.
        """
        name = f"{self.split}.txt"
        beside = [self.root / folder / name for folder in _FOLDERS]
        own = next((path for path in beside if path.is_file()), None)
        if own is not None:
            return read_ids(own)
        devkit = find_devkits(self.root).get(2010)
        if devkit is None:
            raise missing(
                "PASCAL VOC 2010, whose images and lists PASCAL-Context uses,",
                self.root,
                expected=f"VOCdevkit/VOC2010/ImageSets/Main/{name}",
                url=DEVKITS[2010],
            )
        return read_ids(devkit / "ImageSets" / "Main" / name)

    @property
    def published(self) -> int | None:
        """Number of images of VOC 2010's list."""
        return _PUBLISHED[self.split]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Image as (H, W, 3) uint8 BGR in [0, 255]."""
        paths = [folder / "JPEGImages" / f"{image_id}.jpg" for folder in self._devkits]
        return read_image(first_file(paths, f"image {image_id!r} of split {self.split!r}"))

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Mask as (H, W) uint8: class index, 255 = void.

        Raises:
            InputError: If it is missing, damaged or holds a number outside the list of labels.
        """
        folder, reduced = self._labels
        if reduced:
            path = folder / f"{image_id}.png"
            numbers: NDArray[np.integer] = read_indices(path)
        else:
            path = folder / f"{image_id}.mat"
            numbers = np.asarray(read_mat(path, "LabelMap"))
            if numbers.ndim != 2 or numbers.dtype.kind not in "ui" or not numbers.size:
                raise InputError(f"mask {path} has no label map", expected="LabelMap of integers")
        least, most = int(numbers.min()), int(numbers.max())
        if least < 0 or most >= len(self._lookup):
            raise InputError(
                f"mask {path} has a number outside the labels of PASCAL-Context",
                got=f"{least} to {most}",
                expected=f"0 to {len(self._lookup) - 1}",
                fix="unpack the data set again",
            )
        mask: NDArray[np.uint8] = self._lookup[numbers]
        return mask

    def pair(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and mask (H, W).

        Raises:
            InputError: Also if the two differ in size.
        """
        return checked_pair(self.image(image_id), self.mask(image_id), image_id)

    @cached_property
    def _devkits(self) -> tuple[Path, ...]:
        """Folders with images: VOC 2010's before those of later years, which repeat its images."""
        found = find_devkits(self.root)
        if not found:
            raise missing(
                "PASCAL VOC 2010", self.root, expected="VOCdevkit/VOC2010", url=DEVKITS[2010]
            )
        return tuple(found[year] for year in sorted(found))

    @cached_property
    def _labels(self) -> tuple[Path, bool]:
        """Folder of the label maps, and whether they are those of 33 classes."""
        for name, reduced in (("trainval", False), ("33_context_labels", True)):
            for parent in _FOLDERS:
                if (self.root / parent / name).is_dir():
                    return self.root / parent / name, reduced
        raise missing(
            "PASCAL-Context", self.root, expected="trainval/<id>.mat and labels.txt", url=_URL
        )

    @cached_property
    def _lookup(self) -> NDArray[np.uint8]:
        """Number of a label to class index or `VOID`; 0 is void in both kinds of label maps."""
        folder, reduced = self._labels
        if reduced:
            numbers = dict(zip(CONTEXT_CLASSES, range(1, len(CONTEXT_CLASSES) + 1), strict=True))
        else:
            numbers = _label_numbers(folder.parent / "labels.txt")
        lookup = np.full(max(numbers.values()) + 1, VOID, dtype=np.uint8)
        for index, name in enumerate(CONTEXT_CLASSES):
            lookup[numbers[name]] = index
        return lookup


def _label_numbers(path: Path) -> dict[str, int]:
    """Name to number of every label of `labels.txt`; the 33 classes by their own names.

    Raises:
        InputError: If a line is not "number: name", a number comes twice or a class is missing.
    """
    numbers: dict[str, int] = {}
    for line in read_lines(path, 'lines such as "2: aeroplane"'):
        number, _, name = line.partition(":")
        key = name.replace(" ", "").lower()
        if not (number.strip().isdecimal() and key) or int(number) in numbers.values():
            raise InputError(f"{path}", got=repr(line), expected='lines such as "2: aeroplane"')
        numbers.setdefault(key, int(number))
    for name in CONTEXT_CLASSES:
        known = _NAMES_OF_459.get(name, name)
        if known not in numbers:
            raise InputError(
                f"{path} has no label {known!r}", fix="take labels.txt of PASCAL-Context's site"
            )
        numbers[name] = numbers[known]
    return numbers
