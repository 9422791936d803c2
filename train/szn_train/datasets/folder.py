"""The folder format: `images/<id>.jpg`, `masks/<id>.png`, `classes.txt`, `splits/<split>.txt`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.classes import VOID
from szn_train.datasets.files import (
    checked_mask,
    checked_pair,
    read_image,
    read_indices,
    read_lines,
)

__all__ = ["FolderDataset"]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class FolderDataset:
    """One split of a data set in the folder format.

    Args:
        root: Folder with `images`, `masks`, `classes.txt` and `splits`.
        split: Name of a file in `splits`, without `.txt`.

    Raises:
        InputError: If a file of the format is missing, empty or lists an id twice.
    """

    root: Path
    split: str

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise InputError(f"no data set at {self.root}", expected="a folder", fix="check --data")
        names, ids = self.class_names, self.ids
        if len(names) > VOID:
            raise InputError(f"{self.root / 'classes.txt'}", got=len(names), expected=f"<= {VOID}")
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"split {self.split!r} of {self.root} lists {twice!r} twice")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Lines of `classes.txt`, read at construction; the position is the mask value."""
        return read_lines(self.root / "classes.txt", "one class name a line")

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids of the split, in file order."""
        path = self.root / "splits" / f"{self.split}.txt"
        if not path.is_file():
            there = sorted(p.stem for p in path.parent.glob("*.txt"))
            raise InputError(
                f"data set {self.root} has no split {self.split!r}",
                expected=f"one of {', '.join(there)}" if there else "splits/<split>.txt",
            )
        return read_lines(path, "one image id a line")

    @property
    def published(self) -> int | None:
        """None: anyone may write such a folder."""
        return None

    def image_path(self, image_id: str) -> Path:
        """Path of an image, whichever of the usual suffixes it has."""
        for suffix in _IMAGE_SUFFIXES:
            path = self.root / "images" / f"{image_id}{suffix}"
            if path.is_file():
                return path
        raise InputError(
            f"image {image_id!r} of split {self.split!r} is not in {self.root / 'images'}",
            expected=f"{image_id}.jpg or another of {', '.join(_IMAGE_SUFFIXES)}",
        )

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Image as HWC uint8 BGR in [0, 255]."""
        return read_image(self.image_path(image_id))

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Mask as (H, W) uint8: class index, 255 = void.

        Raises:
            InputError: If the mask is missing, not 8 bit of one channel (a palette is fine), or
                holds an index outside `classes.txt`.
        """
        path = self.root / "masks" / f"{image_id}.png"
        return checked_mask(
            read_indices(path),
            path,
            len(self.class_names),
            classes="classes.txt",
            fix="correct the mask or add the class",
        )

    def pair(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and mask (H, W).

        Raises:
            InputError: Also if the two differ in size.
        """
        return checked_pair(self.image(image_id), self.mask(image_id), image_id)
