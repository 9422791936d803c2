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
_FILTER_FROM = 1536
_CANDIDATES = 1 << 20  # 20 bytes each; a frame of a trained network has some thousands
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
    from szn_runtime._sei_kernels import BAD_EMBEDDING, label_grid

    height, width = size_hw
    if height < 1 or width < 1:
        raise InputError("the frame has no pixels", got=f"size {height} x {width}")
    if not math.isfinite(seen_bias):
        raise InputError("seen_bias is not finite", got=seen_bias)
    _check_grid("embedding", embedding, channels=labels.dim)
    _check_cover("rows", embedding.shape[1], height, 0, geometry)
    _check_cover("columns", embedding.shape[2], width, 1, geometry)
    if seenmask is not None:
        _check_grid("seenmask", seenmask, channels=2)
        if seenmask.shape[1:] != embedding.shape[1:]:
            raise InputError(
                "seenmask and embedding differ in size",
                got=f"{seenmask.shape[1:]}",
                expected=f"{embedding.shape[1:]}",
            )
    label_map, seen_map = _outputs(out, (height, width), label_dtype(len(labels)))
    status = label_grid(
        *_arguments(embedding, seenmask, labels, geometry, seen_bias), label_map, seen_map
    )
    if status != 0:
        name = "embedding" if status == BAD_EMBEDDING else "seenmask"
        raise InputError(f"{name} holds numbers that are not finite")
    return label_map, seen_map


def warm_up(dim: int, count: int = 1) -> None:
    """Compile the kernels, or load them from the cache on disk, before the first frame.

    Args:
        dim: Length j of an embedding; its value does not matter to the kernels.
        count: Number of labels K to segment with, which sets the type of the label map.
    """
    from szn_runtime._sei_kernels import label_grid

    rows = np.eye(3, dim, dtype=np.float32) + np.float32(1)
    labels = LabelSet(names=("a", "b", "c"), embeddings=rows, seen=np.array([True, True, False]))
    grids = np.ones((dim, 2, 2), np.float32), np.zeros((2, 2, 2), np.float32)
    label_map, seen_map = np.empty((8, 8), label_dtype(count)), np.empty((8, 8), np.bool_)
    geometry = GridGeometry.square(4, 1.5)
    label_grid(*_arguments(*grids, labels, geometry, 0.0), label_map, seen_map)


def _arguments(
    embedding: NDArray[np.float32],
    seenmask: NDArray[np.float32] | None,
    labels: LabelSet,
    geometry: GridGeometry,
    seen_bias: float,
) -> tuple[Any, ...]:
    """Arguments of `label_grid` but the outputs, always of the same types: others would compile."""
    (stride_y, stride_x), (offset_y, offset_x) = geometry.stride_yx, geometry.offset_yx
    return (
        _plain_array(embedding),
        np.zeros((2, 1, 1), np.float32) if seenmask is None else _plain_array(seenmask),
        seenmask is not None,
        float(seen_bias),
        labels.embeddings,
        labels.seen,
        (float(stride_y), float(stride_x)),
        (float(offset_y), float(offset_x)),
        _TILE_CELLS,
        _BLOCK_LABELS,
        _FILTER_FROM,
        _CANDIDATES,
    )


def _plain_array(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """The grid, or a copy if it is read-only or not contiguous."""
    return grid if grid.flags.carray else grid.copy()


def _check_grid(name: str, grid: NDArray[np.float32], *, channels: int) -> None:
    """Refuse a grid of another type, rank or number of channels."""
    if not isinstance(grid, np.ndarray) or grid.dtype != np.float32 or grid.ndim != 3:
        got = f"{grid.dtype} {grid.shape}" if isinstance(grid, np.ndarray) else type(grid).__name__
        raise InputError(f"{name} is no grid", got=got, expected="float32 (channels, h, w)")
    if grid.shape[0] != channels or grid.size == 0:
        raise InputError(
            f"{name} has another shape", got=grid.shape, expected=f"({channels}, h, w), h, w >= 1"
        )


def _check_cover(name: str, nodes: int, pixels: int, axis: int, geometry: GridGeometry) -> None:
    """Refuse pixels along one axis that lie more than a stride outside the nodes."""
    first = -geometry.offset_yx[axis] / geometry.stride_yx[axis]
    last = (pixels - 1 - geometry.offset_yx[axis]) / geometry.stride_yx[axis]
    if first < -_REACH or last > nodes - 1 + _REACH:
        raise InputError(
            f"the grid does not cover the {name} of the frame",
            got=f"pixels from {first:.2f} to {last:.2f} of {nodes} nodes",
            expected=f"-1 to {nodes}: at most a stride outside",
            fix="check stride, offset and frame size",
        )


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
