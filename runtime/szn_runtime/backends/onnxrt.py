"""The network in onnxruntime."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends.base import Grids, check_frames
from szn_runtime.errors import BackendError, MissingDependencyError
from szn_runtime.manifest import Manifest

if TYPE_CHECKING:
    from szn_runtime.bundle import Bundle

__all__ = ["OnnxRuntimeBackend"]

_CPU = "CPUExecutionProvider"
_MAX_THREADS = 1024


class OnnxRuntimeBackend:
    """Runs an ONNX model with onnxruntime.

    Args:
        model: The ONNX file's bytes, so that what was verified is what runs.
        manifest: Names and sizes of the model's tensors.
        precision: Of the model, for reports.
        threads: CPU threads for one operator; None for one per core that this process may use.
        provider: Execution provider; it has to be the one that is really used.

    Raises:
        MissingDependencyError: If onnxruntime is not installed.
        BackendError: If the provider is not available or not used, the model cannot be loaded, or
            its tensors are not those of the manifest.
    """

    name = "onnxruntime"

    def __init__(
        self,
        model: bytes,
        manifest: Manifest,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        provider: str = _CPU,
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.threads = (cores or 1) if threads is None else threads
        if not 1 <= self.threads <= _MAX_THREADS:
            raise BackendError(
                "number of threads is out of range", got=threads, expected=f"1 to {_MAX_THREADS}"
            )
        self.precision = precision
        self._manifest = manifest
        self._session: Any = _open_session(model, self.threads, provider)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != provider:
            raise BackendError(
                "onnxruntime fell back to another execution provider",
                got=self.provider,
                expected=provider,
                fix="see its log for the cause, or ask for the provider that came",
            )
        _check_tensors(self._session, manifest)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        provider: str = _CPU,
    ) -> Self:
        """Load the bundle's ONNX file of a precision.

        Raises:
            BundleError: If there is none or it is damaged.
            BackendError: As for the class.
            MissingDependencyError: If onnxruntime is not installed.
        """
        return cls(
            bundle.model_bytes(precision),
            bundle.manifest,
            precision=precision,
            threads=threads,
            provider=provider,
        )

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Run the network; see `Backend.infer`."""
        if self._session is None:
            raise BackendError("the onnxruntime backend is closed", fix="load the bundle again")
        check_frames(frames)
        names = [self._manifest.embedding_name, self._manifest.seenmask_name]
        try:
            embedding, seenmask = self._session.run(names, {self._manifest.input_name: frames})
        except Exception as error:  # onnxruntime's errors share no base class
            raise BackendError(
                f"onnxruntime failed on frames of shape {frames.shape}", got=error
            ) from error
        if embedding.ndim != 4 or embedding.shape[:2] != (len(frames), self._manifest.dim):
            raise BackendError(
                "the model's embedding has another shape",
                got=embedding.shape,
                expected=f"({len(frames)}, {self._manifest.dim}, h, w)",
            )
        return Grids(embedding=embedding, seenmask=seenmask)

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open_session(model: bytes, threads: int, provider: str) -> Any:
    """An inference session on one provider."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed",
            got=error,
            fix='pip install "szn[cpu]" (or "szn[gpu]" for an NVIDIA GPU)',
        ) from error
    available = ort.get_available_providers()
    if provider not in available:
        raise BackendError(
            f"this onnxruntime has no {provider}",
            got=", ".join(available),
            fix='pip install "szn[gpu]"' if provider.startswith(("CUDA", "Tensorrt")) else None,
        )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; they are raised as well
    try:
        return ort.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # onnxruntime's errors share no base class
        raise BackendError(
            "onnxruntime cannot load the model", got=error, fix="export the bundle again"
        ) from error


def _check_tensors(session: Any, manifest: Manifest) -> None:
    """Compare the model's inputs and outputs with the manifest."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _check_tensor(inputs, "input", manifest.input_name, 3)
    if len(inputs) != 1:
        raise BackendError(
            "the model has more than one input", got=", ".join(tensor.name for tensor in inputs)
        )
    _check_tensor(outputs, "output", manifest.embedding_name, manifest.dim)
    _check_tensor(outputs, "output", manifest.seenmask_name, 2)


def _check_tensor(tensors: list[Any], kind: str, name: str, channels: int) -> None:
    """Look a tensor up and check that it is (N, channels, ., .) float32, as far as it says."""
    found = next((tensor for tensor in tensors if tensor.name == name), None)
    if found is None:
        raise BackendError(
            f"the model has no {kind} {name!r}, which the manifest names",
            got=", ".join(tensor.name for tensor in tensors),
            fix="export the bundle again",
        )
    shape = found.shape
    # a dimension that is not fixed is a name or None
    fits = len(shape) == 4 and (not isinstance(shape[1], int) or shape[1] == channels)
    if found.type != "tensor(float)" or not fits:
        raise BackendError(
            f"{kind} {name!r} of the model does not fit the manifest",
            got=f"{found.type} {shape}",
            expected=f"tensor(float) with {channels} channels in 4 dimensions",
            fix="export the bundle again",
        )
