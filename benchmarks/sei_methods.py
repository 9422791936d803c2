"""The methods per pixel that `sei.py` compares with: dense in PyTorch, scores in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Grids
from szn_runtime.backends.base import usable_cores
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet

__all__ = ["Map", "dense", "in_graph"]

Map = NDArray[Any]
"""(H, W) labels, of any integer type."""

_CHUNK = 250  # labels the dense method multiplies at a time, so that it fits into memory


def dense(
    grids: Grids, labels: LabelSet, geometry: GridGeometry, size_hw: tuple[int, int]
) -> Callable[[], Map]:
    """The thesis' method in PyTorch, which gives (H, W) labels."""
    import torch

    from szn_train.model import upsample

    table, flags = torch.from_numpy(labels.embeddings.copy()), torch.from_numpy(labels.seen.copy())
    sides = [(side, torch.nonzero(flags == side).flatten()) for side in (True, False)]

    def run() -> Map:
        with torch.inference_mode():
            pixels = upsample(torch.from_numpy(grids.embedding), size_hw, geometry)[0]  # (j, H, W)
            mask = upsample(torch.from_numpy(grids.seenmask), size_hw, geometry)[0]  # (2, H, W)
            flat = torch.nn.functional.normalize(pixels.flatten(1), dim=0)  # (j, H W)
            seen_pixel = mask[1].flatten() > mask[0].flatten()
            chosen = torch.zeros(flat.shape[1], dtype=torch.int64)
            for side, ids in sides:
                best = torch.full((flat.shape[1],), -2.0)
                index = torch.zeros_like(chosen)
                for part in torch.split(ids, _CHUNK):
                    value, row = (table[part] @ flat).max(dim=0)  # (k, j) @ (j, H W) -> (k, H W)
                    better = value > best
                    best = torch.where(better, value, best)
                    index = torch.where(better, part[row], index)
                chosen = torch.where(seen_pixel == side, index, chosen)
        found: Map = chosen.reshape(size_hw).numpy()
        return found

    return run


def in_graph(
    grids: Grids, labels: LabelSet, stride: int, size_hw: tuple[int, int]
) -> Callable[[], Map]:
    """Scores of all labels resized in onnxruntime, which gives (H, W) labels.

    The frame begins at the first node's upper left corner and may end before the last node's lower
    right one.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    j, h, w = grids.embedding.shape[1:]
    nodes, constants = [], []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **options: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **options))
        return output

    def resized(grid: str, channels: int, output: str) -> str:
        full = constant(f"{output}_size", np.array([1, channels, h * stride, w * stride]))
        inputs = [grid, "", "", full]
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return node("Resize", inputs, output, **how)

    for side, ids in (
        ("seen", np.flatnonzero(labels.seen)),
        ("unseen", np.flatnonzero(~labels.seen)),
    ):
        weights = constant(f"{side}_labels", labels.embeddings[ids][:, :, None, None])
        scores = node("Conv", ["embedding", weights], f"{side}_scores")
        pixels = resized(scores, ids.size, f"{side}_pixels")
        best = node("ArgMax", [pixels], f"{side}_best", axis=1, keepdims=1)
        node("Gather", [constant(f"{side}_ids", ids), best], f"{side}_label", axis=0)
    pixels = resized("difference", 1, "difference_pixels")
    is_seen = node("Greater", [pixels, constant("zero", np.zeros((), np.float32))], "is_seen")
    node("Where", [is_seen, "seen_label", "unseen_label"], "all")
    ends = [constant("begin", np.array([0, 0])), constant("end", np.array(size_hw))]
    node("Slice", ["all", *ends, constant("axes", np.array([2, 3]))], "labels")
    graph = helper.make_graph(
        nodes,
        "scores",
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, j, h, w]),
            helper.make_tensor_value_info("difference", TensorProto.FLOAT, [1, 1, h, w]),
        ],
        [helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 1, *size_hw])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    difference = grids.seenmask[:, 1:] - grids.seenmask[:, :1]
    feed = {"embedding": grids.embedding, "difference": difference}

    def run() -> Map:
        found: Map = session.run(None, feed)[0][0, 0]
        return found

    return run
