"""Ranges of a graph's tensors over real frames, which INT8 is scaled by."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from szn_export._layers import Layers, parse
from szn_runtime.backends.base import usable_cores
from szn_runtime.errors import ExportError, InputError, MissingDependencyError

if TYPE_CHECKING:
    import onnx

__all__ = ["Calibration", "calibrate"]

_NOT_FINITE = "check the weights and frames for numbers that are not finite"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Ranges of a graph's tensors over real frames, good for any number of INT8 variants.

    Args:
        ranges: Tensor to its least and greatest value.
        frames: How many were seen.
        method: "minmax": nothing that occurred is cut off.

    Raises:
        InputError: If there were no frames.
        ExportError: If a tensor's range is not finite, or is a single value.
    """

    ranges: Mapping[str, tuple[float, float]]
    frames: int
    method: Literal["minmax"] = "minmax"

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise InputError(
                "there are no frames to calibrate INT8 with",
                fix="give --calibration a folder of photos such as the camera will see",
            )
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ExportError(
                    f"the range of {name} is not finite",
                    got=f"{low:g} to {high:g}",
                    fix=_NOT_FINITE,
                )
            if not low < high:
                raise ExportError(
                    f"{name} has a single value in all calibration frames",
                    got=f"{low:g}",
                    fix="calibrate with photos such as the camera will see",
                )


def calibrate(model: bytes, frames: Iterable[NDArray[np.float32]]) -> Calibration:
    """Run the network once over frames, and note the range of every tensor that INT8 may need.

    Args:
        model: An ONNX file with one input.
        frames: Batches (N, 3, H, W) float32, normalised as the network wants them, of any sizes.
            They are taken one after the other and not kept.

    Raises:
        InputError: If there are no frames, or they are no such batches.
        ExportError: If the network cannot be loaded, fails on them, or gives numbers that are not
            finite; or if a tensor has a single value, as with frames of one colour.
        MissingDependencyError: If onnxruntime is not installed.
    """
    proto = parse(model)
    tensors = Layers(proto.graph).candidates
    session = _range_session(proto, tensors)
    name = session.get_inputs()[0].name
    ends, count = 2 * len(tensors), 0
    lows, highs = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    for batch in frames:
        if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1] != 3 or not batch.size:
            raise InputError(
                "frames for calibration do not fit the network",
                got=f"{batch.dtype} {batch.shape}",
                expected="float32 (N, 3, H, W)",
            )
        try:
            values = session.run(None, {name: np.ascontiguousarray(batch)})
        except Exception as error:  # onnxruntime's errors share no base class
            raise ExportError(
                f"onnxruntime failed on calibration frames of shape {batch.shape}", got=error
            ) from error
        # also of the outputs, since a least value may pass over what is not a number
        if not all(np.isfinite(value).all() for value in values):
            raise ExportError("calibration gave numbers that are not finite", fix=_NOT_FINITE)
        lows = np.minimum(lows, np.array(values[0:ends:2]))
        highs = np.maximum(highs, np.array(values[1:ends:2]))
        count += len(batch)
    ranges = zip(lows.tolist(), highs.tolist(), strict=True)
    return Calibration(
        ranges=dict(zip(tensors, ranges, strict=True)) if count else {}, frames=count
    )


def _range_session(proto: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    """A session that gives the least and greatest value of each tensor, then the outputs."""
    import onnx

    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed", got=error, fix='pip install "szn[export]"'
        ) from error
    graph = proto.graph
    outputs = [copy.deepcopy(output) for output in graph.output]
    del graph.output[:]
    for index, name in enumerate(tensors):
        for operator in ("ReduceMin", "ReduceMax"):
            output = f"{operator}_of_range_{index}"
            graph.node.append(onnx.helper.make_node(operator, [name], [output], output, keepdims=0))
            value = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [])
            graph.output.append(value)
    graph.output.extend(outputs)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = usable_cores()
    settings.log_severity_level = 3  # errors; they are raised as well
    try:
        return ort.InferenceSession(
            proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise ExportError("onnxruntime cannot load the model", got=error) from error
