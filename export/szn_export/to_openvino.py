"""From ONNX to OpenVINO's own format, the IR: an XML file and a file of weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.errors import ExportError
from szn_runtime.manifest import Preprocess

__all__ = ["ir_from_onnx"]


def ir_from_onnx(
    model: bytes, *, compress_to_fp16: bool = False, preprocess: Preprocess | None = None
) -> tuple[bytes, bytes]:
    """Convert an ONNX file.

    Names of inputs and outputs, dynamic sizes and metadata are kept. The same model and version of
    OpenVINO give the same bytes; nothing in them tells of the machine.

    Args:
        model: ONNX file with one input (N, 3, H, W) float32.
        compress_to_fp16: Store weights in half of the bytes. They are float16 then whatever the
            precision that the device computes in.
        preprocess: Fold the normalisation in: the input becomes (N, H, W, 3) uint8 BGR of the
            network's size. Resizing and padding remain the caller's; frames are padded with the
            colour that is nearest to the mean, which becomes 0 up to half a level.

    Returns:
        The XML file and the file of weights, to be stored under one name with the suffixes `.xml`
        and `.bin`.

    Raises:
        ExportError: If OpenVINO cannot read, change or store the model.
        MissingDependencyError: If OpenVINO is not installed.
    """
    core = openvino_core()  # says what to install if it is missing
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    try:
        network = core.read_model(model)
        # built with no step too: it folds what OpenVINO's reader computes of constants
        processor = PrePostProcessor(network)
        if preprocess is not None:
            _normalise(processor.input(), preprocess)
        network = processor.build()
        _name_in_order(network)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            ov.save_model(network, path, compress_to_fp16=compress_to_fp16)
            return path.read_bytes(), path.with_suffix(".bin").read_bytes()
    except Exception as error:  # OpenVINO raises RuntimeError and others
        raise ExportError("OpenVINO cannot convert the model", got=error) from error


def _normalise(frames: Any, preprocess: Preprocess) -> None:
    """Let the model take uint8 BGR pixels with the channels last."""
    import openvino as ov
    from openvino.preprocess import ColorFormat

    tensor = frames.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    tensor.set_color_format(ColorFormat.BGR)
    frames.model().set_layout(ov.Layout("NCHW"))
    steps = frames.preprocess().convert_element_type(ov.Type.f32)
    if preprocess.channel_order == "rgb":
        steps.convert_color(ColorFormat.RGB)
    steps.mean(list(preprocess.mean)).scale(list(preprocess.std))


def _name_in_order(network: Any) -> None:
    """Number what has no name in the ONNX file by its place; OpenVINO counts over the process."""
    for number, operator in enumerate(network.get_ordered_ops()):
        if not any(output.get_names() for output in operator.outputs()):
            operator.set_friendly_name(f"{operator.get_type_name()}/{number}")
