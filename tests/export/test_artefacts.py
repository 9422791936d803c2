"""One export of everything, and what the runtime does with it."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from szn_export.artefacts import add_fp16
from szn_export.cli import main
from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.export import ExportResult, export
from szn_export.gate import DEFAULT_BUDGETS, Budget
from szn_export.to_tensorrt import TensorRTConfig
from szn_runtime import load
from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError
from szn_train.progress import Progress
from tests.export.conftest import Exported, reference_on
from tests.train import catalogue

RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
LOOSE = {name: Budget(label_flips=100, seenmask_flips=100) for name in ("fp16", "bf16", "int8")} | {
    "fp32": DEFAULT_BUDGETS["fp32"]
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    """An export with every option."""

    folder: Path
    triton: Path
    result: ExportResult
    bundle: Bundle


@pytest.fixture(scope="module")
def whole(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("whole")
    config = ExportConfig(
        name="tiny",
        precisions=("fp16", "int8"),
        openvino=True,
        openvino_pixels=True,
        tensorrt=TensorRTConfig(flavour="rtx") if RTX else None,
        split=True,
        with_sei=True,
        triton=root / "triton",
        calibration_images=4,
        gate_images=3,
        vocabulary_size=5,
        budgets=LOOSE,
    )
    folder = root / "bundle"
    result = export(exported.run, folder, config, progress=Progress(quiet=True))
    return Whole(folder=folder, triton=root / "triton", result=result, bundle=Bundle.open(folder))


def test_every_artefact_is_there(whole: Whole) -> None:
    found = {(a.kind, a.precision): a.file for a in whole.bundle.manifest.artefacts}
    expected = {
        ("onnx", "fp32"): "model.onnx",
        ("onnx", "fp16"): "model.fp16.onnx",
        ("onnx", "int8"): "model.int8.onnx",
        ("openvino", "fp32"): "model.fp32.xml",
        ("openvino", "int8"): "model.int8.xml",
        ("openvino-pixels", "fp32"): "model.pixels.xml",
        ("onnx-fcn", "fp32"): "fcn.onnx",
        ("onnx-embedding-head", "fp32"): "embedding_head.onnx",
        ("onnx-seenmask-head", "fp32"): "seenmask_head.onnx",
        ("onnx-sei", "fp32"): "model.sei.onnx",
    }
    if RTX:
        expected |= {("tensorrt", p): f"model.{p}.engine" for p in ("fp32", "fp16", "int8")}
        expected["onnx-tensorrt", "int8"] = "model.int8.tensorrt.onnx"
        for part in ("fcn", "embedding_head", "seenmask_head"):
            kind = part.replace("_", "-")
            expected[f"onnx-{kind}", "fp16"] = f"{part}.fp16.onnx"
            expected |= {(f"tensorrt-{kind}", p): f"{part}.{p}.engine" for p in ("fp32", "fp16")}
    assert found == expected
    assert whole.result.refused == ()
    facts = whole.bundle.artefact(precision="int8").facts
    assert facts["calibration"] == {"images": 4, "method": "minmax"}
    assert {"onnxruntime int8", "openvino int8"} <= facts["gate"].keys()
    assert {path.name for path in whole.triton.iterdir()} >= {"szn", "szn_sei"}


def test_the_report_names_every_runner(whole: Whole) -> None:
    rows = {(row.artefact, row.runner): row.verdict for row in whole.result.rows}
    assert rows["model.onnx", "onnxruntime fp32"] == "ok"
    assert rows["model.int8.onnx", "openvino int8"] == "ok"
    assert rows["model.fp32.xml", "openvino fp32"] == "ok"
    assert rows["model.pixels.xml", "openvino fp32, uint8 frames"] == "ok"
    parts = "fcn.onnx, embedding_head.onnx, seenmask_head.onnx"
    assert rows[parts, "onnxruntime fp32, one after the other"] == "ok"
    text = whole.bundle.read("export_report.md").decode()
    assert "model.sei.onnx: 0.0000 % of its labels differ" in text
    assert "INT8 in every layer" in text
    engines = {verdict for (name, _), verdict in rows.items() if name.endswith(".engine")}
    # on a machine with a GPU they ran
    assert engines <= {"built, not run", "ok"}


def test_int8_with_the_rest_in_bf16_is_a_way_to_run_it_alone(whole: Whole) -> None:
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    (row,) = (row for row in whole.result.rows if row.runner == "openvino int8-bf16")
    assert (row.artefact, row.precision, row.own) == ("model.int8.onnx", "int8", False)
    assert row.comparison is not None
    image, _ = catalogue.scene("grass", "sky")
    with load(whole.folder, backend="openvino", precision="int8-bf16") as segmenter:
        assert segmenter.backend.precision == "int8-bf16"
        mixed = segmenter(image)
    with load(whole.folder, backend="openvino", precision="int8") as segmenter:
        exact = segmenter(image)
    assert (mixed.labels == exact.labels).mean() > 0.9
    assert not np.array_equal(mixed.embedding, exact.embedding)  # the heads stay in floating point


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("onnxruntime", "int8"), ("openvino", "int8"), ("openvino", "fp32"), ("onnxruntime", "fp16")],
)
def test_the_runtime_runs_it(whole: Whole, backend: str, precision: str) -> None:
    image, _ = catalogue.scene("grass", "sky")
    with load(whole.folder, backend=backend, precision=precision) as segmenter:
        assert segmenter.backend.precision == precision
        assert sum(segmenter(image).shares.values()) == pytest.approx(1)


@pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed")
def test_engines_ask_for_a_gpu(whole: Whole) -> None:
    try:
        load(whole.folder, backend="tensorrt", precision="fp16").close()
    except BackendError as error:
        assert "GPU" in str(error) or "capabilit" in str(error)  # noqa: PT017 - either may be so


def test_verify_repeats_the_gate(whole: Whole, exported: Exported, tmp_path: Path) -> None:
    arguments: list[Any] = ["--quiet", "--verify", whole.folder, "--gate-images", 2]
    arguments += ["--budget", "int8=100", "--budget", "fp16=100", "--budget", "bf16=100"]
    # against the bundle's own FP32 graph, on photos without masks
    photos = exported.folder.parent / "data" / "images"
    outcome = CliRunner().invoke(main, [str(a) for a in [*arguments, "--images", photos]])
    assert outcome.exit_code == 0, outcome.output
    assert "model.int8.onnx" in outcome.stdout
    assert list(tmp_path.iterdir()) == []


def test_verify_finds_what_is_past_its_budget(whole: Whole, exported: Exported) -> None:
    strict = ["--verify", str(whole.folder), str(exported.run.folder), "--budget", "int8=0"]
    outcome = CliRunner().invoke(main, ["--quiet", *strict, "--gate-images", "3"])
    assert outcome.exit_code == 3
    assert "model.int8.onnx" in outcome.stderr
    assert "past their budgets" in outcome.stderr


def test_what_is_past_its_budget_is_left_out(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: bytes) -> bytes:
        proto = onnx.load_model_from_string(model)
        node = next(n for n in proto.graph.node if "embedding" in n.output)
        weight = next(t for t in proto.graph.initializer if t.name == node.input[1])
        values = -numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        return bytes(proto.SerializeToString())

    monkeypatch.setattr("szn_export.precision.to_fp16", wrong)
    manifest = exported.bundle.manifest
    reference = reference_on(exported, 2)
    draft = Draft(manifest=manifest, files={"model.onnx": exported.bundle.model_bytes()})
    add_fp16(draft, reference, ExportConfig(), Progress(quiet=True))
    assert draft.refused == ["model.fp16.onnx"]
    assert list(draft.files) == ["model.onnx"]
    assert draft.manifest == manifest
    (row,) = draft.rows
    assert row.verdict == "past its budget"
    assert "model.fp16.onnx in onnxruntime fp16 differs from PyTorch" in str(row.problem)
