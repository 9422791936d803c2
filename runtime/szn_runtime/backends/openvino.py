"""The network in OpenVINO, from the same ONNX file as onnxruntime."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.backends.base import (
    INT8_FILE,
    MIXED_INT8,
    Backend,
    BackendOptions,
    Grids,
    check_frames,
)
from szn_runtime.backends.tensors import Expected, TensorFacts, check_tensors
from szn_runtime.cache import cache_folder
from szn_runtime.errors import BackendError
from szn_runtime.manifest import Manifest

if TYPE_CHECKING:
    from szn_runtime.bundle import Bundle

__all__ = ["OpenVinoBackend"]

# of OpenVINO's `INFERENCE_PRECISION_HINT`; what an INT8 model leaves in floating point stays
# exact unless the mixed precision is asked for
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32", MIXED_INT8: "bf16"}
_CAPABILITIES = {
    "fp32": {"FP32"},
    "fp16": {"FP16"},
    "bf16": {"BF16"},
    "int8": {"INT8"},
    MIXED_INT8: {"INT8", "BF16"},
}
# A model compiled for one shape is about 5 % faster than one for all shapes.
_MOST_SHAPES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """An infer request, and where its outputs are, if they stay there."""

    request: Any
    outputs: tuple[NDArray[np.float32], ...] | None


class _Compiled:
    """A compiled model and its infer requests.

    Args:
        compiled: The model.
        requests: How many calls run at a time.
        outputs: Their names, if it was compiled for one shape: looking tensors up in each call
            would cost as much as some layers do.
    """

    def __init__(self, compiled: Any, requests: int, outputs: Sequence[str] | None) -> None:
        self.free: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        for _ in range(requests):
            request = compiled.create_infer_request()
            kept = (
                None
                if outputs is None
                else tuple(request.get_tensor(name).data for name in outputs)
            )
            self.free.put(_Request(request=request, outputs=kept))


class OpenVinoBackend(Backend):
    """Runs an ONNX model with OpenVINO.

    The first few sizes of frames get a compiled model each, all further ones share a dynamic one.
    Compiled models are kept in the user's cache, in a folder of the model's hash and precision.

    Args:
        model: The ONNX file's bytes, so that what was verified is what runs; or the XML of
            OpenVINO's own format.
        manifest: Names and sizes of the model's tensors.
        model_sha256: Of the bytes, for the cache; None to keep nothing on disk.
        weights: What belongs to the XML, None for ONNX.
        options: Precision ("auto" is fp32; bf16 and fp16 compute a float model in that type where
            the device can, int8-bf16 what an INT8 model leaves in floating point), threads, hint
            and device.

    Raises:
        MissingDependencyError: If OpenVINO is not installed.
        BackendError: If there is no such device or it lacks the precision, the model cannot be
            loaded, or its tensors are not those of the manifest.
    """

    name = "openvino"
    input_dtype = "float32"
    input_layout = "NCHW"

    def __init__(
        self,
        model: bytes,
        manifest: Manifest,
        options: BackendOptions | None = None,
        *,
        model_sha256: str | None = None,
        weights: bytes | None = None,
    ) -> None:
        options = options or BackendOptions()
        self.precision = "fp32" if options.precision == "auto" else options.precision
        self.threads = options.cpu_threads
        self._manifest = manifest
        self._outputs = (manifest.embedding_name, manifest.seenmask_name)
        self._core, self.device = _open_core(options)
        self._settings = self._settings_of(options, model_sha256)
        try:
            self._model: Any = (
                self._core.read_model(model)
                if weights is None
                else self._core.read_model(model=model, weights=weights)
            )
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise BackendError(
                "OpenVINO cannot load the model", got=error, fix="export the bundle again"
            ) from error
        check_tensors(
            _facts(self._model.inputs), _facts(self._model.outputs), Expected.of(manifest)
        )
        self._lock = threading.Lock()
        self._by_shape: dict[tuple[int, ...], _Compiled] = {}
        self._dynamic: _Compiled | None = None
        # what the device really uses, read back, is known with the first compiled model
        first = self._compile(None)
        self.provider = f"OpenVINO {', '.join(first.get_property('EXECUTION_DEVICES'))}"
        wanted = int(first.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.requests = max(1, wanted) if options.hint == "throughput" else 1
        self._check_precision(first)

    @classmethod
    def from_bundle(cls, bundle: Bundle, options: BackendOptions) -> Self:
        """Load the bundle's file for INT8, or that of FP32 for the float precisions.

        It is in OpenVINO's own format where the bundle has that, else in ONNX.

        Raises:
            BundleError: If there is none or it is damaged.
            BackendError: As for the class.
            MissingDependencyError: If OpenVINO is not installed.
        """
        precision = "int8" if options.precision in INT8_FILE else "fp32"
        for artefact in bundle.manifest.artefacts:
            if (artefact.kind, artefact.precision) == ("openvino", precision):
                model = bundle.read(artefact.file)
                weights = bundle.read(str(artefact.facts.get("weights")))
                break
        else:
            artefact = bundle.artefact(precision=precision)
            model, weights = bundle.model_bytes(precision), None
        digest = bundle.manifest.files[artefact.file]["sha256"]
        return cls(model, bundle.manifest, options, model_sha256=digest, weights=weights)

    def _settings_of(self, options: BackendOptions, model_sha256: str | None) -> dict[str, Any]:
        """OpenVINO's properties for compiling."""
        capable = self._core.get_property(self.device, "OPTIMIZATION_CAPABILITIES")
        if not _CAPABILITIES[self.precision] <= set(capable):
            raise BackendError(
                f"OpenVINO has no {self.precision} on {self.device} of this machine",
                got=", ".join(capable),
                fix="choose another --precision",
            )
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": options.hint.upper(),
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
        }
        if self.device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = self.threads
        if model_sha256 is not None:
            # OpenVINO's own key leaves the precision out: a cached f32 model would come as f16
            name = f"{model_sha256[:16]}-{self.precision}-{options.hint}"
            settings["CACHE_DIR"] = str(cache_folder("openvino") / name)
        return settings

    def _compile(self, shape: tuple[int, ...] | None) -> Any:
        """Compile for one shape of frames (N, 3, H, W), or for all."""
        model = self._model
        try:
            if shape is not None:
                model = model.clone()
                model.reshape({self._manifest.input_name: list(shape)})
            return self._core.compile_model(model, self.device, self._settings)
        except Exception as error:  # OpenVINO raises RuntimeError and others
            what = "the model" if shape is None else f"the model for frames of shape {shape}"
            raise BackendError(f"OpenVINO cannot compile {what}", got=error) from error

    def _check_precision(self, compiled: Any) -> None:
        """Compare what the device computes with to what was asked for."""
        used = _used_precision(compiled)
        if used not in (None, _HINTS[self.precision]):
            raise BackendError(
                "OpenVINO computes in another precision",
                got=used,
                expected=_HINTS[self.precision],
                fix="choose another --precision",
            )

    def _compiled_for(self, shape: tuple[int, ...]) -> _Compiled:
        """The model for frames of this shape, compiled now if it is the first time."""
        with self._lock:
            found = self._by_shape.get(shape)
            if found is None and len(self._by_shape) < _MOST_SHAPES:
                found = _Compiled(self._compile(shape), self.requests, self._outputs)
                self._by_shape[shape] = found
            if found is None:
                if self._dynamic is None:
                    self._dynamic = _Compiled(self._compile(None), self.requests, None)
                found = self._dynamic
            return found

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Run the network; see `Backend.infer`."""
        if self._model is None:
            raise BackendError("the OpenVINO backend is closed", fix="load the bundle again")
        check_frames(frames)
        import openvino as ov

        compiled = self._compiled_for(frames.shape)
        free = compiled.free.get()
        request = free.request
        try:
            # the frames are used where they are; the outputs belong to the request, so are copied
            request.set_input_tensor(ov.Tensor(np.asarray(frames), shared_memory=True))
            # in this thread, whose core has the frames in its cache; the lock of Python is let go
            request.infer(share_outputs=True)
            outputs = free.outputs or tuple(request.get_tensor(name).data for name in self._outputs)
            embedding, seenmask = (output.copy() for output in outputs)
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise BackendError(
                f"OpenVINO failed on frames of shape {frames.shape}", got=error
            ) from error
        finally:
            compiled.free.put(free)
        return Grids(embedding=embedding, seenmask=seenmask)

    def close(self) -> None:
        """Release the models."""
        self._model, self._dynamic = None, None
        self._by_shape.clear()


def _open_core(options: BackendOptions) -> tuple[Any, str]:
    """OpenVINO and the name of the device in its terms."""
    core = openvino_core()
    names = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU"}
    if options.device_kind not in names:
        raise BackendError(
            "OpenVINO has no such device", got=options.device, expected="auto, cpu or gpu"
        )
    device = names[options.device_kind]
    present = core.available_devices
    if device == "GPU" and "GPU" not in present:  # several GPUs are GPU.0, GPU.1, ...
        device = f"GPU.{options.device_index}"
    if device not in present:
        raise BackendError(
            "OpenVINO finds no such device",
            got=", ".join(present) or "no device",
            expected=device,
            fix="install the device's driver, or use --device cpu",
        )
    return core, device


def _facts(ports: list[Any]) -> list[TensorFacts]:
    """Inputs or outputs in the terms of `check_tensors`, once for each name they have."""
    return [
        TensorFacts(
            name=name,
            dtype={"f32": "float32"}.get(dtype := port.get_element_type().to_string(), dtype),
            shape=tuple(
                None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
            ),
        )
        for port in ports
        for name in sorted(port.get_names())
    ]


def _used_precision(compiled: Any) -> str | None:
    """Type that most convolutions and products in floating point have, None if there are none."""
    used: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if str(facts["layerType"].value) in ("Convolution", "FullyConnected", "MatMul"):
            kind = str(facts["runtimePrecision"].value)
            used[kind] += kind not in ("i8", "u8")
    return used.most_common(1)[0][0] if used.total() else None
