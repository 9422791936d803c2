from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_export import precision
from szn_export.calibration import Calibration, calibrate
from szn_export.precision import Target, quantizable_layers, to_fp16, to_int8
from szn_runtime._cv import cv2
from szn_runtime.backends import Backend, BackendOptions, Grids
from szn_runtime.backends.onnxrt import OnnxRuntimeBackend
from szn_runtime.backends.openvino import OpenVinoBackend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import ExportError, InputError, UsageError
from szn_runtime.onnx_guard import check_onnx
from szn_runtime.preprocess import Layout, normalise_into, plan
from szn_runtime.sei import segment_grid
from tests.runtime import catalogue

Floats = NDArray[np.float32]

HEADER = '<ir_version: 9, opset_import: ["" : 20]>\n'
# everything that backbones are made of: a pool behind a Relu, a depthwise layer between two Clips,
# a sum of two layers, and two heads
GRAPH = """
net (float[batch, 3, height, width] frames)
    => (float[batch, 6, rows, columns] embedding, float[batch, 2, rows, columns] seenmask)
{
    [stem] s = Conv <pads: ints = [1, 1, 1, 1]> (frames, stem_w, stem_b)
    r = Relu (s)
    p = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (r)
    [wide] a = Conv (p, wide_w, wide_b)
    b = Clip (a, zero, six)
    [depth] c = Conv <group: int = 8, pads: ints = [1, 1, 1, 1]> (b, depth_w, depth_b)
    d = Clip (c, zero, six)
    [narrow] e = Conv (d, narrow_w, narrow_b)
    f = Add (e, p)
    [last] g = Conv (f, last_w)
    h = Relu (g)
    [head] embedding = Conv (h, head_w, head_b)
    [mask] seenmask = Conv (h, mask_w, mask_b)
}
"""
LAYERS = ("stem", "wide", "depth", "narrow", "last")
SHAPES = {
    "stem_w": (8, 3, 3, 3), "stem_b": (8,), "wide_w": (8, 8, 1, 1), "wide_b": (8,),
    "depth_w": (8, 1, 3, 3), "depth_b": (8,), "narrow_w": (8, 8, 1, 1), "narrow_b": (8,),
    "last_w": (12, 8, 1, 1), "head_w": (6, 12, 1, 1), "head_b": (6,), "mask_w": (2, 12, 1, 1),
    "mask_b": (2,),
}  # fmt: skip


def model_of(text: str, weights: dict[str, NDArray[Any]]) -> bytes:
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(values, name) for name, values in weights.items()
    )
    onnx.helper.set_model_props(model, {"szn.name": "net", "szn.stride": "2"})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def network(**changes: NDArray[Any]) -> bytes:
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {
        name: (rng.normal(size=shape) * (0.5 if len(shape) == 1 else 0.4)).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    bounds = {"zero": np.float32(0), "six": np.float32(6)}
    return model_of(GRAPH, {**weights, **{k: np.array(v) for k, v in bounds.items()}, **changes})


def random_frames(*shape: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


FRAMES = [random_frames(3, 3, 20, 32), random_frames(1, 3, 8, 8, seed=2)]


def run(model: bytes, frames: Floats) -> list[Floats]:
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: frames}))


def facts(model: bytes) -> dict[str, Any]:
    """All that users rely on, which no conversion may change."""
    proto = onnx.load_from_string(model)
    return {
        "metadata": {p.key: p.value for p in proto.metadata_props},
        "opset": [(o.domain, o.version) for o in proto.opset_import],
        "tensors": {
            value.name: (
                value.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            )
            for value in (*proto.graph.input, *proto.graph.output)
        },
    }


class Inspected:
    """A converted model, taken apart."""

    def __init__(self, model: bytes) -> None:
        graph = onnx.load_from_string(model).graph
        self.values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes = {node.name: node for node in graph.node}
        self.makers = {name: node for node in graph.node for name in node.output}

    def way(self, node: str, index: int) -> list[str]:
        """Operators that lead to an input, from it on up to two back."""
        found = []
        name = self.nodes[node].input[index]
        while name in self.makers and len(found) < 2:
            found.append(self.makers[name].op_type)
            name = self.makers[name].input[0]
        return found

    def quantised(self, node: str, index: int) -> list[NDArray[Any]]:
        """Integers (None of a tensor that is computed), scale and zero point of an input."""
        back = self.makers[self.nodes[node].input[index]]
        assert back.op_type == "DequantizeLinear"
        return [self.values.get(name) for name in back.input]  # type: ignore[misc]

    def of_type(self, operator: str) -> list[Any]:
        return [node for node in self.nodes.values() if node.op_type == operator]


@pytest.fixture(scope="module")
def model() -> bytes:
    return network()


@pytest.fixture(scope="module")
def calibration(model: bytes) -> Calibration:
    return calibrate(model, FRAMES)


# FP16


def test_fp16_changes_the_weights_and_nothing_that_users_see(model: bytes) -> None:
    half = to_fp16(model)
    assert facts(half) == facts(model)
    types = {values.dtype for values in Inspected(half).values.values()}
    assert types == {np.dtype(np.float16)}
    assert to_fp16(model) == half
    check_onnx(half)
    frames = random_frames(3, 3, 20, 16)
    for ours, exact in zip(run(half, frames), run(model, frames), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, atol=0.01 * np.abs(exact).max())


def test_fp16_of_numbers_near_zero_and_of_infinite_bounds() -> None:
    # neither may warn, which would fail this test
    tiny = np.full(SHAPES["head_b"], 1e-12, np.float32)
    half = to_fp16(network(head_b=tiny, six=np.array(np.inf, np.float32)))
    values = Inspected(half).values
    assert 0 <= values["head_b"].max() < 2e-7
    assert values["six"] == np.inf


@pytest.mark.parametrize(("number", "said"), [(7e4, "70000"), (-1e6, "-1e\\+06"), (np.nan, "nan")])
def test_fp16_names_a_weight_that_does_not_fit(number: float, said: str) -> None:
    weight = np.zeros(SHAPES["narrow_w"], np.float32)
    weight[3, 2] = number
    with pytest.raises(ExportError, match=f"narrow_w does not fit FP16: got {said}, expected"):
        to_fp16(network(narrow_w=weight))


def test_fp16_takes_the_whole_range_of_half_precision() -> None:
    weight = np.full(SHAPES["head_b"], 60000, np.float32)
    np.testing.assert_allclose(Inspected(to_fp16(network(head_b=weight))).values["head_b"], 60000)


def test_fp16_twice_is_refused(model: bytes) -> None:
    with pytest.raises(ExportError, match=r"cannot be converted to FP16: got .*already"):
        to_fp16(to_fp16(model))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 40])
@pytest.mark.parametrize(
    "convert", [to_fp16, quantizable_layers, lambda model: calibrate(model, [])]
)
def test_other_files_are_refused(content: bytes, convert: Callable[[bytes], object]) -> None:
    with pytest.raises(ExportError, match="this is no ONNX model"):
        convert(content)


# Layers


def test_layers_are_named_in_order_and_heads_on_request(model: bytes) -> None:
    assert quantizable_layers(model) == LAYERS
    assert quantizable_layers(model, heads=True) == (*LAYERS, "head", "mask")


STATISTICAL = """
net (float[1, 3, h, w] frames) => (float[1, 3, h, w] embedding, float[1, 2, h, w] seenmask)
{
    [trunk] t = Conv (frames, w)
    [head] embedding = Conv (t, w)
    [inner] y = Conv (t, w)
    square = Mul (y, y)
    read = Mul (embedding, embedding)
    both = Add (square, read)
    [mask] seenmask = Conv (both, m)
}
"""


def statistical() -> bytes:
    """A seenmask that has a layer of its own and reads the embedding, which is an output."""
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 3, 1, 1), "m": (2, 3, 1, 1)}
    return model_of(
        STATISTICAL,
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
    )


def test_layers_of_one_output_alone_are_heads() -> None:
    assert quantizable_layers(statistical()) == ("trunk",)
    assert quantizable_layers(statistical(), heads=True) == ("trunk", "head", "inner", "mask")


def test_an_output_may_be_read_in_the_graph() -> None:
    frames = random_frames(1, 3, 4, 5)
    expected = run(statistical(), frames)
    half = to_fp16(statistical())
    assert facts(half)["tensors"] == facts(statistical())["tensors"]
    for ours, theirs in zip(run(half, frames), expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-2)
    int8 = to_int8(statistical(), calibrate(statistical(), [frames]), target="cpu")
    for ours, theirs in zip(run(int8, frames), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())


def test_layers_without_a_name_get_one() -> None:
    model = network()
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        node.name = "Conv_3" if node.name == "stem" else ""  # a name that is then taken
    names = quantizable_layers(proto.SerializeToString())
    assert names == ("Conv_3", "Conv_3_", "Conv_5", "Conv_7", "Conv_9")
    bare = proto.SerializeToString()
    ranges = calibrate(bare, [random_frames(1, 3, 8, 8)])
    kept = to_int8(bare, ranges, target="cpu", keep_float=names[1:])
    assert len(Inspected(kept).of_type("QuantizeLinear")) == 1


def test_layers_without_constant_float_weights_are_left_out() -> None:
    text = """
    net (float[n, 4] x) => (float[n, 4] y) {
        [own] a = MatMul (x, w)
        [scaled] b = Gemm <alpha: float = 2.0> (a, w, v)
        [turned] c = Gemm <transA: int = 1> (b, b)
        [plain] d = Gemm <transB: int = 1> (c, w, v)
        [pair] e = MatMul (d, c)
        [end] y = MatMul (e, w)
    }
    """
    weights = {"w": np.eye(4, dtype=np.float32), "v": np.zeros(4, np.float32)}
    assert quantizable_layers(model_of(text, weights)) == ("own", "plain")


# Calibration


def test_ranges_by_hand() -> None:
    text = """
    net (float[n, 3, h, w] x) => (float[n, 1, h, w] y) {
        [one] a = Conv (x, w)
        b = Relu (a)
        [two] y = Conv (b, v)
    }
    """
    weights = {
        "w": np.array([1, 2, -1], np.float32).reshape(1, 3, 1, 1),
        "v": np.ones((1, 1, 1, 1), np.float32),
    }
    first, second = np.zeros((2, 3, 4, 5), np.float32), np.zeros((1, 3, 1, 2), np.float32)
    first[1, :, 3, 4] = 1, 2, 3  # 1 + 4 - 3 = 2
    second[0, :, 0, 1] = -5, 0, 7  # -12, which the Relu cuts off
    found = calibrate(model_of(text, weights), iter([first, second]))
    assert found == Calibration(ranges={"x": (-5.0, 7.0), "b": (0.0, 2.0)}, frames=3)
    assert found.method == "minmax"


def test_calibration_refuses_what_says_nothing(model: bytes) -> None:
    with pytest.raises(InputError, match="there are no frames to calibrate INT8 with; give --cal"):
        calibrate(model, [])
    grey = np.full((1, 3, 8, 8), 0.25, np.float32)
    with pytest.raises(ExportError, match=r"frames has a single value in .*: got 0\.25; calibrate"):
        calibrate(model, [grey, grey])
    for wrong in (grey[0], grey[:, :2], grey.astype(np.float64), grey[:0]):
        with pytest.raises(InputError, match=r"do not fit the network: .*float32 \(N, 3, H, W\)"):
            calibrate(model, [wrong])
    text = "net (float[n, 3, 2, 2] x) => (float[n, 2] y) { a = Flatten (x) y = MatMul (a, w) }"
    fixed = model_of(text, {"w": np.ones((12, 2), np.float32)})
    with pytest.raises(ExportError, match=r"failed on calibration frames of shape \(1, 3, 8, 8\)"):
        calibrate(fixed, [grey])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_calibration_refuses_numbers_that_are_not_finite(model: bytes, number: float) -> None:
    frames = random_frames(1, 3, 8, 8)
    frames[0, 1, 2, 3] = number
    with pytest.raises(ExportError, match="numbers that are not finite"):
        calibrate(model, [random_frames(1, 3, 8, 8), frames])
    with pytest.raises(ExportError, match="numbers that are not finite"):
        calibrate(catalogue.onnx_model(poison=True), [random_frames(1, 3, 16, 16)])
    with pytest.raises(ExportError, match="the range of t is not finite"):
        Calibration(ranges={"t": (0, number)}, frames=1)


# INT8


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_int8_changes_nothing_that_users_see(
    model: bytes, calibration: Calibration, target: Target, capfd: pytest.CaptureFixture[str]
) -> None:
    integers = to_int8(model, calibration, target=target)
    assert facts(integers) == facts(model)
    assert to_int8(model, calibration, target=target) == integers
    check_onnx(integers)
    for frames in FRAMES:
        for ours, exact in zip(run(integers, frames), run(model, frames), strict=True):
            np.testing.assert_allclose(ours, exact, atol=0.05 * np.abs(exact).max())
    assert capfd.readouterr() == ("", "")


def test_for_the_cpu_activations_are_unsigned_and_biases_int32(
    model: bytes, calibration: Calibration
) -> None:
    found = Inspected(to_int8(model, calibration, target="cpu"))
    for name in LAYERS:
        assert found.way(name, 0) == ["DequantizeLinear", "QuantizeLinear"]
        _, scale, zero = found.quantised(name, 0)
        assert scale.shape == zero.shape == ()  # or onnxruntime does not fuse what reads it
        assert (scale.dtype, zero.dtype) == (np.float32, np.uint8)
        weights, weight_scale, weight_zero = found.quantised(name, 1)
        assert (weights.dtype, weight_zero.dtype) == (np.int8, np.int8)
        assert not weight_zero.any()
        assert weight_scale.shape == weight_zero.shape == weights.shape[:1]
        assert found.makers[found.nodes[name].input[1]].attribute[0].i == 0
        if name != "last":
            bias, bias_scale, bias_zero = found.quantised(name, 2)
            assert (bias.dtype, bias_zero.dtype) == (np.int32, np.int32)
            np.testing.assert_array_equal(bias_scale, scale * weight_scale)
    low, high = calibration.ranges["frames"]
    _, scale, zero = found.quantised("stem", 0)
    assert scale == np.float32((high - low) / 255)
    assert zero == round(-low / float(scale))
    assert not {"stem_w", "stem_b"} & found.values.keys()


def test_for_tensorrt_all_is_symmetric_and_biases_stay_float(
    model: bytes, calibration: Calibration
) -> None:
    found = Inspected(to_int8(model, calibration, target="tensorrt"))
    zeros = [found.values[node.input[2]] for node in found.of_type("QuantizeLinear")]
    zeros += [found.values[node.input[2]] for node in found.of_type("DequantizeLinear")]
    assert len(zeros) > 2 * len(LAYERS)
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert not [name for name, values in found.values.items() if values.dtype == np.int32]
    for name in ("stem", "wide", "depth", "narrow"):
        bias = found.values[found.nodes[name].input[2]]
        assert bias.dtype == np.float32
    assert found.way("head", 0) == ["Relu", "Conv"]
    _, scale, _ = found.quantised("wide", 0)
    assert scale == np.float32(calibration.ranges["r"][1] / 127)


def test_the_sum_and_the_pool_are_integers_and_the_pool_keeps_the_scale(
    model: bytes, calibration: Calibration
) -> None:
    found = Inspected(to_int8(model, calibration, target="cpu"))
    (total,), (pool,) = found.of_type("Add"), found.of_type("MaxPool")
    assert found.way(total.name, 0) == found.way(total.name, 1)
    assert found.way(total.name, 0) == ["DequantizeLinear", "QuantizeLinear"]
    assert found.way(pool.name, 0) == ["DequantizeLinear", "QuantizeLinear"]
    before, after = (found.makers[node.input[0]] for node in (pool, found.nodes["wide"]))
    assert before.input[1:] == after.input[1:]
    # once each: the frames, before and after the pool, two Clips, both ends of the sum (of which
    # the pool is one), and the heads' input
    assert len(found.of_type("QuantizeLinear")) == 8


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("kept", [("depth",), ("stem", "last"), ("wide", "narrow"), LAYERS[1:]])
def test_layers_that_are_kept_read_exact_numbers(
    model: bytes, calibration: Calibration, target: Target, kept: Collection[str]
) -> None:
    found = Inspected(to_int8(model, calibration, target=target, keep_float=kept))
    source = Inspected(model)
    for name in LAYERS:
        quantised = found.way(name, 0) == ["DequantizeLinear", "QuantizeLinear"]
        assert quantised == (name not in kept)
        if not quantised:
            assert found.nodes[name] == source.nodes[name]
            for weight in found.nodes[name].input[1:]:
                np.testing.assert_array_equal(found.values[weight], source.values[weight])


def test_a_sum_with_a_layer_that_is_kept_stays_exact(
    model: bytes, calibration: Calibration
) -> None:
    found = Inspected(to_int8(model, calibration, target="cpu", keep_float=["narrow"]))
    (total,) = found.of_type("Add")
    assert found.way(total.name, 0) == ["Conv", "Clip"]
    assert found.way(total.name, 1) == ["MaxPool", "DequantizeLinear"]
    assert found.way("last", 0) == ["DequantizeLinear", "QuantizeLinear"]


def test_heads_compute_in_float_unless_asked(model: bytes, calibration: Calibration) -> None:
    found = Inspected(to_int8(model, calibration, target="cpu"))
    assert found.way("head", 0) == ["DequantizeLinear", "QuantizeLinear"]
    assert found.values[found.nodes["head"].input[1]].dtype == np.float32
    found = Inspected(to_int8(model, calibration, target="cpu", keep_float=["head"]))
    assert found.way("head", 0) == ["Relu", "Conv"]
    assert found.way("mask", 0) == ["DequantizeLinear", "QuantizeLinear"]
    # behind a layer in floating point there is nothing to win
    found = Inspected(to_int8(model, calibration, target="cpu", keep_float=["last"]))
    assert found.way("head", 0) == ["Relu", "Conv"]
    found = Inspected(to_int8(model, calibration, target="cpu", heads=True))
    assert found.quantised("head", 1)[0].dtype == np.int8


def test_onnxruntime_computes_every_layer_on_integers(
    model: bytes, calibration: Calibration, tmp_path: Path
) -> None:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "fused.onnx")
    settings.log_severity_level = 3
    ort.InferenceSession(
        to_int8(model, calibration, target="cpu"), settings, providers=["CPUExecutionProvider"]
    )
    found = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert found["QLinearConv"] == len(LAYERS)
    assert found["QLinearAdd"] == 1
    assert found["Relu"] == found["Clip"] == found["FusedConv"] == 0


def test_products_and_their_axes() -> None:
    text = """
    net (float[n, 3, 2, 2] x) => (float[n, 3] y) {
        a = Flatten (x)
        [first] b = Gemm <transB: int = 1> (a, w, v)
        c = Relu (b)
        [second] d = Gemm (c, u, v)
        [third] e = MatMul (d, t)
        [end] y = MatMul (e, s)
    }
    """
    rng = np.random.default_rng(3)
    shapes = {"w": (5, 12), "v": (5,), "u": (5, 5), "t": (5, 7), "s": (7, 3)}
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    # channels of very different sizes, which only scales along the right axis can hold
    weights["w"] *= np.geomspace(1, 1000, 5, dtype=np.float32)[:, None]
    weights["u"] *= np.geomspace(1000, 1, 5, dtype=np.float32)[None, :]
    model = model_of(text, weights)
    frames = random_frames(40, 3, 2, 2)
    ranges = calibrate(model, [frames])
    integers = to_int8(model, ranges, target="cpu")
    found = Inspected(integers)
    shapes_of_scales = [found.quantised(n, 1)[1].shape for n in ("first", "second", "third")]
    assert shapes_of_scales == [(5,), (5,), (7,)]
    for name, weight in (("first", "w"), ("second", "u")):
        steps, scale, _ = found.quantised(name, 1)
        values = steps * (scale[:, None] if name == "first" else scale)
        np.testing.assert_allclose(values, weights[weight], atol=scale.max() / 2 * 1.001)
    (ours,), (exact,) = run(integers, frames), run(model, frames)
    np.testing.assert_allclose(ours, exact, atol=0.03 * np.abs(exact).max())


@given(
    seed=st.integers(0, 1000),
    size=st.floats(-12, 6),
    bias_size=st.floats(-12, 6),
    zeros=st.integers(0, 4),
    signed=st.booleans(),
)
def test_weights_and_biases_are_within_half_a_step(
    seed: int, size: float, bias_size: float, zeros: int, signed: bool
) -> None:
    text = """
    net (float[n, 3, h, w] x) => (float[n, 1, h, w] y) {
        [layer] a = Conv (x, w, b)
        [end] y = Conv (a, v)
    }
    """
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(4, 3, 2, 2)) * 10**size).astype(np.float32)
    weights[:zeros] = 0
    bias = (rng.normal(size=4) * 10**bias_size).astype(np.float32)
    model = model_of(text, {"w": weights, "b": bias, "v": np.ones((1, 4, 1, 1), np.float32)})
    calibration = Calibration(ranges={"x": (-1.0, 2.0), "a": (-1.0, 1.0)}, frames=1)
    target: Target = "tensorrt" if signed else "cpu"
    found = Inspected(to_int8(model, calibration, target=target))
    steps, scale, _ = found.quantised("layer", 1)
    assert np.abs(steps.astype(int)).max() <= 127
    error = np.abs(steps * scale[:, None, None, None].astype(np.float64) - weights)
    assert (error <= 0.5001 * scale[:, None, None, None]).all()
    if not signed:
        steps, bias_scale, _ = found.quantised("layer", 2)
        error = np.abs(steps * bias_scale.astype(np.float64) - bias)
        assert (error <= 0.5001 * bias_scale).all()
        # a scale that was made coarser for the bias stays below what the bias itself weighs
        usual = np.maximum(np.abs(weights).max(axis=(1, 2, 3)) / 127, 1e-8 * np.abs(bias))
        assert ((bias_scale <= usual * 1.001) | (np.abs(bias) < 1e-10)).all()


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_int8_refuses_what_it_cannot_do(
    model: bytes, calibration: Calibration, target: Target
) -> None:
    with pytest.raises(ExportError, match="nothing is left to quantise: got 2 layers, all of them"):
        to_int8(catalogue.onnx_model(), calibration, target=target)
    with pytest.raises(ExportError, match="nothing is left to quantise"):
        to_int8(model, calibration, target=target, keep_float=LAYERS)
    with pytest.raises(ExportError, match="is not in the graph: got nowhere, stern"):
        to_int8(model, calibration, target=target, keep_float=["wide", "stern", "nowhere"])
    other = Calibration(ranges={"frames": (-1, 1)}, frames=1)
    with pytest.raises(ExportError, match=r"there is no range for .*; calibrate this model"):
        to_int8(model, other, target=target)
    with pytest.raises(ExportError, match="quantised already: got DequantizeLinear, QuantizeLin"):
        to_int8(to_int8(model, calibration, target=target), calibration, target=target)
    broken = np.full(SHAPES["wide_w"], np.nan, np.float32)
    with pytest.raises(ExportError, match="wide_w holds numbers that are not finite"):
        to_int8(network(wide_w=broken), calibration, target=target)
    with pytest.raises(UsageError, match="unknown target of INT8: got gpu"):
        to_int8(model, calibration, target="gpu")  # type: ignore[arg-type]


def test_a_quantiser_that_does_nothing_is_noticed(
    model: bytes, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision.Quantiser, "rewrite", lambda *_: None)
    with pytest.raises(ExportError, match="the input of stem was not quantised: got the graph's"):
        to_int8(model, calibration, target="cpu")


# szn-mini on real photos


class Mini:
    """The bundled network and photos that it was not trained on."""

    def __init__(self, data: Path) -> None:
        self.bundle = Bundle.open(default_bundle_path())
        self.manifest = self.bundle.manifest
        self.model = self.bundle.model_bytes()
        self.labels = self.bundle.label_set()
        self._data = data / "msrc21"
        self.photos = self.frames("val", 12)
        with OnnxRuntimeBackend(self.model, self.manifest) as backend:
            self.exact = [backend.infer(frames) for frames, _ in self.photos]

    def frames(self, split: str, count: int) -> list[tuple[Floats, Layout]]:
        names = (self._data / "splits" / f"{split}.txt").read_text().split()
        found = []
        for name in names[:: len(names) // count][:count]:
            (path,) = (self._data / "images").glob(f"{name}.*")
            image = np.asarray(cv2.imread(str(path)), np.uint8)
            preprocess = self.manifest.preprocess
            layout = plan(
                image.shape[:2], long_side=preprocess.long_side, multiple=preprocess.multiple
            )
            tensor = np.empty((1, 3, *layout.padded_hw), np.float32)
            normalise_into(image, layout, preprocess, tensor[0])
            found.append((tensor, layout))
        return found

    def label_flips(self, backend: Backend) -> float:
        """Percent of pixels whose label differs from FP32."""
        differs = pixels = 0
        for (frames, layout), exact in zip(self.photos, self.exact, strict=True):
            ours, theirs = (self._decide(g, layout) for g in (backend.infer(frames), exact))
            differs += int((ours != theirs).sum())
            pixels += ours.size
        return 100 * differs / pixels

    def _decide(self, grids: Grids, layout: Layout) -> NDArray[Any]:
        geometry = layout.grid_geometry(self.manifest.grid_geometry)
        return segment_grid(
            grids.embedding[0],
            grids.seenmask[0],
            self.labels,
            geometry=geometry,
            size_hw=layout.frame_hw,
        )[0]


@pytest.fixture(scope="module")
def mini(data_dir: Path) -> Mini:
    return Mini(data_dir)


@pytest.fixture(scope="module")
def mini_calibration(mini: Mini) -> Calibration:
    return calibrate(mini.model, [frames for frames, _ in mini.frames("train", 24)])


def test_szn_mini_in_fp16(mini: Mini) -> None:
    half = to_fp16(mini.model)
    assert facts(half) == facts(mini.model)
    assert len(half) < 0.51 * len(mini.model)
    with OnnxRuntimeBackend(half, mini.manifest) as backend:
        assert mini.label_flips(backend) < 0.5
        ours = [backend.infer(frames) for frames, _ in mini.photos]
    for name in ("embedding", "seenmask"):
        half_grids, exact = (
            np.concatenate([getattr(grids, name).ravel() for grids in all_grids])
            for all_grids in (ours, mini.exact)
        )
        difference = np.abs(half_grids - exact)
        assert difference.mean() < 0.01 * np.abs(exact).mean()
        assert difference.max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_szn_mini_in_int8(mini: Mini, mini_calibration: Calibration, backend: str) -> None:
    integers = to_int8(mini.model, mini_calibration, target="cpu")
    assert facts(integers) == facts(mini.model)
    assert len(integers) < 0.32 * len(mini.model)  # heads and statistics stay in fp32
    opener = OnnxRuntimeBackend if backend == "onnxruntime" else OpenVinoBackend
    with opener(integers, mini.manifest, BackendOptions(precision="int8")) as opened:
        assert 0 < mini.label_flips(opened) < 4


def test_szn_mini_in_int8_for_tensorrt(mini: Mini, mini_calibration: Calibration) -> None:
    integers = to_int8(mini.model, mini_calibration, target="tensorrt")
    found = Inspected(integers)
    zeros = [found.values[node.input[2]] for node in found.of_type("DequantizeLinear")]
    assert len(zeros) > 90
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    with OnnxRuntimeBackend(integers, mini.manifest) as backend:
        assert 0 < mini.label_flips(backend) < 4


def test_szn_mini_calibrated_on_noise_is_past_the_budget(mini: Mini) -> None:
    # faint noise on grey: the ranges that it gives are far too narrow
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 3, 240, 320)).astype(np.float32)
    wrong = to_int8(mini.model, calibrate(mini.model, [noise]), target="cpu")
    with OnnxRuntimeBackend(wrong, mini.manifest) as backend:
        assert mini.label_flips(backend) > 8
