"""FP16 and INT8 variants of the exported FP32 graph.

INT8 is written as pairs of QuantizeLinear and DequantizeLinear, which every library turns into its
own integer kernels. The pairs stand where integers are read: before convolutions and products and
before the additions between them, never behind a layer for its own sake. So a layer that is kept in
floating point reads exact numbers, and what a Clip or Relu cuts off takes no part of a range.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from szn_export._layers import Layers, parse, serialise
from szn_export._qdq import Quantiser
from szn_export.calibration import Calibration
from szn_runtime.errors import ExportError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    import onnx

__all__ = ["Target", "quantizable_layers", "to_fp16", "to_int8"]

Target = Literal["cpu", "tensorrt"]
"""What an INT8 file is for: onnxruntime and OpenVINO, or TensorRT."""

_HALF_MAX = 65504.0


def to_fp16(model: bytes) -> bytes:
    """Weights and arithmetic in half precision; inputs and outputs stay float32.

    Numbers closer to zero than half precision reaches become its smallest one. One beyond its range
    is refused, since the converter would cut it off and nothing would say so.

    Args:
        model: An ONNX file with float32 weights.

    Returns:
        The ONNX file, names and dynamic sizes as before; equal input gives equal bytes.

    Raises:
        ExportError: If a weight, which is named, is beyond the range of half precision or not a
            number; or if the graph cannot be converted.
        MissingDependencyError: If onnxconverter-common is not installed.
    """
    try:
        # by name: a library without types
        converter: Any = importlib.import_module("onnxconverter_common.float16")
    except ImportError as error:
        raise MissingDependencyError(
            "onnxconverter-common is not installed", got=error, fix='pip install "szn[export]"'
        ) from error
    proto = parse(model)
    _check_half(proto.graph)
    _end_outputs(proto.graph)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers near zero
            proto = converter.convert_float_to_float16(
                proto, keep_io_types=True, max_finite_val=_HALF_MAX
            )
    except Exception as error:  # the converter raises ValueError, AssertionError and others
        raise ExportError("the graph cannot be converted to FP16", got=error) from error
    del proto.graph.value_info[:]  # shape inference's, with sizes of mangled names
    return serialise(proto)


def quantizable_layers(model: bytes, *, heads: bool = False) -> tuple[str, ...]:
    """Names of the convolutions and products that INT8 can take, in the graph's order.

    Those are Conv, Gemm and MatMul nodes with float32 weights and, if any, bias in the file. A node
    without a name gets one from its operator and position, here as in `to_int8`.

    Args:
        model: An ONNX file.
        heads: Whether to name those too that give the graph's outputs.

    Raises:
        ExportError: If it is no ONNX file, or quantised already.
    """
    layers = Layers(parse(model).graph)
    return tuple(name for name in layers.layers if heads or name not in layers.heads)


def to_int8(
    model: bytes,
    calibration: Calibration,
    *,
    target: Target,
    keep_float: Collection[str] = (),
    heads: bool = False,
) -> bytes:
    """Eight-bit weights and activations.

    Weights are symmetric int8 with a scale for each output channel. For "cpu" activations are uint8
    with a zero point and biases int32. For "tensorrt" activations are symmetric int8 and biases
    stay float32, since it takes nothing else.

    Args:
        model: The ONNX file that was calibrated.
        calibration: Ranges of its tensors.
        target: What will run the file.
        keep_float: Names of layers to leave in floating point, their inputs too.
        heads: Whether to quantise the layers that give the graph's outputs. Those left in floating
            point read 8-bit inputs in "cpu" files, unless `keep_float` names them.

    Returns:
        The ONNX file, names and dynamic sizes as before; equal input gives equal bytes.

    Raises:
        UsageError: If there is no such target.
        ExportError: If nothing is left to quantise, `keep_float` names no layer, a range is
            missing, a weight is not finite, or the graph is quantised already or refused by onnx.
    """
    if target not in get_args(Target):
        raise UsageError("unknown target of INT8", got=target, expected="cpu or tensorrt")
    proto = parse(model)
    layers = Layers(proto.graph)
    kept = set(keep_float)
    if not kept <= layers.layers.keys():
        raise ExportError(
            "a layer to keep in float is not in the graph",
            got=", ".join(sorted(kept - layers.layers.keys())),
        )
    rounded = set() if heads else layers.heads - kept
    chosen = layers.layers.keys() - kept - rounded
    if not chosen:
        raise ExportError(
            "nothing is left to quantise",
            got=f"{len(layers.layers)} layers, all of them in floating point",
            fix="use fp32 or fp16 for this network",
        )
    Quantiser(proto.graph, layers, calibration.ranges, signed=target == "tensorrt").rewrite(
        chosen,
        # onnxruntime computes a layer on integers only where what it gives becomes integers
        rounded if target == "cpu" else (),
    )
    _check_pairs(proto.graph, chosen)
    return serialise(proto)


def _check_pairs(graph: onnx.GraphProto, chosen: Collection[str]) -> None:
    """See that every chosen layer reads a quantised input."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in chosen:
            back = makers.get(node.input[0])
            quantiser = makers.get(back.input[0]) if back is not None else None
            found = [step.op_type for step in (quantiser, back) if step is not None]
            if found != ["QuantizeLinear", "DequantizeLinear"]:
                raise ExportError(
                    f"the input of {node.name} was not quantised",
                    got=", ".join(found) or "the graph's input",
                )


def _end_outputs(graph: onnx.GraphProto) -> None:
    """Let no node read an output of the graph: the converter gives such a node its float32 copy."""
    import onnx

    read = {name for node in graph.node for name in node.input}
    for output in graph.output:
        name, inner = output.name, f"{output.name}/inner"
        if name not in read:
            continue
        for node in graph.node:
            for names in (node.input, node.output):
                for place, tensor in enumerate(names):
                    if tensor == name:
                        names[place] = inner
        graph.node.append(onnx.helper.make_node("Identity", [inner], [name], f"{name}/output"))


def _check_half(graph: onnx.GraphProto) -> None:
    """Refuse float32 numbers, of initialisers or constants in nodes, that FP16 cannot hold."""
    import onnx

    constants = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        # infinite bounds of a Clip stay infinite
        wrong = np.isnan(values) | (np.isfinite(values) & (np.abs(values) > _HALF_MAX))
        if wrong.any():
            raise ExportError(
                f"{tensor.name or 'a constant'} does not fit FP16",
                got=f"{values[wrong].flat[0]:g}",
                expected=f"numbers up to {_HALF_MAX:g}",
                fix="leave fp16 out of --precision",
            )
