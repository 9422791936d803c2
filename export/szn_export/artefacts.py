"""The artefacts of a bundle, each made, measured and taken in or left out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.gate_images import calibration_frames
from szn_export.measuring import Runner, measure, onnx_runners
from szn_export.reference import Reference
from szn_export.report import Row
from szn_runtime.backends import BackendOptions
from szn_runtime.bundle import Artefact
from szn_runtime.errors import GateError
from szn_runtime.labels import LabelSet
from szn_runtime.onnx_guard import check_onnx
from szn_train.progress import Progress
from szn_train.run import Run

__all__ = ["add_fp16", "add_fp32", "add_int8", "add_with_sei", "gated"]

# of the calibration images: enough to rank layers, few enough to do it for every layer
_SENSITIVITY_IMAGES = 12
# with more layers in floating point INT8 is no faster than FP32
_MOST_FLOAT_LAYERS = 12
# of the budget of label flips, what INT8 may cost on calibration images: a little less than all, as
# others will cost a little more; then less and less, where the gate's images say no
_SEARCHES = (0.9, 0.75, 0.6, 0.45, 0.3)


def gated(
    draft: Draft,
    reference: Reference,
    config: ExportConfig,
    progress: Progress,
    artefact: Artefact,
    files: Mapping[str, bytes],
    runners: list[Runner],
) -> list[Row]:
    """Measure an artefact, and take it into the bundle if it is within its budget."""
    rows = measure(reference, artefact.file, runners, budgets=config.budgets, progress=progress)
    _take(draft, progress, artefact, files, rows)
    return rows


def _take(
    draft: Draft, progress: Progress, artefact: Artefact, files: Mapping[str, bytes],
    rows: list[Row],
) -> None:  # fmt: skip
    """Take a measured artefact into the bundle if it is within its budget."""
    draft.rows += rows
    if any(row.failed for row in rows):
        draft.refused.append(artefact.file)
        progress.line(f"{artefact.file} is past its budget and left out")
    else:
        draft.add(artefact, files)


def add_fp32(draft: Draft, reference: Reference, config: ExportConfig, progress: Progress) -> None:
    """The FP32 graph, which all else is made of; bf16 and fp16 are what OpenVINO computes it in."""
    content = draft.files["model.onnx"]
    rows = measure(
        reference,
        "model.onnx",
        onnx_runners(content, draft.manifest, "fp32"),
        budgets=config.budgets,
        progress=progress,
    )
    draft.rows += rows
    for row in rows:
        if row.own and row.failed:
            raise GateError(row.problem or "model.onnx failed", fix="nothing was written")
    (artefact,) = draft.manifest.artefacts
    computed = {}
    for row in rows:
        if row.comparison is not None:
            lost = row.comparison.points_lost().values()
            computed[row.runner] = {
                "label_flips": row.comparison.label_flips,
                "within_budget": not row.failed,
                **({"miou_lost": max(lost)} if lost else {}),
            }
    facts = {**artefact.facts, "gate": computed}
    draft.add(dataclasses.replace(artefact, facts=facts), {})


def add_fp16(draft: Draft, reference: Reference, config: ExportConfig, progress: Progress) -> None:
    """The graph in half precision, for TensorRT."""
    from szn_export.precision import to_fp16

    progress.line("converting to FP16")
    content = to_fp16(draft.files["model.onnx"])
    check_onnx(content)
    artefact = Artefact(
        kind="onnx", precision="fp16", file="model.fp16.onnx", opset=draft.opset, facts={}
    )
    runners = onnx_runners(content, draft.manifest, "fp16")
    gated(draft, reference, config, progress, artefact, {artefact.file: content}, runners)


def add_int8(
    run: Run, draft: Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    """The graph in eight bits: for the CPU, and another one for TensorRT if engines are wanted."""
    from szn_export.calibration import calibrate
    from szn_export.precision import Target, to_int8
    from szn_export.sensitivity import find_float_layers, sensitivity_markdown

    frames = calibration_frames(
        run,
        draft.manifest.preprocess,
        images=config.calibration,
        count=config.calibration_images,
    )
    source = draft.files["model.onnx"]
    progress.line(f"calibrating INT8 on {len(frames)} images")
    with progress.task("calibrate", len(frames)) as task:

        def told() -> Any:
            for frame in frames:
                yield frame
                task.advance()

        calibration = calibrate(source, told())
    variants: list[tuple[str, Target, str]] = [("onnx", "cpu", "model.int8.onnx")]
    if config.tensorrt is not None:
        variants.append(("onnx-tensorrt", "tensorrt", "model.int8.tensorrt.onnx"))
    cost = _cost(draft, reference.labels, frames)
    for kind, target, file in variants:
        progress.line(f"{file}: looking for layers that cost too much")
        kept: tuple[str, ...] | None = None
        for share in _SEARCHES:
            # each for its own: signed activations cost more labels than unsigned ones
            found = find_float_layers(
                source,
                calibration,
                cost,
                budget=share * config.budgets["int8"].label_flips,
                target=target,
                most=_MOST_FLOAT_LAYERS,
                progress=progress.line,
            )
            if found.keep_float == kept:
                continue  # as before: no more layers may stay, or no fewer need to
            kept = found.keep_float
            content = to_int8(source, calibration, target=target, keep_float=kept)
            check_onnx(content)
            runners = onnx_runners(content, draft.manifest, "int8")
            if target == "tensorrt":
                runners = runners[:1]  # onnxruntime computes it, if slowly
            rows = measure(reference, file, runners, budgets=config.budgets, progress=progress)
            note = f"{file}: {sensitivity_markdown(found)}"
            if not any(row.failed for row in rows):
                break
            progress.line(f"{file} is past its budget with {len(kept)} layers in floating point")
        draft.notes.append(note)
        facts = {
            "calibration": {"images": calibration.frames, "method": calibration.method},
            "kept_float": list(kept or ()),
        }
        artefact = Artefact(kind=kind, precision="int8", file=file, opset=draft.opset, facts=facts)
        _take(draft, progress, artefact, {file: content}, rows)


def _cost(
    draft: Draft, labels: LabelSet, frames: list[NDArray[np.float32]]
) -> Callable[[bytes], float]:
    """Percent of label flips of an INT8 variant against FP32, on some calibration frames."""
    from szn_runtime.backends.onnxrt import OnnxRuntimeBackend
    from szn_runtime.sei import segment_grid

    step = max(1, len(frames) // _SENSITIVITY_IMAGES)
    chosen = frames[::step][:_SENSITIVITY_IMAGES]
    geometry = draft.manifest.grid_geometry

    def maps(model: bytes, precision: str) -> list[NDArray[Any]]:
        options = BackendOptions(precision=precision)
        with OnnxRuntimeBackend(model, draft.manifest, options) as backend:
            found = []
            for frame in chosen:
                grids = backend.infer(frame)
                size_hw = (frame.shape[2], frame.shape[3])
                found.append(
                    segment_grid(
                        grids.embedding[0],
                        grids.seenmask[0],
                        labels,
                        geometry=geometry,
                        size_hw=size_hw,
                    )[0]
                )
        return found

    expected = maps(draft.files["model.onnx"], "fp32")

    known: dict[bytes, float] = {}  # a second search asks for most of the first one's again

    def cost(model: bytes) -> float:
        key = hashlib.sha256(model).digest()
        if key not in known:
            pairs = zip(maps(model, "int8"), expected, strict=True)
            known[key] = 100 * float(np.mean([(a != b).mean() for a, b in pairs]))
        return known[key]

    return cost


def add_with_sei(
    draft: Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    """The graph that gives labels, if they are those of the runtime's SEI on its own grids."""
    from szn_export.with_sei import with_sei

    file = "model.sei.onnx"
    content = with_sei(draft.files["model.onnx"], draft.manifest, reference.labels)
    check_onnx(content)
    flips = _sei_flips(draft, reference, content)
    most = config.budgets["fp32"].label_flips
    draft.notes.append(
        f"{file}: {flips:.4f} % of its labels differ from the runtime's SEI on its own grids, of "
        f"{most:g} % that may."
    )
    if not flips <= most:
        draft.refused.append(file)
        progress.line(f"{file} is past its budget and left out")
        return
    facts = {"labels": list(reference.labels.names), "label_flips": flips}
    artefact = Artefact(
        kind="onnx-sei", precision="fp32", file=file, opset=draft.opset, facts=facts
    )
    draft.add(artefact, {file: content})


def _sei_flips(draft: Draft, reference: Reference, content: bytes) -> float:
    """Percent of the labels of the graph with SEI that the runtime decides otherwise."""
    import onnxruntime as ort

    from szn_export.with_sei import LABELS
    from szn_runtime.sei import segment_grid

    manifest = draft.manifest
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [LABELS, manifest.embedding_name, manifest.seenmask_name]
    differing = pixels = 0
    for batch in reference.batches:
        feed = {manifest.input_name: reference.tensor(batch)}
        for labels, embedding, seenmask in zip(*session.run(names, feed), strict=True):
            expected, _ = segment_grid(
                embedding,
                seenmask,
                reference.labels,
                geometry=manifest.grid_geometry,
                size_hw=labels.shape,
            )
            differing += int((labels != expected).sum())
            pixels += labels.size
    return 100 * differing / pixels
