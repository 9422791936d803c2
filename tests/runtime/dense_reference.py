"""SEI as the thesis defines it, in float64: upsample the embedding, normalise, compare, select."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """The dense answer, and how sure it is.

    Attributes:
        labels: (H, W) index of the label.
        seen: (H, W) bool.
        label_gap: (H, W) best score less the second best, of the scores that were compared.
        seen_gap: (H, W) absolute seenmask difference.
    """

    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]
    label_gap: NDArray[np.float64]
    seen_gap: NDArray[np.float64]


def upsample(grid: NDArray[np.floating], geometry: GridGeometry, size_hw: tuple[int, int]):  # type: ignore[no-untyped-def]
    """(c, h, w) to (c, H, W) float64, linear between nodes, border nodes repeated."""
    matrices = []
    for axis in (0, 1):
        nodes, pixels = grid.shape[axis + 1], size_hw[axis]
        at = (np.arange(pixels) - geometry.offset_yx[axis]) / geometry.stride_yx[axis]
        at = np.clip(at, 0, nodes - 1)
        matrix = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(nodes)[None]))
        matrices.append(matrix)
    return np.einsum("yr,crk,xk->cyx", matrices[0], grid.astype(np.float64), matrices[1])


def dense_sei(
    embedding: NDArray[np.float32],
    seenmask: NDArray[np.float32] | None,
    labels: LabelSet,
    geometry: GridGeometry,
    size_hw: tuple[int, int],
    seen_bias: float = 0.0,
) -> Dense:
    """Every pixel against every label."""
    pixels = upsample(embedding, geometry, size_hw)  # (j, H, W)
    norm = np.linalg.norm(pixels, axis=0)
    unit = pixels / np.where(norm > 0, norm, 1)
    scores = np.einsum("kj,jyx->kyx", labels.embeddings.astype(np.float64), unit)
    use_mask = seenmask is not None and labels.seen.any() and not labels.seen.all()
    if use_mask and seenmask is not None:
        difference = upsample(
            (seenmask[1].astype(np.float64) - seenmask[0] + seen_bias)[None], geometry, size_hw
        )[0]
        seen = difference > 0
        allowed = np.where(seen[None], labels.seen[:, None, None], ~labels.seen[:, None, None])
        scores = np.where(allowed, scores, -np.inf)
        seen_gap = np.abs(difference)
    chosen = scores.argmax(axis=0)
    if not use_mask:
        seen = labels.seen[chosen]
        seen_gap = np.full(size_hw, np.inf)
    if len(labels) > 1:
        top = np.partition(scores, -2, axis=0)
        gap = top[-1] - top[-2]
    else:
        gap = np.full(size_hw, np.inf)
    # a pixel of no length ties everywhere, and a short one is decided by rounding
    gap = gap * np.where(norm > 1e-6 * max(float(np.abs(embedding).max()), 1e-30), 1, 0)
    return Dense(labels=chosen, seen=seen, label_gap=gap, seen_gap=seen_gap)
