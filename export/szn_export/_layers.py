"""Layers of an ONNX graph: which ones INT8 can take, and what lies between them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from szn_runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx

__all__ = ["Layers", "parse", "serialise"]

_LAYERS = ("Conv", "Gemm", "MatMul")
# integers come out of these as they went in, or cut off
_PASSING = ("Clip", "Identity", "MaxPool", "Relu")


class Layers:
    """Who makes and who reads what in a graph, which is not changed.

    Attributes:
        nodes: All nodes, in their order.
        weights: Constant tensors by name.
        made: Names of the tensors that nodes give.
        layers: Convolutions and products that INT8 can take, by node name and in their order.
        heads: Names of those with no other one between them and an output, and of those that not
            all outputs depend on: what the trunk gives is not theirs.
        candidates: Tensors that an INT8 variant may quantise, once each and in their order.

    Raises:
        ExportError: If the graph is quantised already.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        found = {node.op_type for node in graph.node} & {"QuantizeLinear", "DequantizeLinear"}
        if found:
            raise ExportError("the graph is quantised already", got=", ".join(sorted(found)))
        self.nodes = list(graph.node)
        inputs = {value.name for value in graph.input}
        self.weights = {t.name: t for t in graph.initializer if t.name not in inputs}
        producers = {name: node for node in self.nodes for name in node.output}
        self.made = frozenset(producers)
        self.layers = {node.name: node for node in self.nodes if self._is_layer(node)}
        self.heads = self._find_heads(producers, [output.name for output in graph.output])
        read = [name for node in self.nodes for name in self._integer_inputs(node)]
        self.candidates = tuple(dict.fromkeys(read))

    def integer_nodes(
        self, chosen: Collection[str]
    ) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
        """What computes on integers when these layers do.

        Besides the layers: additions of nothing but what they give, and poolings whose output is
        read as integers. So the sum that a layer in floating point goes into stays exact, which
        saves more accuracy than the layer alone.

        Args:
            chosen: Names of layers.

        Returns:
            Node name to the tensors that it reads as integers, in the nodes' order; and the names
            of all tensors that these layers and additions give, also cut off or pooled.
        """
        given: set[str] = set()
        names: set[str] = set()
        for node in self.nodes:
            joins = self._is_addition(node) and given.issuperset(node.input)
            if node.name in chosen or joins:
                names.add(node.name)
                given.update(node.output)
            elif node.op_type in _PASSING and node.input[0] in given:
                given.update(node.output)
        read = {t for n in self.nodes if n.name in names for t in self._integer_inputs(n)}
        for node in reversed(self.nodes):
            if node.op_type == "MaxPool" and node.output[0] in read:
                names.add(node.name)
                read.add(node.input[0])
        reads = {n.name: self._integer_inputs(n) for n in self.nodes if n.name in names}
        return reads, frozenset(given)

    def _is_addition(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Add" and self.weights.keys().isdisjoint(node.input)

    def _integer_inputs(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """Tensors that this node would read as integers."""
        if self._is_addition(node):
            return tuple(node.input)
        if node.name in self.layers or node.op_type == "MaxPool":
            return (node.input[0],)
        return ()

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        import onnx

        if node.op_type not in _LAYERS or node.domain not in ("", "ai.onnx"):
            return False
        facts = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Gemm" and (
            facts.get("alpha", 1) != 1 or facts.get("beta", 1) != 1 or facts.get("transA", 0)
        ):
            return False
        tensors = [self.weights.get(name) for name in node.input[1:]]
        if any(t is None or t.data_type != onnx.TensorProto.FLOAT for t in tensors):
            return False
        rank, *bias_rank = [len(t.dims) for t in tensors if t is not None]
        right = rank > 2 if node.op_type == "Conv" else rank == 2
        return right and bias_rank in ([], [1]) and node.input[0] not in self.weights

    def _find_heads(
        self, producers: dict[str, onnx.NodeProto], outputs: list[str]
    ) -> frozenset[str]:
        heads, pending, seen = set(), list(outputs), set()
        while pending:
            name = pending.pop()
            node = producers.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.name in self.layers:
                heads.add(node.name)
            else:
                pending += node.input
        behind = [_behind(producers, name) for name in outputs]
        own = {name for name in self.layers if not all(name in nodes for nodes in behind)}
        return frozenset(heads | (own & set().union(*behind)))


def _behind(producers: dict[str, onnx.NodeProto], output: str) -> set[str]:
    """Names of all nodes that an output depends on."""
    names: set[str] = set()
    pending = [output]
    while pending:
        node = producers.get(pending.pop())
        if node is not None and node.name not in names:
            names.add(node.name)
            pending += node.input
    return names


def parse(model: bytes) -> onnx.ModelProto:
    """Read a model; nodes without a name get one of their operator and position.

    Raises:
        ExportError: If it is no ONNX model.
    """
    import onnx

    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's own, which onnx does not name
        raise ExportError("this is no ONNX model", got=error) from error
    if not proto.graph.node:
        raise ExportError("this is no ONNX model", got="a graph without nodes")
    taken = {node.name for node in proto.graph.node}
    for index, node in enumerate(proto.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
    return proto


def serialise(proto: onnx.ModelProto) -> bytes:
    """Check a model and write it; equal models give equal bytes.

    Raises:
        ExportError: If onnx refuses it.
    """
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError("onnx refuses the converted graph", got=error) from error
    content: Any = proto.SerializeToString(deterministic=True)
    return bytes(content)
