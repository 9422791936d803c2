"""A data set without the images that have void pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.classes import VOID
from szn_train.datasets.base import Dataset

__all__ = ["VoidFreeDataset"]


@dataclass(frozen=True, kw_only=True)
class VoidFreeDataset:
    """What is left of a split when every image with any void pixel is dropped.

    The thesis' code does so with PASCAL-Context, for training and for evaluation. Classes that a
    run treats as void do not count as void here.

    Args:
        dataset: The whole split.
    """

    dataset: Dataset

    @property
    def root(self) -> Path:
        """Folder that the user named."""
        return self.dataset.root

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.dataset.split

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes; the position is the value in the masks."""
        return self.dataset.class_names

    @property
    def published(self) -> int | None:
        """None: how many images have no void pixel was not published."""
        return None

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids without void pixels; every mask is read the first time.

        Raises:
            InputError: If a mask is bad, or no image is left.
        """
        kept = tuple(i for i in self.dataset.ids if not (self.dataset.mask(i) == VOID).any())
        if not kept:
            raise InputError(
                f"every image of split {self.split!r} of {self.root} has void pixels",
                fix="leave out --drop-void",
            )
        return kept

    @property
    def dropped(self) -> int:
        """Number of images with a void pixel."""
        return len(self.dataset.ids) - len(self.ids)

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Image as (H, W, 3) uint8 BGR in [0, 255]."""
        return self.dataset.image(image_id)

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Mask as (H, W) uint8: class index."""
        return self.dataset.mask(image_id)

    def pair(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and mask, of the same height and width."""
        return self.dataset.pair(image_id)
