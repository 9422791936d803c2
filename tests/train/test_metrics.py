from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.metrics import confusion_matrix as sk_confusion

from szn_train.metrics import confusion_matrix, harmonic_mean, scores

# rows truth, columns prediction; classes a, b, c
CONFUSION = np.array([[6, 2, 0], [1, 3, 0], [4, 0, 4]])


def test_confusion_counts_rows_by_truth_and_leaves_void_out() -> None:
    truth = np.array([0, 0, 1, 255, 2], np.uint8)
    prediction = np.array([0, 1, 1, 1, 0], np.uint8)
    np.testing.assert_array_equal(
        confusion_matrix(truth, prediction, 3), [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    )


def test_overall_scores_by_hand() -> None:
    result = scores(CONFUSION)
    assert result.pa == pytest.approx(100 * 13 / 20)
    assert result.ca == pytest.approx(100 * (6 / 8 + 3 / 4 + 4 / 8) / 3)
    iou = [6 / 13, 3 / 6, 4 / 8]
    assert result.miou == pytest.approx(100 * sum(iou) / 3)
    assert result.wiou == pytest.approx(100 * (8 * iou[0] + 4 * iou[1] + 8 * iou[2]) / 20)


def test_standard_subset_keeps_false_positives_from_outside() -> None:
    result = scores(CONFUSION, np.array([True, True, False]))
    assert result.pa == pytest.approx(100 * 9 / 12)
    assert result.miou == pytest.approx(100 * (6 / 13 + 3 / 6) / 2)  # 4 pixels of c count against a


def test_thesis_subset_drops_false_positives_and_counts_wrong_classes_as_zero() -> None:
    result = scores(CONFUSION, np.array([True, True, False]), "thesis")
    assert result.miou == pytest.approx(100 * (6 / 9 + 3 / 6) / 2)  # the 4 pixels have vanished
    # pixels of c alone: 4 right, 4 called a; a enters the mean with 0
    only_c = scores(CONFUSION, np.array([False, False, True]), "thesis")
    assert only_c.miou == pytest.approx(100 * (0 + 4 / 8) / 2)
    assert scores(CONFUSION, np.array([False, False, True])).miou == pytest.approx(50)


def test_a_subset_that_the_truth_lacks_has_no_score() -> None:
    result = scores(np.array([[3, 0], [0, 0]]), np.array([False, True]))
    assert np.isnan([result.pa, result.ca, result.miou, result.wiou]).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(deadline=None, max_examples=40)
def test_equals_scikit_learn(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, classes, (2, 60))
    confusion = confusion_matrix(truth, prediction, classes)
    labels = list(range(classes))
    np.testing.assert_array_equal(confusion, sk_confusion(truth, prediction, labels=labels))
    present = np.unique(truth)
    result = scores(confusion)
    assert result.pa == pytest.approx(100 * accuracy_score(truth, prediction))
    expected = jaccard_score(truth, prediction, labels=present, average="macro", zero_division=0)
    assert result.miou == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(60, 30, 40), (50, 0, 0), (0, 0, 0), (25, 25, 25)]
)
def test_harmonic_mean(a: float, b: float, expected: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(expected)


def test_harmonic_mean_of_no_score_is_none() -> None:
    assert np.isnan(harmonic_mean(50, float("nan")))
