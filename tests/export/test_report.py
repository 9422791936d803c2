from __future__ import annotations

import json

from szn_export.gate import Budget, Comparison
from szn_export.report import report_json, report_markdown

COMPARISON = Comparison(
    images=24,
    frames=72,
    sizes_hw=((224, 320), (160, 256)),
    batches=(1, 3),
    embedding_max=0.000123,
    embedding_mean=0.0000045,
    embedding_scale=6.5,
    seenmask_max=0.00021,
    label_flips=0.00034,
    seenmask_flips=0.0,
)
BUDGET = Budget(label_flips=0.01, seenmask_flips=0.02)
RESULTS = {"model.onnx (fp32)": (COMPARISON, BUDGET)}


def test_the_json_holds_every_number() -> None:
    values = json.loads(report_json(RESULTS))
    assert values == {
        "model.onnx (fp32)": {
            "budget": {"label_flips": 0.01, "seenmask_flips": 0.02},
            "comparison": {
                "images": 24,
                "frames": 72,
                "sizes_hw": [[224, 320], [160, 256]],
                "batches": [1, 3],
                "embedding_max": 0.000123,
                "embedding_mean": 0.0000045,
                "embedding_scale": 6.5,
                "seenmask_max": 0.00021,
                "label_flips": 0.00034,
                "seenmask_flips": 0.0,
            },
            "verdict": "ok",
        }
    }


def test_equal_results_give_equal_bytes() -> None:
    other = dict(reversed({"z": RESULTS["model.onnx (fp32)"], **RESULTS}.items()))
    again = {"z": RESULTS["model.onnx (fp32)"], **RESULTS}
    assert report_json(other) == report_json(again)
    assert report_json(RESULTS).endswith(b"}\n")


def test_the_table_has_a_row_an_artefact() -> None:
    results = {**RESULTS, "model_fp16.onnx (fp16)": (COMPARISON, BUDGET)}
    lines = report_markdown("szn-mini", results).decode().splitlines()
    assert lines[0] == "# Export of szn-mini"
    rows = [line for line in lines if line.startswith("| model")]
    assert rows[0] == (
        "| model.onnx (fp32) | 24 | 72 | 1, 3 | 0.00012 of 6.5 | 4.5e-06 | 0.0003 % | 0.0000 % "
        "| 0.01 % |"
    )
    assert [row.split(" | ")[0] for row in rows] == [
        "| model.onnx (fp32)",
        "| model_fp16.onnx (fp16)",
    ]
    header = next(line for line in lines if line.startswith("| artefact"))
    assert header.count("|") == rows[0].count("|")
    assert lines[-1] == "Input sizes: 160 x 256, 224 x 320."
