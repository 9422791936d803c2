"""Data sets: images and masks as arrays, and the choice of images for each training step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from szn_runtime.errors import UsageError
from szn_train.datasets.base import Dataset
from szn_train.datasets.context import ContextDataset
from szn_train.datasets.folder import FolderDataset
from szn_train.datasets.selection import Selection, select
from szn_train.datasets.voc import VocDataset
from szn_train.datasets.void_free import VoidFreeDataset

if TYPE_CHECKING:
    from szn_train.config import TrainConfig

__all__ = [
    "ContextDataset",
    "Dataset",
    "FolderDataset",
    "Selection",
    "VocDataset",
    "VoidFreeDataset",
    "open_dataset",
    "select",
]


def open_dataset(kind: str | TrainConfig, root: Path, split: str) -> Dataset:
    """Open one split of a data set.

    Args:
        kind: "folder", "voc" or "context"; or a configuration, whose `dataset` and `drop_void` say.
        root: Folder of the data set.
        split: Name of the split.

    Raises:
        UsageError: If there is no such kind.
        InputError: If the folder or one of its lists is missing or damaged.
    """
    name, drop_void = (kind, False) if isinstance(kind, str) else (kind.dataset, kind.drop_void)
    dataset: Dataset
    match name:
        case "folder":
            dataset = FolderDataset(root=root, split=split)
        case "voc":
            dataset = VocDataset(root=root, split=split)
        case "context":
            dataset = ContextDataset(root=root, split=split)
        case _:
            raise UsageError("kind of data set", got=name, expected="folder, voc or context")
    return VoidFreeDataset(dataset=dataset) if drop_void else dataset
