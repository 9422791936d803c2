from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from szn_export.split import PARTS, inputs_of, split_onnx
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import ExportError
from szn_runtime.onnx_guard import check_onnx
from tests.export.conftest import Exported


def run(model: bytes, **feed: np.ndarray) -> list[np.ndarray]:
    return list(ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed))


@pytest.mark.parametrize("which", ["tiny", "szn-mini"])
def test_the_parts_compute_what_the_whole_does(which: str, exported: Exported) -> None:
    bundle = exported.bundle if which == "tiny" else Bundle.open(default_bundle_path())
    whole = bundle.model_bytes()
    parts = split_onnx(whole)
    assert list(parts) == ["fcn", "embedding_head", "seenmask_head"]
    multiple = bundle.manifest.preprocess.multiple
    frames = np.random.default_rng(0).normal(size=(2, 3, 3 * multiple, 2 * multiple))
    embedding, seenmask = run(whole, frames=frames.astype(np.float32))
    (features,) = run(parts["fcn"], frames=frames.astype(np.float32))
    (first,) = run(parts["embedding_head"], features=features)
    own = inputs_of(parts["seenmask_head"])
    assert own == (("features",) if which == "tiny" else ("features", "embedding"))
    tensors = {"features": features, "embedding": first}
    (second,) = run(parts["seenmask_head"], **{name: tensors[name] for name in own})
    np.testing.assert_allclose(first, embedding, atol=1e-5)
    np.testing.assert_allclose(second, seenmask, atol=1e-5)
    for name, part in parts.items():
        check_onnx(part, source=name)
        model = onnx.load_model_from_string(part)
        if name != "seenmask_head":
            assert inputs_of(part) == (("frames",) if name == "fcn" else ("features",))
        assert model.graph.output[0].name == PARTS[name]
        dims = [d.dim_param for d in model.graph.output[0].type.tensor_type.shape.dim]
        assert dims[0] == "batch"
        assert dims[2:] == ["grid_height", "grid_width"]
    assert split_onnx(whole) == parts  # the same bytes


def test_heads_that_begin_apart(exported: Exported) -> None:
    model = onnx.load_model_from_string(exported.bundle.model_bytes())
    for node in model.graph.node:
        if node.output[0] == "seenmask":
            node.input[0] = model.graph.node[0].output[0]
    with pytest.raises(ExportError, match="heads do not begin at one tensor"):
        split_onnx(model.SerializeToString())
