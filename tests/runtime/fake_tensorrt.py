"""TensorRT and CUDA's runtime in numpy, for machines without a GPU.

Memory is numpy's. Copies and runs of an engine only happen when their stream is synchronised, so
that code which reads too early, or frees or overwrites memory too early, gives wrong results.
The network in an engine is `FakeBackend`'s formula.
"""

from __future__ import annotations

import enum
import inspect
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_runtime.backends._engine import EngineFacts, Profile
from szn_runtime.backends.base import BackendOptions
from szn_runtime.backends.fake import FakeBackend
from szn_runtime.backends.tensorrt import TensorRTBackend
from szn_runtime.backends.tensors import TensorFacts
from szn_runtime.bundle import Artefact, Bundle
from tests.runtime import catalogue

CAPABILITY = "8.7"
VERSIONS = {"tensorrt": "10.3.0", "rtx": "1.7.1.116"}

CudaError = enum.IntEnum(
    "CudaError",
    {
        "cudaSuccess": 0,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorInsufficientDriver": 35,
        "cudaErrorNoDevice": 100,
        "cudaErrorIllegalAddress": 700,
    },
)
CopyKind = enum.IntEnum("CopyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "BF16"])
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


class FakeCuda:
    """`cuda.bindings.runtime`.

    Attributes:
        failures: Name of a function to the error that it returns, or exception that it raises.
        calls: Names of the functions in the order in which they were called.
        memory: Address to what was allocated there and not freed.
        streams: Handle to what is queued in a stream that was not destroyed.
        device: The current device of each thread, as `device.index`.
    """

    def __init__(self, *, gpus: int = 1, driver: int = 13020) -> None:
        self.gpus, self.driver = gpus, driver
        self.failures: dict[str, Any] = {}
        self.calls: list[str] = []
        self.memory: dict[int, tuple[str, NDArray[np.uint8]]] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.device = threading.local()
        # name of the function, what it does, how many values it returns beside the error
        self.functions: dict[str, tuple[Callable[..., Any], int]] = {
            "cudaGetDeviceCount": (lambda: self.gpus, 1),
            "cudaDriverGetVersion": (lambda: self.driver, 1),
            "cudaRuntimeGetVersion": (lambda: 13050, 1),
            "cudaGetDeviceProperties": (self._properties, 1),
            "cudaSetDevice": (self._set_device, 0),
            "cudaStreamCreate": (self._create_stream, 1),
            "cudaStreamSynchronize": (self._synchronise, 0),
            "cudaStreamDestroy": (self._destroy_stream, 0),
            "cudaMalloc": (lambda size: self._allocate("device", size), 1),
            "cudaFree": (lambda pointer: self._free("device", pointer), 0),
            "cudaMallocHost": (lambda size: self._allocate("host", size), 1),
            "cudaFreeHost": (lambda pointer: self._free("host", pointer), 0),
            "cudaMemcpyAsync": (self._copy, 0),
        }

    def module(self) -> ModuleType:
        module = ModuleType("cuda.bindings.runtime")
        module.cudaMemcpyKind = CopyKind  # type: ignore[attr-defined]
        for name in self.functions:
            setattr(module, name, self._function(name))
        return module

    def _function(self, name: str) -> Callable[..., tuple[Any, ...]]:
        body, values = self.functions[name]

        def function(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            failure = self.failures.get(name)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                if name == "cudaStreamSynchronize":
                    self.streams[arguments[0]].clear()  # what failed is over
                return (failure, *[None] * values)
            result = body(*arguments)
            return (CudaError.cudaSuccess, result) if values else (CudaError.cudaSuccess,)

        return function

    def count(self, name: str) -> int:
        return self.calls.count(name)

    def at(self, side: str, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of live memory; a mistake in addresses or sizes is an error of the test."""
        for start, (kind, data) in self.memory.items():
            if start <= address and address + nbytes <= start + data.size:
                assert kind == side, f"{kind} memory where {side} memory belongs"
                return data[address - start : address - start + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address} are no live {side} memory")

    def _properties(self, device: int) -> Any:
        major, minor = CAPABILITY.split(".")
        # as wide as the field of the C structure
        name = b"NVIDIA Orin".ljust(256, b"\0")
        return SimpleNamespace(name=name, major=int(major), minor=int(minor))

    def _set_device(self, device: int) -> None:
        self.device.index = device

    def _create_stream(self) -> int:
        handle = 1000 + len(self.calls)
        self.streams[handle] = []
        return handle

    def _destroy_stream(self, stream: int) -> None:
        del self.streams[stream]

    def _synchronise(self, stream: int) -> None:
        queued, self.streams[stream] = self.streams[stream], []
        for work in queued:
            work()

    def _allocate(self, side: str, size: int) -> int:
        data = np.full(size, 0xFF, np.uint8)  # NaN, if anyone reads it
        self.memory[data.ctypes.data] = (side, data)
        return data.ctypes.data

    def _free(self, side: str, pointer: int) -> None:
        assert not any(self.streams.values()), "memory is freed while work is queued"
        kind, _ = self.memory.pop(pointer)
        assert kind == side

    def _copy(self, dst: int, src: int, count: int, kind: CopyKind, stream: int) -> None:
        sides = (
            ("host", "device") if kind == CopyKind.cudaMemcpyHostToDevice else ("device", "host")
        )
        source, target = self.at(sides[0], src, count), self.at(sides[1], dst, count)
        self.streams[stream].append(lambda: np.copyto(target, source))


class FakeTensorRT:
    """`tensorrt` or `tensorrt_rtx`.

    Attributes:
        failures: Name of a method to what it logs before it returns None or False; "" for no word.
        raises: Name of a method to an exception that it raises.
        runs: Input shapes that engines were run with.
        logger: The first that was given, which stays.
        targets: Names of its compute capabilities, such as SM86; none for TensorRT.
    """

    def __init__(self, cuda: FakeCuda, *, version: str = VERSIONS["tensorrt"]) -> None:
        self.cuda, self.version = cuda, version
        self.targets: tuple[str, ...] = ()
        self.failures: dict[str, str] = {}
        self.raises: dict[str, Exception] = {}
        self.runs: list[tuple[int, ...]] = []
        self.logger: Any = None

    def module(self) -> ModuleType:
        module = ModuleType("tensorrt")
        contents = {
            "__version__": self.version,
            "ILogger": Logger,
            "Runtime": lambda logger: Runtime(self, logger),
            "DataType": DataType,
            "TensorIOMode": TensorIOMode,
        }
        if self.targets:
            names = ["NONE", "CURRENT", *self.targets]
            contents["ComputeCapability"] = enum.IntEnum("ComputeCapability", names)
        for name, value in contents.items():
            setattr(module, name, value)
        return module

    def fails(self, method: str) -> bool:
        if method in self.raises:
            raise self.raises[method]
        if method not in self.failures:
            return False
        for line in filter(None, self.failures[method].split("|")):
            self.logger.log(Severity.WARNING, "a warning is not the reason")
            self.logger.log(Severity.ERROR, line)
        return True


class Logger:
    """`ILogger`."""

    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING

    def __init__(self) -> None:
        self.initialised = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class Runtime:
    """`Runtime`."""

    def __init__(self, fake: FakeTensorRT, logger: Any) -> None:
        assert isinstance(logger, Logger)
        assert logger.initialised
        fake.logger = fake.logger or logger
        fake.fails("Runtime")
        self._fake = fake

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        if self._fake.fails("deserialize_cuda_engine"):
            return None
        return Engine(self._fake, json.loads(serialized_engine))


class Engine:
    """`ICudaEngine`, read from the JSON that `plan` writes."""

    def __init__(self, fake: FakeTensorRT, document: dict[str, Any]) -> None:
        self.fake, self.document = fake, document
        self.tensors = {tensor["name"]: tensor for tensor in document["tensors"]}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self.tensors[name]["mode"]]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.tensors[name]["dtype"]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name]["shape"])

    def create_execution_context(self) -> Any:
        return None if self.fake.fails("create_execution_context") else Context(self)


class Context:
    """`IExecutionContext`."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._fake = engine, engine.fake
        self._shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, high = self._engine.document["profile"]
        fits = all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if self._fake.fails("set_input_shape") or not fits:
            return False
        assert self._engine.get_tensor_mode(name) == TensorIOMode.INPUT
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        channels = self._engine.tensors[name]["shape"][1]
        if self._shape is None or "get_tensor_shape" in self._fake.failures:
            return (self._shape[0] if self._shape else -1, channels, -1, -1)
        stride = self._engine.document["stride"]
        return (self._shape[0], channels, self._shape[2] // stride, self._shape[3] // stride)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._fake.fails("set_tensor_address"):
            return False
        self._addresses[name] = memory
        return memory > 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._fake.fails("execute_async_v3") or set(self._addresses) != set(
            self._engine.tensors
        ):
            return False
        shapes = {name: self.get_tensor_shape(name) for name in self._engine.tensors}
        (source,) = [n for n, t in self._engine.tensors.items() if t["mode"] == "INPUT"]
        shapes[source] = self._shape or ()
        arrays = {name: self._array(name, shape) for name, shape in shapes.items()}
        document = self._engine.document
        network = FakeBackend(dim=document["dim"], stride=document["stride"])

        def work() -> None:
            frames = np.ascontiguousarray(arrays[source], np.float32)
            with np.errstate(all="ignore"):
                means = frames.reshape(-1).sum()  # the formula refuses what is not finite
            if np.isfinite(means):
                grids = network.infer(frames)
                arrays["embedding"][:] = grids.embedding
                arrays["seenmask"][:] = grids.seenmask

        self._fake.cuda.streams[stream_handle].append(work)
        self._fake.runs.append(shapes[source])
        return True

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = np.dtype("float32" if self._engine.get_tensor_dtype(name).name == "FLOAT" else "f2")
        nbytes = int(np.prod(shape)) * dtype.itemsize
        data = self._fake.cuda.at("device", self._addresses[name], nbytes)
        return data.view(dtype).reshape(shape)


def tensor(name: str, mode: str, channels: int, dtype: str = "FLOAT") -> dict[str, Any]:
    """An entry of `plan`."""
    return {"name": name, "mode": mode, "dtype": dtype, "shape": [-1, channels, -1, -1]}


def tensors(
    *, image: str = "FLOAT", embedding: str = "FLOAT", seenmask: str = "FLOAT", dim: int = 6
) -> list[dict[str, Any]]:
    """Those of the tiny network, in the given types."""
    return [
        tensor("image", "INPUT", 3, image),
        tensor("embedding", "OUTPUT", dim, embedding),
        tensor("seenmask", "OUTPUT", 2, seenmask),
    ]


def profile(
    low: tuple[int, int, int] = (1, 8, 8), high: tuple[int, int, int] = (4, 64, 64)
) -> Profile:
    """From the least and greatest (N, H, W)."""
    shapes = [(n, 3, height, width) for n, height, width in (low, high)]
    return Profile(min=shapes[0], opt=shapes[0], max=shapes[1])


def facts(flavour: str = "tensorrt", **changes: Any) -> EngineFacts:
    """Those of the tiny network's engine."""
    values: dict[str, Any] = {
        "flavour": flavour,
        "version": VERSIONS[flavour],
        "compute_capabilities": (CAPABILITY,),
        "profile": profile(),
        "inputs": (TensorFacts(name="image", dtype="float32", shape=(None, 3, None, None)),),
        "outputs": (
            TensorFacts(name="embedding", dtype="float32", shape=(None, 6, None, None)),
            TensorFacts(name="seenmask", dtype="float32", shape=(None, 2, None, None)),
        ),
        "onnx_sha256": "0" * 64,
    }
    return EngineFacts(**{**values, **changes})


def plan(about: EngineFacts, contents: list[dict[str, Any]] | None = None) -> bytes:
    """A serialised engine that `FakeTensorRT` loads."""
    document = {
        "tensors": contents or tensors(),
        "profile": [about.profile.min, about.profile.max],
        "dim": 6,
        "stride": catalogue.STRIDE,
    }
    return json.dumps(document).encode()


def engine_bundle(
    folder: Path,
    about: EngineFacts | None = None,
    *,
    engine: bytes | None = None,
    precisions: tuple[str, ...] = ("fp32",),
) -> Bundle:
    """The tiny bundle with engines, `<precision>.engine`, beside its ONNX file."""
    about = about or facts()
    engines = {f"{precision}.engine": engine or plan(about) for precision in precisions}
    artefacts = [
        Artefact(kind="tensorrt", precision=p, file=f"{p}.engine", facts=about.to_json())
        for p in precisions
    ]
    onnx = Artefact(kind="onnx", precision="fp32", file="model.onnx", opset=20)
    path = catalogue.tiny_bundle(
        folder, files={"model.onnx": b"not read", **engines}, artefacts=(onnx, *artefacts)
    )
    return Bundle.open(path)


def install(
    patch: pytest.MonkeyPatch, trt: FakeTensorRT, *, module: str | None = "tensorrt"
) -> None:
    """Put the fakes where `import` finds them, and the real libraries out of reach."""
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        patch.setitem(sys.modules, name, trt.module() if name == module else None)
    patch.setitem(sys.modules, "cuda.bindings.runtime", trt.cuda.module())


@contextmanager
def opened(
    folder: Path,
    about: EngineFacts | None = None,
    *,
    contents: list[dict[str, Any]] | None = None,
    trt: FakeTensorRT | None = None,
    device: str = "auto",
) -> Iterator[tuple[TensorRTBackend, FakeTensorRT]]:
    """A backend on the fakes, closed at the end, and its library."""
    about = about or facts()
    trt = trt or FakeTensorRT(FakeCuda())
    bundle = engine_bundle(folder, about, engine=plan(about, contents))
    with pytest.MonkeyPatch.context() as patch:
        install(patch, trt)
        with TensorRTBackend.from_bundle(bundle, BackendOptions(device=device)) as backend:
            yield backend, trt


def parameters(function: Callable[..., Any]) -> list[str]:
    """Names of a function's parameters, without self."""
    return [name for name in inspect.signature(function).parameters if name != "self"]
