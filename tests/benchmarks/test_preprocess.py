from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from preprocess_graphs import with_levels_as_input
from preprocess_preparations import OURS, preparations
from preprocess_rows import measure
from preprocess_table import table, write_plot

from szn_runtime.bundle import Bundle
from szn_runtime.manifest import Preprocess
from szn_runtime.preprocess import plan
from tests.runtime import catalogue

MEAN = (120.0, 110.0, 100.0)
FRAME = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


def preprocess(*, std: tuple[float, float, float], order: str) -> Preprocess:
    values: dict[str, Any] = {"mean": MEAN, "std": std, "channel_order": order}
    return Preprocess(**values, long_side=24, multiple=8)


def run(model: bytes, frames: NDArray[Any]) -> NDArray[Any]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(["embedding"], {session.get_inputs()[0].name: frames})[0]
    return found


def convolution(*, padding: int = 0) -> bytes:
    """A graph of one convolution with bias, from `image` to `embedding`."""
    random = np.random.default_rng(1)
    constants = {
        "weight": random.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "bias": random.normal(size=6).astype(np.float32),
    }
    sides = ["batch", "h", "w"]
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["image", *constants], ["embedding"], pads=[padding] * 4, strides=[2, 2]
            )
        ],
        "convolution",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.FLOAT, ["batch", 3, "height", "width"]
            )
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [sides[0], 6, *sides[1:]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("std", [(60.0, 50.0, 40.0), (50.0, 50.0, 50.0)])
class TestVariants:
    @pytest.mark.parametrize("frame_hw", [(16, 24), (40, 60)])
    def test_outside_they_make_the_same_frames(
        self, std: tuple[float, float, float], order: str, frame_hw: tuple[int, int]
    ) -> None:
        frame = np.random.default_rng(2).integers(0, 256, (*frame_hw, 3), np.uint8)
        prepare = preparations(
            frame, plan(frame_hw, long_side=24, multiple=8), preprocess(std=std, order=order)
        )
        ours = prepare[OURS]()
        assert ours.shape == (1, 3, 16, 24)
        for name in ("numpy", "blobFromImage"):
            np.testing.assert_allclose(prepare[name](), ours, atol=1e-5, err_msg=name)
        for name in ("in graph", "OpenVINO", "folded"):
            assert prepare[name]().shape == (1, 16, 24, 3)
            assert prepare[name]().dtype == np.uint8

    @pytest.mark.parametrize("fold", [False, True])
    def test_the_graph_of_levels_gives_the_same(
        self, std: tuple[float, float, float], order: str, fold: bool
    ) -> None:
        values = preprocess(std=std, order=order)
        layout = plan(FRAME.shape[:2], long_side=24, multiple=8)
        ours = preparations(FRAME, layout, values)[OURS]()
        model = convolution()
        levels = with_levels_as_input(model, catalogue.manifest(preprocess=values), fold=fold)
        np.testing.assert_allclose(run(levels, FRAME[None]), run(model, ours), rtol=1e-4, atol=1e-4)


def test_folded_differs_at_the_border_of_a_convolution_that_pads() -> None:
    values = preprocess(std=(60.0, 50.0, 40.0), order="rgb")
    layout = plan(FRAME.shape[:2], long_side=24, multiple=8)
    model = convolution(padding=1)
    levels = with_levels_as_input(model, catalogue.manifest(preprocess=values), fold=True)
    ours = run(model, preparations(FRAME, layout, values)[OURS]())
    difference = np.abs(run(levels, FRAME[None]) - ours).max(axis=(0, 1))  # (h, w)
    assert difference[1:, 1:].max() < 1e-4
    assert difference[0].min() > 0.1
    assert difference[:, 0].min() > 0.1


def test_what_cannot_be_folded_is_said() -> None:
    with pytest.raises(LookupError, match="more than a convolution with bias"):
        with_levels_as_input(catalogue.onnx_model(), catalogue.manifest(), fold=True)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_rows_of_a_backend(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(backend)
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny"))
    rows = measure(bundle, (48, 64), 32, backend=backend, precision="fp32", seconds=0)
    assert "folded: not run" in capsys.readouterr().out
    variants = {OURS, "in graph", "numpy", "blobFromImage"}
    assert {row["variant"] for row in rows} == variants | (
        {"OpenVINO"} if backend == "openvino" else set()
    )
    for row in rows:
        assert row["input_hw"] == [24, 32]
        assert row["difference"] < 0.01
        assert row["sum_ms"] >= row["network_ms"] > 0
    assert table(rows).row_count == len(rows)
    write_plot(rows, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
