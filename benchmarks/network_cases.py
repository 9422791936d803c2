"""What a row of `network.py` measures: a model, backend, precision, batch and hint."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from szn_runtime.backends.base import INT8_FILE
from szn_runtime.bundle import Bundle

__all__ = ["FRAME_HW", "HINTS", "Case", "Hint", "candidates"]

Hint = Literal["latency", "throughput"]

FRAME_HW = (480, 640)
"""Height and width in pixels of the frames that inputs are sized for."""

HINTS: tuple[Hint, ...] = ("latency", "throughput")
"""All of them, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a row measures.

    Args:
        model: Its name.
        bundle: That holds it.
        backend: Name of the backend.
        precision: To open it with.
        batch: Frames a call.
        hint: "latency" or "throughput".
        input_hw: Height and width of the network's input in pixels.
        threads: CPU threads in all.
        device: That onnxruntime runs on, "cpu" or "gpu".
    """

    model: str
    bundle: Bundle
    backend: str
    precision: str
    batch: int
    hint: Hint
    input_hw: tuple[int, int]
    threads: int
    device: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes it."""
        on_device = self.backend == "onnxruntime" and self.device == "gpu"
        return on_device or self.backend == "tensorrt"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a call's frames."""
        return (self.batch, 3, *self.input_hw)

    @property
    def onnx_precision(self) -> str:
        """Precision of the ONNX file: OpenVINO computes the fp32 file in all float precisions."""
        if self.precision in INT8_FILE:
            return "int8"
        return "fp32" if self.backend == "openvino" else self.precision


def candidates(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Backend and precision of all that is installed and has a file in the bundle."""
    kinds = [(artefact.kind, artefact.precision) for artefact in bundle.manifest.artefacts]
    onnx = [precision for kind, precision in kinds if kind == "onnx"]
    if importlib.util.find_spec("onnxruntime") is not None:
        yield from (("onnxruntime", precision) for precision in onnx)
    if importlib.util.find_spec("openvino") is not None:
        yield from (("openvino", precision) for precision in ("fp32", "bf16", "fp16"))
        if "int8" in onnx:
            yield from (("openvino", precision) for precision in INT8_FILE)
    yield from (("tensorrt", precision) for kind, precision in kinds if kind == "tensorrt")
