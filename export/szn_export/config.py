"""What goes into a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from szn_export.gate import DEFAULT_BUDGETS, Budget
from szn_runtime.errors import UsageError

if TYPE_CHECKING:
    from szn_export.to_tensorrt import TensorRTConfig

__all__ = ["PRECISIONS", "ExportConfig"]

PRECISIONS = ("fp32", "fp16", "int8")
"""Precisions that files are made in; OpenVINO computes bf16 from the FP32 file."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What goes into a bundle.

    Args:
        name: Of the model; the run folder's by default.
        precisions: Of the ONNX files and engines, some of `PRECISIONS`; fp32 is always made.
        openvino: Whether to write OpenVINO's own format too.
        openvino_fp16: Whether its weights are stored in FP16.
        openvino_pixels: Whether to write one that takes uint8 BGR frames as well.
        tensorrt: How to build engines, None for none.
        split: Whether to write trunk and heads as files of their own.
        with_sei: Whether to write a graph that gives labels.
        triton: Folder for a Triton model repository, None for none.
        triton_backends: Triton's backends in it; the ensemble joins the first.
        triton_batch: Most frames that Triton runs at once.
        calibration: Folder of images for INT8; the run's training split by default.
        calibration_images: How many of them, evenly spread.
        vocabulary_size: Most frequent words to include; 0 for none.
        images: Folder of images for the gate; the run's validation split by default.
        gate_images: Number of images for the gate, evenly spread over those there are.
        budgets: Per precision.
        model_card: Markdown file to include.

    Raises:
        UsageError: If a value is out of its range.
    """

    name: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    openvino: bool = False
    openvino_fp16: bool = False
    openvino_pixels: bool = False
    tensorrt: TensorRTConfig | None = None
    split: bool = False
    with_sei: bool = False
    triton: Path | None = None
    triton_backends: tuple[str, ...] = ("onnxruntime",)
    triton_batch: int = 8
    calibration: Path | None = None
    calibration_images: int = 100
    vocabulary_size: int = 20_000
    images: Path | None = None
    gate_images: int = 50
    budgets: Mapping[str, Budget] = field(default_factory=lambda: DEFAULT_BUDGETS)
    model_card: Path | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.precisions) - set(PRECISIONS))
        if unknown:
            raise UsageError(
                "unknown precision", got=", ".join(unknown), expected=", ".join(PRECISIONS)
            )
        if self.vocabulary_size < 0:
            raise UsageError("vocabulary size", got=self.vocabulary_size, expected="0 or more")
        for name in ("gate_images", "calibration_images", "triton_batch"):
            if getattr(self, name) < 1:
                what = f"number of {name.replace('_', ' ')}"
                raise UsageError(what, got=getattr(self, name), expected=">= 1")
        if self.openvino_fp16 and not self.openvino:
            raise UsageError("--openvino-fp16 is for OpenVINO's format", fix="add --openvino")
        if self.openvino_pixels and not self.openvino:
            raise UsageError("--openvino-pixels is for OpenVINO's format", fix="add --openvino")
        missing = sorted({"fp32", "fp16", "bf16", "int8"} - set(self.budgets))
        if missing:
            raise UsageError("a precision has no budget", got=", ".join(missing))

    @property
    def made(self) -> tuple[str, ...]:
        """The precisions in order, fp32 first."""
        return tuple(p for p in PRECISIONS if p == "fp32" or p in self.precisions)

    def plan(self) -> list[str]:
        """What will be made, a line each."""
        lines = [f"ONNX {p}: {_onnx_file(p)}" for p in self.made]
        if self.tensorrt is not None and "int8" in self.made:
            lines.append("ONNX int8 for TensorRT: model.int8.tensorrt.onnx")
        if self.tensorrt is not None:
            lines += [f"TensorRT engine {p}: model.{p}.engine" for p in self.made]
        if self.openvino:
            kept = [p for p in self.made if p != "fp16"]
            lines += [f"OpenVINO {p}: model.{p}.xml, model.{p}.bin" for p in kept]
            if self.openvino_pixels:
                lines.append("OpenVINO of uint8 frames: model.pixels.xml, model.pixels.bin")
        if self.split:
            lines.append("parts: fcn.onnx, embedding_head.onnx, seenmask_head.onnx")
            if self.tensorrt is not None:
                kept = [p for p in self.made if p != "int8"]
                lines += [f"TensorRT engines {p} of the parts: *.{p}.engine" for p in kept]
        if self.with_sei:
            lines.append("ONNX with SEI: model.sei.onnx")
        if self.triton is not None:
            lines.append(f"Triton model repository: {self.triton}")
        return lines


def _onnx_file(precision: str) -> str:
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
