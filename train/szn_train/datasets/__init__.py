"""Data sets: images and masks as arrays, and the choice of images for each training step."""

from __future__ import annotations

from szn_train.datasets.folder import FolderDataset
from szn_train.datasets.selection import Selection, select

__all__ = ["FolderDataset", "Selection", "select"]
