from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, jaccard_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion
from torchmetrics.functional import classification as torchmetrics

from szn_train.metrics import (
    Mode,
    Scores,
    class_scores,
    confusion_matrix,
    harmonic_mean,
    row_percent,
    scores,
)

# rows truth, columns prediction; class 3 is never there, but called once
HAND = np.array(
    [
        [6, 1, 1, 0],
        [2, 4, 0, 1],
        [0, 5, 5, 0],
        [0, 0, 0, 0],
    ]
)
FIRST = np.array([True, True, False, False])


def approximately(pa: float, ca: float, miou: float, wiou: float) -> dict[str, object]:
    values = {"pa": pa, "ca": ca, "miou": miou, "wiou": wiou}
    return {name: pytest.approx(100 * value) for name, value in values.items()}


def test_standard_scores_of_everything_by_hand() -> None:
    # IoU: 6 / (8 + 8 - 6), 4 / (7 + 10 - 4), 5 / (10 + 6 - 5); class 3 has no truth
    iou = (6 / 10, 4 / 13, 5 / 11)
    assert scores(HAND).to_dict() == approximately(
        15 / 25,
        (6 / 8 + 4 / 7 + 5 / 10) / 3,
        sum(iou) / 3,
        (8 * iou[0] + 7 * iou[1] + 10 * iou[2]) / 25,
    )


def test_standard_scores_of_a_subset_count_false_positives_from_outside() -> None:
    iou = (6 / 10, 4 / 13)  # the 5 pixels of class 2 that were called 1 count against 1
    assert scores(HAND, FIRST).to_dict() == approximately(
        10 / 15, (6 / 8 + 4 / 7) / 2, sum(iou) / 2, (8 * iou[0] + 7 * iou[1]) / 15
    )


def test_thesis_scores_of_a_subset_have_its_quirks() -> None:
    # The 5 false positives of class 1 vanish: 4 / (7 + 5 - 4). Classes 2 and 3, each called once
    # for a pixel of the subset, enter the mean as 0.
    iou = (6 / 10, 4 / 8, 0.0, 0.0)
    assert scores(HAND, FIRST, "thesis").to_dict() == approximately(
        10 / 15, (6 / 8 + 4 / 7) / 2, sum(iou) / 4, (8 * iou[0] + 7 * iou[1]) / 15
    )


def test_a_class_outside_the_subset_that_is_never_called_leaves_the_thesis_mean_alone() -> None:
    confusion = np.array([[3, 1, 0], [0, 4, 0], [9, 9, 9]])
    subset = np.array([True, True, False])
    assert scores(confusion, subset, "thesis").miou == pytest.approx(100 * (3 / 4 + 4 / 5) / 2)
    assert scores(confusion, subset).miou == pytest.approx(100 * (3 / 13 + 4 / 14) / 2)


def test_thesis_scores_of_everything_still_count_called_classes_without_truth() -> None:
    iou = (6 / 10, 4 / 13, 5 / 11)
    assert scores(HAND, mode="thesis").miou == pytest.approx(100 * sum(iou) / 4)
    assert scores(HAND, mode="thesis").wiou == pytest.approx(scores(HAND).wiou)


@pytest.mark.parametrize("mode", ["standard", "thesis"])
def test_perfect_predictions_score_one_hundred(mode: Mode) -> None:
    assert scores(np.diag([5, 0, 3]), mode=mode) == Scores(pa=100, ca=100, miou=100, wiou=100)


@pytest.mark.parametrize("mode", ["standard", "thesis"])
def test_a_subset_without_truth_has_no_score(mode: Mode) -> None:
    values = scores(HAND, np.array([False, False, False, True]), mode).to_dict()
    assert all(math.isnan(value) for value in values.values())
    assert len(values) == 4


maps = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1)
    )
)


def draw(case: tuple[int, int, int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Truth with some void, and prediction."""
    classes, height, width, seed = case
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (height, width))
    truth[rng.random((height, width)) < 0.2] = 255
    return truth, rng.integers(0, classes, (height, width))


@settings(max_examples=60, deadline=None)
@given(case=maps)
def test_the_confusion_matrix_equals_scikit_learns(case: tuple[int, int, int, int]) -> None:
    truth, prediction = draw(case)
    known = truth != 255
    expected = np.zeros((case[0], case[0]), np.int64)
    if known.any():
        expected = sklearn_confusion(truth[known], prediction[known], labels=range(case[0]))
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, case[0]), expected)


def test_small_integers_do_not_overflow() -> None:
    truth = np.full((4, 4), 99, np.uint8)
    prediction = np.full((4, 4), 98, np.uint8)
    confusion = confusion_matrix(truth, prediction, 100)
    assert confusion[99, 98] == 16 == confusion.sum()


@settings(max_examples=60, deadline=None)
@given(case=maps)
def test_standard_scores_equal_scikit_learns(case: tuple[int, int, int, int]) -> None:
    truth, prediction = draw(case)
    known = truth != 255
    if not known.any():
        return
    t, p = truth[known], prediction[known]
    present = np.unique(t)
    result = scores(confusion_matrix(truth, prediction, case[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        iou = jaccard_score(t, p, labels=present, average=None, zero_division=0)
        recall = recall_score(t, p, labels=present, average="macro", zero_division=0)
        weighted = jaccard_score(t, p, labels=present, average="weighted", zero_division=0)
    assert result.pa == pytest.approx(100 * accuracy_score(t, p))
    assert result.ca == pytest.approx(100 * recall)
    assert result.miou == pytest.approx(100 * iou.mean())
    assert result.wiou == pytest.approx(100 * weighted)


@settings(max_examples=60, deadline=None)
@given(case=maps, data=st.data())
def test_thesis_scores_of_a_subset_are_those_of_its_pixels_alone(
    case: tuple[int, int, int, int], data: st.DataObject
) -> None:
    truth, prediction = draw(case)
    subset = np.array(data.draw(st.lists(st.booleans(), min_size=case[0], max_size=case[0])))
    inside = (truth != 255) & subset[truth % case[0]]
    result = scores(confusion_matrix(truth, prediction, case[0]), subset, "thesis")
    if not inside.any():
        assert math.isnan(result.miou)
        return
    t, p = truth[inside], prediction[inside]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # scikit-learn's default labels are those that truth or prediction show: the quirk
        expected = jaccard_score(t, p, average="macro", zero_division=0)
    assert result.miou == pytest.approx(100 * expected)
    standard = scores(confusion_matrix(truth, prediction, case[0]), subset)
    assert (result.pa, result.ca) == (standard.pa, standard.ca)
    assert result.wiou >= standard.wiou - 1e-9  # false positives from outside only lower it


@settings(max_examples=60, deadline=None)
@given(case=maps)
def test_scores_equal_torchmetrics(case: tuple[int, int, int, int]) -> None:
    truth, prediction = draw(case)
    if not (truth != 255).any():
        return
    confusion = confusion_matrix(truth, prediction, case[0])
    found, result = class_scores(confusion), scores(confusion)
    arguments = (torch.from_numpy(prediction), torch.from_numpy(truth), case[0])
    options = {"ignore_index": 255, "average": "none"}
    np.testing.assert_array_equal(
        confusion,
        torchmetrics.multiclass_confusion_matrix(*arguments, ignore_index=255).numpy(),
    )
    present, called = confusion.sum(axis=1) > 0, confusion.sum(axis=0) > 0
    iou = 100 * torchmetrics.multiclass_jaccard_index(*arguments, **options).numpy()
    recall = 100 * torchmetrics.multiclass_recall(*arguments, **options).numpy()
    precision = 100 * torchmetrics.multiclass_precision(*arguments, **options).numpy()
    np.testing.assert_allclose(found.iou[present], iou[present], rtol=1e-5)
    np.testing.assert_allclose(found.recall[present], recall[present], rtol=1e-5)
    np.testing.assert_allclose(found.precision[called], precision[called], rtol=1e-5)
    assert np.isnan(found.iou[~present]).all()
    assert np.isnan(found.precision[~called]).all()
    micro = torchmetrics.multiclass_accuracy(*arguments, ignore_index=255, average="micro")
    assert result.pa == pytest.approx(100 * float(micro), rel=1e-5)
    assert result.ca == pytest.approx(float(recall[present].mean()), rel=1e-5)
    assert result.miou == pytest.approx(float(iou[present].mean()), rel=1e-5)
    weights = confusion.sum(axis=1) / confusion.sum()
    assert result.wiou == pytest.approx(float((weights * iou).sum()), rel=1e-5)


def test_thesis_mode_of_a_label_map_by_hand() -> None:
    """U is 2 and 3. The thesis looks at the pixels of U alone, so what is wrong elsewhere is lost.

    truth       prediction
    0 0 0 2     2 2 0 2      class 2: one pixel, right; two pixels of class 0 are called 2 as well
    1 1 3 3     1 1 3 0      class 3: one right, one called 0
    255 3 . .   3 1          class 3: one called 1; void is no pixel at all
    """
    truth = np.array([[0, 0, 0, 2], [1, 1, 3, 3], [255, 3, 255, 255]])
    prediction = np.array([[2, 2, 0, 2], [1, 1, 3, 0], [3, 1, 0, 0]])
    confusion = confusion_matrix(truth, prediction, 5)
    unseen = np.array([False, False, True, True, False])
    # 2 of the 4 pixels of U; recall 1 and 1/3; IoU of 2 is 1, of 3 is 1/3, and 0 and 1 were each
    # called once for a pixel of U, so they enter the mean as 0; class 4 was never called
    assert scores(confusion, unseen, "thesis").to_dict() == approximately(
        2 / 4, (1 + 1 / 3) / 2, (1 + 1 / 3 + 0 + 0) / 4, (1 * 1 + 3 * (1 / 3)) / 4
    )
    # the standard reading sees the two pixels of class 0 that were called 2, and has no zeros
    assert scores(confusion, unseen).to_dict() == approximately(
        2 / 4, (1 + 1 / 3) / 2, (1 / 3 + 1 / 3) / 2, (1 * (1 / 3) + 3 * (1 / 3)) / 4
    )


def test_scores_of_classes_by_hand() -> None:
    found = class_scores(HAND)
    np.testing.assert_array_equal(found.pixels, [8, 7, 10, 0])
    np.testing.assert_allclose(found.iou, [60, 400 / 13, 500 / 11, np.nan])
    np.testing.assert_allclose(found.recall, [75, 400 / 7, 50, np.nan])
    np.testing.assert_allclose(found.precision, [75, 40, 500 / 6, 0])


def test_rows_of_a_confusion_matrix_in_percent() -> None:
    percent = row_percent(HAND)
    np.testing.assert_allclose(percent[:3].sum(axis=1), 100)
    np.testing.assert_allclose(percent[0], [75, 12.5, 12.5, 0])
    assert np.isnan(percent[3]).all()


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(30, 60) == pytest.approx(40)
    assert harmonic_mean(50, 50) == pytest.approx(50)
    assert harmonic_mean(0, 80) == 0
    assert harmonic_mean(0, 0) == 0


@pytest.mark.parametrize(("a", "b"), [(math.nan, 50), (50, math.nan), (math.nan, math.nan)])
def test_harmonic_mean_of_a_missing_score_is_missing(a: float, b: float) -> None:
    assert math.isnan(harmonic_mean(a, b))


@given(a=st.floats(0.01, 100), b=st.floats(0.01, 100))
def test_harmonic_mean_lies_between_and_below_the_arithmetic_mean(a: float, b: float) -> None:
    value = harmonic_mean(a, b)
    assert min(a, b) * (1 - 1e-9) <= value <= (a + b) / 2 * (1 + 1e-9)
