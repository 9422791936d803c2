from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from szn_runtime.errors import InputError
from szn_train.datasets.context import CONTEXT_CLASSES, ContextDataset
from tests.train import trees


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree that may be damaged."""
    return trees.write_context(tmp_path / "pascal")


def dataset(root: Path, split: str = "train") -> ContextDataset:
    return ContextDataset(root=root, split=split)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize(("split", "published"), [("train", 4998), ("val", 5105)])
def test_labels_are_mapped_to_the_33_classes(
    tmp_path: Path, reduced: bool, split: str, published: int
) -> None:
    data = dataset(trees.write_context(tmp_path, reduced=reduced), split)
    assert data.ids == tuple(trees.CONTEXT[split])
    assert data.class_names == CONTEXT_CLASSES
    assert data.published == published
    for image_id in data.ids:
        image, mask = trees.context_pair(image_id)
        got_image, got_mask = data.pair(image_id)
        np.testing.assert_array_equal(got_mask, mask)
        assert got_mask.dtype == np.uint8
        assert np.abs(got_image.astype(int) - image).mean() < 8  # a JPEG of the same picture


def test_every_number_has_its_class_and_all_others_are_void(root: Path) -> None:
    numbers = np.arange(460, dtype=np.uint16).reshape(20, 23)
    savemat(root / "trainval" / "2008_000008.mat", {"LabelMap": numbers})
    mask = dataset(root).mask("2008_000008").ravel()
    for name, number in trees.NUMBERS_OF_459.items():
        assert CONTEXT_CLASSES[mask[number]] == name
    others = np.setdiff1d(np.arange(460), list(trees.NUMBERS_OF_459.values()))
    assert len(others) == 460 - 33
    assert (mask[others] == 255).all()


def test_labels_may_lie_in_a_folder_of_their_own(root: Path) -> None:
    (root / "context").mkdir()
    for name in ("trainval", "labels.txt"):
        (root / name).rename(root / "context" / name)
    assert dataset(root).mask("2008_000008").shape == trees.SIZE_HW


def test_images_may_be_voc_2012s_with_lists_beside_the_labels(tmp_path: Path) -> None:
    root = trees.write_context(tmp_path, year=2012)
    expected = r"no PASCAL VOC 2010, whose images .*; download http://\S+03-May-2010\.tar and unpa"
    with pytest.raises(InputError, match=expected):
        dataset(root)
    trees.write_list(root / "train.txt", trees.CONTEXT["train"])
    data = dataset(root)
    assert data.ids == tuple(trees.CONTEXT["train"])
    assert data.pair("2010_000020")[0].shape == (*trees.SIZE_HW, 3)


def test_the_lists_are_voc_2010s(data_dir: Path, root: Path) -> None:
    main = root / "VOCdevkit" / "VOC2010" / "ImageSets" / "Main"
    for split in ("train", "val"):
        ids = (data_dir / "splits" / f"context_{split}.txt").read_text().split()
        trees.write_list(main / f"{split}.txt", ids)
        data = dataset(root, split)
        assert data.ids == tuple(ids)
        assert len(ids) == data.published


def test_the_classes_are_those_of_the_label_embeddings(data_dir: Path) -> None:
    with np.load(data_dir / "word2vec" / "context33.npz") as arrays:
        assert tuple(arrays["names"]) == CONTEXT_CLASSES


# what is missing ------------------------------------------------------------------------------


def test_without_labels_it_says_what_to_download_and_where_to(root: Path) -> None:
    (root / "trainval").rename(root / "elsewhere")
    expected = (
        r"no PASCAL-Context in .*pascal: expected trainval/<id>\.mat and labels\.txt; "
        r"download https://\S+/pascal-context/trainval\.tar\.gz and unpack it in .*pascal$"
    )
    with pytest.raises(InputError, match=expected):
        dataset(root)


def test_lists_without_images_say_what_to_download(root: Path) -> None:
    trees.write_list(root / "train.txt", trees.CONTEXT["train"])
    (root / "VOCdevkit").rename(root / "elsewhere")
    with pytest.raises(InputError, match=r"no PASCAL VOC 2010 in .*03-May-2010\.tar and unpack it"):
        dataset(root)


def test_an_unknown_split_names_those_there_are(root: Path) -> None:
    with pytest.raises(InputError, match="no split 'trainval': expected one of train, val"):
        dataset(root, "trainval")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no data set at .*nowhere.*check --data"):
        dataset(tmp_path / "nowhere")


# damaged files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("aeroplane", r"labels\.txt: got 'aeroplane', expected lines such as"),
        ("2:", r"labels\.txt: got '2:'"),
        ("1: twice", r"labels\.txt: got '1: twice'"),
        ("2: airplane", r"labels\.txt has no label 'aeroplane'"),
    ],
)
def test_damaged_labels_are_refused(root: Path, line: str, message: str) -> None:
    lines = trees.labels_of_459()
    assert lines[1] == "2: aeroplane"
    lines[1] = line
    trees.write_list(root / "labels.txt", lines)
    with pytest.raises(InputError, match=message):
        dataset(root)


def test_missing_labels_are_named(root: Path) -> None:
    (root / "labels.txt").unlink()
    with pytest.raises(InputError, match=r"labels\.txt is missing: expected lines such as"):
        dataset(root)


def test_a_number_outside_the_labels_is_refused(root: Path) -> None:
    savemat(root / "trainval" / "2008_000008.mat", {"LabelMap": np.full((4, 5), 460, np.uint16)})
    expected = (
        r"2008_000008\.mat has a number outside the labels .*: got 460 to 460, expected 0 to 459"
    )
    with pytest.raises(InputError, match=expected):
        dataset(root).mask("2008_000008")


def test_a_number_outside_the_33_is_refused(tmp_path: Path) -> None:
    root = trees.write_context(tmp_path, reduced=True)
    mask = np.full(trees.SIZE_HW, 34, np.uint8)
    trees.write_palette_png(root / "33_context_labels" / "2008_000008.png", mask)
    with pytest.raises(InputError, match="got 34 to 34, expected 0 to 33"):
        dataset(root).mask("2008_000008")


@pytest.mark.parametrize("label_map", [np.zeros((4, 5)), np.zeros((2, 3, 4), np.uint16), "text"])
def test_what_is_no_label_map_is_refused(root: Path, label_map: object) -> None:
    savemat(root / "trainval" / "2008_000008.mat", {"LabelMap": label_map})
    with pytest.raises(InputError, match="has no label map: expected LabelMap of integers"):
        dataset(root).mask("2008_000008")


def test_missing_images_and_masks_are_named(root: Path) -> None:
    (root / "trainval" / "2008_000008.mat").unlink()
    with pytest.raises(InputError, match=r"mask .*2008_000008\.mat is missing"):
        dataset(root).mask("2008_000008")
    (root / "VOCdevkit" / "VOC2010" / "JPEGImages" / "2008_000015.jpg").unlink()
    with pytest.raises(
        InputError, match=r"image '2008_000015' of split 'train' is not at .*VOC2010"
    ):
        dataset(root).image("2008_000015")
