"""Engines of a bundle built again, for the library and the GPU that are here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from szn_runtime.bundle import Bundle, write_bundle
from szn_runtime.errors import BundleError

__all__ = ["rebuild_engines"]


def rebuild_engines(
    bundle: Bundle,
    *,
    flavour: str | None = None,
    device_index: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Build every TensorRT engine of a bundle again from the ONNX files in it.

    The bundle is replaced once all of them are built; if one fails it stays as it was.

    Args:
        bundle: A folder, which must be writable.
        flavour: "tensorrt" or "rtx"; None for that of each engine.
        device_index: Number of the GPU.
        progress: Called with lines that say how far it is.

    Returns:
        The bundle, opened again.

    Raises:
        BundleError: If there is no engine, the bundle is a ZIP file, or it cannot be written.
        BackendError: If an engine cannot be built here.
        MissingDependencyError: If TensorRT is not installed.
    """
    from szn_runtime.backends._building import rebuild_engine
    from szn_runtime.backends._engine import is_engine

    engines = [a for a in bundle.manifest.artefacts if is_engine(a)]
    if not engines:
        raise BundleError(
            f"the bundle {bundle.path} has no TensorRT engine",
            got=", ".join(f"{a.kind} {a.precision}" for a in bundle.manifest.artefacts),
            fix="build one with szn-export --trt",
        )
    if not bundle.path.is_dir():
        raise BundleError(
            f"engines in {bundle.path} cannot be replaced", got="a ZIP file", fix="unpack it first"
        )
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    artefacts = list(bundle.manifest.artefacts)
    for artefact in engines:
        engine, facts = rebuild_engine(
            bundle, artefact, flavour=flavour, device_index=device_index, progress=progress
        )
        files[artefact.file] = engine
        artefacts[artefacts.index(artefact)] = dataclasses.replace(artefact, facts=facts.to_json())
    manifest = dataclasses.replace(bundle.manifest, artefacts=tuple(artefacts))
    write_bundle(bundle.path, manifest, files)
    return Bundle.open(bundle.path)
