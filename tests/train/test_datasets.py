"""Opening a data set by its kind, and leaving out images with void pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from szn_runtime.errors import InputError, UsageError
from szn_train.config import TrainConfig
from szn_train.datasets import (
    ContextDataset,
    FolderDataset,
    VocDataset,
    VoidFreeDataset,
    open_dataset,
)
from tests.train import catalogue, trees


def test_the_kind_says_how_a_folder_is_read(tmp_path: Path) -> None:
    folder = catalogue.write_dataset(tmp_path / "folder")
    voc = trees.write_voc_sbd(tmp_path / "voc")
    context = trees.write_context(tmp_path / "context")
    assert open_dataset("folder", folder, "val") == FolderDataset(root=folder, split="val")
    assert open_dataset("voc", voc, "val") == VocDataset(root=voc, split="val")
    assert open_dataset("context", context, "val") == ContextDataset(root=context, split="val")
    with pytest.raises(UsageError, match="got coco, expected folder, voc or context"):
        open_dataset("coco", folder, "train")


def test_a_configuration_says_kind_and_filter(tmp_path: Path) -> None:
    root = trees.write_context(tmp_path)
    config = TrainConfig(data=str(root), dataset="context")
    assert open_dataset(config, root, "train") == ContextDataset(root=root, split="train")
    config = TrainConfig(data=str(root), dataset="context", drop_void=True)
    dataset = open_dataset(config, root, "train")
    assert isinstance(dataset, VoidFreeDataset)
    # odd ids have a row of void
    assert dataset.ids == ("2008_000008", "2010_000020")
    assert dataset.dropped == 2
    assert (dataset.root, dataset.split, dataset.published) == (root, "train", None)
    assert dataset.class_names == dataset.dataset.class_names
    whole = ContextDataset(root=root, split="train")
    for got, expected in zip(dataset.pair("2008_000008"), whole.pair("2008_000008"), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(dataset.image("2008_000008"), whole.image("2008_000008"))
    np.testing.assert_array_equal(dataset.mask("2008_000008"), whole.mask("2008_000008"))


def test_nothing_without_void_is_an_error(tmp_path: Path) -> None:
    root = trees.write_voc_sbd(tmp_path)
    dataset = VoidFreeDataset(dataset=VocDataset(root=root, split="val"))
    expected = r"every image of split 'val' of .* has void pixels; leave out --drop-void"
    with pytest.raises(InputError, match=expected):
        _ = dataset.ids
