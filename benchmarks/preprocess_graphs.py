"""Graphs of `preprocess.py` that take uint8 frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from preprocess_preparations import Array

from szn_runtime.manifest import Manifest

if TYPE_CHECKING:
    import onnx

__all__ = ["with_levels_as_input"]


def with_levels_as_input(model: bytes, manifest: Manifest, *, fold: bool) -> bytes:
    """The graph with uint8 frames (1, H, W, 3) BGR as input.

    Args:
        model: The ONNX file.
        manifest: Preprocessing, and the name of the input.
        fold: Whether to put mean and deviation into the first convolution instead of nodes.

    Raises:
        LookupError: If they cannot be folded, as the input does not go to one convolution.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    proto = onnx.load_from_string(model)
    graph, name = proto.graph, manifest.input_name
    preprocess = manifest.preprocess
    swap = preprocess.channel_order == "rgb"
    mean, std = (np.array(values, np.float64) for values in (preprocess.mean, preprocess.std))
    nodes = [helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2])]
    if fold:
        nodes.append(helper.make_node("Cast", ["planes"], [name], to=TensorProto.FLOAT))
        _fold(graph, name, mean, std, swap=swap)
    else:
        # the order of channels is changed while they are small
        order = [2, 1, 0] if swap else [0, 1, 2]
        constants = {
            "szn_order": np.array(order, np.int64),
            "szn_mean": mean.astype(np.float32).reshape(1, 3, 1, 1),
            "szn_rate": (1 / std).astype(np.float32).reshape(1, 3, 1, 1),
        }
        graph.initializer.extend(numpy_helper.from_array(v, key) for key, v in constants.items())
        nodes += [
            helper.make_node("Gather", ["planes", "szn_order"], ["ordered"], axis=1),
            helper.make_node("Cast", ["ordered"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["floats", "szn_mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "szn_rate"], [name]),
        ]
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    shape = ["batch", "height", "width", 3]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("levels", TensorProto.UINT8, shape))
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _fold(graph: onnx.GraphProto, name: str, mean: Array, std: Array, *, swap: bool) -> None:
    """W (x - m) / s + b = (W / s) x + (b - sum of W m / s), for BGR levels x."""
    from onnx import numpy_helper

    users = [node for node in graph.node if name in node.input]
    if len(users) != 1 or users[0].op_type != "Conv" or len(users[0].input) != 3:
        raise LookupError("the input goes to more than a convolution with bias")
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weight, bias = (tensors[each] for each in users[0].input[1:])
    scaled = numpy_helper.to_array(weight) / std[:, None, None]  # (C, 3, kh, kw)
    shift = (scaled * mean[:, None, None]).sum(axis=(1, 2, 3))
    if swap:
        scaled = scaled[:, ::-1]
    for tensor, values in ((weight, scaled), (bias, numpy_helper.to_array(bias) - shift)):
        made = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name)
        tensor.CopyFrom(made)
