from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.errors import InputError
from szn_train.classes import VOID, ClassSplit

NAMES = ("grass", "sky", "cow", "boat", "sheep", "rock")


def test_a_split_derives_its_sets_in_the_order_of_the_data_set() -> None:
    split = ClassSplit(names=NAMES, void=("rock", "sky"), train_unseen=("boat",), unseen=("sheep",))
    assert split.labels == ("grass", "cow", "boat", "sheep")
    assert split.train_seen == ("grass", "cow")
    assert split.sizes == (2, 1, 1)
    assert split.indices(("sheep", "grass")).tolist() == [3, 0]
    assert split.is_member(("cow", "sheep")).tolist() == [False, True, False, True]


def test_a_split_without_sets_sees_everything() -> None:
    split = ClassSplit(names=NAMES)
    assert split.labels == split.train_seen == NAMES
    assert split.sizes == (6, 0, 0)


def test_the_lookup_table_skips_void_classes() -> None:
    lookup = ClassSplit(names=NAMES, void=("sky",), unseen=("cow",)).mask_lookup()
    assert lookup.dtype == np.uint8
    assert lookup[:6].tolist() == [0, VOID, 1, 2, 3, 4]
    assert (lookup[6:] == VOID).all()


@given(st.lists(st.sampled_from(["seen", "void", "train_unseen", "unseen"]), min_size=1))
def test_every_class_is_in_one_set_and_the_lookup_agrees_with_the_labels(roles: list[str]) -> None:
    names = tuple(f"class {number}" for number in range(len(roles)))
    sets = {
        role: tuple(name for name, its in zip(names, roles, strict=True) if its == role)
        for role in ("void", "train_unseen", "unseen")
    }
    if "seen" not in roles:
        with pytest.raises(InputError, match="no class is left for train_seen"):
            ClassSplit(names=names, **sets)
        return
    split = ClassSplit(names=names, **sets)
    assert sum(split.sizes) == len(split.labels) == len(names) - len(split.void)
    lookup = split.mask_lookup()
    for value, name in enumerate(names):
        expected = VOID if name in split.void else split.labels.index(name)
        assert lookup[value] == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unseen": ("sheeps",)}, r"class 'sheeps' of unseen .* such as sheep"),
        ({"train_unseen": ("Boat",)}, r"class 'Boat' of train_unseen .* such as .*boat"),
        ({"void": ("zebra",)}, r"class 'zebra' of void is not in the data set; use its class"),
        (
            {"unseen": ("cow",), "train_unseen": ("cow",)},
            r"class 'cow' is in train_unseen and in unseen: expected each class in one set",
        ),
        ({"void": ("cow",), "unseen": ("cow",)}, "class 'cow' is in void and in unseen"),
        ({"unseen": ("cow", "cow")}, "class 'cow' is in unseen and in unseen"),
        ({"unseen": NAMES}, "no class is left for train_seen; shorten"),
        ({"names": ("cow", "sky", "cow")}, "class names are not unique: got cow twice"),
        ({"names": ()}, "number of classes: got 0, expected 1 to 255"),
        ({"names": tuple(map(str, range(256)))}, "number of classes: got 256"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassSplit(**{"names": NAMES, **values})


def test_each_class_has_a_role() -> None:
    split = ClassSplit(names=NAMES, void=("rock",), train_unseen=("boat",), unseen=("sheep",))
    roles = [split.role(name) for name in NAMES]
    assert roles == ["train_seen", "train_seen", "train_seen", "train_unseen", "U", "void"]


@given(st.integers(2, 30), st.data())
def test_train_unseen_is_drawn_from_the_seen_classes(classes: int, data: st.DataObject) -> None:
    names = ("background", *(f"class {number}" for number in range(classes + 2)))
    split = ClassSplit(
        names=names, void=("class 0",), train_unseen=("class 2",), unseen=("class 1",)
    )
    seed = data.draw(st.integers(0, 2**32 - 1))
    count = data.draw(st.integers(1, classes - 1))
    drawn = split.with_random_train_unseen(count, seed)
    assert drawn == split.with_random_train_unseen(count, seed)
    assert len(set(drawn.train_unseen)) == count
    assert not set(drawn.train_unseen) & {"background", "class 0", "class 1"}
    assert (drawn.void, drawn.unseen) == (split.void, split.unseen)
    assert list(drawn.train_unseen) == [n for n in names if n in drawn.train_unseen]
    # a sweep over the size adds classes to those of the smaller draws
    if count > 1:
        smaller = split.with_random_train_unseen(count - 1, seed)
        assert set(smaller.train_unseen) < set(drawn.train_unseen)


def test_draws_differ_from_seed_to_seed() -> None:
    split = ClassSplit(names=tuple(f"class {number}" for number in range(20)))
    assert len({split.with_random_train_unseen(3, seed).train_unseen for seed in range(20)}) > 10


@pytest.mark.parametrize("count", [0, 4, 9])
def test_some_class_must_stay_seen(count: int) -> None:
    split = ClassSplit(names=("background", *NAMES), void=("rock",), unseen=("sheep",))
    expected = f"draw for train_unseen: got {count}, expected 1 to 3 of the 4 seen classes"
    with pytest.raises(InputError, match=expected):
        split.with_random_train_unseen(count, 1)
