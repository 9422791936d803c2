"""The network in onnxruntime: on the CPU, or through its CUDA and TensorRT execution providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends.base import MIXED_INT8, Backend, BackendOptions, Grids, check_frames
from szn_runtime.backends.tensors import Expected, TensorFacts, check_tensors
from szn_runtime.cache import cache_folder
from szn_runtime.errors import BackendError, MissingDependencyError
from szn_runtime.manifest import Manifest

if TYPE_CHECKING:
    from szn_runtime.bundle import Bundle

__all__ = ["OnnxRuntimeBackend", "provider_chain"]

_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "cpu": _CPU,
    "gpu": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxRuntimeBackend(Backend):
    """Runs an ONNX model with onnxruntime.

    With the hint "latency" one call at a time uses all threads. With "throughput" as many calls run
    at a time as there are threads, each with one: no thread waits for another within a frame.

    Args:
        model: The ONNX file's bytes, so that what was verified is what runs.
        manifest: Names and sizes of the model's tensors.
        options: Precision (for reports: the file decides), threads, hint and device. "auto" is the
            GPU where this onnxruntime has CUDA and it runs here, else the CPU.

    Raises:
        MissingDependencyError: If onnxruntime is not installed.
        BackendError: If the device's provider is not available, or another one is really used and
            the options do not allow that; if the model cannot be loaded, or its tensors are not
            those of the manifest.
    """

    name = "onnxruntime"
    input_dtype = "float32"
    input_layout = "NCHW"

    def __init__(
        self, model: bytes, manifest: Manifest, options: BackendOptions | None = None
    ) -> None:
        options = options or BackendOptions()
        self.precision = "fp32" if options.precision == "auto" else options.precision
        self.threads = options.cpu_threads
        self._manifest = manifest
        self._session: Any = _open_session(model, options)
        self.provider: str = self._session.get_providers()[0]
        on_cpu = self.provider == _CPU
        self.device = "cpu" if on_cpu else f"gpu:{options.device_index}"
        self.requests = self.threads if on_cpu and options.hint == "throughput" else 1
        session = self._session
        check_tensors(
            _facts(session.get_inputs()), _facts(session.get_outputs()), Expected.of(manifest)
        )

    @classmethod
    def from_bundle(cls, bundle: Bundle, options: BackendOptions) -> Self:
        """Load the bundle's ONNX file of a precision.

        Raises:
            BundleError: If there is none or it is damaged.
            BackendError: As for the class, or if it lacks the precision.
            MissingDependencyError: If onnxruntime is not installed.
        """
        precision = "fp32" if options.precision == "auto" else options.precision
        if precision == MIXED_INT8:
            raise BackendError(
                f"onnxruntime does not compute {MIXED_INT8}",
                fix="use --backend openvino, or --precision int8",
            )
        return cls(bundle.model_bytes(precision), bundle.manifest, options)

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Run the network; see `Backend.infer`."""
        session = self._session
        if session is None:
            raise BackendError("the onnxruntime backend is closed", fix="load the bundle again")
        check_frames(frames)
        names = [self._manifest.embedding_name, self._manifest.seenmask_name]
        try:
            # a binding of each call's own, so that calls may run at a time; on the CPU the frames
            # are used where they are, on a GPU they are copied there and only the grids come back
            binding = session.io_binding()
            binding.bind_cpu_input(self._manifest.input_name, frames)
            for name in names:
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            embedding, seenmask = binding.copy_outputs_to_cpu()
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


def _open_session(model: bytes, options: BackendOptions) -> Any:
    """An inference session on the device that the options name."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed",
            got=error,
            fix='pip install "szn[cpu]" (or "szn[gpu]" for an NVIDIA GPU)',
        ) from error
    available = ort.get_available_providers()
    kind = options.device_kind
    if kind == "auto":
        wanted = _PROVIDERS["gpu"] if _PROVIDERS["gpu"] in available else _CPU
    else:
        wanted = _PROVIDERS[kind]
    if wanted not in available:
        if not options.allow_fallback:
            raise BackendError(
                f"this onnxruntime has no {wanted}",
                got=", ".join(available),
                fix='pip install "szn[gpu]", or leave out --device',
            )
        wanted = _CPU
    if wanted != _CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA's libraries where pip puts them
    # where no device was named the CPU is as good an answer, and is reported
    strict = kind != "auto" and wanted != _CPU and not options.allow_fallback
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.intra_op_num_threads = 1 if options.hint == "throughput" else options.cpu_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors; they are raised as well
    if strict:
        # also single operators that the device lacks must not move to the CPU unnoticed
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        providers = provider_chain(wanted, options, strict=strict)
        session = ort.InferenceSession(model, settings, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class
        raise BackendError(
            "onnxruntime cannot load the model",
            got=error,
            fix="see that the GPU and its driver work, or use --device cpu"
            if strict
            else "export the bundle again",
        ) from error
    used = session.get_providers()[0]
    if strict and used != wanted:
        raise BackendError(
            "onnxruntime fell back to another execution provider",
            got=used,
            expected=wanted,
            fix="see that the GPU and its driver work, or give --allow-fallback or --device cpu",
        )
    return session


def provider_chain(provider: str, options: BackendOptions, *, strict: bool) -> list[Any]:
    """The provider with its settings, then those that may take what it lacks.

    The CPU is not named where nothing may move there: onnxruntime takes both for a contradiction.

    Args:
        provider: Its name in onnxruntime.
        options: They number the device.
        strict: Whether nothing may move to the CPU.

    Returns:
        `providers` of an `InferenceSession`: names, or names with settings.
    """
    device = {"device_id": str(options.device_index)}
    # fp32 as it is everywhere else: TF32 rounds what convolutions multiply to 10 bits. And cuDNN
    # chooses algorithms without trying them all, which stops a stream for up to five seconds when
    # the size of its frames changes and is hardly ever faster afterwards.
    fixed = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    cuda = (_PROVIDERS["gpu"], {**device, **fixed})
    cpu = [] if strict else [_CPU]
    if provider == _PROVIDERS["tensorrt"]:
        folder = str(cache_folder("onnxruntime-tensorrt"))
        settings = {
            **device,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
        return [(provider, settings), cuda, *cpu]
    if provider == _PROVIDERS["gpu"]:
        return [cuda, *cpu]
    return [provider]


def _facts(tensors: list[Any]) -> list[TensorFacts]:
    """Tensors in the terms of `check_tensors`; a dimension that is not fixed is a name or None."""
    return [
        TensorFacts(
            name=tensor.name,
            dtype={"tensor(float)": "float32"}.get(tensor.type, tensor.type),
            shape=tuple(size if isinstance(size, int) else None for size in tensor.shape),
        )
        for tensor in tensors
    ]
