from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from szn_runtime.onnx_guard import ALLOWED_OPERATORS, check_onnx
from szn_train.seen_statistics import fit_statistics
from szn_train.seenmask_head import StatisticalSeenmask


class _Grids(nn.Module):
    """A network's end: both heads on the frozen features."""

    def __init__(self, embedding: nn.Module, seenmask: nn.Module) -> None:
        super().__init__()
        self.embedding, self.seenmask = embedding, seenmask

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embedding(features)
        return embedding, self.seenmask(features, embedding)


@pytest.mark.slow
def test_the_graph_holds_nothing_that_the_runtime_refuses() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 12)).astype(np.float32)
    labels = rng.integers(0, 3, 200).astype(np.uint8)
    features[np.arange(200), labels] += 3
    unit = np.eye(3, 4, dtype=np.float32)
    statistics = fit_statistics(features, labels, unit, scale=10.0, components=5)
    seenmask = StatisticalSeenmask(
        statistics=statistics, statistic_weight=rng.normal(size=8), bias=0.3
    )
    torch.manual_seed(0)
    network = _Grids(nn.Conv2d(12, 4, kernel_size=1), seenmask).eval()
    example = torch.randn(1, 12, 5, 7)
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        verbose=False,
    )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    check_onnx(file.getvalue())
    model = onnx.load_from_string(file.getvalue())
    assert {node.op_type for node in model.graph.node} <= ALLOWED_OPERATORS - {"Shape"}
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    other = torch.randn(2, 12, 3, 4)  # of another size and batch than the example
    with torch.inference_mode():
        expected = network(other)
    found = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-4, atol=2e-4)
