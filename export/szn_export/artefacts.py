"""The artefacts of a bundle, each made, measured and taken in or left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.measuring import Runner, measure, onnx_runners
from szn_export.reference import Reference
from szn_export.report import Row
from szn_runtime.bundle import Artefact
from szn_runtime.errors import GateError
from szn_runtime.onnx_guard import check_onnx
from szn_train.progress import Progress

__all__ = ["add_fp16", "add_fp32", "add_with_sei", "gate_facts", "gated", "take"]


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
    take(draft, progress, artefact, files, rows)
    return rows


def take(
    draft: Draft, progress: Progress, artefact: Artefact, files: Mapping[str, bytes],
    rows: list[Row],
) -> None:  # fmt: skip
    """Take a measured artefact into the bundle if it is within its budget."""
    draft.rows += rows
    if any(row.refuses for row in rows):
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
        if row.refuses:
            raise GateError(row.problem or "model.onnx failed", fix="nothing was written")
    (artefact,) = draft.manifest.artefacts
    facts = {**artefact.facts, "gate": gate_facts(rows)}
    draft.add(dataclasses.replace(artefact, facts=facts), {})


def gate_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """What the gate measured in each runner, for the manifest."""
    facts = {}
    for row in rows:
        if row.comparison is not None:
            lost = row.comparison.points_lost().values()
            facts[row.runner] = {
                "label_flips": row.comparison.label_flips,
                "within_budget": not row.failed,
                **({"miou_lost": max(lost)} if lost else {}),
            }
    return facts


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
