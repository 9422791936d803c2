from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from szn_runtime.errors import InputError
from szn_train.evaluate import Evaluation
from szn_train.report import (
    confusion_rows,
    mistake_rows,
    print_mistakes,
    print_scores,
    write_report,
)
from tests.train.catalogue import SPLIT

# grass, sky, cow, boat, sheep
CONFUSION = np.array(
    [
        [8, 2, 0, 0, 0],
        [0, 5, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [3, 0, 0, 1, 0],
        [1, 0, 6, 2, 1],
    ]
)


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        split=SPLIT,
        images=3,
        confusions={"FCN-JE": CONFUSION * 2, "SZN": CONFUSION},
        seenmask_accuracy=62.5,
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_of_an_evaluation(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path, "val")
    assert json.loads((tmp_path / "eval-val.json").read_text())["images"] == 3
    assert len(rows_of(tmp_path / "eval-val.csv")) == len(evaluation.rows())
    classes = rows_of(tmp_path / "eval-val.classes.csv")
    assert [row["class"] for row in classes] == 2 * list(SPLIT.labels)
    confusion = rows_of(tmp_path / "eval-val.confusion.csv")
    sheep = next(row for row in confusion if row["model"] == "SZN" and row["truth"] == "sheep")
    assert [sheep[label] for label in SPLIT.labels] == ["10.0", "0.0", "60.0", "20.0", "10.0"]
    errors = rows_of(tmp_path / "eval-val.errors.csv")
    of_sheep = [row for row in errors if row["model"] == "SZN" and row["class"] == "sheep"]
    assert [(row["received"], row["received_set"]) for row in of_sheep] == [
        ("cow", "train_seen"),
        ("boat", "train_unseen"),
        ("grass", "train_seen"),
        ("sheep", "unseen"),
    ]
    nested = json.loads((tmp_path / "eval-val.errors.json").read_text())
    assert nested["FCN-JE"]["sheep"][0] == {"label": "cow", "pixels": 12, "percent": 60.0}
    assert "cow" not in nested["SZN"]  # it has no pixels


def test_rows_of_confusion_and_mistakes_agree(evaluation: Evaluation) -> None:
    percent = {(row["model"], row["truth"]): row for row in confusion_rows(evaluation)}
    for row in mistake_rows(evaluation):
        assert percent[row["model"], row["class"]][str(row["received"])] == row["percent"]


def test_without_any_pixel_there_is_no_table_of_errors(tmp_path: Path) -> None:
    empty = Evaluation(
        split=SPLIT,
        images=1,
        confusions={"SZN": np.zeros((5, 5), np.int64)},
        seenmask_accuracy=None,
    )
    write_report(empty, tmp_path, "val")
    assert not (tmp_path / "eval-val.errors.csv").exists()
    assert json.loads((tmp_path / "eval-val.errors.json").read_text()) == {}


def test_what_is_printed(evaluation: Evaluation) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    print_scores(evaluation, "val", console)
    print_mistakes(evaluation, "sheep", console, most=2)
    text = console.export_text()
    assert "val, 3 images, thesis metrics, percent" in text
    assert "seenmask accuracy 62.5 %" in text
    assert "where the pixels of sheep (unseen) went" in text
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "SZN cow train_seen 6 60.0" in lines
    assert "SZN boat train_unseen 2 20.0" in lines
    assert "SZN 2 others 2 20.0" in lines
    with pytest.raises(InputError, match="'rock' is not a label"):
        print_mistakes(evaluation, "rock", console)


def test_a_class_without_pixels_is_said_to_have_none(evaluation: Evaluation) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    print_mistakes(evaluation, "cow", console)
    assert console.export_text().count("no pixels") == 2
