from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from szn_runtime.errors import InputError
from szn_train.classes import ClassSplit
from szn_train.datasets import FolderDataset, Selection, VoidFreeDataset, select
from tests.train import catalogue
from tests.train.catalogue import CLASSES, SCENES, SPLIT, Pair


@pytest.fixture(scope="module")
def train_set(tmp_path_factory: pytest.TempPathFactory) -> FolderDataset:
    root = catalogue.write_dataset(tmp_path_factory.mktemp("selection") / "data")
    return FolderDataset(root=root, split="train")


def chosen(tmp_path: Path, split: ClassSplit, **pairs: Pair) -> Selection:
    root = catalogue.write_dataset(tmp_path / "data", {"train": pairs})
    return select(FolderDataset(root=root, split="train"), split)


def test_each_step_gets_the_images_that_it_may_see(train_set: FolderDataset) -> None:
    selection = select(train_set, SPLIT)
    # t8 and t9 show a sheep, of U; t6 and t7 a boat; the rock of t5 is void
    assert selection.embedding_ids == ("t0", "t1", "t2", "t3", "t4", "t5")
    assert selection.seenmask_ids == ("t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7")
    assert (selection.dropped_unseen, selection.dropped_empty) == (2, 0)


def test_pixels_are_counted_over_the_whole_split(train_set: FolderDataset) -> None:
    expected = dict.fromkeys(SPLIT.labels, 0)
    for row, shown in enumerate(SCENES["train"].values()):
        _, mask = catalogue.scene(*shown, seed=row)
        for name in expected:
            expected[name] += int((mask == CLASSES.index(name)).sum())
    selection = select(train_set, SPLIT)
    assert selection.pixels.tolist() == list(expected.values())
    assert selection.facts(SPLIT) == {
        "tuple": [3, 1, 1],
        "embedding_images": 6,
        "seenmask_images": 8,
        "hold": [],
        "dropped_unseen": 2,
        "dropped_empty": 0,
        "dropped_void": 0,
        "pixels": expected,
    }


def test_one_pixel_of_u_drops_an_image_from_both_steps(tmp_path: Path) -> None:
    spoilt = catalogue.scene("grass", "sky")
    spoilt[1][47, 63] = CLASSES.index("sheep")
    selection = chosen(
        tmp_path,
        SPLIT,
        spoilt=spoilt,
        plain=catalogue.scene("grass"),
        boat=catalogue.scene("grass", "boat"),
    )
    assert selection.embedding_ids == ("plain",)
    assert selection.seenmask_ids == ("plain", "boat")
    assert selection.dropped_unseen == 1


def test_void_never_drops_an_image(tmp_path: Path) -> None:
    image, mask = catalogue.scene("grass", "rock")
    mask[30:40] = 255
    selection = chosen(
        tmp_path, ClassSplit(names=CLASSES, void=("rock", "sheep")), a=(image, mask),
        b=catalogue.scene("sky", "sheep"),
    )  # fmt: skip
    assert selection.embedding_ids == selection.seenmask_ids == ("a", "b")


def test_an_image_of_void_alone_is_dropped_and_counted(tmp_path: Path) -> None:
    image, mask = catalogue.scene("grass")
    selection = chosen(
        tmp_path,
        ClassSplit(names=CLASSES, void=("rock",)),
        a=(image, np.full_like(mask, 255)),
        b=catalogue.scene("rock"),
        c=(image, mask),
    )
    assert selection.seenmask_ids == ("c",)
    assert (selection.dropped_unseen, selection.dropped_empty) == (0, 2)


def test_nothing_left_for_the_embedding_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"split 'train' of .* leaves no image for the embedding"):
        chosen(tmp_path, SPLIT, a=catalogue.scene("boat"), b=catalogue.scene("grass", "sheep"))


def test_no_image_of_train_unseen_is_an_error(tmp_path: Path) -> None:
    expected = r"has no image of boat without a class of U; choose another --train-unseen"
    with pytest.raises(InputError, match=expected):
        chosen(tmp_path, SPLIT, a=catalogue.scene("grass"), b=catalogue.scene("boat", "sheep"))


def test_without_train_unseen_both_steps_may_have_the_same_images(tmp_path: Path) -> None:
    split = ClassSplit(names=CLASSES, unseen=("sheep",))
    selection = chosen(tmp_path, split, a=catalogue.scene("grass", "boat"))
    assert selection.embedding_ids == selection.seenmask_ids == ("a",)


def test_bad_data_is_found_even_in_images_that_would_be_dropped(tmp_path: Path) -> None:
    image, _ = catalogue.scene("sheep")
    wrong = np.full((10, 12), CLASSES.index("sheep"), np.uint8)
    with pytest.raises(InputError, match="image and mask 'bad' differ in size"):
        chosen(tmp_path, SPLIT, good=catalogue.scene("grass"), bad=(image, wrong))


def test_the_console_says_what_was_kept_and_dropped(train_set: FolderDataset) -> None:
    selection = select(train_set, SPLIT)
    classes, embedding, seenmask, *pixels = selection.lines(SPLIT)
    assert classes == "classes (3, 1, 1), 10 images"
    assert embedding == (
        "embedding: 6 images kept; dropped 2 with a class of U, 2 with one of train_unseen, "
        "0 all void"
    )
    assert seenmask == "seenmask: 8 images kept; dropped 2 with a class of U, 0 all void"
    assert [line.split()[0] for line in pixels] == list(SPLIT.labels)
    assert [line.split()[-1] for line in pixels] == [*["train_seen"] * 3, "train_unseen", "U"]
    counts = [int(line.split()[1].replace(",", "")) for line in pixels]
    assert counts == selection.pixels.tolist()
    shares = [float(line.split()[3]) for line in pixels]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_without_train_unseen_the_seenmask_is_not_trained(tmp_path: Path) -> None:
    split = ClassSplit(names=CLASSES, unseen=("sheep",))
    lines = chosen(tmp_path, split, a=catalogue.scene("grass", "boat")).lines(split)
    assert lines[2] == "seenmask: not trained, as train_unseen is empty"


def test_images_that_a_data_set_dropped_for_void_are_counted(tmp_path: Path) -> None:
    image, mask = catalogue.scene("grass", "sky")
    holed = mask.copy()
    holed[3, 3] = 255
    root = catalogue.write_dataset(
        tmp_path / "data", {"train": {"a": (image, mask), "b": (image, holed)}}
    )
    dataset = VoidFreeDataset(dataset=FolderDataset(root=root, split="train"))
    split = ClassSplit(names=CLASSES)
    selection = select(dataset, split)
    assert selection.embedding_ids == ("a",)
    assert selection.dropped_void == 1
    assert selection.lines(split)[0] == "classes (6, 0, 0), 2 images, 1 dropped for void pixels"


def test_images_are_held_out_of_every_label_and_never_too_many(tmp_path: Path) -> None:
    root = catalogue.write_dataset(tmp_path / "data", catalogue.many_scenes(6))
    dataset = FolderDataset(root=root, split="train")
    whole = select(dataset, SPLIT)
    held = select(dataset, SPLIT, hold_share=0.25, seed=1)
    assert sorted(held.seenmask_ids + held.hold_ids) == sorted(whole.seenmask_ids)
    assert set(held.embedding_ids) == set(whole.embedding_ids) - set(held.hold_ids)
    assert 0.2 * 48 <= len(held.hold_ids) <= 0.35 * 48
    shown = {i: SCENES["train"][i.split("-")[0]] for i in held.hold_ids}
    for name, images in (("grass", 30), ("sky", 30), ("cow", 30), ("boat", 12)):
        count = sum(name in names for names in shown.values())
        assert count >= round(0.25 * images)
        assert count <= images // 2
    assert not any("sheep" in names for names in shown.values())
    assert select(dataset, SPLIT, hold_share=0.25, seed=1).hold_ids == held.hold_ids
    assert select(dataset, SPLIT, hold_share=0.25, seed=2).hold_ids != held.hold_ids
    assert held.facts(SPLIT)["hold"] == list(held.hold_ids)
    assert f"held out of both: {len(held.hold_ids)} images" in held.lines(SPLIT)
    assert held.lines(SPLIT)[0] == "classes (3, 1, 1), 60 images"


def test_a_label_with_few_images_keeps_them(train_set: FolderDataset) -> None:
    held = select(train_set, SPLIT, hold_share=0.5)
    taught = [SCENES["train"][i] for i in held.seenmask_ids]
    assert sum("boat" in names for names in taught) >= 1
    assert sum("cow" in SCENES["train"][i] for i in held.embedding_ids) >= 2
