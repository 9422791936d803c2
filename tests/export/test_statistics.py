"""A run with a seenmask of statistics through the whole exporter, and what szn-run makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from szn_export._layers import Layers, parse
from szn_export.config import ExportConfig
from szn_export.export import ExportResult, export
from szn_export.split import inputs_of, split_onnx
from szn_runtime import load
from szn_runtime.bundle import Bundle
from szn_runtime.onnx_guard import ALLOWED_OPERATORS
from szn_train.datasets import open_dataset
from szn_train.decisions import Predictor
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.trainer import train
from tests.export.test_artefacts import LOOSE
from tests.train import catalogue


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("statistics")
    return train(catalogue.statistical_config(root), root / "run", progress=Progress(quiet=True))


@pytest.fixture(scope="module")
def exported(run: Run) -> tuple[ExportResult, Bundle]:
    config = ExportConfig(
        name="statistics",
        precisions=("fp16", "int8"),
        split=True,
        with_sei=True,
        calibration_images=4,
        gate_images=2,
        vocabulary_size=5,
        budgets=LOOSE,
    )
    folder = run.folder.parent / "bundle"
    result = export(run, folder, config, progress=Progress(quiet=True))
    return result, Bundle.open(folder)


def test_every_artefact_passes_the_gate(exported: tuple[ExportResult, Bundle]) -> None:
    result, bundle = exported
    assert result.refused == ()
    assert {row.verdict for row in result.rows} == {"ok"}
    files = {artefact.file for artefact in bundle.manifest.artefacts}
    assert files >= {
        "model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.sei.onnx", "fcn.onnx",
        "embedding_head.onnx", "seenmask_head.onnx",
    }  # fmt: skip
    flips = {row.runner: row.comparison.label_flips for row in result.rows if row.comparison}
    assert flips["onnxruntime fp32"] < 0.1
    assert flips["onnxruntime fp16"] < 2


def test_the_seenmask_reads_features_and_embedding(exported: tuple[ExportResult, Bundle]) -> None:
    model = exported[1].model_bytes()
    parts = split_onnx(model)
    assert inputs_of(parts["embedding_head"]) == ("features",)
    assert inputs_of(parts["seenmask_head"]) == ("features", "embedding")
    head = onnx.load_model_from_string(parts["seenmask_head"])
    assert {node.op_type for node in head.graph.node} <= ALLOWED_OPERATORS - {"Shape"}
    # none of its layers is quantised, and none but the heads' is left out
    layers = Layers(parse(model).graph)
    own = set(Layers(parse(parts["seenmask_head"]).graph).layers)
    assert len(own) == 6
    assert own <= layers.heads
    assert len(layers.heads) == 7


def test_szn_run_says_what_the_evaluation_says(
    run: Run, exported: tuple[ExportResult, Bundle]
) -> None:
    dataset = open_dataset(run.config, Path(run.config.data), "val")
    predict = Predictor(run)
    found = []
    with load(run.folder.parent / "bundle", backend="onnxruntime", precision="fp32") as segmenter:
        for image_id in dataset.ids:
            image, mask = dataset.pair(image_id)
            maps, _ = predict(image, run.split.mask_lookup()[mask])
            labels = segmenter(image).labels
            assert (labels != maps["SZN"]).mean() < 0.002, image_id
            found.append(np.unique(labels))
    seen = run.split.is_member(run.split.train_seen)
    assert set(seen[np.unique(np.concatenate(found))]) == {True, False}
