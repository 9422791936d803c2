"""What the runtime needs of CUDA: a device, a stream, and memory on both sides of the bus.

Through `cuda.bindings.runtime` (cuda-python 12.6 or newer), whose functions return an error code
first and values after it.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import BackendError, MissingDependencyError

__all__ = [
    "DeviceBuffer",
    "Gpu",
    "PinnedBuffer",
    "Stream",
    "call",
    "check",
    "find_gpu",
    "load_cuda",
]

_WITHOUT_GPU = "check what nvidia-smi says, or run on the CPU (--backend onnxruntime)"
_FIXES = {
    "cudaErrorMemoryAllocation": "use smaller frames (--size) or batches, or end other programs "
    "that hold GPU memory",
}


def load_cuda(*, extra: str) -> Any:
    """The module `cuda.bindings.runtime`.

    Args:
        extra: Of szn that installs it, for the message.

    Raises:
        MissingDependencyError: If cuda-python is not installed.
    """
    try:
        # by name: an optional library without types
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            "cuda-python is not installed", got=error, fix=f'pip install "szn[{extra}]"'
        ) from error


def check(result: tuple[Any, ...], function: str = "CUDA") -> Any:
    """What a function of CUDA returned, without the error code.

    Args:
        result: The error code and then values.
        function: Its name, for the message.

    Returns:
        None, the value, or a tuple of several.

    Raises:
        BackendError: If the error code is not 0; the message has its name.
    """
    error, *values = result
    if int(error) != 0:
        raise BackendError(
            f"{function} failed", got=f"{error.name} ({int(error)})", fix=_FIXES.get(error.name)
        )
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def call(cuda: Any, function: str, *arguments: Any) -> Any:
    """Call a function of CUDA and check what it returns; see `check`.

    Raises:
        BackendError: If it fails.
    """
    try:
        result = getattr(cuda, function)(*arguments)
    except RuntimeError as error:  # how cuda-python says that a library or function is not there
        raise BackendError(f"{function} failed", got=error, fix=_WITHOUT_GPU) from error
    return check(result, function)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU.

    Args:
        index: Its number, from 0, among those that this process may see.
        name: As the driver names it.
        capability: Compute capability, such as "8.7".
    """

    index: int
    name: str
    capability: str

    def __str__(self) -> str:
        return f"gpu:{self.index} {self.name} ({self.capability})"


def find_gpu(cuda: Any, index: int) -> Gpu:
    """Look a GPU up.

    Raises:
        BackendError: If there is no GPU, no driver, an old one, or no GPU of that number.
    """
    count = _count_gpus(cuda)
    if index >= count:
        raise BackendError(
            f"there is no gpu:{index}",
            got=f"{count} GPU{'s' if count > 1 else ''}",
            expected=f"gpu:0 to gpu:{count - 1}" if count > 1 else "gpu:0",
        )
    facts = call(cuda, "cudaGetDeviceProperties", index)
    name = bytes(facts.name).split(b"\0")[0].decode("utf-8", "replace")
    return Gpu(index=index, name=name, capability=f"{facts.major}.{facts.minor}")


def _count_gpus(cuda: Any) -> int:
    """How many GPUs there are, at least one."""
    try:
        code, count = cuda.cudaGetDeviceCount()
        driver = check(cuda.cudaDriverGetVersion())
        own = check(cuda.cudaRuntimeGetVersion())
    except RuntimeError as error:  # cuda-python 12.6 where there is no libcuda.so.1
        raise BackendError(
            "there is no NVIDIA GPU, or its driver is not installed", got=error, fix=_WITHOUT_GPU
        ) from error
    # a driver serves every minor version of its major one
    if code.name == "cudaErrorInsufficientDriver" and driver > 0:
        installed = f"{driver // 1000}.{driver % 1000 // 10}"
        raise BackendError(
            "the NVIDIA driver is older than cuda-python",
            got=f"a driver for CUDA {installed}",
            expected=f"CUDA {own // 1000}",
            fix=f'update the driver, or pip install "cuda-python=={installed}.*"',
        )
    if int(code) != 0 or count == 0:
        raise BackendError(
            "there is no NVIDIA GPU, or its driver is not installed",
            got=code.name if int(code) else "0 GPUs",
            fix=_WITHOUT_GPU,
        )
    return int(count)


class _Resource:
    """Something of CUDA's that has to be given back. A context manager."""

    def close(self) -> None:
        """Give it back; closing twice is allowed."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Stream(_Resource):
    """A queue of work for the current device.

    Args:
        cuda: The module `cuda.bindings.runtime`.

    Raises:
        BackendError: If CUDA gives none.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._stream: Any = call(cuda, "cudaStreamCreate")

    @property
    def handle(self) -> int:
        """For libraries that put work into it."""
        return int(self._stream)

    def copy_to_device(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy from pinned memory, between two addresses.

        Raises:
            BackendError: If CUDA refuses it, or work that was queued before has failed.
        """
        self._copy("cudaMemcpyHostToDevice", target, source, nbytes)

    def copy_to_host(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy into pinned memory; see `copy_to_device`."""
        self._copy("cudaMemcpyDeviceToHost", target, source, nbytes)

    def _copy(self, kind: str, target: int, source: int, nbytes: int) -> None:
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        call(self._cuda, "cudaMemcpyAsync", target, source, nbytes, direction, self._stream)

    def synchronise(self) -> None:
        """Wait until everything that was queued is done.

        Raises:
            BackendError: If some of it failed.
        """
        call(self._cuda, "cudaStreamSynchronize", self._stream)

    def drain(self) -> None:
        """Wait as `synchronise` does, without errors: for after one."""
        self._cuda.cudaStreamSynchronize(self._stream)

    def close(self) -> None:
        """Give it back; closing twice is allowed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            # not checked: after a failure CUDA returns that failure again, which was raised
            self._cuda.cudaStreamDestroy(stream)


class _Buffer(_Resource):
    """Memory that grows to the largest size that was needed.

    Args:
        cuda: The module `cuda.bindings.runtime`.
    """

    _allocate: ClassVar[str]
    _free: ClassVar[str]

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.address = 0
        self.nbytes = 0

    def grow(self, nbytes: int) -> None:
        """Hold at least `nbytes`; the content is lost where that needs other memory.

        Raises:
            BackendError: If there is not enough; the buffer is then empty.
        """
        if nbytes <= self.nbytes:
            return
        self.close()  # first, so that both do not have to fit
        self.address = int(call(self._cuda, self._allocate, nbytes))
        self.nbytes = nbytes

    def close(self) -> None:
        """Free the memory; closing twice is allowed."""
        address, self.address, self.nbytes = self.address, 0, 0
        if address:
            # not checked: after a failure CUDA returns that failure again, which was raised
            getattr(self._cuda, self._free)(address)


class DeviceBuffer(_Buffer):
    """Memory of the GPU."""

    _allocate = "cudaMalloc"
    _free = "cudaFree"


class PinnedBuffer(_Buffer):
    """Memory of the host that the GPU can copy from and to while the CPU goes on."""

    _allocate = "cudaMallocHost"
    _free = "cudaFreeHost"

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The start of the memory as an array, which is not valid once the buffer grows or closes.

        Raises:
            ValueError: If the memory is smaller.
        """
        memory: Any = (ctypes.c_byte * self.nbytes).from_address(self.address)
        array: NDArray[Any] = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
        return array
