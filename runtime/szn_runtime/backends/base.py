"""What an inference backend is: frames in, grids out."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import BackendError

__all__ = ["Backend", "Grids", "check_frames"]


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
    """Runs the network of a bundle. A context manager; one thread at a time may call `infer`.

    Attributes:
        name: Of the backend, as `--backend` takes it.
        precision: Of the numbers it computes with, "fp32".
        threads: CPU threads it may use.
        provider: What really runs the network, read back from the library.
    """

    name: str
    precision: str
    threads: int
    provider: str

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

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


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
