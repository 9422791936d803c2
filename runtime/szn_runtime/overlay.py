"""What people look at: label colours, blending, region boundaries, the legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError

if TYPE_CHECKING:
    from szn_runtime.labels import LabelSet

__all__ = [
    "LegendEntry",
    "blend",
    "draw_boundaries",
    "draw_legend",
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
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _GREY = (255, 255, 255), (190, 190, 190)
_LEAST_SHARE = 0.005
_UNSEEN_NOTE = "* not seen in training"


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
    """Pixels of each label: `numpy.bincount` at the speed of a histogram.

    Args:
        labels: (H, W) label map with indices below `count`.
        count: Number of labels K.

    Returns:
        (K,) int64.
    """
    # calcHist answers in float32, which holds integers up to 2^24
    if labels.dtype == np.uint8 and labels.size < 1 << 24:
        histogram = cv2.calcHist([labels], [0], None, [256], [0, 256])
        return np.asarray(histogram.ravel()[:count], np.int64)
    return np.asarray(np.bincount(labels.ravel(), minlength=count), np.int64)


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
    """Draw light lines between regions, in place, one pixel wide for each 500 of the short side."""
    edge = np.zeros(labels.shape, np.uint8)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=edge[:, 1:], casting="unsafe")
    edge[1:] |= labels[1:] != labels[:-1]
    width = max(1, round(min(labels.shape) / 500))
    if width > 1:
        edge = cv2.dilate(edge, np.ones((width, width), np.uint8))
    light = cv2.convertScaleAbs(image_bgr, alpha=0.35, beta=0.65 * 255)
    cv2.copyTo(light, edge, image_bgr)


@dataclass(frozen=True, kw_only=True)
class LegendEntry:
    """One label of a legend.

    Args:
        name: The label.
        colour_rgb: Three numbers, 0 to 255.
        share: Share of the frame's pixels, 0 to 1.
        seen: Whether the network was trained on the label; others are marked with an asterisk.
    """

    name: str
    colour_rgb: tuple[int, int, int]
    share: float
    seen: bool

    @property
    def text(self) -> str:
        """Name, mark and share, as drawn; letters that the font lacks are replaced by `?`."""
        share = f"{self.share:.0%}" if self.share >= 0.01 else "<1%"
        name = self.name if len(self.name) <= 24 else f"{self.name[:22]}.."
        return f"{name.encode('ascii', 'replace').decode()}{'' if self.seen else ' *'} {share}"


def draw_legend(image_bgr: NDArray[np.uint8], entries: Sequence[LegendEntry]) -> None:
    """Draw a strip with colour chips, names and shares along the bottom, in place.

    The text grows with the frame and stays legible on small ones. Entries flow into rows; those
    that would cover more than a third of the frame are left out.

    Args:
        image_bgr: (H, W, 3) uint8 BGR, C-contiguous.
        entries: In the order in which they are drawn.
    """
    height, width = image_bgr.shape[:2]
    size = round(max(10.0, 7 + 0.0145 * min(height, width)))  # height of a capital letter and a bit
    scale = size / cv2.getTextSize("Hg", _FONT, 1.0, 1)[0][1]
    thickness = max(1, round(size / 18))
    margin, row_height = round(0.7 * size), round(1.75 * size)

    def text_width(text: str) -> int:
        return int(cv2.getTextSize(text, _FONT, scale, thickness)[0][0])

    most_rows = max(1, height // (3 * row_height))
    placed: list[tuple[LegendEntry, int, int]] = []  # entry, left edge, row
    left, row, end = margin, 0, 0
    for entry in entries:
        needed = round(1.5 * size) + text_width(entry.text)
        if left > margin and left + needed > width - margin:
            left, row = margin, row + 1
        if row == most_rows:
            break
        placed.append((entry, left, row))
        end = left + needed
        left = end + round(1.1 * size)
    if not placed:
        return
    rows = placed[-1][2] + 1
    top = height - rows * row_height - margin // 2
    strip = image_bgr[max(top, 0) :]
    cv2.convertScaleAbs(strip, dst=strip, alpha=0.28)

    def write(text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
        cv2.putText(image_bgr, text, (x, y), _FONT, scale, colour, thickness, cv2.LINE_AA)

    for entry, x, row in placed:
        middle = top + margin // 4 + row * row_height + row_height // 2
        chip = (x, middle - size // 2), (x + size, middle - size // 2 + size)
        cv2.rectangle(image_bgr, *chip, entry.colour_rgb[::-1], cv2.FILLED)
        write(entry.text, x + round(1.5 * size), middle + round(0.38 * size), _WHITE)
    note_width = text_width(_UNSEEN_NOTE)
    unseen = not all(entry.seen for entry, _, _ in placed)
    if unseen and end + size + note_width < width - margin:
        baseline = top + margin // 4 + (rows - 1) * row_height + row_height // 2
        write(_UNSEEN_NOTE, width - margin - note_width, baseline + round(0.38 * size), _GREY)


def render(
    image_bgr: NDArray[np.uint8],
    labels: NDArray[np.integer],
    label_set: LabelSet,
    *,
    alpha: float = 0.5,
    legend: bool = True,
    most_entries: int = 10,
) -> NDArray[np.uint8]:
    """The overlay of a frame: label colours, boundaries and legend.

    Args:
        image_bgr: (H, W, 3) uint8 BGR.
        labels: (H, W) indices into the label set.
        label_set: Names, and which labels were seen.
        alpha: Share of the label's colour, 0 to 1.
        legend: Whether to draw the legend: labels on 0.5 % of the frame or more, largest first.
        most_entries: Labels in the legend at most.

    Returns:
        (H, W, 3) uint8 BGR, a new array.

    Raises:
        InputError: If frame and label map differ in size or alpha is out of range.
    """
    counts = label_counts(labels, len(label_set))  # (K,)
    present = np.flatnonzero(counts)  # (n,)
    colours = label_colours(present)  # (n, 3)
    rank = np.zeros(len(label_set), np.uint8 if len(present) <= 256 else np.int32)  # (K,)
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
                    name=label_set.names[present[i]],
                    colour_rgb=(int(colours[i, 0]), int(colours[i, 1]), int(colours[i, 2])),
                    share=float(counts[present[i]] / labels.size),
                    seen=bool(label_set.seen[present[i]]),
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
