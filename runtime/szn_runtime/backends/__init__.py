"""Inference backends, by the names that `--backend` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from szn_runtime.backends.base import PRECISIONS, Backend, BackendOptions, Grids
from szn_runtime.errors import BackendError

if TYPE_CHECKING:
    from szn_runtime.bundle import Bundle

__all__ = ["BACKENDS", "PRECISIONS", "Backend", "BackendOptions", "Grids", "open_backend"]


def _onnxruntime(bundle: Bundle, options: BackendOptions) -> Backend:
    from szn_runtime.backends.onnxrt import OnnxRuntimeBackend

    return OnnxRuntimeBackend.from_bundle(bundle, options)


def _openvino(bundle: Bundle, options: BackendOptions) -> Backend:
    from szn_runtime.backends.openvino import OpenVinoBackend

    return OpenVinoBackend.from_bundle(bundle, options)


def _tensorrt(bundle: Bundle, options: BackendOptions) -> Backend:
    from szn_runtime.backends.tensorrt import TensorRTBackend

    return TensorRTBackend.from_bundle(bundle, options)


def _fake(bundle: Bundle, options: BackendOptions) -> Backend:
    from szn_runtime.backends.fake import FakeBackend

    if options.precision not in ("auto", "fp32") or options.threads not in (None, 1):
        raise BackendError(
            "the fake backend has one thread and fp32",
            got=f"{options.threads} threads, {options.precision}",
        )
    return FakeBackend(dim=bundle.manifest.dim, stride=bundle.manifest.stride)


BACKENDS: Mapping[str, Callable[[Bundle, BackendOptions], Backend]] = MappingProxyType(
    {"onnxruntime": _onnxruntime, "openvino": _openvino, "tensorrt": _tensorrt, "fake": _fake}
)


def open_backend(name: str, bundle: Bundle, options: BackendOptions | None = None) -> Backend:
    """Load a bundle's network into a backend.

    Args:
        name: One of `BACKENDS`; `szn_runtime.selection` finds the fastest.
        bundle: The model.
        options: Precision, device, threads and the like; None for the defaults.

    Raises:
        BackendError: If there is no such backend, or it cannot run the model.
        BundleError: If the bundle has no file for it, or a damaged one.
        MissingDependencyError: If the backend's library is not installed.
    """
    opener = BACKENDS.get(name)
    if opener is None:
        raise BackendError(
            f"there is no backend {name!r}",
            expected=f"one of {', '.join(['auto', *sorted(BACKENDS)])}",
        )
    return opener(bundle, options or BackendOptions())
