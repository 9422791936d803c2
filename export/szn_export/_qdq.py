"""Pairs of QuantizeLinear and DequantizeLinear, written into a graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from szn_export._layers import Layers
from szn_runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx

__all__ = ["Quantiser"]

# Where a bias would need more steps than this, its weights get a coarser scale: a quarter of what
# int32 holds, so that the sum of products has room beside it.
_BIAS_STEPS = 2**29
_LEAST_SCALE = 1e-20  # below are channels of zeros, and float32 ends


class Quantiser:
    """Rewrites a graph for one INT8 variant.

    Args:
        graph: Is changed.
        layers: Of this graph.
        ranges: Tensor to its least and greatest value.
        signed: Activations symmetric int8 and biases float32, else uint8 and int32.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        layers: Layers,
        ranges: Mapping[str, tuple[float, float]],
        *,
        signed: bool,
    ) -> None:
        self._graph, self._layers = graph, layers
        self._ranges, self._signed = ranges, signed
        self._pairs: dict[str, list[onnx.NodeProto]] = {}  # tensor to what stands behind it
        self._scales: dict[str, np.float32] = {}
        self._added: list[onnx.TensorProto] = []
        self._pooled: dict[str, str] = {}

    def rewrite(self, chosen: Collection[str], rounded: Collection[str]) -> None:
        """Put in the pairs for these layers, and drop the weights that they replace.

        Args:
            chosen: Names of the layers that compute on integers.
            rounded: Names of layers that compute in floating point, but read what a chosen one
                gives as integers if they do.

        Raises:
            ExportError: If a range is missing or a weight is not finite.
        """
        import onnx

        integer, given = self._layers.integer_nodes(chosen)
        by_name = {node.name: node for node in self._layers.nodes}
        # on integers a pool cannot change the scale, so its output has that of its input
        pools = [by_name[name] for name in integer if by_name[name].op_type == "MaxPool"]
        self._pooled = {node.output[0]: node.input[0] for node in pools}
        before: dict[str, list[onnx.NodeProto]] = {}
        for name, tensors in integer.items():
            node = by_name[name]
            if name in chosen:
                before[name] = self._quantise_weights(node)
            for index in range(len(tensors)):
                node.input[index] = self._quantise(node.input[index])
        for node in (by_name[name] for name in rounded):
            if node.input[0] in given:
                node.input[0] = self._quantise(node.input[0])

        nodes: list[onnx.NodeProto] = []
        for tensor, pair in self._pairs.items():
            if tensor not in self._layers.made:  # the graph's input
                nodes += pair
        for node in self._layers.nodes:
            nodes += [*before.get(node.name, ()), node]
            for tensor in node.output:
                nodes += self._pairs.get(tensor, ())
        read = {name for node in nodes for name in node.input}
        read.update(output.name for output in self._graph.output)
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        result = onnx.GraphProto(node=nodes, initializer=[*kept, *self._added])
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.MergeFrom(result)

    def _quantise(self, tensor: str) -> str:
        """Name of the tensor behind its pair, which is made at the first call."""
        import onnx

        integers, output = f"{tensor}_quantized", f"{tensor}_dequantized"
        if tensor not in self._pairs:
            names = self._parameters(tensor)
            self._pairs[tensor] = [
                onnx.helper.make_node(operator, [source, *names], [result], f"{result}_{operator}")
                for operator, source, result in (
                    ("QuantizeLinear", tensor, integers),
                    ("DequantizeLinear", integers, output),
                )
            ]
        return output

    def _parameters(self, tensor: str) -> tuple[str, str]:
        """Names of a tensor's scale and zero point, which are made at the first call."""
        tensor = self._source(tensor)
        scale_name, zero_name = f"{tensor}_scale", f"{tensor}_zero_point"
        if tensor not in self._scales:
            if tensor not in self._ranges:
                raise ExportError(
                    f"there is no range for {tensor}", fix="calibrate this model, not another one"
                )
            low, high = self._ranges[tensor]
            low, high = min(low, 0.0), max(high, 0.0)  # zero is exact, padding is made of it
            scale = np.float32(
                max(max(-low, high) / 127 if self._signed else (high - low) / 255, _LEAST_SCALE)
            )
            zero = np.rint(-low / np.float64(scale)).clip(0, 255)
            self._scales[tensor] = scale
            # of no axes: with one of length 1 onnxruntime fuses neither Clip nor Add
            self._add(scale_name, np.array(scale))
            self._add(zero_name, np.array(0, np.int8) if self._signed else np.array(zero, np.uint8))
        return scale_name, zero_name

    def _source(self, tensor: str) -> str:
        """The tensor whose range this one has."""
        while tensor in self._pooled:
            tensor = self._pooled[tensor]
        return tensor

    def _quantise_weights(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Make a layer's weights int8 and its bias int32; the nodes that scale them back."""
        weights = self._values(node.input[1])
        bias = self._values(node.input[2]) if len(node.input) > 2 and not self._signed else None
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        others = tuple(i for i in range(weights.ndim) if i != axis)
        scale = np.abs(weights).max(axis=others).astype(np.float64) / 127
        self._parameters(node.input[0])
        step = self._scales[self._source(node.input[0])]
        if bias is not None:
            scale = np.maximum(scale, np.abs(bias) / np.float64(step) / _BIAS_STEPS)
        scales = np.where(scale > _LEAST_SCALE, scale, 1).astype(np.float32)
        steps = np.rint(weights / np.expand_dims(scales, others)).clip(-127, 127)
        nodes = [self._scale_back(node, 1, steps.astype(np.int8), scales, axis)]
        if bias is not None:
            scales = step * scales
            steps = np.rint(bias / scales.astype(np.float64))
            nodes.append(self._scale_back(node, 2, steps.astype(np.int32), scales, 0))
        return nodes

    def _scale_back(
        self,
        node: onnx.NodeProto,
        index: int,
        integers: NDArray[Any],
        scales: NDArray[np.float32],
        axis: int,
    ) -> onnx.NodeProto:
        """Keep integers in the file, and make the node that gives input `index` their values."""
        import onnx

        # named by the layer: its weights may serve another one that stays in floating point
        name = f"{node.name}_{('', 'weight', 'bias')[index]}"
        parts: Sequence[tuple[str, NDArray[Any]]] = (
            (f"{name}_quantized", integers),
            (f"{name}_scale", scales),
            (f"{name}_zero_point", np.zeros(scales.shape, integers.dtype)),
        )
        for part, values in parts:
            self._add(part, values)
        node.input[index] = f"{name}_dequantized"
        inputs = [part for part, _ in parts]
        return onnx.helper.make_node(
            "DequantizeLinear", inputs, [node.input[index]], f"{name}_dequantize", axis=axis
        )

    def _values(self, name: str) -> NDArray[np.float32]:
        import onnx

        values: NDArray[np.float32] = onnx.numpy_helper.to_array(self._layers.weights[name])
        if not np.isfinite(values).all():
            raise ExportError(f"{name} holds numbers that are not finite")
        return values

    def _add(self, name: str, values: NDArray[Any]) -> None:
        import onnx

        self._added.append(onnx.numpy_helper.from_array(values, name))
