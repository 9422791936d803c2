"""Artefacts in OpenVINO's own format, the IR."""

from __future__ import annotations

from szn_export.artefacts import gated
from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.measuring import ir_runners, pixels_runner
from szn_export.reference import Reference
from szn_runtime.manifest import Artefact
from szn_train.progress import Progress

__all__ = ["add_openvino", "add_openvino_pixels"]


def add_openvino(
    draft: Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    """OpenVINO's own format of the FP32 and INT8 graphs."""
    from szn_export.to_openvino import ir_from_onnx

    for precision in ("fp32", "int8"):
        source = "model.onnx" if precision == "fp32" else "model.int8.onnx"
        if source not in draft.files:
            continue
        progress.line(f"OpenVINO's format, {precision}")
        compress = config.openvino_fp16 and precision == "fp32"
        xml, weights = ir_from_onnx(draft.files[source], compress_to_fp16=compress)
        stored = "fp16" if compress else precision
        files = {f"model.{stored}.xml": xml, f"model.{stored}.bin": weights}
        artefact = Artefact(
            kind="openvino",
            precision=stored,
            file=f"model.{stored}.xml",
            facts={"weights": f"model.{stored}.bin"},
        )
        runners = ir_runners(xml, weights, draft.manifest, stored)
        gated(draft, reference, config, progress, artefact, files, runners)


def add_openvino_pixels(
    draft: Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    """OpenVINO's format of the FP32 graph with the normalisation inside.

    Its budget is that of FP16: where frames are padded, no level of uint8 is the mean exactly.
    """
    from szn_export.to_openvino import ir_from_onnx

    progress.line("OpenVINO's format for uint8 frames")
    xml, weights = ir_from_onnx(
        draft.files["model.onnx"],
        compress_to_fp16=config.openvino_fp16,
        preprocess=draft.manifest.preprocess,
    )
    artefact = Artefact(
        kind="openvino-pixels",
        precision="fp16" if config.openvino_fp16 else "fp32",
        file="model.pixels.xml",
        facts={"weights": "model.pixels.bin", "input": "(N, H, W, 3) uint8 BGR"},
    )
    files = {"model.pixels.xml": xml, "model.pixels.bin": weights}
    runner = pixels_runner(xml, weights, draft.manifest)
    gated(draft, reference, config, progress, artefact, files, [runner])
