"""What an inference backend is: frames in, grids out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import BackendError, UsageError

__all__ = [
    "INT8_FILE",
    "MIXED_INT8",
    "PRECISIONS",
    "Backend",
    "BackendOptions",
    "Grids",
    "check_frames",
    "usable_cores",
]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# of the file for INT8, whose layers in floating point are computed in bf16
MIXED_INT8 = "int8-bf16"
# precisions that a file for INT8 is computed in; all others are of that for FP32 in OpenVINO
INT8_FILE = ("int8", MIXED_INT8)
_MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """How a backend is to run the network.

    Args:
        precision: One of `PRECISIONS`, `MIXED_INT8`, or "auto": the most exact one that the backend
            has.
        device: "auto" for the backend's usual one, "cpu", "gpu", "gpu:1", or for onnxruntime also
            "tensorrt", its TensorRT execution provider.
        threads: CPU threads in all; None for one per core that this process may use.
        hint: "latency": one frame as fast as possible, with all threads; "throughput": several
            calls at a time, each with a part of the threads.
        allow_fallback: Whether the library may use another device than the one asked for; the one
            that it used is in `Backend.provider`.

    Raises:
        UsageError: If a value is out of its range.
    """

    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    hint: Literal["latency", "throughput"] = "latency"
    allow_fallback: bool = False

    def __post_init__(self) -> None:
        known = ("auto", *PRECISIONS, MIXED_INT8)
        if self.precision not in known:
            raise UsageError(
                "unknown precision", got=self.precision, expected=f"one of {', '.join(known)}"
            )
        if self.hint not in ("latency", "throughput"):
            raise UsageError("unknown hint", got=self.hint, expected="latency or throughput")
        if self.threads is not None and not 1 <= self.threads <= _MAX_THREADS:
            raise UsageError(
                "number of threads is out of range",
                got=self.threads,
                expected=f"1 to {_MAX_THREADS}",
            )
        kind, _, number = self.device.partition(":")
        if kind not in ("auto", "cpu", "gpu", "tensorrt") or (number and not number.isdecimal()):
            raise UsageError(
                "unknown device", got=self.device, expected="auto, cpu, gpu, gpu:1 or tensorrt"
            )

    @property
    def device_kind(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]

    @property
    def device_index(self) -> int:
        """Number of the device, 0 if it names none."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def cpu_threads(self) -> int:
        """CPU threads in all."""
        return usable_cores() if self.threads is None else self.threads


def usable_cores() -> int:
    """CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Grids:
    """The network's outputs for N frames, at the nodes of its grid.

    Args:
        embedding: (N, j, h, w) float32.
        seenmask: (N, 2, h, w) float32; channel 1 is seen.

    Raises:
        BackendError: If shapes or types do not fit, or a number is not finite.
    """

    embedding: NDArray[np.float32]
    seenmask: NDArray[np.float32]

    def __post_init__(self) -> None:
        embedding, seenmask = self.embedding, self.seenmask
        if embedding.dtype != np.float32 or seenmask.dtype != np.float32:
            raise BackendError(
                "the network's outputs have another type",
                got=f"{embedding.dtype} and {seenmask.dtype}",
                expected="float32",
            )
        n, _, h, w = embedding.shape if embedding.ndim == 4 else (0, 0, 0, 0)
        if embedding.size == 0 or seenmask.shape != (n, 2, h, w):
            raise BackendError(
                "the network's outputs do not fit together",
                got=f"embedding {embedding.shape}, seenmask {seenmask.shape}",
                expected="(N, j, h, w) and (N, 2, h, w)",
            )
        for name, grid in (("embedding", embedding), ("seenmask", seenmask)):
            if not np.isfinite(grid).all():
                raise BackendError(
                    f"the network's {name} holds numbers that are not finite",
                    fix="use fp32, or check the model with szn-export",
                )


class Backend(Protocol):
    """Runs the network of a bundle. A context manager.

    At most `requests` calls of `infer` may run at a time, each from a thread of its own.

    Attributes:
        name: Of the backend, as `--backend` takes it.
        precision: Of the numbers it computes with, one of `PRECISIONS` or `MIXED_INT8`.
        device: That it runs on, as the library names it.
        provider: What really runs the network, read back from the library.
        threads: CPU threads it may use in all.
        requests: Calls of `infer` that may run at a time.
        input_dtype: Type of the frames.
        input_layout: Order of the frames' axes.
    """

    name: str
    precision: str
    device: str
    provider: str
    threads: int
    requests: int
    input_dtype: str
    input_layout: str

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Run the network.

        Args:
            frames: (N, 3, H, W) float32, C-contiguous, normalised; H and W are multiples of what
                the bundle's preprocessing asks for. Not changed, and not kept.

        Returns:
            Grids in memory of their own.

        Raises:
            BackendError: If the frames do not fit, the backend is closed, or it fails.
        """

    def close(self) -> None:
        """Release the model; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_frames(frames: NDArray[np.float32]) -> None:
    """Refuse what is no batch of network inputs.

    Raises:
        BackendError: If it is not (N, 3, H, W) float32 and C-contiguous.
    """
    if frames.dtype != np.float32 or frames.ndim != 4 or frames.shape[1] != 3 or not frames.size:
        raise BackendError(
            "frames do not fit the network",
            got=f"{frames.dtype} {frames.shape}",
            expected="float32 (N, 3, H, W)",
        )
    if not frames.flags.c_contiguous:
        raise BackendError("frames are not contiguous in memory", fix="pass a contiguous array")
