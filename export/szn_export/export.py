"""From a finished run to a bundle on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import szn_runtime
from szn_export.artefacts import add_fp16, add_fp32, add_with_sei
from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.engines import add_tensorrt
from szn_export.gate_images import gate_data
from szn_export.int8 import add_int8
from szn_export.ir import add_openvino, add_openvino_pixels
from szn_export.parts import add_parts
from szn_export.reference import reference_of
from szn_export.report import Row, flips_picture, report_json, report_markdown
from szn_export.to_onnx import EMBEDDING, FRAMES, SEENMASK, onnx_from_network
from szn_runtime.backends import Grids
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
from szn_runtime.errors import InputError
from szn_runtime.labels import LabelSet
from szn_runtime.onnx_guard import check_onnx
from szn_runtime.vocabulary import Projection, Vocabulary
from szn_train.checkpoint import read_json
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.transforms import preprocess_of
from szn_train.word_vectors import load_word_vectors

__all__ = ["ExportResult", "export", "pytorch_reference"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportResult:
    """What became of an export.

    Attributes:
        manifest: As it was written.
        rows: What the gate measured.
        refused: Artefacts that were past their budget and are not in the bundle.
        flips_picture: PNG beside the bundle that shows where labels flip, None where none do.
    """

    manifest: Manifest
    rows: tuple[Row, ...]
    refused: tuple[str, ...]
    flips_picture: Path | None


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
    draft = Draft(manifest=_manifest(run, name, opset), files=files | {"model.onnx": content})
    with progress:
        progress.line(f"gate: PyTorch on {len(data.images)} images")
        reference = reference_of(
            pytorch_reference(run),
            data,
            labels=labels,
            preprocess=draft.manifest.preprocess,
            geometry=draft.manifest.grid_geometry,
        )
        add_fp32(draft, reference, config, progress)
        if "fp16" in config.made:
            add_fp16(draft, reference, config, progress)
        if "int8" in config.made:
            add_int8(run, draft, reference, config, progress)
        if config.openvino:
            add_openvino(draft, reference, config, progress)
        if config.openvino_pixels:
            add_openvino_pixels(draft, reference, config, progress)
        if config.tensorrt is not None:
            add_tensorrt(draft, reference, config, progress)
        if config.split:
            add_parts(draft, reference, config, progress)
        if config.with_sei:
            add_with_sei(draft, reference, config, progress)
    facts = {"name": name, "precisions": list(config.made)}
    draft.files["export_report.json"] = report_json(draft.rows, **facts)
    draft.files["export_report.md"] = report_markdown(name, draft.rows, notes=draft.notes)
    manifest = write_bundle(folder, draft.manifest, draft.files)
    worst = max(draft.rows, key=lambda row: max((f.share for f in row.flips), default=0.0))
    picture = None
    if worst.flips:
        # beside the bundle: it shows photos that whoever gets the bundle need not see
        picture = folder.with_name(f"{folder.resolve().name}-flips.png")
        picture.write_bytes(flips_picture(worst.flips, labels))
    if config.triton is not None:
        from szn_export.triton import triton_repository

        triton_repository(
            config.triton,
            Bundle.open(folder),
            backends=config.triton_backends,
            max_batch=config.triton_batch,
        )
    return ExportResult(
        manifest=manifest,
        rows=tuple(draft.rows),
        refused=tuple(draft.refused),
        flips_picture=picture,
    )


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
    """The configuration, without what it says of the machine that trained."""
    facts = run.config.to_dict()
    del facts["workers"]
    facts["data"] = Path(run.config.data).name
    facts["embeddings"] = Path(run.config.embeddings).name
    facts["weights"] = Path(run.config.weights).name
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
    source = load_word_vectors(run.config.embeddings, progress=progress)
    usable = [row for row, word in enumerate(source.words) if word.split() == [word]]
    rows = usable[: config.vocabulary_size]
    vocabulary = Vocabulary([source.words[row] for row in rows], projection(source.vectors[rows]))
    progress.line(f"vocabulary: {len(vocabulary):,} words of {source.source}")
    return files | {VOCABULARY_FILE: vocabulary.to_npz()}
