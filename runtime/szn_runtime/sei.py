"""Seenmask embedding inference (SEI) on the network's grid, exact up to rounding (docs/sei.md).

The thesis (chapter 6) upsamples the embedding to the frame, normalises each pixel and takes the
label of greatest cosine among the seen or the unseen labels, as the seenmask says. Scores are
linear in the embedding and interpolation is linear in the nodes, so that the labels that can win
between four nodes are known from the scores at the nodes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet

__all__ = ["label_dtype", "segment_grid", "warm_up"]

# Measured on one core at 480 x 640, stride 32, j = 20: one tile whose nodes fit the first-level
# cache, a block of scores that fits the second-level one.
_TILE_CELLS = 384
_BLOCK_LABELS = 512
_FILTER_FROM = 8192
# Pixels of the frame that may lie further outside than a stride because of rounded scales.
_REACH = 1 + 1e-6


def label_dtype(count: int) -> np.dtype[Any]:
    """Type of a label map of `count` labels: uint8 up to 255, uint16 up to 65535, else int32."""
    return np.dtype(np.uint8 if count <= 255 else np.uint16 if count <= 65535 else np.int32)


def segment_grid(
    embedding: NDArray[np.float32],
    seenmask: NDArray[np.float32] | None,
    labels: LabelSet,
    *,
    geometry: GridGeometry,
    size_hw: tuple[int, int],
    seen_bias: float = 0.0,
    out: tuple[NDArray[Any], NDArray[np.bool_]] | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Label every pixel of a frame from the network's grids.

    A pixel takes the label of greatest cosine with the bilinearly interpolated embedding, the
    nearest nodes repeated beyond the outermost ones; among the seen labels where the interpolated
    `seenmask[1] - seenmask[0] + seen_bias` is above 0, else among the unseen ones. Ties go to the
    lowest label.

    Args:
        embedding: (j, h, w) float32.
        seenmask: (2, h, w) float32 logits, channel 1 is seen; or None: all labels compete. It is
            ignored too where `labels` has no seen or no unseen label.
        labels: K labels of j numbers each.
        geometry: Where the nodes lie among the frame's pixels.
        size_hw: Height and width of the frame in pixels.
        seen_bias: Logit added to the seen side; greater means more seen pixels.
        out: Arrays to write to and return, C-contiguous, of the shapes and types below.

    Returns:
        The label map (H, W), indices into `labels.names`, uint8 up to 255 labels, uint16 up to
        65535, else int32; and (H, W) bool, True where the seenmask says seen, or where the label is
        seen if the seenmask was not used.

    Raises:
        InputError: If an array has the wrong shape or type or is not finite, or pixels lie more
            than a stride outside the grid.
    """
    from szn_runtime._sei_kernels import label_grid

    height, width = size_hw
    if height < 1 or width < 1:
        raise InputError("the frame has no pixels", got=f"size {height} x {width}")
    if not math.isfinite(seen_bias):
        raise InputError("seen_bias is not finite", got=seen_bias)
    _check_grid("embedding", embedding, channels=labels.dim)
    h, w = embedding.shape[1:]
    y_first, y_start, y_weight = _cells("rows", h, height, 0, geometry)
    x_first, x_start, x_weight = _cells("columns", w, width, 1, geometry)

    seen_ids = np.flatnonzero(labels.seen).astype(np.int32)
    masked = seenmask is not None and 0 < seen_ids.size < len(labels)
    if seenmask is not None:
        _check_grid("seenmask", seenmask, channels=2)
        if seenmask.shape[1:] != (h, w):
            raise InputError(
                "seenmask and embedding differ in size",
                got=f"{seenmask.shape[1:]}",
                expected=f"{(h, w)}",
            )
    if masked and seenmask is not None:
        unseen_ids = np.flatnonzero(~labels.seen).astype(np.int32)
        difference = seenmask[1].astype(np.float64) - seenmask[0] + seen_bias  # (h, w)
    else:
        seen_ids = np.arange(len(labels), dtype=np.int32)
        unseen_ids = np.empty(0, np.int32)
        difference = np.zeros((h, w))
    label_map, seen_map = _outputs(out, (height, width), label_dtype(len(labels)))
    largest = float(np.abs(embedding).max())
    label_grid(
        np.ascontiguousarray(embedding),
        math.ldexp(1.0, -math.frexp(largest)[1]),
        difference,
        masked,
        labels.embeddings,
        seen_ids,
        unseen_ids,
        labels.seen,
        y_first,
        y_start,
        y_weight,
        x_first,
        x_start,
        x_weight,
        _TILE_CELLS,
        _BLOCK_LABELS,
        _FILTER_FROM,
        label_map,
        seen_map,
    )
    return label_map, seen_map


def warm_up(dim: int) -> None:
    """Compile the kernels, or load them from the cache on disk, before the first frame.

    Args:
        dim: Length j of an embedding; its value does not matter to the kernels.
    """
    rows = np.eye(3, dim, dtype=np.float32) + np.float32(1)
    labels = LabelSet(names=("a", "b", "c"), embeddings=rows, seen=np.array([True, True, False]))
    segment_grid(
        np.ones((dim, 2, 2), np.float32),
        np.zeros((2, 2, 2), np.float32),
        labels,
        geometry=GridGeometry.square(4, 1.5),
        size_hw=(8, 8),
    )


def _check_grid(name: str, grid: NDArray[np.float32], *, channels: int) -> None:
    """Refuse a grid of another type, rank or number of channels, and numbers not finite."""
    if not isinstance(grid, np.ndarray) or grid.dtype != np.float32 or grid.ndim != 3:
        got = f"{grid.dtype} {grid.shape}" if isinstance(grid, np.ndarray) else type(grid).__name__
        raise InputError(f"{name} is no grid", got=got, expected="float32 (channels, h, w)")
    if grid.shape[0] != channels or grid.size == 0:
        raise InputError(
            f"{name} has another shape", got=grid.shape, expected=f"({channels}, h, w), h, w >= 1"
        )
    if not np.isfinite(grid).all():
        raise InputError(f"{name} holds numbers that are not finite")


def _cells(
    name: str, nodes: int, pixels: int, axis: int, geometry: GridGeometry
) -> tuple[int, NDArray[np.int64], NDArray[np.float32]]:
    """Where the pixels of one axis fall between its nodes.

    Cell i lies between nodes i and i + 1; cells -1 and `nodes - 1` have their one node twice.

    Returns:
        The first cell with pixels; (cells + 1,) the first pixel of each cell, then the end; and
        (2, pixels) the weights of both nodes.
    """
    at = (np.arange(pixels) - geometry.offset_yx[axis]) / geometry.stride_yx[axis]
    if at[0] < -_REACH or at[-1] > nodes - 1 + _REACH:
        raise InputError(
            f"the grid does not cover the {name} of the frame",
            got=f"pixels from {at[0]:.2f} to {at[-1]:.2f} of {nodes} nodes",
            expected=f"-1 to {nodes}: at most a stride outside",
            fix="check stride, offset and frame size",
        )
    cell = np.clip(np.floor(at), -1, nodes - 1).astype(np.int64)
    part = at - cell
    weight = np.stack([1 - part, part]).astype(np.float32)  # (2, pixels)
    first = int(cell[0])
    start = np.searchsorted(cell, np.arange(first, cell[-1] + 2)).astype(np.int64)
    return first, start, weight


def _outputs(
    out: tuple[NDArray[Any], NDArray[np.bool_]] | None,
    size_hw: tuple[int, int],
    dtype: np.dtype[Any],
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """New arrays, or those of the caller if they fit."""
    if out is None:
        return np.empty(size_hw, dtype), np.empty(size_hw, np.bool_)
    for array, kind in zip(out, (dtype, np.dtype(np.bool_)), strict=True):
        if array.shape != size_hw or array.dtype != kind or not array.flags.c_contiguous:
            raise InputError(
                "an output array does not fit",
                got=f"{array.dtype} {array.shape}",
                expected=f"C-contiguous {kind} {size_hw}",
            )
    return out
