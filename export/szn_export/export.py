"""From a finished run to a bundle on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

import szn_runtime
from szn_export.gate import DEFAULT_BUDGETS, Budget, Comparison, check, compare
from szn_export.report import report_json, report_markdown
from szn_export.to_onnx import EMBEDDING, FRAMES, SEENMASK, onnx_from_network
from szn_runtime._cv import cv2
from szn_runtime.backends.onnxrt import OnnxRuntimeBackend
from szn_runtime.bundle import (
    LABELS_FILE,
    MODEL_CARD_FILE,
    PROJECTION_FILE,
    VOCABULARY_FILE,
    Artefact,
    Manifest,
    write_bundle,
)
from szn_runtime.errors import InputError, UsageError
from szn_runtime.labels import LabelSet
from szn_runtime.vocabulary import Projection, Vocabulary
from szn_train.checkpoint import read_json
from szn_train.datasets import FolderDataset
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.semantic import load_word_vectors
from szn_train.transforms import preprocess_of

__all__ = ["ExportConfig", "export"]

_T = TypeVar("_T")

_IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What goes into a bundle.

    Args:
        name: Of the model; the run folder's by default.
        vocabulary_size: Most frequent words to include; 0 for none.
        images: Folder of images for the gate; the run's validation split by default.
        gate_images: Number of images for the gate, evenly spread over those there are.
        budgets: Per precision.
        model_card: Markdown file to include.
    """

    name: str | None = None
    vocabulary_size: int = 20_000
    images: Path | None = None
    gate_images: int = 24
    budgets: Mapping[str, Budget] = field(default_factory=lambda: DEFAULT_BUDGETS)
    model_card: Path | None = None

    def __post_init__(self) -> None:
        if self.vocabulary_size < 0:
            raise UsageError("vocabulary size", got=self.vocabulary_size, expected="0 or more")
        if self.gate_images < 1:
            raise UsageError("number of images for the gate", got=self.gate_images, expected=">= 1")


def export(
    run: Run, folder: Path, config: ExportConfig, *, progress: Progress
) -> tuple[Manifest, Comparison]:
    """Export, compare with PyTorch, and only then write the bundle.

    Raises:
        ExportError: If the graph cannot be made.
        GateError: If the artefact differs from PyTorch past its budget; nothing is written.
        InputError: If the gate finds no images, or the word vectors or model card are missing.
        BundleError: If `folder` exists and is no bundle.
    """
    name = config.name or run.folder.resolve().name
    images = _gate_images(run, config)
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
    files["model.onnx"] = content
    manifest = _manifest(run, name, opset)

    progress.line(f"gate: comparing with PyTorch on {len(images)} images")
    with OnnxRuntimeBackend(content, manifest) as backend:
        comparison = compare(
            run.network, backend, images, labels=labels, preprocess=manifest.preprocess
        )
    budget = config.budgets["fp32"]
    check(comparison, budget, "model.onnx (fp32)")
    results = {"model.onnx (fp32)": (comparison, budget)}
    files["export_report.json"] = report_json(results)
    files["export_report.md"] = report_markdown(name, results)
    return write_bundle(folder, manifest, files), comparison


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


def _gate_images(run: Run, config: ExportConfig) -> list[NDArray[np.uint8]]:
    """Real images for the gate, evenly spread over the folder or the validation split."""
    if config.images is not None:
        found = [p for p in config.images.glob("*") if p.suffix.lower() in _IMAGE_SUFFIXES]
        if not found:
            raise InputError(
                f"no images for the gate in {config.images}",
                expected=", ".join(sorted(_IMAGE_SUFFIXES)),
                fix="give --images a folder of photos such as the camera will see",
            )
        return [_read(path) for path in _spread(sorted(found), config.gate_images)]
    if not Path(run.config.data).is_dir():
        raise InputError(
            f"the gate needs real images, and the run's data set {run.config.data} is not there",
            fix="give --images a folder of photos such as the camera will see",
        )
    dataset = FolderDataset(root=Path(run.config.data), split=run.config.val_split)
    return [dataset.image(i) for i in _spread(dataset.ids, config.gate_images)]


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` items, evenly spaced, the first and last among them."""
    positions = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round())
    return [items[int(position)] for position in positions]


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} is not an image that OpenCV decodes")
    return np.asarray(image, dtype=np.uint8)
