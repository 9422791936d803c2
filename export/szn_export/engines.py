"""TensorRT engines as artefacts."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from szn_export.artefacts import gated
from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.measuring import engine_runner
from szn_export.reference import Reference
from szn_runtime.backends import Backend, BackendOptions, open_backend
from szn_runtime.bundle import LABELS_FILE, Artefact, Bundle, write_bundle
from szn_train.progress import Progress

__all__ = ["add_tensorrt"]


def add_tensorrt(
    draft: Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    """Engines of every precision."""
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
            facts=facts.to_json(),
        )
        with tempfile.TemporaryDirectory() as folder:
            runner = engine_runner(
                _staged_engine(draft, artefact, engine, Path(folder) / "staged"), precision
            )
            gated(draft, reference, config, progress, artefact, {file: engine}, [runner])


def _staged_engine(
    draft: Draft, artefact: Artefact, engine: bytes, folder: Path
) -> Callable[[], Backend]:
    """Open an engine as the runtime will: from a bundle, after all its checks."""

    def opener() -> Backend:
        manifest = dataclasses.replace(draft.manifest, artefacts=(artefact,), files={})
        files = {LABELS_FILE: draft.files[LABELS_FILE], artefact.file: engine}
        write_bundle(folder, manifest, files)
        options = BackendOptions(precision=artefact.precision)
        return open_backend("tensorrt", Bundle.open(folder), options)

    return opener
