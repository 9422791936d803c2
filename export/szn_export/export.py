"""From a finished run to a bundle on disk."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import szn_runtime
from szn_export.config import ExportConfig
from szn_export.gate import Reference, reference_of
from szn_export.gate_images import calibration_frames, gate_data
from szn_export.measuring import Runner, engine_runner, ir_runners, measure, onnx_runners
from szn_export.report import Row, flips_picture, report_json, report_markdown
from szn_export.to_onnx import EMBEDDING, FRAMES, SEENMASK, onnx_from_network
from szn_runtime.backends import Backend, BackendOptions, Grids, open_backend
from szn_runtime.bundle import (
    LABELS_FILE,
    MODEL_CARD_FILE,
    PROJECTION_FILE,
    VOCABULARY_FILE,
    Artefact,
    Bundle,
    Manifest,
    write_bundle,
)
from szn_runtime.errors import GateError, InputError
from szn_runtime.labels import LabelSet
from szn_runtime.onnx_guard import check_onnx
from szn_runtime.vocabulary import Projection, Vocabulary
from szn_train.checkpoint import read_json
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.semantic import load_word_vectors
from szn_train.transforms import preprocess_of

__all__ = ["ExportResult", "export", "pytorch_reference"]

# of the calibration images: enough to rank layers, few enough to do it for every layer
_SENSITIVITY_IMAGES = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportResult:
    """What became of an export.

    Attributes:
        manifest: As it was written.
        rows: What the gate measured.
        refused: Artefacts that were past their budget and are not in the bundle.
    """

    manifest: Manifest
    rows: tuple[Row, ...]
    refused: tuple[str, ...]


@dataclass(kw_only=True, eq=False)
class _Draft:
    """The bundle so far."""

    manifest: Manifest
    files: dict[str, bytes]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def add(self, artefact: Artefact, files: Mapping[str, bytes]) -> None:
        """Take an artefact into the bundle."""
        kept = tuple(a for a in self.manifest.artefacts if a.file != artefact.file)
        self.manifest = dataclasses.replace(self.manifest, artefacts=(*kept, artefact))
        self.files |= files


def export(run: Run, folder: Path, config: ExportConfig, *, progress: Progress) -> ExportResult:
    """Make every artefact, compare each with PyTorch, and only then write the bundle.

    Raises:
        ExportError: If an artefact cannot be made.
        GateError: If the FP32 graph differs from PyTorch past its budget; nothing is written.
            Other artefacts past their budget are left out and named in the result.
        InputError: If the gate finds no images, or the word vectors or model card are missing.
        BundleError: If `folder` exists and is no bundle.
        MissingDependencyError: If a library that an artefact needs is not installed.
    """
    name = config.name or run.folder.resolve().name
    data = gate_data(run, images=config.images, count=config.gate_images)
    labels = LabelSet(
        names=run.space.names,
        embeddings=run.space.unit,
        seen=run.split.is_member(run.split.train_seen),
    )
    files: dict[str, bytes] = {LABELS_FILE: labels.to_npz()}
    files |= _words(run, config, progress)
    if config.model_card is not None:
        try:
            files[MODEL_CARD_FILE] = config.model_card.read_bytes()
        except OSError as error:
            raise InputError(f"model card {config.model_card}", got=error.strerror) from error

    progress.line("exporting to ONNX")
    content, opset = onnx_from_network(
        run.network,
        {
            "szn.version": szn_runtime.__version__,
            "szn.name": name,
            "szn.stride": str(run.config.stride),
            "szn.node_offset": repr(run.network.backbone.info.node_offset),
            "szn.dim": str(run.config.dim),
        },
    )
    check_onnx(content)  # what the runtime would refuse is not written
    draft = _Draft(manifest=_manifest(run, name, opset), files=files | {"model.onnx": content})
    with progress:
        progress.line(f"gate: PyTorch on {len(data.images)} images")
        reference = reference_of(
            pytorch_reference(run),
            data,
            labels=labels,
            preprocess=draft.manifest.preprocess,
            geometry=draft.manifest.grid_geometry,
        )
        _fp32(draft, reference, config, progress)
        if "fp16" in config.made:
            _fp16(draft, reference, config, progress)
        if "int8" in config.made:
            _int8(run, draft, reference, config, progress)
        if config.openvino:
            _openvino(draft, reference, config, progress)
        if config.tensorrt is not None:
            _tensorrt(draft, reference, config, progress)
        if config.split:
            _split(draft)
        if config.with_sei:
            _with_sei(draft, labels)
    facts = {"name": name, "precisions": list(config.made)}
    draft.files["export_report.json"] = report_json(draft.rows, **facts)
    draft.files["export_report.md"] = report_markdown(name, draft.rows, notes=draft.notes)
    worst = max(draft.rows, key=lambda row: max((f.share for f in row.flips), default=0.0))
    if worst.flips:
        draft.files["export_flips.png"] = flips_picture(worst.flips, labels)
    manifest = write_bundle(folder, draft.manifest, draft.files)
    if config.triton is not None:
        from szn_export.triton import triton_repository

        triton_repository(config.triton, Bundle.open(folder))
    return ExportResult(manifest=manifest, rows=tuple(draft.rows), refused=tuple(draft.refused))


def pytorch_reference(run: Run) -> Callable[[NDArray[np.float32]], Grids]:
    """The network as the gate's reference."""
    network = run.network.eval()

    def infer(frames: NDArray[np.float32]) -> Grids:
        with torch.inference_mode():
            embedding, seenmask = (
                g.contiguous().numpy() for g in network(torch.from_numpy(frames))
            )
        return Grids(embedding=embedding, seenmask=seenmask)

    return infer


def _gated(
    draft: _Draft,
    reference: Reference,
    config: ExportConfig,
    progress: Progress,
    artefact: Artefact,
    files: Mapping[str, bytes],
    runners: list[Runner],
) -> list[Row]:
    """Measure an artefact, and take it into the bundle if it is within its budget."""
    rows = measure(reference, artefact.file, runners, budgets=config.budgets, progress=progress)
    draft.rows += rows
    if any(row.failed for row in rows):
        draft.refused.append(artefact.file)
        progress.line(f"{artefact.file} is past its budget and left out")
    else:
        draft.add(artefact, files)
    return rows


def _fp32(draft: _Draft, reference: Reference, config: ExportConfig, progress: Progress) -> None:
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
    computed = {
        row.runner: {
            "label_flips": row.comparison.label_flips,
            "within_budget": not row.failed,
        }
        for row in rows
        if row.comparison is not None
    }
    facts = {**artefact.facts, "gate": computed}
    draft.add(dataclasses.replace(artefact, facts=facts), {})


def _fp16(draft: _Draft, reference: Reference, config: ExportConfig, progress: Progress) -> None:
    from szn_export.precision import to_fp16

    progress.line("converting to FP16")
    content = to_fp16(draft.files["model.onnx"])
    check_onnx(content)
    artefact = Artefact(
        kind="onnx", precision="fp16", file="model.fp16.onnx", opset=_opset(draft), facts={}
    )
    runners = onnx_runners(content, draft.manifest, "fp16")
    _gated(draft, reference, config, progress, artefact, {artefact.file: content}, runners)


def _int8(
    run: Run, draft: _Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    from szn_export.precision import calibrate, to_int8
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
    budget = config.budgets["int8"].label_flips
    progress.line("INT8: looking for layers that cost too much")
    found = find_float_layers(
        source,
        calibration,
        _cost(draft, reference.labels, frames),
        budget=0.9 * budget,  # other images will cost a little more
        target="cpu",
        most=len(frames),
        progress=progress.line,
    )
    draft.notes.append(sensitivity_markdown(found))
    facts = {
        "calibration": {"images": calibration.frames, "method": calibration.method},
        "kept_float": list(found.keep_float),
    }
    for kind, target, file in (
        ("onnx", "cpu", "model.int8.onnx"),
        ("onnx-tensorrt", "tensorrt", "model.int8.tensorrt.onnx"),
    ):
        if target == "tensorrt" and config.tensorrt is None:
            continue
        content = to_int8(source, calibration, target=target, keep_float=found.keep_float)  # type: ignore[arg-type]
        check_onnx(content)
        artefact = Artefact(
            kind=kind, precision="int8", file=file, opset=_opset(draft), facts=facts
        )
        runners = onnx_runners(content, draft.manifest, "int8")
        if target == "tensorrt":
            runners = runners[:1]  # onnxruntime computes it, if slowly
        _gated(draft, reference, config, progress, artefact, {file: content}, runners)


def _cost(
    draft: _Draft, labels: LabelSet, frames: list[NDArray[np.float32]]
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

    def cost(model: bytes) -> float:
        flips = [float((a != b).mean()) for a, b in zip(maps(model, "int8"), expected, strict=True)]
        return 100 * float(np.mean(flips))

    return cost


def _openvino(
    draft: _Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
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
        _gated(draft, reference, config, progress, artefact, files, runners)


def _tensorrt(
    draft: _Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    from szn_export.to_tensorrt import engine_from_onnx

    settings = config.tensorrt
    if settings is None:
        return
    sources = {
        "fp32": "model.onnx",
        "fp16": "model.fp16.onnx",
        "int8": "model.int8.tensorrt.onnx",
    }
    for precision in config.made:
        source = draft.files.get(sources[precision])
        if source is None:
            continue
        progress.line(f"building the TensorRT engine, {precision}")
        engine, facts = engine_from_onnx(
            source, draft.manifest, settings, precision=precision, progress=progress.line
        )
        file = f"model.{precision}.engine"
        artefact = Artefact(
            kind="tensorrt",
            precision=precision,
            file=file,
            facts={**facts.to_json(), "source": sources[precision]},
        )
        with tempfile.TemporaryDirectory() as folder:
            runner = engine_runner(
                _staged_engine(draft, artefact, engine, Path(folder) / "staged"), precision
            )
            _gated(draft, reference, config, progress, artefact, {file: engine}, [runner])


def _staged_engine(
    draft: _Draft, artefact: Artefact, engine: bytes, folder: Path
) -> Callable[[], Backend]:
    """Open an engine as the runtime will: from a bundle, after all its checks."""

    def opener() -> Backend:
        manifest = dataclasses.replace(draft.manifest, artefacts=(artefact,), files={})
        files = {LABELS_FILE: draft.files[LABELS_FILE], artefact.file: engine}
        write_bundle(folder, manifest, files)
        options = BackendOptions(precision=artefact.precision)
        return open_backend("tensorrt", Bundle.open(folder), options)

    return opener


def _split(draft: _Draft) -> None:
    from szn_export.split import split_onnx

    for name, content in split_onnx(draft.files["model.onnx"]).items():
        file = f"{name}.onnx"
        kind = f"onnx-{name.replace('_', '-')}"
        artefact = Artefact(kind=kind, precision="fp32", file=file, opset=_opset(draft), facts={})
        draft.add(artefact, {file: content})


def _with_sei(draft: _Draft, labels: LabelSet) -> None:
    from szn_export.with_sei import with_sei

    content = with_sei(draft.files["model.onnx"], draft.manifest, labels)
    artefact = Artefact(
        kind="onnx-sei", precision="fp32", file="model.sei.onnx", opset=_opset(draft), facts={}
    )
    draft.add(artefact, {artefact.file: content})


def _opset(draft: _Draft) -> int | None:
    return draft.manifest.artefacts[0].opset


def _manifest(run: Run, name: str, opset: int) -> Manifest:
    """Facts of the model; the checksums come when it is written."""
    info = run.network.backbone.info
    return Manifest(
        name=name,
        szn_version=szn_runtime.__version__,
        backbone=info.name,
        dim=run.config.dim,
        stride=info.stride,
        node_offset=info.node_offset,
        preprocess=preprocess_of(info, run.config.long_side),
        input_name=FRAMES,
        embedding_name=EMBEDDING,
        seenmask_name=SEENMASK,
        train_seen=run.split.train_seen,
        train_unseen=run.split.train_unseen,
        unseen=run.split.unseen,
        embeddings_source=run.space.source,
        artefacts=(
            Artefact(
                kind="onnx",
                precision="fp32",
                file="model.onnx",
                opset=opset,
                facts={"producer": f"torch {torch.__version__.partition('+')[0]}"},
            ),
        ),
        training=_training_facts(run),
        metrics=_metrics(run),
    )


def _training_facts(run: Run) -> dict[str, Any]:
    """The configuration, without where the data lay on the machine that trained."""
    facts = run.config.to_dict()
    facts["data"] = Path(run.config.data).name
    embeddings = run.config.embeddings
    facts["embeddings"] = Path(embeddings).name
    facts["explained_variance"] = run.space.explained_variance
    return facts


def _metrics(run: Run) -> dict[str, Any]:
    """Standard scores of the validation split, if the run was evaluated."""
    path = run.folder / f"eval-{run.config.val_split}.json"
    if not path.is_file():
        return {}
    values = read_json(path)
    return {
        "split": run.config.val_split,
        "images": values["images"],
        "standard": values["scores"]["standard"],
    }


def _words(run: Run, config: ExportConfig, progress: Progress) -> dict[str, bytes]:
    """Projection and vocabulary, where the embeddings came with a PCA."""
    if run.space.mean is None or run.space.basis is None:
        progress.line(
            f"{run.space.source} has no PCA: the bundle has its own labels and no vocabulary"
        )
        return {}
    projection = Projection(mean=run.space.mean, basis=run.space.basis)
    files = {PROJECTION_FILE: projection.to_npz()}
    if config.vocabulary_size == 0:
        return files
    source = load_word_vectors(run.config.embeddings)
    usable = [row for row, word in enumerate(source.words) if word.split() == [word]]
    rows = usable[: config.vocabulary_size]
    vocabulary = Vocabulary([source.words[row] for row in rows], projection(source.vectors[rows]))
    progress.line(f"vocabulary: {len(vocabulary):,} words of {source.source}")
    return files | {VOCABULARY_FILE: vocabulary.to_npz()}
