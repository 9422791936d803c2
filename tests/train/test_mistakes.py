from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.errors import InputError
from szn_train.mistakes import Destination, check_labels, destinations, role
from tests.train.catalogue import SPLIT

LABELS = ("grass", "sky", "cow", "sheep")
CONFUSION = np.array([[9, 0, 1, 0], [0, 4, 0, 0], [0, 0, 0, 0], [30, 5, 60, 5]])


def test_where_the_pixels_of_a_class_went() -> None:
    found = destinations(CONFUSION, LABELS, "sheep")
    assert [(d.label, d.pixels, d.right) for d in found] == [
        ("cow", 60, False),
        ("grass", 30, False),
        ("sky", 5, False),  # a tie with sheep, which comes later
        ("sheep", 5, True),
    ]
    assert [d.percent for d in found] == [60, 30, 5, 5]


def test_labels_that_no_pixel_received_are_left_out() -> None:
    assert destinations(CONFUSION, LABELS, "sky") == (
        Destination(label="sky", pixels=4, percent=100, right=True),
    )
    assert destinations(CONFUSION, LABELS, "cow") == ()


def test_a_name_that_is_no_label_is_refused() -> None:
    with pytest.raises(InputError, match=r"'sheeps' is not a label of the run; .* sheep$"):
        destinations(CONFUSION, LABELS, "sheeps")
    with pytest.raises(InputError, match="'ocean' is not a label"):
        check_labels(LABELS, ("sheep", "ocean"))
    check_labels(LABELS, ("sheep", "cow"))


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 7))
def test_destinations_account_for_every_pixel_in_falling_order(seed: int, classes: int) -> None:
    confusion = np.random.default_rng(seed).integers(0, 4, (classes, classes))
    labels = tuple(f"class {index}" for index in range(classes))
    for index, label in enumerate(labels):
        found = destinations(confusion, labels, label)
        assert sum(d.pixels for d in found) == confusion[index].sum()
        assert [d.pixels for d in found] == sorted((d.pixels for d in found), reverse=True)
        assert all(d.pixels == confusion[index, labels.index(d.label)] > 0 for d in found)
        if found:
            assert sum(d.percent for d in found) == pytest.approx(100)


def test_roles_of_labels() -> None:
    assert [role(SPLIT, label) for label in ("grass", "boat", "sheep")] == [
        "train_seen", "train_unseen", "unseen",
    ]  # fmt: skip
