from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from szn_export.to_openvino import ir_from_onnx
from szn_export.with_sei import with_sei
from szn_runtime.backends import open_backend
from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.bundle import Bundle, Preprocess, default_bundle_path
from szn_runtime.errors import ExportError, MissingDependencyError
from szn_runtime.preprocess import Layout, Normaliser

ov = pytest.importorskip("openvino")

SIZE = (96, 128)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.open(default_bundle_path())


@pytest.fixture(scope="module")
def ir(mini: Bundle) -> tuple[bytes, bytes]:
    return ir_from_onnx(mini.model_bytes())


def compiled(ir: tuple[bytes, bytes]) -> Any:
    xml, weights = ir
    core = openvino_core()
    network = core.read_model(xml, ov.Tensor(np.frombuffer(weights, np.uint8).copy()))
    return core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def run(ir: tuple[bytes, bytes], frames: NDArray[Any]) -> dict[str, NDArray[Any]]:
    model = compiled(ir)
    result = model({"frames": frames})
    return {output.any_name: result[output].copy() for output in model.outputs}


def normalised(preprocess: Preprocess) -> NDArray[np.float32]:
    frames = np.empty((1, 3, *SIZE), np.float32)
    layout = Layout(frame_hw=SIZE, resized_hw=SIZE, padded_hw=SIZE)
    Normaliser(preprocess)(PHOTO, layout, frames[0])
    return frames


def test_the_grids_are_those_of_onnxruntime(mini: Bundle, ir: tuple[bytes, bytes]) -> None:
    frames = np.repeat(normalised(mini.manifest.preprocess), 2, axis=0)
    with open_backend("onnxruntime", mini) as backend:
        expected = backend.infer(frames)
    grids = run(ir, frames)
    np.testing.assert_allclose(grids["embedding"], expected.embedding, atol=1e-4)
    np.testing.assert_allclose(grids["seenmask"], expected.seenmask, atol=1e-4)


def test_names_sizes_and_metadata_are_kept(ir: tuple[bytes, bytes]) -> None:
    model = compiled(ir)
    assert [tensor.any_name for tensor in model.inputs] == ["frames"]
    assert [tensor.any_name for tensor in model.outputs] == ["embedding", "seenmask"]
    assert str(model.inputs[0].partial_shape) == "[?,3,?,?]"
    assert b'<szn.name value="szn-mini" />' in ir[0]


def test_the_graph_computes_nothing_on_shapes(ir: tuple[bytes, bytes]) -> None:
    kinds = set(re.findall(rb'<layer [^>]*type="(\w+)"', ir[0]))
    assert b"Convolution" in kinds
    assert not kinds & {b"ShapeOf", b"Gather", b"Broadcast", b"Loop", b"If"}


def test_the_files_tell_nothing_of_machine_and_time(ir: tuple[bytes, bytes]) -> None:
    text = ir[0].decode()
    values = re.findall(r'="([^"]*)"', text)
    assert len(values) > 1000
    assert [value for value in values if value.startswith(("/", "~")) or ":\\" in value] == []
    assert not re.search(r"tmp|20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text)


@pytest.mark.parametrize("half", [False, True])
def test_another_process_gives_the_same_bytes(mini: Bundle, half: bool, tmp_path: Path) -> None:
    source = (
        "import sys; from pathlib import Path\n"
        "from szn_export.to_openvino import ir_from_onnx\n"
        "from szn_runtime.bundle import Bundle, default_bundle_path\n"
        "model = Bundle.open(default_bundle_path()).model_bytes()\n"
        f"pair = ir_from_onnx(model, compress_to_fp16={half})\n"
        "for suffix, data in zip(('xml', 'bin'), pair):\n"
        "    (Path(sys.argv[1]) / suffix).write_bytes(data)\n"
    )
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], check=True)
    ours = ir_from_onnx(mini.model_bytes(), compress_to_fp16=half)
    assert ours[0] == (tmp_path / "xml").read_bytes()
    assert ours[1] == (tmp_path / "bin").read_bytes()


def test_half_precision_halves_the_weights(mini: Bundle, ir: tuple[bytes, bytes]) -> None:
    half = ir_from_onnx(mini.model_bytes(), compress_to_fp16=True)
    assert 0.49 < len(half[1]) / len(ir[1]) < 0.51
    frames = normalised(mini.manifest.preprocess)
    exact, rounded = run(ir, frames)["embedding"], run(half, frames)["embedding"]
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 0 < error < 0.02


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_folded_preprocessing_takes_the_frame_as_it_is(mini: Bundle, order: str) -> None:
    preprocess = Preprocess(
        mean=(120.0, 110.5, 100.25), std=(60.0, 55.5, 50.25), channel_order=order,
        long_side=320, multiple=16,
    )  # fmt: skip
    folded = ir_from_onnx(mini.model_bytes(), preprocess=preprocess)
    model = compiled(folded)
    assert str(model.inputs[0].partial_shape) == "[?,?,?,3]"
    assert model.inputs[0].element_type == ov.Type.u8
    plain = run(ir_from_onnx(mini.model_bytes()), normalised(preprocess))
    grids = run(folded, PHOTO[None])
    np.testing.assert_allclose(grids["embedding"], plain["embedding"], atol=1e-4)
    np.testing.assert_allclose(grids["seenmask"], plain["seenmask"], atol=1e-4)


def test_padding_with_the_nearest_colour_is_padding_with_zeros(mini: Bundle) -> None:
    preprocess = dataclasses.replace(mini.manifest.preprocess, mean=(120.0, 110.0, 100.0))
    frames = np.zeros((1, 3, 96, 160), np.float32)
    frames[..., :128] = normalised(preprocess)
    padded = np.empty((1, 96, 160, 3), np.uint8)
    padded[:] = np.round(preprocess.mean[::-1])
    padded[:, :, :128] = PHOTO
    plain = run(ir_from_onnx(mini.model_bytes()), frames)["embedding"]
    folded = run(ir_from_onnx(mini.model_bytes(), preprocess=preprocess), padded)["embedding"]
    np.testing.assert_allclose(folded, plain, atol=1e-4)


def test_a_graph_with_labels_converts(mini: Bundle) -> None:
    labelled = with_sei(mini.model_bytes(), mini.manifest, mini.label_set())
    preprocess = mini.manifest.preprocess
    result = run(ir_from_onnx(labelled, preprocess=preprocess), PHOTO[None])["labels"]
    assert result.dtype == np.uint8
    expected = run(ir_from_onnx(labelled), normalised(preprocess))["labels"]
    assert result.shape == expected.shape == (1, *SIZE)
    assert (result != expected).mean() < 0.001
    assert len(np.unique(result)) > 1


def test_int8_weights_stay_int8(tmp_path: Path) -> None:
    quantised = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 20]>
        g (float[n, 3, h, w] frames) => (float[n, 2, h2, w2] embedding)
        <int8[2, 3, 1, 1] weight = {1, -2, 3, -4, 5, -6}, float[2] scale = {0.5, 0.25},
         int8[2] zero = {0, 0}, float step = {0.1}, uint8 middle = {128}>
        {
            filter = DequantizeLinear <axis = 0> (weight, scale, zero)
            levels = QuantizeLinear (frames, step, middle)
            values = DequantizeLinear (levels, step, middle)
            embedding = Conv (values, filter)
        }
    """)
    xml, _ = ir_from_onnx(quantised.SerializeToString())
    assert re.search(rb'<data element_type="i8" shape="2, ?3, ?1, ?1"', xml)


@pytest.mark.parametrize("model", [b"", b"not a model", b"\x08\x0a\x12\x00"])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(ExportError, match="OpenVINO cannot convert the model"):
        ir_from_onnx(model)


def test_openvino_missing_says_what_to_install(
    mini: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "szn\[openvino\]"'):
        ir_from_onnx(b"")
