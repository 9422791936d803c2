from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from szn_runtime.errors import InputError
from szn_train.config import TrainConfig
from szn_train.datasets import FolderDataset, select
from szn_train.datasets.check import DataReport, check_data
from szn_train.progress import Progress
from tests.train import catalogue, trees
from tests.train.catalogue import CLASSES, SCENES

SINGLE = {f"g{n}": catalogue.scene("grass", "grass", "grass", seed=n) for n in range(20)}


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """The tiny data set, free to be damaged."""
    data = catalogue.write_dataset(tmp_path / "data")
    return catalogue.tiny_config(data, catalogue.write_words(tmp_path / "words.txt"))


def check(config: TrainConfig, **changes: Any) -> DataReport:
    return check_data(dataclasses.replace(config, **changes), progress=Progress(quiet=True))


def printed(report: DataReport) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for table in report.tables():
            console.print(table)
    return capture.get()


def row(text: str, first: str) -> list[str]:
    """Cells of the row of a printed table that starts with `first`."""
    rows = [line for line in text.splitlines() if line.strip("│ ").startswith(first)]
    assert len(rows) == 1, text
    return [cell.strip() for cell in rows[0].strip("│ ").split("│")]


def test_a_good_data_set_has_no_fatal_problem(config: TrainConfig) -> None:
    report = check(config)
    assert report.fatal == ()
    assert report.split == catalogue.SPLIT
    train, val = report.contents
    assert (len(train.counts), len(val.counts)) == (10, 4)
    for content, scenes in ((train, SCENES["train"]), (val, SCENES["val"])):
        for value, name in enumerate(CLASSES):
            assert content.images[value] == sum(name in shown for shown in scenes.values())
        masks = [catalogue.scene(*shown, seed=n)[1] for n, shown in enumerate(scenes.values())]
        expected = np.bincount(np.concatenate([m.ravel() for m in masks]), minlength=256)
        np.testing.assert_array_equal(content.pixels, expected)
    assert report.chosen == (
        "classes (3, 1, 1), 10 images",
        "embedding: 6 images kept; dropped 2 with a class of U, 2 with one of train_unseen, 0 all "
        "void",
        "seenmask: 8 images kept; dropped 2 with a class of U, 0 all void",
    )
    assert report.notes == (
        "class 'grass' is in 7 images of split 'train' only",
        "class 'sky' is in 7 images of split 'train' only",
        "class 'cow' is in 5 images of split 'train' only",
    )


def test_the_tables_have_counts_sizes_and_frequencies(config: TrainConfig) -> None:
    text = printed(check(config))
    assert row(text, "train")[1:] == ["10", "", "10", "64 x 48", "64 x 48", "64 x 48", "0.0 %"]
    masks = [catalogue.scene(*s, seed=n)[1] for n, s in enumerate(SCENES["train"].values())]
    grass = 100 * np.mean([(mask == 0).mean() for mask in masks])
    assert row(text, "grass")[:4] == ["grass", "train_seen", f"{grass:.2f} %", "7"]
    assert row(text, "boat")[1] == "train_unseen"
    assert row(text, "sheep")[1] == "U"
    assert row(text, "rock")[1] == "void"


def test_sizes_are_told_apart(config: TrainConfig) -> None:
    pairs = {
        f"i{n}": catalogue.scene("grass", "sky", "cow", size_hw=size)
        for n, size in enumerate([(40, 50), (20, 90), (60, 70), (40, 50)])
    }
    root = Path(config.data)
    catalogue.write_dataset(root, {"train": pairs})
    report = check(config, train_unseen=())
    assert row(printed(report), "train")[4:7] == ["90 x 20", "70 x 60", "50 x 40"]


def test_everything_fatal_is_found_not_only_the_first(config: TrainConfig) -> None:
    root = Path(config.data)
    (root / "images" / "t2.png").write_text("no image")
    catalogue.write_png(root / "masks" / "t4.png", np.full((48, 64), 77, np.uint8))
    catalogue.write_png(root / "masks" / "v1.png", np.zeros((48, 60), np.uint8))
    report = check(config)
    messages = [str(error) for error in report.fatal]
    assert len(messages) == 3
    assert "t2.png is not an image that OpenCV decodes" in messages[0]
    assert "t4.png has an index outside classes.txt: got 77" in messages[1]
    assert "image and mask 'v1' differ in size" in messages[2]
    # the others were read
    assert [len(content.counts) for content in report.contents] == [8, 3]
    assert row(printed(report), "train")[1:4] == ["10", "", "8"]


def test_sets_that_overlap_come_first(config: TrainConfig) -> None:
    (Path(config.data) / "masks" / "t2.png").unlink()
    report = check(config, unseen=("sheep", "boat"))
    assert "class 'boat' is in train_unseen and in unseen" in str(report.fatal[0])
    assert "t2.png is missing" in str(report.fatal[1])
    assert report.split is None
    assert "10" in printed(report)


def test_a_class_without_an_embedding_is_found(config: TrainConfig) -> None:
    root = Path(config.data)
    (root / "classes.txt").write_text("\n".join((*CLASSES[:-1], "gizmo")) + "\n")
    report = check(config, void=())
    (error,) = report.fatal
    assert "label 'gizmo': 'gizmo' is not in words.txt" in str(error)


def test_one_hot_labels_have_the_dimensions_that_training_gives_them(config: TrainConfig) -> None:
    assert config.dim != len(catalogue.SPLIT.labels)
    assert check(config, embeddings="one-hot").fatal == ()


def test_a_split_that_leaves_no_image_is_found(config: TrainConfig) -> None:
    report = check(config, unseen=("sheep", "grass", "sky"))
    (error,) = report.fatal
    assert isinstance(error, InputError)
    assert "split 'train' of " in str(error)
    assert "leaves no image for the embedding" in str(error)
    assert report.chosen == ()


def test_what_a_seenmask_of_statistics_holds_out_is_counted(tmp_path: Path) -> None:
    config = catalogue.statistical_config(tmp_path)
    report = check(config)
    assert report.fatal == ()
    dataset = FolderDataset(root=Path(config.data), split="train")
    held = select(dataset, catalogue.SPLIT, hold_share=config.hold_share, seed=config.seed)
    assert report.chosen == held.lines(catalogue.SPLIT)[:4]
    assert report.chosen[3] == f"held out of both: {len(held.hold_ids)} images"
    assert check(config, seenmask="linear").chosen[2].startswith("seenmask: 48 images kept")
    assert len(check(config, seenmask="linear").chosen) == 3
    assert len(check(config, train_unseen=()).chosen) == 3


def test_too_few_held_out_images_are_found(config: TrainConfig) -> None:
    report = check(config, seenmask="statistics")
    (error,) = report.fatal
    assert "operating point on: got 1, with hold_share 0.125, expected 8 or more" in str(error)
    assert report.chosen[3] == "held out of both: 1 images"
    assert check(config, seenmask="statistics", train_unseen=()).fatal == ()


def test_a_single_label_of_train_seen_is_found(config: TrainConfig) -> None:
    catalogue.write_dataset(
        Path(config.data), {"train": {**SINGLE, "t": catalogue.scene("grass", "grass", "boat")}}
    )
    changes = {"void": ("rock", "cow", "sky"), "unseen": ("sheep",), "hold_share": 0.5}
    report = check(config, seenmask="statistics", val_split="train", **changes)
    (error,) = report.fatal
    assert "seenmask of statistics: got 1, expected 2 or more; give --seenmask linear" in str(error)
    assert check(config, val_split="train", **changes).fatal == ()


def test_a_missing_split_does_not_hide_the_other(config: TrainConfig) -> None:
    report = check(config, val_split="test")
    (error,) = report.fatal
    assert "has no split 'test': expected one of train, val" in str(error)
    assert [content.dataset.split for content in report.contents] == ["train"]
    assert report.chosen[0] == "classes (3, 1, 1), 10 images"


def test_a_folder_that_is_not_there(config: TrainConfig, tmp_path: Path) -> None:
    report = check(config, data=str(tmp_path / "nowhere"))
    assert report.contents == ()
    assert "no data set at" in str(report.fatal[0])
    assert "images" in printed(report)


def test_odd_things_are_noted(config: TrainConfig) -> None:
    root = Path(config.data)
    (root / "splits" / "val.txt").write_text("v0\nt1\nt2\n")
    catalogue.write_png(root / "masks" / "v0.png", np.full((48, 64), 255, np.uint8))
    report = check(config)
    assert report.fatal == ()
    assert "2 images are in both splits, such as t1: what is measured on them says little" in (
        report.notes
    )
    assert "1 images of split 'val' are all void" in report.notes
    assert "class 'sheep' has no pixel in split 'val'" in report.notes
    assert "class 'rock' has no pixel in split 'val'" not in report.notes  # it is void


def test_the_published_counts_are_compared(tmp_path: Path) -> None:
    root = trees.write_voc_sbd(tmp_path / "pascal")
    words = tmp_path / "words.txt"
    rng = np.random.default_rng(0)
    from szn_train.datasets.voc import VOC_CLASSES

    words.write_text(
        "".join(f"{n} {' '.join(map(str, rng.normal(size=4)))}\n" for n in VOC_CLASSES)
    )
    config = TrainConfig(
        data=str(root), dataset="voc", embeddings=str(words), dim=3,
        train_unseen=("aeroplane", "horse"), unseen=("sheep", "train"), seenmask="linear",
    )  # fmt: skip
    report = check(config)
    assert report.fatal == ()
    assert "split 'train' has 10 images, the published one 8498" in report.notes
    assert "split 'val' has 4 images, the published one 736" in report.notes
    assert report.chosen == (
        "classes (17, 2, 2), 10 images",
        "embedding: 4 images kept; dropped 2 with a class of U, 4 with one of train_unseen, 0 all "
        "void",
        "seenmask: 8 images kept; dropped 2 with a class of U, 0 all void",
    )
    assert row(printed(report), "val")[1:4] == ["4", "736", "4"]
    assert row(printed(report), "val")[-1] == f"{100 / trees.SIZE_HW[0]:.1f} %"


def test_images_with_void_are_counted_as_dropped(tmp_path: Path) -> None:
    root = trees.write_context(tmp_path / "pascal")
    words = catalogue.write_words(tmp_path / "words.txt")
    config = TrainConfig(
        data=str(root), dataset="context", embeddings=str(words), dim=3, drop_void=True
    )
    assert check(config).chosen[0] == "classes (33, 0, 0), 4 images, 2 dropped for void pixels"


def test_words_of_labels_are_checked(config: TrainConfig) -> None:
    assert check(config, label_words=(("cow", ("horse",)),)).fatal == ()
    assert check(config, label_words=(("rock", ("hoarse",)),)).fatal == ()  # no label
    (fatal,) = check(config, label_words=(("cow", ("hoarse",)),)).fatal
    assert isinstance(fatal, InputError)
    message = "label 'hoarse': 'hoarse' is not in words.txt; did you mean horse"
    assert message in str(fatal)
