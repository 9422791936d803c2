"""Labels of the grid's cells: what a model of the seenmask is fitted on without upsampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.classes import VOID

__all__ = ["cell_labels", "node_labels"]


def cell_labels(target: NDArray[np.uint8], stride: int, purity: float = 0.75) -> NDArray[np.uint8]:
    """The label that covers most of the `stride` x `stride` pixels around each node.

    Nodes sit in the centre of their cell, as with every same-padded backbone (`docs/sei.md`).

    Args:
        target: (H, W) label indices or `VOID`, both sides multiples of the stride.
        stride: Pixels between two nodes.
        purity: Share of the cell's pixels that the label must cover; cells where none does are
            void, for their features are of two classes.

    Returns:
        (H / stride, W / stride) label indices or `VOID`.

    Raises:
        InputError: If a side is no multiple of the stride, or the purity is not in (0, 1].
    """
    height, width = target.shape
    if height % stride or width % stride:
        raise InputError(
            "size of the target", got=f"{height} x {width}", expected=f"multiples of {stride}"
        )
    if not 0 < purity <= 1:
        raise InputError("purity of a cell", got=purity, expected="in (0, 1]")
    h, w = height // stride, width // stride
    blocks = target.reshape(h, stride, w, stride).transpose(0, 2, 1, 3)  # (h, w, stride, stride)
    cell = np.repeat(np.arange(h * w), stride * stride) * (VOID + 1)
    counts = np.bincount(cell + blocks.ravel(), minlength=h * w * (VOID + 1))
    counts = counts.reshape(h, w, VOID + 1)
    best = counts.argmax(axis=2)
    enough = counts.max(axis=2) >= purity * stride * stride
    return np.where(enough, best, VOID).astype(np.uint8)


def node_labels(
    target: NDArray[np.uint8], nodes_hw: tuple[int, int], stride: int, offset: float
) -> NDArray[np.uint8]:
    """`cell_labels` for a grid that begins anywhere; what lies outside the target is void.

    Args:
        target: (H, W) label indices or `VOID`.
        nodes_hw: Nodes (h, w) of the grid.
        stride: Pixels between two nodes.
        offset: Position of the first node's centre, in pixels.

    Returns:
        (h, w) label indices or `VOID`.
    """
    first = round(offset - (stride - 1) / 2)
    height, width = (nodes * stride for nodes in nodes_hw)
    canvas = np.full((height, width), VOID, np.uint8)
    top = max(-first, 0)
    part = target[max(first, 0) :, max(first, 0) :][: height - top, : width - top]
    canvas[top : top + part.shape[0], top : top + part.shape[1]] = part
    return cell_labels(canvas, stride)
