"""Names, colours and shares of labels, drawn on a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2

__all__ = ["LegendEntry", "draw_legend"]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _GREY = (255, 255, 255), (190, 190, 190)
_UNSEEN_NOTE = "* not seen in training"


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
