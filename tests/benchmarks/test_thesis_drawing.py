from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from thesis_drawing import draw_comparison
from thesis_plan import Comparison
from thesis_results import result_rows
from thesis_variance import VarianceRow

from szn_train.classes import ClassSplit
from szn_train.evaluate import Evaluation
from tests.benchmarks.test_thesis_results import EVALUATIONS, PUBLISHED


def values(path: Path, category: str) -> dict[tuple[str, str], float]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["series"], row[category]): float(row["percent"]) for row in rows}


def no_variance() -> list[VarianceRow]:
    raise AssertionError("not asked for")


def test_several_variants_are_bars_of_what_tells_most(tmp_path: Path) -> None:
    comparison = Comparison(
        name="losses",
        title="Losses",
        variants={"cosine": "a", "MSE": "b"},
        published={("cosine", "SZN"): ("table", "SZN")},
    )
    rows = result_rows(comparison, EVALUATIONS, "standard", PUBLISHED)
    paths = draw_comparison(comparison, rows, no_variance, tmp_path)
    assert [path.name for path in paths] == ["losses.png", "losses.pdf", "losses.csv"]
    drawn = values(paths[2], "category")
    assert drawn["cosine", "overall PA"] == 60  # of FCN-JE
    assert drawn["MSE", "overall PA"] == 48
    assert drawn["cosine", "unseen PA, SZN"] == 0
    assert drawn["cosine", "unseen PA, SZN-PS"] == 50
    assert drawn["cosine (thesis)", "unseen PA, SZN"] == 5
    assert ("cosine (thesis)", "overall PA") not in drawn  # the bar is FCN-JE's, the number SZN's
    assert ("MSE (thesis)", "unseen PA, SZN") not in drawn


def test_where_all_labels_are_seen_train_seen_has_no_bar(tmp_path: Path) -> None:
    split = ClassSplit(names=("grass", "sky"))
    alone = Evaluation(
        split=split, images=1, confusions={"FCN-S": np.eye(2, dtype=np.int64)},
        seenmask_accuracy=None,
    )  # fmt: skip
    comparison = Comparison(name="b", title="B", variants={"softmax": "s", "other": "t"})
    rows = result_rows(comparison, {"s": alone, "t": alone}, "standard", PUBLISHED)
    drawn = values(draw_comparison(comparison, rows, no_variance, tmp_path)[2], "category")
    assert {category for _, category in drawn} == {"overall PA", "overall mIoU"}


def test_one_variant_is_bars_of_its_models(tmp_path: Path) -> None:
    comparison = Comparison(
        name="one", title="One", variants={"x": "a"},
        published={("x", "SZN"): ("table", "SZN")},
    )  # fmt: skip
    rows = result_rows(comparison, EVALUATIONS, "standard", PUBLISHED)
    drawn = values(draw_comparison(comparison, rows, no_variance, tmp_path)[2], "category")
    assert {series for series, _ in drawn} == {
        "FCN-JE", "FCN-JE (all labels)", "SZN", "SZN-PS", "SZN (thesis)",
    }  # fmt: skip
    assert drawn["SZN-PS", "unseen PA"] == 50
    assert (drawn["SZN (thesis)", "overall PA"], drawn["SZN (thesis)", "unseen mIoU"]) == (1, 7)


def test_numbers_in_the_first_column_are_curves(tmp_path: Path) -> None:
    comparison = Comparison(name="j", title="J", variants={"2": "a", "20": "b"}, x="j")
    rows = result_rows(comparison, EVALUATIONS, "standard", PUBLISHED)
    drawn = values(draw_comparison(comparison, rows, no_variance, tmp_path)[2], "j")
    assert drawn["FCN-JE overall PA", "2.0"] == 60
    assert drawn["FCN-JE overall PA", "20.0"] == 48
    assert drawn["SZN-PS unseen PA", "20.0"] == 30
    assert not [series for series, _ in drawn if series.startswith("SZN overall")]


def test_without_results_nothing_is_drawn(tmp_path: Path) -> None:
    comparison = Comparison(name="j", title="J", variants={"2": "a"}, x="j")
    assert draw_comparison(comparison, [], no_variance, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_variance_is_drawn_beside_the_thesis(tmp_path: Path) -> None:
    comparison = Comparison(name="variance", title="Variance", table=1)
    found = [
        VarianceRow(j=2, dimensions=50, source="glove", kept=0.1, published=0.07),
        VarianceRow(j=100, dimensions=50, source="glove", kept=None, published=0.62),
    ]
    paths = draw_comparison(comparison, [], lambda: found, tmp_path)
    with paths[2].open(newline="") as file:
        drawn = [
            (row["series"], row["j"], float(row["percent of the variance"]))
            for row in csv.DictReader(file)
        ]
    assert drawn == [
        ("glove", "2", 10.0),
        ("Google News, 300 dimensions (thesis)", "2", pytest.approx(7.0)),
        ("Google News, 300 dimensions (thesis)", "100", 62.0),
    ]
