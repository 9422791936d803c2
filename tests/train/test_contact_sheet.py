from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError, SinkError
from szn_runtime.overlay import label_colours
from szn_train.datasets import FolderDataset
from szn_train.datasets.contact_sheet import contact_sheet, write_contact_sheet
from tests.train import catalogue

CELL_HW = (152, 400)  # a picture and its mask of 144 x 192, each with a gap of 8


@pytest.fixture
def dataset(tmp_path: Path) -> FolderDataset:
    return FolderDataset(root=catalogue.write_dataset(tmp_path / "data"), split="train")


def test_images_stand_beside_their_coloured_masks(dataset: FolderDataset) -> None:
    sheet = contact_sheet(dataset, dataset.ids)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 3 * CELL_HW[1]
    colours = label_colours(range(len(catalogue.CLASSES)))[:, ::-1]
    for number, image_id in enumerate(dataset.ids):
        y, x = number // 3 * CELL_HW[0], number % 3 * CELL_HW[1]
        image, mask = dataset.pair(image_id)
        shown = sheet[y : y + 144, x + 200 : x + 392]  # 64 x 48 fills the box: each pixel 3 x 3
        np.testing.assert_array_equal(shown[1::3, 1::3], colours[mask])
        picture = sheet[y : y + 144, x : x + 192]
        assert np.abs(picture[1::3, 1::3].astype(int) - image).mean() < 12
        assert (sheet[y + 144 : y + 152, x : x + 400] == 255).all()


def test_void_is_black_and_pictures_keep_their_shape(tmp_path: Path) -> None:
    image, mask = catalogue.scene("grass", size_hw=(96, 32))
    mask[:48] = 255
    root = catalogue.write_dataset(tmp_path, {"train": {"a": (image, mask)}})
    sheet = contact_sheet(FolderDataset(root=root, split="train"), ("a",))
    shown = sheet[:144, 200:392]
    assert (shown[:72, :48] == 0).all()
    assert (shown[:, 48:] == 255).all()  # 96 x 32 becomes 144 x 48


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (4, 2), (10, 4), (24, 4)])
def test_images_are_spread_over_the_split(dataset: FolderDataset, count: int, rows: int) -> None:
    sheet = contact_sheet(dataset, dataset.ids, count)
    legend = contact_sheet(dataset, dataset.ids, 1).shape[0] - CELL_HW[0]
    assert sheet.shape[0] == rows * CELL_HW[0] + legend
    _, first = dataset.pair("t0")
    colours = label_colours(range(len(catalogue.CLASSES)))[:, ::-1]
    np.testing.assert_array_equal(sheet[1:144:3, 201:392:3], colours[first])


def test_the_legend_has_the_colour_of_every_class(dataset: FolderDataset) -> None:
    legend = contact_sheet(dataset, dataset.ids, 1)[CELL_HW[0] :]
    shown = {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
    for colour in label_colours(range(len(catalogue.CLASSES)))[:, ::-1].tolist():
        assert tuple(colour) in shown


def test_the_sheet_is_written_with_its_folder(dataset: FolderDataset, tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    write_contact_sheet(path, dataset, dataset.ids, 2)
    written = cv2.imread(str(path))
    np.testing.assert_array_equal(written, contact_sheet(dataset, dataset.ids, 2))


def test_nothing_to_draw_and_nowhere_to_write(dataset: FolderDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"split 'train' of .* has no image to draw"):
        contact_sheet(dataset, ())
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"sheet\.png cannot be written"):
        write_contact_sheet(tmp_path / "file" / "sheet.png", dataset, dataset.ids, 1)
