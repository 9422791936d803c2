from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from szn_export.to_onnx import onnx_from_network
from szn_runtime.backends import open_backend
from szn_runtime.errors import ExportError
from tests.conftest import REPOSITORY
from tests.export.conftest import Exported


@pytest.fixture(scope="module")
def model(exported: Exported) -> onnx.ModelProto:
    return onnx.load_from_string(exported.bundle.model_bytes())


def test_the_graph_computes_nothing_on_shapes(model: onnx.ModelProto) -> None:
    operators = {node.op_type for node in model.graph.node}
    assert "Conv" in operators
    assert not operators & {"Shape", "Gather", "Loop", "If", "Scan", "Resize", "Slice"}
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}


def test_dimensions_have_readable_names(model: onnx.ModelProto) -> None:
    names = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert names == {
        "frames": ["batch", 3, "height", "width"],
        "embedding": ["batch", 4, "grid_height", "grid_width"],
        "seenmask": ["batch", 2, "grid_height", "grid_width"],
    }


def test_facts_are_in_the_file_and_the_machine_is_not(
    exported: Exported, model: onnx.ModelProto
) -> None:
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["szn.name"] == "tiny"
    assert (facts["szn.stride"], facts["szn.node_offset"]) == ("32", "15.5")
    content = exported.bundle.model_bytes()
    assert str(REPOSITORY).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 64, 160), (2, 3, 224, 96)])
def test_any_batch_and_size_equal_pytorch(
    exported: Exported, shape: tuple[int, int, int, int]
) -> None:
    frames = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with open_backend("onnxruntime", exported.bundle) as backend:
        ours = backend.infer(frames)
    with torch.inference_mode():
        theirs = exported.run.network(torch.from_numpy(frames))
    np.testing.assert_allclose(ours.embedding, theirs.embedding.numpy(), atol=2e-4)
    np.testing.assert_allclose(ours.seenmask, theirs.seenmask.numpy(), atol=2e-4)


def test_a_network_that_does_not_fit_one_file(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("szn_export.to_onnx._MOST_BYTES", 100)
    with pytest.raises(ExportError, match=r"too large for one ONNX file: got 0\.0 GB of weights"):
        onnx_from_network(exported.run.network, {})
