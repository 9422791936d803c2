from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from szn_runtime.errors import InputError
from szn_train.calibration import class_balance, lost_share, recall_at, roc_auc, seen_bias

logits = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=40)
shares = st.floats(0, 0.95)


def test_every_label_weighs_the_same() -> None:
    assert class_balance(np.array([4, 4, 9, 4])).tolist() == pytest.approx(
        [1 / 6, 1 / 6, 1 / 2, 1 / 6]
    )


def test_a_bias_by_hand() -> None:
    values = np.array([3.0, -2.0, 0.5, 1.0])
    assert seen_bias(values, 0.25) == pytest.approx(0.75)  # between -2, lost, and 0.5, kept
    assert seen_bias(values, 0.24) == pytest.approx(3.0)  # nothing may be lost: one below -2
    assert seen_bias(values, 0.6, np.array([1, 4, 1, 1])) == pytest.approx(0.75)  # 4 of 7


@given(logits, shares)
def test_no_more_is_lost_than_allowed_and_no_less_than_possible(
    values: list[float], share: float
) -> None:
    array = np.array(values)
    bias = seen_bias(array, share)
    assert lost_share(array, bias) <= share + 1e-9
    kept = array[array + bias > 0]
    more = float(np.mean(array <= kept.min()))  # the next threshold that changes anything
    assert more > share + 1e-12


@given(logits, st.floats(-3, 3))
def test_lost_is_what_sei_calls_unseen(values: list[float], bias: float) -> None:
    array = np.array(values)
    assert lost_share(array, bias) == pytest.approx(np.mean(~(array + bias > 0)))


@given(logits, logits)
def test_area_under_the_curve_is_sklearns(seen: list[float], unseen: list[float]) -> None:
    sides = [1] * len(seen) + [0] * len(unseen)
    expected = roc_auc_score(sides, seen + unseen)
    assert roc_auc(np.array(seen), np.array(unseen)) == pytest.approx(expected)


def test_weights_of_the_area() -> None:
    seen, unseen = np.array([1.0, -1.0]), np.array([0.0])
    assert roc_auc(seen, unseen) == pytest.approx(0.5)
    assert roc_auc(seen, unseen, np.array([3.0, 1.0])) == pytest.approx(0.75)
    assert math.isnan(roc_auc(seen, np.array([])))


def test_recall_where_few_seen_are_lost() -> None:
    seen = np.arange(1.0, 101.0)  # 5 % lost: up to 5
    unseen = np.array([0.0, 4.9, 5.4, 50.0])
    assert recall_at(seen, unseen, 0.05) == pytest.approx(0.75)
    assert recall_at(seen, unseen, 0.0) == pytest.approx(0.25)


def test_what_no_bias_can_be_chosen_on() -> None:
    with pytest.raises(InputError, match="no seen cell"):
        seen_bias(np.array([]), 0.05)
    with pytest.raises(InputError, match=r"expected in \[0, 1\)"):
        seen_bias(np.array([1.0]), 1.0)
    assert math.isnan(lost_share(np.array([]), 0.0))
