from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest

from szn_export.cli import _print_rows
from szn_export.gate import DEFAULT_BUDGETS, Budget, Comparison, Flips
from szn_export.quality import Quality
from szn_export.report import Row, flips_picture, report_json, report_markdown
from tests.runtime import catalogue

COMPARISON = Comparison(
    images=24,
    frames=72,
    sizes_hw=((160, 256), (224, 320)),
    batches=(1, 3),
    embedding_max=0.000123,
    embedding_mean=0.0000045,
    embedding_scale=6.5,
    seenmask_max=0.00021,
    label_flips=0.00034,
    seenmask_flips=0.0,
)
ROW = Row(
    artefact="model.onnx",
    runner="onnxruntime fp32",
    precision="fp32",
    budget=Budget(label_flips=0.01, seenmask_flips=0.02),
    comparison=COMPARISON,
)


def scores(je: float, szn: float) -> Quality:
    return Quality(
        miou={
            "FCN-JE": {"train_seen": je, "unseen": 0.0, "harmonic": 0.0},
            "SZN": {"train_seen": 60.0, "unseen": 1.0, "harmonic": szn},
            "SZN-PS": {"train_seen": 60.0, "unseen": 70.0, "harmonic": float("nan")},
        }
    )


def test_the_json_holds_every_number() -> None:
    values = json.loads(report_json([ROW], name="szn-mini"))
    assert values == {
        "name": "szn-mini",
        "rows": [
            {
                "artefact": "model.onnx",
                "runner": "onnxruntime fp32",
                "precision": "fp32",
                "budget": {"label_flips": 0.01, "seenmask_flips": 0.02, "miou_points": None},
                "comparison": {
                    "images": 24,
                    "frames": 72,
                    "sizes_hw": [[160, 256], [224, 320]],
                    "batches": [1, 3],
                    "embedding_max": 0.000123,
                    "embedding_mean": 0.0000045,
                    "embedding_scale": 6.5,
                    "seenmask_max": 0.00021,
                    "label_flips": 0.00034,
                    "seenmask_flips": 0.0,
                    "quality": None,
                    "reference_quality": None,
                },
                "verdict": "ok",
                "problem": None,
            }
        ],
    }


def test_numbers_that_are_none_become_null() -> None:
    quality = scores(70.0, float("nan"))
    row = ROW.measured(Comparison(**{**vars(COMPARISON), "quality": quality}), [])
    (value,) = json.loads(report_json([row]))["rows"]
    assert value["comparison"]["quality"]["miou"]["SZN"]["harmonic"] is None


def test_a_file_is_refused_for_what_it_is_made_for_alone() -> None:
    failed = ROW.failing("too far")
    assert failed.refuses
    assert not ROW.refuses
    assert not dataclasses.replace(failed, own=False).refuses


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (ROW, "ok"),
        (ROW.failing("too far"), "past its budget"),
        (Row(**{**vars(ROW), "comparison": None, "problem": "no GPU"}), "built, not run"),
        (Row(**{**vars(ROW), "comparison": None}).failing("it is NaN"), "failed"),
    ],
)
def test_verdicts(row: Row, verdict: str) -> None:
    assert row.verdict == verdict
    text = report_markdown("x", [row]).decode()
    assert f"| {verdict} |" in text
    if row.problem:
        assert f"model.onnx in onnxruntime fp32, {verdict}: {row.problem}" in text


def test_why_nothing_ran_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    def engine(precision: str, problem: str) -> Row:
        return Row(
            artefact=f"model.{precision}.engine", runner=f"tensorrt {precision}",
            precision=precision, budget=Budget(label_flips=1, seenmask_flips=1), problem=problem,
        )  # fmt: skip

    rows = [ROW, engine("fp32", "no GPU"), engine("fp16", "no GPU"), engine("int8", "too old")]
    _print_rows([*rows, ROW.failing("too far")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "model.fp32.engine, model.fp16.engine: built, not run: no GPU",
        "model.int8.engine: built, not run: too old",
    ]


def test_equal_results_give_equal_bytes() -> None:
    assert report_json([ROW], b=1, a=2) == report_json([ROW], a=2, b=1)
    assert report_json([ROW]).endswith(b"}\n")


def test_the_table_has_a_row_an_artefact() -> None:
    quality, reference = scores(69.5, 2.0), scores(70.0, 2.5)
    scored = Comparison(**{**vars(COMPARISON), "quality": quality, "reference_quality": reference})
    rows = [
        ROW.measured(scored, []),
        Row(
            artefact="model.int8.engine",
            runner="tensorrt int8",
            precision="int8",
            budget=DEFAULT_BUDGETS["int8"],
            problem="there is no GPU",
        ),
    ]
    lines = report_markdown("szn-mini", rows, notes=["A note."]).decode().splitlines()
    assert lines[0] == "# Export of szn-mini"
    first, second = (line for line in lines if line.startswith("| model"))
    assert first == (
        "| model.onnx | onnxruntime fp32 | 0.00012 of 6.5 | 4.5e-06 | 0.0003 % | 0.0000 % "
        "| 69.50 | 2.00 |  | 0.01 % | ok |"
    )
    assert second == (
        "| model.int8.engine | tensorrt int8 |  |  |  |  |  |  |  | 4 %, 1.5 points "
        "| built, not run |"
    )
    header = next(line for line in lines if line.startswith("| artefact"))
    assert header.count("|") == first.count("|") == second.count("|")
    assert "24 images, 72 frames, in batches of 1, 3, at input sizes 160 x 256, 224 x 320." in lines
    assert any("PyTorch's own mIoU: FCN-JE train_seen 70.00, " in line for line in lines)
    assert "SZN-PS harmonic none" in "\n".join(lines)
    assert "A note." in lines


def test_the_picture_shows_where_labels_flip() -> None:
    image = np.full((40, 80, 3), 100, np.uint8)
    before = np.zeros((40, 80), np.uint8)
    after = before.copy()
    after[:, 60:] = 4
    flips = [Flips(image=image, reference=before, found=after)] * 2
    picture = cv2.imdecode(
        np.frombuffer(flips_picture(flips, catalogue.colour_labels()), np.uint8), cv2.IMREAD_COLOR
    )
    assert picture.shape == (2 * 160, 4 * 320, 3)
    red = (picture == (40, 40, 230)).all(axis=2)
    assert red[:160, 960 + 240 :].all()
    assert not red[:, : 960 + 240].any()
