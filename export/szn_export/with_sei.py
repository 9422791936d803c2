"""The label set folded into the ONNX graph: frames in, label map out, for users without SZN.

The graph does densely what `szn_runtime.sei` does sparsely (docs/sei.md): label scores at the nodes
as a 1x1 convolution, interpolated to the pixels of the network's input, the best seen and the best
unseen label of each pixel, and the interpolated seenmask to choose between the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from szn_export._interpolation import GraphBuilder, Interpolation
from szn_runtime.errors import ExportError
from szn_runtime.labels import LabelSet
from szn_runtime.manifest import Manifest

if TYPE_CHECKING:
    import onnx

__all__ = ["LABELS", "with_sei"]

LABELS = "labels"
"""Name of the label map among the graph's outputs."""

_PREFIX = "sei/"  # of all tensors that are added, so that none meets one of the network's
_OPSET = 15  # the first that has every operator used here in the form used here
_MOST_UINT8 = 255
_LARGE = 64  # numbers of an initialiser that shape inference never looks at


def with_sei(
    model: bytes,
    manifest: Manifest,
    labels: LabelSet,
    *,
    size_hw: tuple[int, int] | None = None,
    seen_bias: float = 0.0,
) -> bytes:
    """Append seenmask embedding inference to a network.

    The label map is that of `szn_runtime.sei.segment_grid` at the pixels of the network's input, up
    to pixels whose best two scores, or whose seenmask, differ by rounding alone. Padding that was
    added to the frame is in it and is the caller's to crop. The operators are those that
    onnxruntime, OpenVINO and TensorRT share. Scores of all K labels are held for all pixels:
    4 K H W bytes a frame.

    Args:
        model: ONNX file of the bundle, any precision whose grids are float32.
        manifest: Names, stride and node offset of the network.
        labels: K labels to choose among; a label's number is its row.
        size_hw: Fix height and width of the input; None keeps them as they are.
        seen_bias: Logit added to the seen side, as in `segment_grid`.

    Returns:
        An ONNX file with the same input, the network's outputs, and the output `labels` (N, H, W):
        uint8 up to 255 labels, else int32. Its metadata holds `szn.labels` (names as a JSON list),
        `szn.labels_seen` (booleans as a JSON list) and `szn.seen_bias`.

    Raises:
        ExportError: If the model is not the manifest's, labels or size do not fit it, or its grid
            leaves pixels more than a stride outside.
    """
    import onnx

    if labels.dim != manifest.dim:
        raise ExportError(
            "the labels do not fit the network",
            got=f"{labels.dim} dimensions",
            expected=manifest.dim,
        )
    if not math.isfinite(seen_bias):
        raise ExportError("seen_bias is not finite", got=seen_bias)
    network = _load(model, manifest)
    if size_hw is not None:
        _fix_size(network, manifest, size_hw)
    covered = _is_covered(network, manifest, size_hw)
    graph = GraphBuilder(network.graph, _PREFIX)
    both = bool(labels.seen.any() and not labels.seen.all())
    groups = [np.flatnonzero(labels.seen == side) for side in ((True, False) if both else ())]
    groups = groups or [np.arange(len(labels))]

    weights = labels.embeddings[np.concatenate(groups)]  # (K, j), seen labels first
    directions = graph.constant("label_embeddings", weights[:, :, None, None])
    scores = graph.add("Conv", [manifest.embedding_name, directions], "scores")
    pixels = Interpolation(graph, manifest, covered=covered, size_hw=size_hw)
    chosen = _best(graph, pixels(scores), groups)
    if both:
        difference = graph.add(
            "Conv",
            [
                manifest.seenmask_name,
                graph.constant("seen_minus_unseen", np.array([[[[-1]], [[1]]]], np.float32)),
                graph.constant("seen_bias", np.array([seen_bias], np.float32)),
            ],
            "difference",
        )
        zero = graph.constant("zero", np.zeros((), np.float32))
        is_seen = graph.add("Greater", [pixels(difference), zero], "is_seen")
        chosen = [graph.add("Where", [is_seen, *chosen], "chosen")]
    _finish(graph, network, manifest, chosen[0], len(labels))
    _describe(network, labels, seen_bias)
    try:
        onnx.checker.check_model(network, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError("onnx refuses the graph with the labels in it", got=error) from error
    return bytes(network.SerializeToString(deterministic=True))


def _best(graph: GraphBuilder, pixels: str, groups: Sequence[NDArray[np.intp]]) -> list[str]:
    """For each group of labels the best one of each pixel, (N, 1, H, W) int32 numbers of labels."""
    parts = [pixels]
    if len(groups) > 1:
        sizes = graph.constant("sizes", np.array([len(group) for group in groups], np.int64))
        parts = graph.split("Split", [pixels, sizes], ["seen", "unseen"], axis=1)
    best = []
    for part, group in zip(parts, groups, strict=True):
        # the first of equal ones, which is the lowest label: groups are in the labels' order
        row = graph.add("ArgMax", [part], "row", axis=1, keepdims=1, select_last_index=0)
        numbers = graph.constant("numbers", group.astype(np.int32))
        best.append(graph.add("Gather", [numbers, row], "best", axis=0))
    return best


def _finish(
    graph: GraphBuilder, network: onnx.ModelProto, manifest: Manifest, chosen: str, count: int
) -> None:
    """Turn (N, 1, H, W) int32 into the output."""
    from onnx import TensorProto, helper

    channel = graph.constant("channel", np.array([1], np.int64))
    flat = graph.add("Squeeze", [chosen, channel], "flat")
    small = count <= _MOST_UINT8
    if small:
        # TensorRT promises uint8 of floating point only; such numbers are exact even in bfloat16
        flat = graph.add("Cast", [flat], "float", to=TensorProto.FLOAT)
    kind = TensorProto.UINT8 if small else TensorProto.INT32
    network.graph.node.append(
        helper.make_node("Cast", [flat], [LABELS], name=_PREFIX + LABELS, to=kind)
    )
    frames = _tensor(network.graph.input, manifest.input_name)
    sizes = [
        dimension.dim_param or dimension.dim_value or None
        for position, dimension in enumerate(frames.type.tensor_type.shape.dim)
        if position != 1
    ]
    network.graph.output.append(helper.make_tensor_value_info(LABELS, kind, sizes))


def _describe(network: onnx.ModelProto, labels: LabelSet, seen_bias: float) -> None:
    """Names and settings, in the file."""
    from onnx import helper

    facts = {entry.key: entry.value for entry in network.metadata_props}
    facts["szn.labels"] = json.dumps(labels.names)
    facts["szn.labels_seen"] = json.dumps(labels.seen.tolist())
    facts["szn.seen_bias"] = repr(float(seen_bias))
    helper.set_model_props(network, dict(sorted(facts.items())))


def _load(model: bytes, manifest: Manifest) -> onnx.ModelProto:
    """Read the file and see that labels can be added to it."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        network = onnx.load_from_string(model)
    except DecodeError as error:
        raise ExportError("the model is not an ONNX file", got=error) from error
    graph = network.graph
    _tensor(graph.input, manifest.input_name)
    for name in (manifest.embedding_name, manifest.seenmask_name):
        kind = _tensor(graph.output, name).type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            raise ExportError(
                f"output {name!r} of the model is not float32",
                got=onnx.TensorProto.DataType.Name(kind).lower(),
                fix="keep the outputs in float32 when converting",
            )
    opset = max((e.version for e in network.opset_import if e.domain in {"", "ai.onnx"}), default=0)
    if opset < _OPSET:
        raise ExportError("the model's opset is too old", got=opset, expected=f">= {_OPSET}")
    taken = [name for node in graph.node for name in node.output]
    taken += [tensor.name for tensor in (*graph.initializer, *graph.input)]
    for name in taken:
        if name == LABELS or name.startswith(_PREFIX):
            raise ExportError(
                f"the model has a tensor {name!r}, which the labels would be called",
                fix="fold the labels into the network as it was exported",
            )
    return network


def _tensor(values: Sequence[onnx.ValueInfoProto], name: str) -> onnx.ValueInfoProto:
    """The input or output of a name, with its four dimensions."""
    found = next((value for value in values if value.name == name), None)
    if found is None or len(found.type.tensor_type.shape.dim) != 4:
        raise ExportError(
            f"the model has no tensor {name!r} of four dimensions, which the manifest names",
            got=", ".join(value.name for value in values),
            fix="export the bundle again",
        )
    return found


def _fix_size(network: onnx.ModelProto, manifest: Manifest, size_hw: tuple[int, int]) -> None:
    """Give the input a height and width; the grids' follow."""
    multiple = manifest.preprocess.multiple
    if min(size_hw) < 1 or size_hw[0] % multiple or size_hw[1] % multiple:
        raise ExportError(
            "the network cannot take this size",
            got=f"{size_hw[0]} x {size_hw[1]}",
            expected=f"multiples of {multiple}",
        )
    frames = _tensor(network.graph.input, manifest.input_name)
    for dimension, size in zip(frames.type.tensor_type.shape.dim[2:], size_hw, strict=True):
        if dimension.dim_value not in (0, size):
            raise ExportError(
                "the model is already of another size", got=dimension.dim_value, expected=size
            )
        dimension.dim_value = size
    nodes = _nodes(network, manifest, size_hw)
    for name in (manifest.embedding_name, manifest.seenmask_name):
        grid = _tensor(network.graph.output, name)
        for dimension, size in zip(grid.type.tensor_type.shape.dim[2:], nodes, strict=True):
            dimension.dim_value = size
    del network.graph.value_info[:]


def _is_covered(
    network: onnx.ModelProto, manifest: Manifest, size_hw: tuple[int, int] | None
) -> bool:
    """Whether the grid has exactly one node per stride, for every size that the input may have.

    The number of nodes is linear in the multiples of the network's padding that a side has, so that
    two different sides show it.
    """
    stride, multiple = manifest.stride, manifest.preprocess.multiple
    parts = max(1, manifest.preprocess.long_side // multiple)
    shape = _tensor(network.graph.input, manifest.input_name).type.tensor_type.shape
    height, width = (dimension.dim_value for dimension in shape.dim[2:])
    size = size_hw or (height or parts * multiple, width or (parts + 1) * multiple)
    nodes = _nodes(network, manifest, size)
    for pixels, count in zip(size, nodes, strict=True):
        first, last = -manifest.node_offset / stride, (pixels - 1 - manifest.node_offset) / stride
        if first < -1 or last > count:
            raise ExportError(
                "the grid does not cover the network's input",
                got=f"pixels from {first:.2f} to {last:.2f} of {count} nodes",
                expected=f"-1 to {count}: at most a stride outside",
                fix="see that stride and node offset are those of the network",
            )
    fixed = bool(height and width)
    return (fixed or multiple % stride == 0) and all(
        count * stride == pixels for pixels, count in zip(size, nodes, strict=True)
    )


def _nodes(
    network: onnx.ModelProto, manifest: Manifest, size_hw: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of the grid for a size, by shape inference on a copy without weights."""
    import onnx

    copy = onnx.ModelProto(ir_version=network.ir_version, opset_import=network.opset_import)
    copy.functions.extend(network.functions)
    graph, full = copy.graph, network.graph
    graph.name = full.name
    graph.node.extend(full.node)
    graph.input.extend(full.input)
    for tensor in full.initializer:
        if math.prod(tensor.dims) > _LARGE:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            graph.initializer.append(tensor)
    frames = _tensor(graph.input, manifest.input_name).type.tensor_type.shape.dim
    for dimension, size in zip(frames, (1, 3, *size_hw), strict=True):
        dimension.dim_value = size
    graph.output.append(onnx.helper.make_tensor_value_info(manifest.embedding_name, 1, [None] * 4))
    try:
        inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
        grid = _tensor(inferred.graph.output, manifest.embedding_name)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError("onnx cannot follow the model's shapes", got=error) from error
    height, width = (dimension.dim_value for dimension in grid.type.tensor_type.shape.dim[2:])
    if not height or not width:
        raise ExportError(
            "onnx cannot find the size of the model's grid",
            fix="fold the labels into the network as it was exported",
        )
    return height, width
