from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from thesis_findings import findings, markdown, spread
from thesis_plan import BASELINE, PERFECT, SZN, Claim, Comparison, Side
from thesis_results import published_numbers, result_rows, table_cells

from szn_train.classes import ClassSplit
from szn_train.evaluate import Evaluation
from szn_train.metrics import harmonic_mean

SPLIT = ClassSplit(
    names=("grass", "sky", "boat", "sheep", "bicycle"),
    train_unseen=("boat",),
    unseen=("sheep", "bicycle"),
)


def confusion(*right: int) -> NDArray[np.int64]:
    """100 pixels a class, of which so many are right and the others are called grass (or sky)."""
    matrix = np.diag(right)
    for row, hits in enumerate(right):
        matrix[row, 1 if row == 0 else 0] += 100 - hits
    return matrix


def evaluation(*right: int, perfect: tuple[int, ...] = (90, 90, 90, 60, 40)) -> Evaluation:
    return Evaluation(
        split=SPLIT,
        images=1,
        confusions={
            "FCN-JE": confusion(*right),
            "FCN-JE (all labels)": confusion(*right),
            "SZN": confusion(*right),
            "SZN-PS": confusion(*perfect),
        },
        seenmask_accuracy=50.0,
    )


PUBLISHED: dict[str, Any] = {
    "columns": ["PA", "CA", "mIoU", "wIoU"],
    "table": {"SZN": {"overall": [1, 2, 3, 4], "unseen": [5, 6, 7, 8]}, "flat": [9, 8, 7, 6]},
}


def claim(above: Side, below: Side, metric: str = "pa", group: str = "overall") -> Claim:
    return Claim(above=above, below=below, metric=metric, group=group)


COMPARISON = Comparison(
    name="losses",
    title="Losses",
    variants={"cosine": "a", "MSE": "b"},
    published={("cosine", "SZN"): ("table", "SZN"), ("MSE", BASELINE): ("table", "flat")},
    claims=(
        claim(
            Side(name="cosine", variants=("a",), published=("table", "flat", "PA")),
            Side(name="MSE", variants=("b",), published=("table", "flat", "wIoU")),
        ),
        claim(
            Side(name="MSE", variants=("b",), model=PERFECT),
            Side(name="cosine", variants=("a",), model=PERFECT),
            group="unseen",
        ),
    ),
    note="A note.",
)
EVALUATIONS: Mapping[str, Evaluation] = {
    "a": evaluation(100, 100, 100, 0, 0),
    "b": evaluation(80, 80, 80, 0, 0, perfect=(90, 90, 90, 20, 40)),
}


def test_rows_are_the_models_of_the_variants_that_are_done() -> None:
    rows = result_rows(COMPARISON, {"b": EVALUATIONS["b"]}, "standard", PUBLISHED)
    assert [(row.text, row.variant, row.model) for row in rows] == [
        ("MSE", "b", "FCN-JE"),
        ("MSE", "b", "FCN-JE (all labels)"),
        ("MSE", "b", "SZN"),
        ("MSE", "b", "SZN-PS"),
    ]
    assert rows[0].scores["overall"] == EVALUATIONS["b"].scores("FCN-JE", "overall")
    assert rows[3].scores["unseen"].pa == 30
    assert rows[0].published == {"overall": [9, 8, 7, 6]}
    assert rows[0].sizes == (2, 1, 2)
    assert rows[3].harmonic == EVALUATIONS["b"].harmonic_miou("SZN-PS")


def test_a_variant_that_could_not_be_trained_has_no_row() -> None:
    evaluations = {"a": None, "b": EVALUATIONS["b"]}
    assert len(result_rows(COMPARISON, evaluations, "standard", PUBLISHED)) == 4
    assert findings(COMPARISON, evaluations, "standard", PUBLISHED) == []


@pytest.mark.parametrize("mode", ["standard", "thesis"])
def test_unseen_scores_may_be_about_some_labels_of_u(mode: Any) -> None:
    comparison = Comparison(name="d", title="D", variants={"x": "a"}, unseen=("sheep",))
    rows = result_rows(comparison, EVALUATIONS, mode, PUBLISHED)
    assert rows[3].scores["unseen"].pa == 60
    assert rows[3].scores["unseen"] == EVALUATIONS["a"].scores_of("SZN-PS", ("sheep",), mode)
    assert rows[3].scores["overall"] == EVALUATIONS["a"].scores("SZN-PS", "overall", mode)
    seen, sheep = (rows[3].scores[group].miou for group in ("train_seen", "unseen"))
    assert rows[3].harmonic == harmonic_mean(seen, sheep)  # of what the row says of unseen
    assert rows[3].harmonic != EVALUATIONS["a"].harmonic_miou("SZN-PS", mode)


def test_rows_are_json_also_without_unseen_labels() -> None:
    split = ClassSplit(names=("grass", "sky"))
    alone = Evaluation(
        split=split, images=1, confusions={"FCN-S": np.eye(2, dtype=np.int64)},
        seenmask_accuracy=None,
    )  # fmt: skip
    [row] = result_rows(COMPARISON, {"a": alone}, "standard", PUBLISHED)
    values = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    assert values["model"] == "FCN-S"
    assert values["overall"]["miou"] == 100
    assert values["unseen"]["miou"] is values["harmonic_miou"] is None


def test_findings_are_stated_as_found() -> None:
    first, second = findings(COMPARISON, EVALUATIONS, "standard", PUBLISHED)
    assert (first.above, first.below, first.holds) == (60, 48, True)
    assert str(first) == (
        "holds: cosine is above MSE in overall PA: 60.0 against 48.0, +12.0 points "
        "(thesis: 9.0 against 6.0)"
    )
    assert (second.above, second.below, second.holds) == (30, 50, False)
    assert str(second) == (
        "does not hold: MSE is above cosine in unseen PA of SZN-PS: 30.0 against 50.0, -20.0 points"
    )
    assert second.to_dict()["difference"] == -20


def test_differences_within_what_seeds_change_are_called_so() -> None:
    evaluations = {
        **EVALUATIONS,
        "seed-1": evaluation(90, 90, 90, 0, 0),
        "seed-2": evaluation(75, 75, 75, 0, 0),
    }
    found = findings(COMPARISON, evaluations, "standard", PUBLISHED, ("a", "seed-1", "seed-2"))
    assert found[0].seeds == pytest.approx(15)  # 60, 54 and 45
    assert str(found[0]).startswith("not decided: cosine is above MSE in overall PA: 60.0 against")
    assert "+12.0 points, which is within the 15.0 that seeds change (thesis" in str(found[0])
    assert (found[0].holds, found[0].decided) == (True, False)
    assert found[0].to_dict()["decided"] is False
    assert found[1].decided
    assert found[1].seeds == 0  # all three have the same SZN-PS
    assert "seeds" not in str(found[1])
    one = COMPARISON.claims[0]
    assert spread(one, BASELINE, evaluations, "standard", None, ("a", "missing")) is None


def test_two_models_of_one_run_are_measured_by_the_range_of_their_difference() -> None:
    def of(szn: int, baseline: int) -> Evaluation:
        return replace(
            EVALUATIONS["a"],
            confusions={
                "FCN-JE": confusion(*[baseline] * 5),
                "SZN": confusion(*[szn] * 5),
                "SZN-PS": confusion(*[100] * 5),
            },
        )

    def side(model: str) -> Side:
        return Side(name=model, variants=("x",), model=model)

    comparison = Comparison(
        name="p", title="P",
        claims=(
            claim(side(SZN), side(BASELINE)),
            claim(side(PERFECT), side(SZN), group="unseen"),
            claim(side(PERFECT), side(SZN)),
        ),
    )  # fmt: skip
    evaluations = {"x": of(54, 51), "seed-1": of(60, 56), "seed-2": of(92, 90)}
    found = findings(comparison, evaluations, "standard", PUBLISHED, ("seed-1", "seed-2"))
    assert found[0].seeds == pytest.approx(2)  # each side alone changes by more than 30
    assert str(found[0]).startswith("holds: SZN is above baseline in overall PA")
    assert found[1].seeds is None  # seeds cannot turn it round
    assert found[1].decided
    assert found[2].seeds == pytest.approx(32)


def test_numbers_that_no_table_tells_apart_are_no_difference() -> None:
    claims = (claim(Side(name="a", variants=("a",)), Side(name="the same", value=60.04)),)
    comparison = Comparison(name="e", title="E", claims=claims)
    [found] = findings(comparison, EVALUATIONS, "standard", PUBLISHED)
    assert str(found) == (
        "not decided: a is above the same in overall PA: 60.0 against 60.0, no difference"
    )


def test_a_claim_waits_for_its_variants_and_takes_the_best() -> None:
    best = Comparison(
        name="o", title="O",
        claims=(claim(Side(name="Adam", variants=("b",)), Side(name="SGD", variants=("a", "c"))),),
    )  # fmt: skip
    assert findings(best, EVALUATIONS, "standard", PUBLISHED) == []  # c is still to come
    [found] = findings(best, {**EVALUATIONS, "c": None}, "standard", PUBLISHED)
    assert (found.above, found.below) == (48, 60)  # c could not be trained, a is left
    [found] = findings(
        best, {**EVALUATIONS, "c": evaluation(100, 100, 100, 100, 0)}, "standard", PUBLISHED
    )
    assert found.below == 80


def test_a_side_may_be_a_number() -> None:
    goal = claim(Side(name="cosine", variants=("a",)), Side(name="the goal", value=60.5))
    comparison = Comparison(name="g", title="G", claims=(goal,))
    [found] = findings(comparison, EVALUATIONS, "standard", PUBLISHED, ("a", "b"))
    assert str(found) == (
        "not decided: cosine is above the goal in overall PA: 60.0 against 60.5, -0.5 points, "
        "which is within the 12.0 that seeds change"
    )
    assert findings(comparison, {}, "standard", PUBLISHED) == []


def test_the_harmonic_mean_may_be_claimed() -> None:
    comparison = Comparison(
        name="h", title="H",
        claims=(
            claim(
                Side(name="a", variants=("a",), model=PERFECT),
                Side(name="b", variants=("b",), model=PERFECT),
                "harmonic",
            ),
        ),
    )  # fmt: skip
    [found] = findings(comparison, EVALUATIONS, "standard", PUBLISHED)
    assert found.above == EVALUATIONS["a"].harmonic_miou("SZN-PS")
    assert str(found).startswith("holds: a is above b in harmonic mIoU of SZN-PS: ")


def test_the_table_shows_published_numbers_beside_ours() -> None:
    rows = result_rows(COMPARISON, EVALUATIONS, "standard", PUBLISHED)
    header, *lines = table_cells(rows)
    assert header[:3] == ["variant", "model", "overall PA"]
    assert len(header) == 2 + 12 + 1
    szn = lines[2]
    assert szn[:3] == ["cosine", "SZN", "60.0 / 1.0"]
    assert szn[header.index("unseen PA")] == "0.0 / 5.0"
    assert szn[header.index("seen PA")] == "100.0"  # the thesis has none here


def test_where_all_labels_are_seen_the_table_is_of_overall_scores() -> None:
    split = ClassSplit(names=("grass", "sky"))
    alone = Evaluation(
        split=split, images=1, confusions={"FCN-S": np.array([[3, 1], [0, 4]])},
        seenmask_accuracy=None,
    )  # fmt: skip
    comparison = Comparison(name="b", title="B", variants={"softmax": "s"})
    rows = result_rows(comparison, {"s": alone}, "standard", PUBLISHED)
    assert table_cells(rows) == [
        ["variant", "model", "overall PA", "overall CA", "overall mIoU", "overall wIoU"],
        ["softmax", "FCN-S", "87.5", "87.5", "77.5", "77.5"],
    ]


def test_more_than_two_variants_have_a_line_each_in_markdown() -> None:
    seen = replace(EVALUATIONS["a"], confusions={"FCN-JE": confusion(100, 100, 100, 100, 100)})
    comparison = Comparison(name="j", title="J", variants={"2": "a", "5": "b", "9": "seen"}, x="j")
    rows = result_rows(comparison, {**EVALUATIONS, "seen": seen}, "standard", PUBLISHED)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in markdown(comparison, rows, []).splitlines()
        if line.startswith("|")
    ]
    header, rule, *cells = lines
    assert rule == ["---"] * 13
    assert header[0] == "j"
    first = dict(zip(header, cells[0], strict=True))
    assert (first["FCN-JE PA"], first["all labels unseen PA"]) == ("60.0", "0.0")
    assert (first["SZN-PS unseen PA"], first["SZN unseen PA"]) == ("50.0", "0.0")
    assert first["SZN-PS harmonic mIoU"] == f"{rows[3].harmonic:.1f}"
    assert cells[2] == ["9", "100.0", "100.0", "100.0", *[""] * 9]


def test_a_comparison_as_markdown() -> None:
    plain = Comparison(name="l", title="Losses", variants={"cosine": "a"}, note="A note.")
    rows = result_rows(plain, EVALUATIONS, "standard", PUBLISHED)
    found = findings(COMPARISON, EVALUATIONS, "standard", PUBLISHED)
    lines = markdown(plain, rows[:1], found[:1]).splitlines()
    assert lines[0] == "### Losses"
    assert lines[2].startswith("| variant | model | overall PA | overall mIoU |")
    assert lines[3] == "|" + "---|" * 9
    assert lines[4].startswith("| cosine | FCN-JE | 60.0 |")
    assert lines[6] == "A note."
    assert lines[8] == f"- {found[0]}"


def test_published_numbers_are_the_thesis() -> None:
    published = published_numbers()
    assert published["table4_voc_17_2_2"]["SZN-PS"]["unseen"] == [57.0, 52.9, 26.4, 56.9]
    assert published["table1_explained_variance"]["20"] == 0.29
    assert "thesis" in published["source"]
    for name, table in published.items():
        if name.startswith(("table3", "table4", "table5", "table6")):
            for groups in table.values():
                assert set(groups) == {"overall", "seen", "unseen"}
                assert all(len(numbers) == 4 for numbers in groups.values())
                assert all(0 <= n <= 100 and math.isfinite(n) for g in groups.values() for n in g)
