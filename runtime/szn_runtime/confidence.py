"""How near a pixel's embedding is to the label it got, and the label "unknown" for those far off.

The cosine needs the length of the interpolated embedding v(p), which follows from the products of
the four nodes around p: `|v(p)|^2 = w^T G w` with their Gram matrix G and weights w. Neither it nor
the score of a label needs the embedding at the frame's resolution (docs/sei.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError, UsageError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.sei import _check_cover, _check_grid, label_dtype

__all__ = [
    "CellTables",
    "cell_tables",
    "check_label_map",
    "label_cosines",
    "mark_unknown",
    "warm_up",
]

CellTables = tuple[
    int, NDArray[np.int64], NDArray[np.float32], int, NDArray[np.int64], NDArray[np.float32]
]


def label_cosines(
    embedding: NDArray[np.float32],
    labels: NDArray[np.integer],
    label_set: LabelSet,
    *,
    geometry: GridGeometry,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Cosine between every pixel's embedding and that of its label.

    The pixel's embedding is the bilinearly interpolated one, border nodes repeated, as in
    `segment_grid`. Exact up to the rounding of float32 weights; the work does not grow with the
    number of labels.

    Args:
        embedding: (j, h, w) float32.
        labels: (H, W) integers, indices into the label set.
        label_set: K labels of j numbers each.
        geometry: Where the nodes lie among the frame's pixels.
        out: (H, W) float32 array to write to and return, C-contiguous.

    Returns:
        (H, W) float32 in -1 to 1; 0 where the embedding is 0 or shorter than float32 resolves:
        1e-7 of the weighted lengths of its nodes, or 1e-18 of the longest one of them.

    Raises:
        InputError: If an array has the wrong shape or type, the embedding is not finite, a label
            is none of the set, or pixels lie more than a stride outside the grid.
    """
    from szn_runtime._confidence_kernels import grid_cosines

    check_label_map(labels, len(label_set))
    tables = cell_tables(embedding, labels.shape, dim=label_set.dim, geometry=geometry)
    if out is None:
        out = np.empty(labels.shape, np.float32)
    elif out.shape != labels.shape or out.dtype != np.float32 or not out.flags.carray:
        raise InputError(
            "the output array does not fit",
            got=f"{out.dtype} {out.shape}",
            expected=f"writable, C-contiguous float32 {labels.shape}",
        )
    grid_cosines(
        # writable arrays and one type of map: each other kind would be compiled for seconds
        np.require(embedding.transpose(1, 2, 0), np.float32, ["C", "W"]),  # (h, w, j)
        label_set.embeddings,
        np.require(labels, np.int32, ["C", "W"]),
        *tables,
        out,
    )
    return out


def mark_unknown(
    labels: NDArray[Any], cosines: NDArray[np.float32], *, below: float, count: int
) -> NDArray[Any]:
    """Label "unknown", index `count`, the pixels whose cosine is below a threshold.

    Args:
        labels: (H, W) label map with indices up to `count`. Changed in place and returned if it is
            writable and of the type that `count + 1` labels need (`label_dtype`); else left alone.
        cosines: (H, W) of `label_cosines`.
        below: Threshold, -1 (no pixel) to 1 (all but exact ones); a pixel that reaches it keeps
            its label.
        count: Number of labels K without "unknown".

    Returns:
        (H, W) label map of `count + 1` labels.

    Raises:
        UsageError: If the threshold is no cosine.
        InputError: If the arrays differ in size, or a label is above `count`.
    """
    if not -1 <= below <= 1:
        raise UsageError(
            "the least cosine of a label is out of range", got=below, expected="-1 to 1"
        )
    check_label_map(labels, count + 1)
    if cosines.shape != labels.shape:
        raise InputError(
            "cosines and label map differ in size", got=cosines.shape, expected=labels.shape
        )
    dtype = label_dtype(count + 1)
    if labels.dtype != dtype or not labels.flags.writeable:
        labels = labels.astype(dtype)
    np.copyto(labels, dtype.type(count), where=cosines < below)
    return labels


def warm_up(dim: int) -> None:
    """Compile the kernels, or load them from the cache on disk, before the first frame.

    One call serves all types of label maps.

    Args:
        dim: Length j of an embedding; its value does not matter to the kernels.
    """
    label_cosines(
        np.ones((dim, 2, 2), np.float32),
        np.zeros((8, 8), np.uint8),
        LabelSet(names=("a",), embeddings=np.ones((1, dim), np.float32), seen=np.array([True])),
        geometry=GridGeometry.square(4, 1.5),
    )


def cell_tables(
    embedding: NDArray[np.float32],
    size_hw: tuple[int, ...],
    *,
    dim: int,
    geometry: GridGeometry,
) -> CellTables:
    """Where the pixels of a frame fall between the nodes of a grid, as the kernels take it.

    Args:
        embedding: The grid, to be (dim, h, w) float32 and finite.
        size_hw: Height and width of the frame in pixels.
        dim: Length j of an embedding.
        geometry: Where the nodes lie among the frame's pixels.

    Returns:
        For the rows, then for the columns: the first cell (-1: before the first node); (n + 1,)
        int64 first pixel of each of n cells, and the end; (2, pixels) float32 weights of the nodes
        before and after each pixel.

    Raises:
        InputError: If the grid does not fit, or pixels lie more than a stride outside it.
    """
    from szn_runtime._sei_kernels import _axis

    _check_grid("embedding", embedding, channels=dim)
    if not np.isfinite(embedding).all():
        raise InputError("embedding holds numbers that are not finite")
    (h, w), (height, width) = embedding.shape[1:], size_hw
    (stride_y, stride_x), (offset_y, offset_x) = geometry.stride_yx, geometry.offset_yx
    _check_cover("rows", h, height, 0, geometry)
    _check_cover("columns", w, width, 1, geometry)
    # floats, whatever the geometry was given: other types would be compiled anew
    return (
        *_axis(h, height, float(stride_y), float(offset_y)),
        *_axis(w, width, float(stride_x), float(offset_x)),
    )


def check_label_map(labels: NDArray[np.integer], count: int) -> None:
    """Refuse what is no map of `count` labels.

    Args:
        labels: To be (H, W), integers from 0 to `count - 1`.
        count: Number of labels.

    Raises:
        InputError: If it is not.
    """
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "iu":
        what = isinstance(labels, np.ndarray)
        raise InputError(
            "this is no label map",
            got=f"{labels.dtype} {labels.shape}" if what else type(labels).__name__,
            expected="integers (H, W)",
        )
    if not labels.size:
        raise InputError("the label map has no pixels", got=labels.shape)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= count:
        raise InputError(
            "the label map holds other labels than those of the set",
            got=low if low < 0 else high,
            expected=f"0 to {count - 1}",
        )
