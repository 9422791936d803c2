"""The graph in three parts, for those who put something between trunk and heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from szn_export.to_onnx import EMBEDDING, FRAMES, SEENMASK
from szn_runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx

__all__ = ["FEATURES", "PARTS", "Sizes", "inputs_of", "sizes_of", "split_onnx"]

Sizes = tuple[int, int, int, int]
"""N, C, H, W."""

FEATURES = "features"
"""Name of the tensor between trunk and heads, (N, C, h, w) float32."""

PARTS = {"fcn": FEATURES, "embedding_head": EMBEDDING, "seenmask_head": SEENMASK}
"""Each part's output, in the order in which they run."""


def split_onnx(model: bytes) -> dict[str, bytes]:
    """Cut the exported graph where both heads begin.

    Args:
        model: What `onnx_from_network` gives.

    Returns:
        Part to ONNX file: `fcn` from frames to features, then a head each, of which the seenmask's
        may read the embedding too. Run one after the other they compute what the whole does.

    Raises:
        ExportError: If the heads do not begin at one tensor.
    """
    import onnx

    whole = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model))
    made_by = {name: node for node in whole.graph.node for name in node.output}
    features = made_by[EMBEDDING].input[0]
    read = _read(made_by, SEENMASK, {features, EMBEDDING})
    if features not in read or not read <= {features, EMBEDDING}:
        raise ExportError(
            "the graph cannot be split: its heads do not begin at one tensor",
            got=sorted(read),
            expected=features,
        )
    _rename(whole, features, FEATURES)
    extractor = onnx.utils.Extractor(whole)
    starts = {
        "fcn": [FRAMES],
        "embedding_head": [FEATURES],
        "seenmask_head": [FEATURES, EMBEDDING] if EMBEDDING in read else [FEATURES],
    }
    parts = {}
    for name, end in PARTS.items():
        part = extractor.extract_model(starts[name], [end])
        del part.graph.value_info[:]
        _name_dimensions(part)
        part.graph.name = name
        onnx.checker.check_model(part, full_check=True)
        parts[name] = bytes(part.SerializeToString(deterministic=True))
    return parts


def inputs_of(part: bytes) -> tuple[str, ...]:
    """Names of what a part reads."""
    import onnx

    return tuple(value.name for value in onnx.load_model_from_string(part).graph.input)


def sizes_of(part: bytes, sizes: Sizes) -> Sizes:
    """Sizes of a part's output for those of its input.

    Raises:
        ExportError: If they do not follow from the graph.
    """
    import onnx

    model = onnx.load_model_from_string(part)
    for dimension, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        dimension.dim_value = size
    for dimension in model.graph.output[0].type.tensor_type.shape.dim:
        dimension.Clear()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    n, c, h, w = (d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim)
    if min(n, c, h, w) < 1:
        raise ExportError("the output's size does not follow from the graph", got=(n, c, h, w))
    return n, c, h, w


def _read(made_by: dict[str, onnx.NodeProto], output: str, stops: set[str]) -> set[str]:
    """Tensors of `stops` that an output depends on, and the graph's inputs if it passes them by."""
    read: set[str] = set()
    seen: set[str] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in stops or name == FRAMES:
            read.add(name)
        elif name in made_by:
            pending += made_by[name].input
    return read


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    for value in model.graph.value_info:
        if value.name == old:
            value.name = new


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Readable names for the dynamic dimensions, which shape inference makes up."""
    values: list[Any] = [*model.graph.input, *model.graph.output]
    for value in values:
        grid = ("height", "width") if value.name == FRAMES else ("grid_height", "grid_width")
        for dimension, name in zip(
            value.type.tensor_type.shape.dim, ("batch", None, *grid), strict=True
        ):
            if name is not None:
                dimension.dim_param = name
