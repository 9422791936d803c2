"""PASCAL VOC 2011 and 2012 with the Semantic Boundaries Dataset (SBD), in their own folders.

The root that the user names holds what the official archives unpack to:

```
VOCdevkit/VOC2012/                     JPEGImages, SegmentationClass, ImageSets/Segmentation
TrainVal/VOCdevkit/VOC2011/            the same; VOCdevkit/VOC2011 will do, and its lists suffice
benchmark_RELEASE/dataset/             SBD: img, cls (MATLAB files), train.txt, val.txt
```
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
    checked_mask,
    checked_pair,
    read_image,
    read_indices,
    read_mat,
)

__all__ = ["VOC_CLASSES", "VOC_SPLITS", "VocDataset"]

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""The 21 classes in the order of the masks' values."""

VOC_SPLITS = {
    "train": "SBD's training images",
    "val": "VOC 2011's segmentation validation images that are in neither list of SBD",
    "sbd-val": "SBD's validation images",
    "voc-train": "VOC's own segmentation training images, of 2012 if it is there, else of 2011",
    "voc-val": "VOC's own segmentation validation images",
    "voc-trainval": "VOC's own segmentation training and validation images",
}
"""Splits that `VocDataset` knows. `train` and `val` are those of the FCN paper and the thesis."""

_SBD_URL = (
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz"
)
_SBD_FOLDERS = ("benchmark_RELEASE/dataset", "dataset", ".")
_PUBLISHED = {"train": 8498, "val": 736, "sbd-val": 2857}
_PUBLISHED_VOC = {
    2012: {"train": 1464, "val": 1449, "trainval": 2913},
    2011: {"train": 1112, "val": 1111, "trainval": 2223},
}


@dataclass(frozen=True, kw_only=True)
class VocDataset:
    """One split of PASCAL VOC with SBD.

    The lists come from the data sets' own files: `train` is SBD's, with SBD's labels; `val` is VOC
    2011's without anything of SBD, with VOC's labels, so that no image is in both.

    Args:
        root: Folder that the official archives were unpacked in.
        split: Key of `VOC_SPLITS`.

    Raises:
        InputError: If a list, or the folder that it comes from, is missing or damaged.
    """

    root: Path
    split: str

    def __post_init__(self) -> None:
        if self.split not in VOC_SPLITS:
            raise InputError(
                f"PASCAL VOC has no split {self.split!r}",
                expected=f"one of {', '.join(VOC_SPLITS)}",
            )
        # what the root must hold is looked for now, not at the first image
        _ = self._devkits
        if not self.ids:
            raise InputError(f"split {self.split!r} of {self.root} is empty")
        if self.split == "val":
            self._check_val()

    @property
    def class_names(self) -> tuple[str, ...]:
        """`VOC_CLASSES`."""
        return VOC_CLASSES

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids of the split, in the order of the official list."""
        if self.split == "val":
            in_sbd = {image_id for ids in self._sbd_ids for image_id in ids}
            return tuple(i for i in self._voc_ids(2011, "val") if i not in in_sbd)
        if self._is_sbd:
            return self._sbd_ids[0 if self.split == "train" else 1]
        return self._voc_ids(self._newest, self.split.removeprefix("voc-"))

    @property
    def published(self) -> int | None:
        """Number of images of the official split."""
        if self.split in _PUBLISHED:
            return _PUBLISHED[self.split]
        return _PUBLISHED_VOC[self._newest][self.split.removeprefix("voc-")]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Image as (H, W, 3) uint8 BGR in [0, 255]."""
        folders = [folder / "JPEGImages" for folder in self._devkits.values()]
        if self._is_sbd:
            folders.insert(0, self._sbd / "img")
        paths = [folder / f"{image_id}.jpg" for folder in folders]
        return read_image(first_file(paths, f"image {image_id!r} of split {self.split!r}"))

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Mask as (H, W) uint8: class index, 255 = void.

        Raises:
            InputError: If it is missing, damaged or holds an index outside the 21 classes.
        """
        if self._is_sbd:
            path = self._sbd / "cls" / f"{image_id}.mat"
            mask = _sbd_labels(path)
        else:
            folders = [folder / "SegmentationClass" for folder in self._devkits.values()]
            paths = [folder / f"{image_id}.png" for folder in folders]
            path = first_file(paths, f"mask {image_id!r} of split {self.split!r}")
            mask = read_indices(path)
        return checked_mask(
            mask,
            path,
            len(VOC_CLASSES),
            classes=f"the {len(VOC_CLASSES)} classes of PASCAL VOC",
            fix="unpack the data set again",
        )

    def pair(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and mask (H, W).

        Raises:
            InputError: Also if the two differ in size.
        """
        return checked_pair(self.image(image_id), self.mask(image_id), image_id)

    def _check_val(self) -> None:
        """Refuse official lists that do not give the official validation images."""
        sizes = [len(self._voc_ids(2011, "val")), *map(len, self._sbd_ids)]
        official = [_PUBLISHED_VOC[2011]["val"], _PUBLISHED["train"], _PUBLISHED["sbd-val"]]
        if sizes == official and len(self.ids) != _PUBLISHED["val"]:
            raise InputError(
                f"lists of {self.root} have the official lengths but other images",
                got=f"{len(self.ids)} images of VOC 2011 val outside SBD",
                expected=_PUBLISHED["val"],
                fix="unpack VOC 2011 and SBD again",
            )

    @property
    def _is_sbd(self) -> bool:
        """Whether images and masks are SBD's."""
        return self.split in {"train", "sbd-val"}

    @cached_property
    def _devkits(self) -> dict[int, Path]:
        """Folders of VOC 2012 and 2011, as far as they are there."""
        found = find_devkits(self.root)
        return {year: folder for year, folder in found.items() if year in _PUBLISHED_VOC}

    @property
    def _newest(self) -> int:
        if not self._devkits:
            raise missing(
                "PASCAL VOC", self.root, expected="VOCdevkit/VOC2012 or VOC2011", url=DEVKITS[2012]
            )
        return max(self._devkits)

    @cached_property
    def _sbd(self) -> Path:
        """SBD's folder with `img`, `cls` and the two lists."""
        for name in _SBD_FOLDERS:
            if (self.root / name / "cls").is_dir():
                return self.root / name
        raise missing(
            "SBD (Semantic Boundaries Dataset)",
            self.root,
            expected="benchmark_RELEASE/dataset with img, cls, train.txt and val.txt",
            url=_SBD_URL,
        )

    @cached_property
    def _sbd_ids(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Training and validation ids of SBD."""
        return read_ids(self._sbd / "train.txt"), read_ids(self._sbd / "val.txt")

    def _voc_ids(self, year: int, name: str) -> tuple[str, ...]:
        """Ids of one list in `ImageSets/Segmentation` of a year."""
        if year not in self._devkits:
            raise missing(
                f"PASCAL VOC {year}, whose list split {self.split!r} is made of,",
                self.root,
                expected=f"VOCdevkit/VOC{year}/ImageSets/Segmentation/{name}.txt",
                url=DEVKITS[year],
            )
        return read_ids(self._devkits[year] / "ImageSets" / "Segmentation" / f"{name}.txt")


def _sbd_labels(path: Path) -> NDArray[np.uint8]:
    """Class index of each pixel (H, W) of one of SBD's MATLAB files.

    Raises:
        InputError: If it is missing, damaged or not one of SBD's.
    """
    labels = read_mat(path, "GTcls")
    try:
        labels = np.asarray(labels[0]["Segmentation"][0])
    except (IndexError, KeyError, TypeError, ValueError):
        labels = np.empty(0)
    if labels.ndim != 2 or labels.dtype.kind not in "ui" or not labels.size:
        raise InputError(f"mask {path} has no label map", expected="GTcls.Segmentation, as in SBD")
    if labels.min() < 0 or labels.max() > VOID:
        raise InputError(
            f"mask {path}", got=f"labels {labels.min()} to {labels.max()}", expected="0 to 20"
        )
    return np.ascontiguousarray(labels, dtype=np.uint8)
