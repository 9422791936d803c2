"""Inference backends, by the names that `--backend` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from szn_runtime.backends.base import Backend, Grids
from szn_runtime.errors import BackendError

if TYPE_CHECKING:
    from szn_runtime.bundle import Bundle

__all__ = ["BACKENDS", "Backend", "Grids", "open_backend"]


def _onnxruntime(bundle: Bundle, precision: str, threads: int | None) -> Backend:
    from szn_runtime.backends.onnxrt import OnnxRuntimeBackend

    return OnnxRuntimeBackend.from_bundle(bundle, precision=precision, threads=threads)


def _fake(bundle: Bundle, precision: str, threads: int | None) -> Backend:
    from szn_runtime.backends.fake import FakeBackend

    if precision != "fp32" or threads not in (None, 1):
        raise BackendError(
            "the fake backend has one thread and fp32", got=f"{threads} threads, {precision}"
        )
    return FakeBackend(dim=bundle.manifest.dim, stride=bundle.manifest.stride)


BACKENDS: Mapping[str, Callable[[Bundle, str, int | None], Backend]] = MappingProxyType(
    {"onnxruntime": _onnxruntime, "fake": _fake}
)


def open_backend(
    name: str, bundle: Bundle, *, precision: str = "fp32", threads: int | None = None
) -> Backend:
    """Load a bundle's network into a backend.

    Args:
        name: One of `BACKENDS`.
        bundle: The model.
        precision: Of the model file to run.
        threads: CPU threads; None for the backend's default, one per core.

    Raises:
        BackendError: If there is no such backend, or it cannot run the model.
        BundleError: If the bundle has no file for it, or a damaged one.
        MissingDependencyError: If the backend's library is not installed.
    """
    opener = BACKENDS.get(name)
    if opener is None:
        raise BackendError(
            f"there is no backend {name!r}", expected=f"one of {', '.join(sorted(BACKENDS))}"
        )
    return opener(bundle, precision, threads)
