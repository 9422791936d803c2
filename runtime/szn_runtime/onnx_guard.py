"""What an ONNX file would do, read from its bytes before any library loads it.

A model of a stranger may hold an endless loop, which hangs onnxruntime and OpenVINO alike,
operators of other domains, or references to files outside. None of it is needed for an FCN, so all
of it is refused. The reader walks the protobuf wire format itself: the light runtime has no onnx
library.
"""

from __future__ import annotations

from collections.abc import Iterator

from szn_runtime.errors import BundleError

__all__ = ["ALLOWED_OPERATORS", "check_onnx"]

ALLOWED_OPERATORS = frozenset({
    "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "DequantizeLinear", "Div", "Equal", "Expand",
    "Flatten", "Gather", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Less", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg",
    "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum",
    "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt",
    "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators that convolutional networks, quantisation and SEI in the graph are made of."""

_STANDARD_DOMAINS = ("", "ai.onnx")
_MOST_NODES = 100_000

# field numbers of onnx.proto
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTIONS = 7, 8, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 6, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_onnx(data: bytes, *, source: str = "model.onnx") -> None:
    """Refuse a model that is more than a plain network.

    Args:
        data: The file.
        source: Its name, for messages.

    Raises:
        BundleError: If it is no ONNX model; has operators beyond `ALLOWED_OPERATORS` (loops and
            branches among them), operators or functions of other domains, or subgraphs; refers to
            data outside the file; or has more than 100,000 nodes.
    """
    view = memoryview(data)
    graphs = 0
    try:
        for number, value in _fields(view):
            if number == _MODEL_GRAPH:
                graphs += 1
                _check_graph(_message(value), source)
            elif number == _MODEL_FUNCTIONS:
                raise _refused(source, "functions of its own")
            elif number == _MODEL_OPSET:
                for inner, domain in _fields(_message(value)):
                    if inner == _OPSET_DOMAIN and _text(domain) not in _STANDARD_DOMAINS:
                        raise _refused(source, f"operators of the domain {_text(domain)!r}")
    except (IndexError, ValueError) as error:
        raise BundleError(
            f"{source} is not an ONNX model", got=error, fix="copy or export the bundle again"
        ) from error
    if graphs != 1:
        raise BundleError(
            f"{source} is not an ONNX model",
            got=f"{graphs} graphs",
            expected="one",
            fix="copy or export the bundle again",
        )


def _check_graph(graph: memoryview, source: str) -> None:
    nodes = 0
    for number, value in _fields(graph):
        if number == _GRAPH_NODE:
            nodes += 1
            if nodes > _MOST_NODES:
                raise _refused(source, f"more than {_MOST_NODES:,} nodes")
            _check_node(_message(value), source)
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(_message(value), source)


def _check_node(node: memoryview, source: str) -> None:
    operator = domain = ""
    attributes = []
    for number, value in _fields(node):
        if number == _NODE_OPERATOR:
            operator = _text(value)
        elif number == _NODE_DOMAIN:
            domain = _text(value)
        elif number == _NODE_ATTRIBUTE:
            attributes.append(_message(value))
    if domain not in _STANDARD_DOMAINS:
        raise _refused(source, f"the operator {domain}.{operator}")
    if operator not in ALLOWED_OPERATORS:
        raise _refused(source, f"the operator {operator}")
    for attribute in attributes:
        for number, value in _fields(attribute):
            if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                raise _refused(source, f"a graph inside the operator {operator}")
            if number == _ATTRIBUTE_TENSOR:
                _check_tensor(_message(value), source)


def _check_tensor(tensor: memoryview, source: str) -> None:
    for number, value in _fields(tensor):
        outside = number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0)
        if outside:
            raise _refused(source, "weights outside the file")


def _refused(source: str, what: str) -> BundleError:
    return BundleError(
        f"{source} is refused",
        got=what,
        expected="a plain convolutional network",
        fix="load only bundles that szn-export wrote",
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields; numbers as integers, all else as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field has the wire type {kind}")
        if at + size > len(message):
            raise ValueError("it is cut off")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8")
