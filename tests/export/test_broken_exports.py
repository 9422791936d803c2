"""Exports that went wrong in the ways they do, each caught by the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from szn_export.calibration import calibrate
from szn_export.gate import DEFAULT_BUDGETS
from szn_export.gate_images import photos
from szn_export.measuring import measure, onnx_runners
from szn_export.precision import to_int8
from szn_export.quality import GateData
from szn_export.reference import Reference, reference_of
from szn_export.report import Row
from szn_runtime.backends import open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import BackendError
from szn_runtime.manifest import Manifest
from szn_train.progress import Progress

_IMAGES = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """szn-mini, and what its FP32 graph says of some photos."""

    bundle: Bundle
    reference: Reference

    def row(self, model: bytes, precision: str = "fp32", manifest: Manifest | None = None) -> Row:
        """What the gate says of a graph in onnxruntime."""
        runner = onnx_runners(model, manifest or self.bundle.manifest, precision)[0]
        (row,) = measure(
            self.reference,
            "model.onnx",
            [runner],
            budgets=DEFAULT_BUDGETS,
            progress=Progress(quiet=True),
        )
        return row

    def frames(self) -> list[NDArray[np.float32]]:
        """The photos as the network takes them, one by one."""
        tensors = [self.reference.tensor(batch) for batch in self.reference.batches]
        return [frame[None] for tensor in tensors for frame in tensor]


@pytest.fixture(scope="module")
def gate(data_dir: Path) -> Gate:
    bundle = Bundle.open(default_bundle_path())
    manifest = bundle.manifest
    with open_backend("onnxruntime", bundle) as backend:
        reference = reference_of(
            backend.infer,
            GateData(images=photos(data_dir / "msrc21" / "images", _IMAGES, what="the gate")),
            labels=bundle.label_set(),
            preprocess=manifest.preprocess,
            geometry=manifest.grid_geometry,
        )
    return Gate(bundle=bundle, reference=reference)


def changed(model: bytes, change: Callable[[Any], None]) -> bytes:
    proto = onnx.load_model_from_string(model)
    change(proto)
    return bytes(proto.SerializeToString())


def weight_of(proto: Any, output: str) -> Any:
    """The weight of the last convolution before an output."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    waiting = [output]
    while (node := made_by[waiting.pop(0)]).op_type != "Conv":
        waiting += [name for name in node.input if name in made_by]
    return next(t for t in proto.graph.initializer if t.name == node.input[1])


def test_the_graph_itself_passes(gate: Gate) -> None:
    row = gate.row(gate.bundle.model_bytes())
    assert row.verdict == "ok"
    assert row.comparison is not None
    assert row.comparison.images == _IMAGES
    assert row.comparison.label_flips == 0


def test_swapped_weights(gate: Gate) -> None:
    def swap(proto: Any) -> None:
        tensor = weight_of(proto, "embedding")
        values = numpy_helper.to_array(tensor).copy()
        values[[2, 3]] = values[[3, 2]]  # two channels of the embedding change places
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    row = gate.row(changed(gate.bundle.model_bytes(), swap))
    assert row.verdict == "past its budget"
    assert "label flips" in str(row.problem)


def test_a_wrong_mean(gate: Gate) -> None:
    """A graph that was made for frames of 0 to 1: its input is off by the mean."""

    def shift(proto: Any) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(np.array(0.25, np.float32), "shift"))
        first = proto.graph.node[0]
        source = first.input[0]
        first.input[0] = "shifted"
        node = onnx.helper.make_node("Add", [source, "shift"], ["shifted"])
        proto.graph.node.insert(0, node)

    row = gate.row(changed(gate.bundle.model_bytes(), shift))
    assert row.verdict == "past its budget"


def test_numbers_that_are_not_finite(gate: Gate) -> None:
    def poison(proto: Any) -> None:
        tensor = weight_of(proto, "seenmask")
        values = numpy_helper.to_array(tensor).copy()
        values[0, 0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    row = gate.row(changed(gate.bundle.model_bytes(), poison))
    assert row.verdict == "failed"
    assert row.failed
    assert "seenmask holds numbers that are not finite" in str(row.problem)


def test_a_dropped_output(gate: Gate) -> None:
    def drop(proto: Any) -> None:
        del proto.graph.output[1]

    row = gate.row(changed(gate.bundle.model_bytes(), drop))
    assert row.verdict == "failed"
    assert "the model has no output 'seenmask'" in str(row.problem)


def test_int8_calibrated_on_noise(gate: Gate) -> None:
    model = gate.bundle.model_bytes()
    real = to_int8(model, calibrate(model, gate.frames()), target="cpu")
    assert gate.row(real, "int8").verdict == "ok"
    rng = np.random.default_rng(0)
    # faint noise on grey, as of a camera with its cap on: the ranges of real photos are cut off
    noise = [0.05 * rng.normal(size=(1, 3, 224, 320)).astype(np.float32) for _ in range(8)]
    blind = to_int8(model, calibrate(model, noise), target="cpu")
    row = gate.row(blind, "int8")
    assert row.verdict == "past its budget"
    assert row.comparison is not None
    assert row.comparison.label_flips > 5


def test_another_size_than_the_graph_takes(gate: Gate) -> None:
    def fix(proto: Any) -> None:
        for dimension, size in zip(
            proto.graph.input[0].type.tensor_type.shape.dim, (1, 3, 64, 64), strict=True
        ):
            dimension.ClearField("dim_param")
            dimension.dim_value = size

    row = gate.row(changed(gate.bundle.model_bytes(), fix))
    assert row.verdict == "failed"
    assert "onnxruntime failed on frames of shape" in str(row.problem)


def test_another_grid_than_the_manifest_says(gate: Gate) -> None:
    manifest = dataclasses.replace(gate.bundle.manifest, dim=21)
    row = gate.row(gate.bundle.model_bytes(), manifest=manifest)
    assert row.verdict == "failed"
    with pytest.raises(BackendError):
        onnx_runners(gate.bundle.model_bytes(), manifest, "fp32")[0].open()
