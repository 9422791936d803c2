"""What training, evaluation and export ask of a data set, whatever its files look like."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset"]


class Dataset(Protocol):
    """One split of a data set.

    Everything that its files can have wrong is an `InputError` of one line: files that are
    missing when the object is made, pictures and masks when they are read.
    """

    @property
    def root(self) -> Path:
        """Folder that the user named."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes; the position is the value in the masks."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids of the split, in the order of its list."""

    @property
    def published(self) -> int | None:
        """Number of images of the published split, or None if there is no such number."""

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Image as (H, W, 3) uint8 BGR in [0, 255]."""

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Mask as (H, W) uint8: class index, 255 = void."""

    def pair(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and mask, of the same height and width."""
