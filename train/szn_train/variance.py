"""How much of a vocabulary's variance j dimensions keep (thesis table 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["explained_variance"]

_CHUNK = 100_000  # rows at a time, so that three million words fit into memory


def explained_variance(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of the variance that the first j principal components keep, for every j.

    The same numbers as those of a PCA with j components, for all j from one eigendecomposition.

    Args:
        vectors: (V, d) word vectors, two or more that differ.

    Returns:
        (d,) shares in [0, 1], not falling; element j - 1 is that of j components, the last is 1.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)  # (d,)
    scatter = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), _CHUNK):
        centred = vectors[start : start + _CHUNK] - mean  # (rows, d) float64
        scatter += centred.T @ centred  # (d, rows) @ (rows, d) -> (d, d)
    along = np.linalg.eigvalsh(scatter)[::-1].clip(min=0)  # rounding leaves tiny negative ones
    kept: NDArray[np.float64] = np.cumsum(along) / along.sum()
    return kept
