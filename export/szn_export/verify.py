"""The gate again, for a bundle on the machine that will run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_export.gate import Budget
from szn_export.gate_images import gate_data, photos
from szn_export.measuring import Runner, engine_runner, ir_runners, measure, onnx_runners
from szn_export.quality import GateData
from szn_export.reference import reference_of
from szn_export.report import Row
from szn_runtime.backends import Backend, BackendOptions, Grids, open_backend
from szn_runtime.bundle import Bundle
from szn_runtime.errors import ExportError, UsageError
from szn_runtime.manifest import Artefact
from szn_runtime.onnx_guard import check_onnx
from szn_train.progress import Progress
from szn_train.run import open_run

__all__ = ["verify_bundle"]


def verify_bundle(
    path: Path,
    run_folder: Path | None,
    *,
    images: Path | None,
    count: int,
    budgets: Mapping[str, Budget],
    progress: Progress,
) -> list[Row]:
    """Run every artefact of a bundle that can run here.

    Args:
        path: The bundle.
        run_folder: The run it came from: the reference is PyTorch, on the run's validation split
            unless there are other images. Without it the reference is the bundle's FP32 graph in
            onnxruntime on the CPU.
        images: Folder of photos.
        count: How many of them.
        budgets: Per precision.
        progress: Where bars and lines go.

    Returns:
        A row for each artefact and runner.

    Raises:
        UsageError: If there are neither run nor images.
        BundleError: If the bundle is damaged.
        ExportError: If run and bundle do not belong together.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if run_folder is None and images is None:
        raise UsageError(
            "--verify needs photos", fix="add --images FOLDER, or the RUN that the bundle is of"
        )
    with progress:
        data, infer, close = _reference(bundle, run_folder, images, count)
        try:
            reference = reference_of(
                infer,
                data,
                labels=bundle.label_set(),
                preprocess=manifest.preprocess,
                geometry=manifest.grid_geometry,
            )
        finally:
            close()
        rows: list[Row] = []
        for artefact in manifest.artefacts:
            runners = _runners(bundle, artefact)
            if runners:
                rows += measure(
                    reference, artefact.file, runners, budgets=budgets, progress=progress
                )
    return rows


def _reference(
    bundle: Bundle, run_folder: Path | None, images: Path | None, count: int
) -> tuple[GateData, Callable[[NDArray[np.float32]], Grids], Callable[[], None]]:
    """Images, what is compared with, and what ends it."""
    if run_folder is None:
        # on the CPU, so that no artefact on a GPU is compared with its own kernels
        options = BackendOptions(precision="fp32", device="cpu")
        backend = open_backend("onnxruntime", bundle, options)
        return (
            GateData(images=photos(images or Path(), count, what="the gate")),
            backend.infer,
            backend.close,
        )
    from szn_export.export import pytorch_reference

    run = open_run(run_folder)
    if set(run.space.names) != set(bundle.label_set().names):
        raise ExportError(
            f"{run_folder} is not the run of {bundle.path}",
            got="other labels",
            fix="give the run that it was exported from",
        )
    return gate_data(run, images=images, count=count), pytorch_reference(run), lambda: None


def _runners(bundle: Bundle, artefact: Artefact) -> list[Runner]:
    """Ways to run an artefact of a bundle; none for parts of the network."""
    manifest, precision = bundle.manifest, artefact.precision
    if artefact.kind in ("onnx", "onnx-tensorrt"):
        content = bundle.read(artefact.file)
        check_onnx(content, source=artefact.file)
        runners = onnx_runners(content, manifest, precision)
        return runners if artefact.kind == "onnx" else runners[:1]
    if artefact.kind == "openvino":
        weights = bundle.read(str(artefact.facts["weights"]))
        return ir_runners(bundle.read(artefact.file), weights, manifest, precision)
    if artefact.kind == "tensorrt":

        def engine() -> Backend:
            return open_backend("tensorrt", bundle, BackendOptions(precision=precision))

        return [engine_runner(engine, precision)]
    return []
