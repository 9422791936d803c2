"""What people look at: label colours, blending, region boundaries."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError
from szn_runtime.legend import LegendEntry, draw_legend

__all__ = [
    "blend",
    "draw_boundaries",
    "draw_seenmask",
    "label_colours",
    "label_counts",
    "palette",
    "render",
]

# Told apart at half opacity on a photo. Index order, so that a label keeps its colour from frame to
# frame; the first ones suit the label order of szn-mini (building, grass, tree, ...).
_CURATED = bytes.fromhex(
    "d1583f 9acd4e 2f8f46 a9714b f3dfa2 56b4f0 8a63d2 1f5fbf f2a28a e8336d"
    "ffb01f d94fd0 ffe34d 00b8a0 c49a8a ff7a45 8297a6 d3a0ea a8a832 b3262e"
    "3fd0e0 6b4b8f 7a5c14 e06c9f 00695c 4a6cf7 c0ca33 5d4037"
)
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_LEAST_SHARE = 0.005


def palette(count: int) -> NDArray[np.uint8]:
    """The PASCAL VOC colour map, for index masks.

    The bits of an index are dealt to red, green and blue in turn, highest first (VOC development
    kit, `VOClabelcolormap`).

    Args:
        count: Number of colours K.

    Returns:
        (K, 3) uint8 RGB.
    """
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def label_colours(indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """Colours for overlays: a curated list, then hues a golden ratio apart.

    Args:
        indices: n label indices; a colour depends on its index alone.

    Returns:
        (n, 3) uint8 RGB.
    """
    curated = np.frombuffer(_CURATED, np.uint8).reshape(-1, 3)
    colours = np.empty((len(indices), 3), np.uint8)
    for row, index in enumerate(map(int, indices)):
        if index < len(curated):
            colours[row] = curated[index]
        else:
            saturation, value = ((0.55, 0.95), (0.8, 0.8), (0.7, 0.55))[index % 3]
            rgb = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1.0, saturation, value)
            colours[row] = [round(255 * part) for part in rgb]
    return colours


def label_counts(labels: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Pixels of each label: `numpy.bincount`, but fast, since neighbours mostly have one label.

    Args:
        labels: (H, W) label map, uint8, uint16 or int32, with indices below `count`.
        count: Number of labels K.

    Returns:
        (K,) int64.
    """
    from szn_runtime._overlay_kernels import count_labels

    counts = np.zeros(count, np.int64)
    count_labels(np.ascontiguousarray(labels), counts)
    return counts


def blend(
    image_bgr: NDArray[np.uint8],
    labels: NDArray[np.integer],
    palette_rgb: NDArray[np.uint8],
    alpha: float = 0.5,
) -> NDArray[np.uint8]:
    """Mix a frame with the colours of its labels.

    Args:
        image_bgr: (H, W, 3) uint8 BGR.
        labels: (H, W) indices into `palette_rgb`.
        palette_rgb: (K, 3) uint8 RGB.
        alpha: Share of the label's colour, 0 to 1.

    Returns:
        (H, W, 3) uint8 BGR, a new array.

    Raises:
        InputError: If frame and label map differ in size or alpha is out of range.
    """
    if image_bgr.shape != (*labels.shape, 3):
        raise InputError(
            "label map and frame differ in size", got=labels.shape, expected=image_bgr.shape[:2]
        )
    if not 0 <= alpha <= 1:
        raise InputError("overlay opacity is out of range", got=alpha, expected="0 to 1")
    bgr = palette_rgb[:, ::-1]
    if labels.dtype == np.uint8:
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(bgr), 0] = bgr[:256]
        colours = cv2.applyColorMap(labels, table)
    else:
        colours = np.take(bgr, labels, axis=0)  # (H, W) -> (H, W, 3)
    mixed: NDArray[np.uint8] = cv2.addWeighted(image_bgr, 1 - alpha, colours, alpha, 0)
    return mixed


def draw_boundaries(image_bgr: NDArray[np.uint8], labels: NDArray[np.integer]) -> None:
    """Draw light lines between regions, one pixel wide for each 500 of the short side.

    Args:
        image_bgr: (H, W, 3) uint8 BGR, C-contiguous, changed.
        labels: (H, W) label map, uint8, uint16 or int32.
    """
    from szn_runtime._overlay_kernels import lighten, mark_edges

    edge = np.empty(labels.shape, np.uint8)
    mark_edges(np.ascontiguousarray(labels), edge)
    width = max(1, round(min(labels.shape) / 500))
    if width > 1:
        edge = cv2.dilate(edge, np.ones((width, width), np.uint8))
    lighten(edge, image_bgr.reshape(len(image_bgr), -1))  # (H, W, 3) -> (H, W * 3)


def render(
    image_bgr: NDArray[np.uint8],
    labels: NDArray[np.integer],
    names: Sequence[str],
    seen: NDArray[np.bool_],
    *,
    alpha: float = 0.5,
    legend: bool = True,
    most_entries: int = 10,
) -> NDArray[np.uint8]:
    """The overlay of a frame: label colours, boundaries and legend.

    Args:
        image_bgr: (H, W, 3) uint8 BGR.
        labels: (H, W) indices into the names.
        names: K label names.
        seen: (K,) which labels the network was trained on.
        alpha: Share of the label's colour, 0 to 1.
        legend: Whether to draw the legend: labels on 0.5 % of the frame or more, largest first.
        most_entries: Labels in the legend at most.

    Returns:
        (H, W, 3) uint8 BGR, a new array.

    Raises:
        InputError: If frame and label map differ in size or alpha is out of range.
    """
    counts = label_counts(labels, len(names))  # (K,)
    present = np.flatnonzero(counts)  # (n,)
    colours = label_colours(present)  # (n, 3)
    rank = np.zeros(len(names), np.uint8 if len(present) <= 256 else np.int32)  # (K,)
    rank[present] = np.arange(len(present))
    # a vocabulary has more labels than a colour table, a frame hardly ever does
    ranks = cv2.LUT(labels, np.resize(rank, 256)) if labels.dtype == np.uint8 else rank[labels]
    overlay = blend(image_bgr, ranks, colours, alpha)
    draw_boundaries(overlay, ranks)
    if legend:
        order = np.argsort(-counts[present], kind="stable")
        # specks would only make the legend flicker; the largest label always has its entry
        worth = counts[present[order]] >= _LEAST_SHARE * labels.size
        largest = order[: max(1, min(most_entries, int(worth.sum())))]
        draw_legend(
            overlay,
            [
                LegendEntry(
                    name=names[present[i]],
                    colour_rgb=(int(colours[i, 0]), int(colours[i, 1]), int(colours[i, 2])),
                    share=float(counts[present[i]] / labels.size),
                    seen=bool(seen[present[i]]),
                )
                for i in largest
            ],
        )
    return overlay


def draw_seenmask(image_bgr: NDArray[np.uint8], seenmask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Show where the network sees what it was trained on.

    Args:
        image_bgr: (H, W, 3) uint8 BGR.
        seenmask: (H, W) True where seen.

    Returns:
        (H, W, 3) uint8 BGR: seen pixels in bluish grey, unseen ones in orange.
    """
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    shown = blend(
        cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR),
        seenmask.astype(np.uint8),
        np.array([[255, 140, 0], [70, 90, 110]], np.uint8),
        0.5,
    )
    draw_boundaries(shown, seenmask.astype(np.uint8))
    return shown
