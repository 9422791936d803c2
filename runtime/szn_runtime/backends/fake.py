"""A network that needs no library: grids that follow from the frame by a simple formula.

For tests of everything around a network, here and in code that uses this package.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends.base import Backend, Grids, check_frames
from szn_runtime.errors import BackendError

__all__ = ["FakeBackend"]


class FakeBackend(Backend):
    """Deterministic stand-in for a network.

    With `m_c` the mean of input channel `c` over a node's `stride` by `stride` block, the embedding
    is `E_i = m_(i mod 3)`, with the opposite sign where `i // 3` is odd, and the seenmask is
    `(0, m_0)`: a node is seen where the first channel is positive.

    Args:
        dim: Length j of the embedding.
        stride: Pixels between two nodes; H and W must be multiples of it.
        delay_s: How long a call takes at least, in seconds.
        fail_at: Number of the call, from 0, that raises; None for never.
        requests: Calls that may run at a time.

    Example:
        >>> backend = FakeBackend(dim=6, stride=2)
        >>> backend.infer(np.ones((1, 3, 4, 4), np.float32)).embedding[0, :, 0, 0].tolist()
        [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    """

    name = "fake"
    precision = "fp32"
    device = "cpu"
    provider = "numpy"
    threads = 1
    input_dtype = "float32"
    input_layout = "NCHW"

    def __init__(
        self,
        *,
        dim: int,
        stride: int,
        delay_s: float = 0.0,
        fail_at: int | None = None,
        requests: int = 1,
    ) -> None:
        """See the class."""
        self.requests = requests
        self._dim, self._stride, self._delay_s, self._fail_at = dim, stride, delay_s, fail_at
        self._lock = threading.Lock()
        self.calls = 0
        self.closed = False

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Compute the formula; see `Backend.infer`."""
        if self.closed:
            raise BackendError("the fake backend is closed")
        check_frames(frames)
        n, _, height, width = frames.shape
        s = self._stride
        if height % s or width % s:
            raise BackendError(
                "frame size is no multiple of the stride", got=(height, width), expected=s
            )
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
        if call == self._fail_at:
            raise BackendError("the fake backend failed", got=f"call {self._fail_at}")
        if self._delay_s:
            time.sleep(self._delay_s)
        blocks = frames.reshape(n, 3, height // s, s, width // s, s)
        means = blocks.mean(axis=(3, 5), dtype=np.float32)  # (N, 3, h, w)
        channel = np.arange(self._dim)
        sign = np.where(channel // 3 % 2, -1, 1).astype(np.float32)
        embedding = means[:, channel % 3] * sign[:, None, None]  # (N, j, h, w)
        seenmask = np.stack([np.zeros_like(means[:, 0]), means[:, 0]], axis=1)  # (N, 2, h, w)
        return Grids(embedding=embedding, seenmask=seenmask)

    def close(self) -> None:
        """Refuse further calls."""
        self.closed = True
