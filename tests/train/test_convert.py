from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from szn_runtime.errors import InputError
from szn_train.datasets import FolderDataset
from szn_train.datasets.convert import convert, main
from tests.train import catalogue, trees

SIZE_HW = (6, 8)


def image(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((*SIZE_HW, 3), value, np.uint8)


def labels(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(H, W) with one value a column, the last one to the end."""
    columns = [values[min(x, len(values) - 1)] for x in range(SIZE_HW[1])]
    return np.tile(np.array(columns, np.uint8), (SIZE_HW[0], 1))


@pytest.fixture
def ade20k(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    table = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.15\t11664\t1172\t1\twall"]
    table += ["2\t0.11\t6046\t612\t1\tbuilding, edifice"]
    table += [f"{n}\t0.01\t9\t9\t0\tthing {n}" for n in range(3, 151)]
    trees.write_list(root / "objectInfo150.txt", table)
    for folder, name in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        trees.write_jpeg(root / "images" / folder / f"{name}.jpg", image(90))
        catalogue.write_png(root / "annotations" / folder / f"{name}.png", labels(0, 1, 2, 150))
    return root


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for split, name in (("train", "aachen_000000_000019"), ("val", "ulm_000001_000019")):
        city = name.split("_")[0]
        catalogue.write_png(
            root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image(50)
        )
        gt = root / "gtFine" / split / city
        catalogue.write_png(gt / f"{name}_gtFine_labelIds.png", labels(7, 33, 19, 0, 255, 29))
        catalogue.write_png(gt / f"{name}_gtFine_color.png", image(1))
    return root


def test_ade20k_gets_its_150_classes_and_void(ade20k: Path, tmp_path: Path) -> None:
    assert convert("ade20k", ade20k, tmp_path / "out") == {"train": 1, "val": 1}
    data = FolderDataset(root=tmp_path / "out", split="train")
    assert len(data.class_names) == 150
    assert data.class_names[:3] == ("wall", "building", "thing 3")
    got, mask = data.pair("ADE_train_1")
    assert got.shape == (*SIZE_HW, 3)
    np.testing.assert_array_equal(mask[0], [255, 0, 1, *[149] * 5])
    assert FolderDataset(root=tmp_path / "out", split="val").ids == ("ADE_val_1",)


def test_cityscapes_gets_the_19_classes_that_it_evaluates(cityscapes: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["cityscapes", str(cityscapes), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.output == "train: 1 images\nval: 1 images\n"
    data = FolderDataset(root=tmp_path / "out", split="val")
    assert data.ids == ("ulm_000001_000019",)
    assert data.class_names[0] == "road"
    assert data.class_names[18] == "bicycle"
    assert len(data.class_names) == 19
    got, mask = data.pair("ulm_000001_000019")
    np.testing.assert_array_equal(got, image(50))
    np.testing.assert_array_equal(
        mask[0], [0, 18, data.class_names.index("traffic light"), *[255] * 5]
    )


def test_what_is_missing_is_named(ade20k: Path, cityscapes: Path, tmp_path: Path) -> None:
    (ade20k / "objectInfo150.txt").unlink()
    with pytest.raises(InputError, match=r"objectInfo150\.txt is missing: expected the table of c"):
        convert("ade20k", ade20k, tmp_path / "a")
    with pytest.raises(InputError, match=r"has no images of split 'train': expected cityscapes"):
        convert("cityscapes", ade20k, tmp_path / "b")
    next((cityscapes / "gtFine" / "val").rglob("*labelIds.png")).unlink()
    with pytest.raises(InputError, match=r"mask .*ulm.*_gtFine_labelIds\.png is missing"):
        convert("cityscapes", cityscapes, tmp_path / "c")
    result = CliRunner().invoke(main, ["ade20k", str(cityscapes), str(cityscapes)])
    assert result.exit_code == 1
    assert "is not empty; name a new folder" in result.output


def test_a_damaged_table_of_classes_is_refused(ade20k: Path, tmp_path: Path) -> None:
    trees.write_list(ade20k / "objectInfo150.txt", ["Idx\tName", "one\twall"])
    with pytest.raises(
        InputError, match=r"objectInfo150\.txt: got .*one.*wall.*, expected lines t"
    ):
        convert("ade20k", ade20k, tmp_path / "out")
