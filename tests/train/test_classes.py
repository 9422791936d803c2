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
