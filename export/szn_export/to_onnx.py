"""From the PyTorch network to one clean ONNX file."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from szn_runtime.errors import ExportError
from szn_train.model import SeenmaskZeroShotNetwork

if TYPE_CHECKING:
    import onnx

__all__ = ["EMBEDDING", "FRAMES", "SEENMASK", "ExportGraph", "onnx_from_network"]

FRAMES, EMBEDDING, SEENMASK = "frames", "embedding", "seenmask"
"""Names of the graph's input and outputs."""

# protobuf counts a message's bytes in 31 bits; a graph without weights takes far less than the rest
_MOST_BYTES = (1 << 31) - (1 << 24)
_DIMENSIONS = {
    FRAMES: ("batch", None, "height", "width"),
    EMBEDDING: ("batch", None, "grid_height", "grid_width"),
    SEENMASK: ("batch", None, "grid_height", "grid_width"),
}


class ExportGraph(nn.Module):
    """The part of the network that leaves PyTorch: frames to the two grids.

    Upsampling and labels stay outside, so that labels are run-time data.
    """

    def __init__(self, network: SeenmaskZeroShotNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) float32 to (N, j, h, w) and (N, 2, h, w)."""
        grids = self.network(frames)
        return grids.embedding, grids.seenmask


def onnx_from_network(
    network: SeenmaskZeroShotNetwork, metadata: Mapping[str, str]
) -> tuple[bytes, int]:
    """Export with dynamic batch, height and width.

    Args:
        network: The trained network.
        metadata: Texts that are kept in the file.

    Returns:
        The file's content and its opset.

    Raises:
        ExportError: If torch or onnx fail, the graph is not the one expected, or the weights do not
            fit one file.
    """
    import onnx

    _check_size(network)
    stride = network.backbone.info.stride
    example = torch.zeros(1, 3, 8 * stride, 6 * stride)
    try:
        with _quiet():
            program = torch.onnx.export(
                ExportGraph(network),
                (example,),
                dynamo=True,
                dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
                external_data=False,
                input_names=[FRAMES],
                output_names=[EMBEDDING, SEENMASK],
                verbose=False,
            )
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ExportError(f"torch cannot export the network ({line})") from error
    if program is None:
        raise ExportError("torch returned no ONNX program")
    model = program.model_proto
    _name_dimensions(model)
    _check_graph(model)
    _drop_traces(model)
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx refuses the exported graph ({error})") from error
    opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    return model.SerializeToString(deterministic=True), int(opset)


def _check_size(network: nn.Module) -> None:
    """Refuse what does not fit one file; the parser of the runtime takes no others."""
    size = sum(p.numel() * p.element_size() for p in network.state_dict().values())
    if size > _MOST_BYTES:
        raise ExportError(
            "the network is too large for one ONNX file",
            got=f"{size / 1e9:.1f} GB of weights",
            expected=f"at most {_MOST_BYTES / 1e9:.1f} GB",
            fix="choose a smaller backbone",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter prints progress and warns of its own deprecations; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Readable names for the dynamic dimensions, which the exporter mangles for outputs."""
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(
            value.type.tensor_type.shape.dim, _DIMENSIONS[value.name], strict=True
        ):
            if name is not None:
                dimension.dim_param = name
    # inner tensors carry the mangled names; shape inference finds them again where needed
    del model.graph.value_info[:]


def _drop_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: stack traces with paths of the machine, and their bytes."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""


def _check_graph(model: onnx.ModelProto) -> None:
    """Refuse shape arithmetic: it breaks converters and costs time in every frame."""
    found = sorted({node.op_type for node in model.graph.node} & {"Shape", "Loop", "If", "Scan"})
    if found:
        raise ExportError(
            "the exported graph computes on shapes",
            got=", ".join(found),
            expected="static padding only",
            fix="replace dynamic padding in the backbone (see szn_train.static_padding)",
        )
