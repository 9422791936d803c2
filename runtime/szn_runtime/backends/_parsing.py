"""An ONNX file as a network of TensorRT, compared with what is said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from szn_runtime.backends._engine import Library
from szn_runtime.backends.base import PRECISIONS
from szn_runtime.backends.tensors import (
    ENGINE_DTYPES,
    Expected,
    TensorFacts,
    check_engine_tensors,
)
from szn_runtime.errors import BackendError

__all__ = ["Network", "read_network"]

_PRECISION_OF = {"HALF": "fp16", "BF16": "bf16", "INT8": "int8"}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, ready to be built.

    Args:
        network: The library's.
        parser: Owns the weights, and has to live until the network is built.
        inputs: What it takes.
        outputs: What it gives.
    """

    network: Any
    parser: Any
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


def read_network(
    library: Library, builder: Any, onnx: bytes, expected: Expected, precision: str
) -> Network:
    """Read an ONNX file into a strongly typed network.

    Raises:
        BackendError: If the library cannot read it, it holds no network, or one of another
            precision, or one whose inputs and outputs are not those expected.
    """
    trt = library.module
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    typed = getattr(flags, "STRONGLY_TYPED", None)
    # libraries without this flag know no other networks
    flag = 0 if typed is None else 1 << int(typed)
    network = library.call(f"{library} makes no network", builder.create_network, flag)
    parser = library.call(f"{library} reads no ONNX", trt.OnnxParser, network, library.log)
    if not parser.parse(onnx):
        # its own list, which says more than the log
        reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BackendError(
            f"{library} cannot read the ONNX file",
            got="; ".join(reasons) or "no reason",
            fix="export it again",
        )
    if network.num_layers == 0:  # it takes empty files, texts and more for networks
        raise BackendError("the ONNX file holds no network", got="0 layers", fix="export it again")
    inputs = tuple(_tensor(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_tensor(network.get_output(index)) for index in range(network.num_outputs))
    check_engine_tensors(inputs, outputs, expected, fix="export it without them")
    _check_precision(network, precision)
    return Network(network=network, parser=parser, inputs=inputs, outputs=outputs)


def _tensor(tensor: Any) -> TensorFacts:
    sizes = [int(size) for size in tensor.shape]
    return TensorFacts(
        name=str(tensor.name),
        dtype=ENGINE_DTYPES.get(tensor.dtype.name, tensor.dtype.name),
        shape=tuple(None if size < 0 else size for size in sizes),
    )


def _check_precision(network: Any, precision: str) -> None:
    """Refuse a file of another precision: the engine would silently have that."""
    found = "fp32"
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            dtype = layer.get_output(output).dtype.name
            found = max(found, _PRECISION_OF.get(dtype, found), key=PRECISIONS.index)
    if found != precision:
        raise BackendError(
            "the ONNX file is of another precision, which an engine takes from its file",
            got=found,
            expected=precision,
            fix="convert the file first",
        )
