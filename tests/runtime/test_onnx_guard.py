from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import BundleError
from szn_runtime.onnx_guard import ALLOWED_OPERATORS, check_onnx
from tests.runtime import catalogue


def tiny() -> Any:
    return onnx.load_model_from_string(catalogue.onnx_model())


def with_node(*args: Any, **kwargs: Any) -> bytes:
    model = tiny()
    model.graph.node.append(helper.make_node(*args, **kwargs))
    return bytes(model.SerializeToString())


def endless_loop() -> bytes:
    true = helper.make_node(
        "Constant", [], ["go"], value=numpy_helper.from_array(np.array(True), "true")
    )
    body = helper.make_graph(
        [true],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, [])],
    )
    return with_node("Loop", ["", "more"], ["out"], body=body)


def hidden_graph() -> bytes:
    body = helper.make_graph([], "inner", [], [])
    return with_node("Relu", ["mean"], ["x"], inside=body)


def outside_weights() -> bytes:
    model = tiny()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return bytes(model.SerializeToString())


def outside_constant() -> bytes:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "c")
    tensor.data_location = TensorProto.EXTERNAL
    return with_node("Constant", [], ["c"], value=tensor)


def foreign_domain() -> bytes:
    model = tiny()
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return bytes(model.SerializeToString())


def function() -> bytes:
    model = tiny()
    model.functions.append(
        helper.make_function("", "Mine", ["x"], ["x"], [], [helper.make_opsetid("", 20)])
    )
    return bytes(model.SerializeToString())


def two_graphs() -> bytes:
    model = tiny()
    graph = model.graph.SerializeToString()
    return bytes(model.SerializeToString() + b"\x3a" + _varint(len(graph)) + graph)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_models_that_are_plain() -> None:
    check_onnx(catalogue.onnx_model())
    check_onnx(Bundle.open(default_bundle_path()).read("model.onnx"))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (endless_loop, r"m\.onnx is refused: got the operator Loop, expected a plain conv.*; load"),
        (lambda: with_node("If", ["c"], ["x"]), "got the operator If"),
        (lambda: with_node("Fancy", ["c"], ["x"]), "got the operator Fancy"),
        (
            lambda: with_node("Relu", ["c"], ["x"], domain="com.example"),
            r"got the operator com\.example\.Relu",
        ),
        (hidden_graph, "got a graph inside the operator Relu"),
        (outside_weights, "got weights outside the file"),
        (outside_constant, "got weights outside the file"),
        (foreign_domain, r"got operators of the domain 'com\.example'"),
        (function, "got functions of its own"),
        (two_graphs, "is not an ONNX model: got 2 graphs, expected one"),
        (lambda: b"", "is not an ONNX model: got 0 graphs"),
        (lambda: b"\x08\x07", "is not an ONNX model: got 0 graphs"),
        (lambda: b"hello, this is text", "is not an ONNX model: got"),
        (lambda: catalogue.onnx_model()[:-40], "is not an ONNX model: got it is cut off"),
        (lambda: b"\x38\x01", "got a number stands where a message should"),
        (lambda: b"\xff" * 30, "got a number is too long"),
        (lambda: b"\x03", "got a field has the number 0"),
        (lambda: b"\x0b", "got a field has the wire type 3"),
    ],
)
def test_models_that_are_refused(make: Callable[[], bytes], match: str) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        check_onnx(make(), source="m.onnx")
    assert "\n" not in str(caught.value)


def verdict(data: bytes) -> str:
    """What is said about a file."""
    try:
        check_onnx(data, source="m")
    except BundleError as error:
        return str(error).removeprefix("m ").partition(":")[0]
    return "good"


@given(st.binary(max_size=200))
def test_any_bytes_end_in_one_error_or_none(data: bytes) -> None:
    assert verdict(data) in ("good", "is not an ONNX model", "is refused")


@given(st.integers(0, 2**32 - 1))
def test_a_damaged_model_ends_in_one_error_or_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(catalogue.onnx_model())
    for at in rng.integers(0, len(data), 5):
        data[at] = rng.integers(0, 256)
    assert verdict(bytes(data)) in ("good", "is not an ONNX model", "is refused")


def test_nothing_that_repeats_or_branches_is_allowed() -> None:
    assert not ALLOWED_OPERATORS & {"Loop", "Scan", "If", "SequenceMap", "Optional"}
