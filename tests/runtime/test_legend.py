from __future__ import annotations

import numpy as np
import pytest

from szn_runtime.legend import LegendEntry, draw_legend


def test_legend_text_marks_unseen_labels_and_small_shares() -> None:
    def text(name: str, share: float, seen: bool) -> str:
        return LegendEntry(name=name, colour_rgb=(0, 0, 0), share=share, seen=seen).text

    assert text("cow", 0.336, True) == "cow 34%"
    assert text("sheep", 0.336, False) == "sheep * 34%"
    assert text("cow", 0.004, True) == "cow <1%"
    assert text("Bäume", 0.5, True) == "B?ume 50%"
    assert text("x" * 40, 0.5, True) == "x" * 22 + ".. 50%"


@pytest.mark.parametrize("size_hw", [(120, 160), (213, 320), (480, 640), (1080, 1920)])
def test_legend_covers_a_third_at_most_and_holds_its_colours(size_hw: tuple[int, int]) -> None:
    image = np.full((*size_hw, 3), 255, np.uint8)
    entries = [
        LegendEntry(name=f"label {i}", colour_rgb=(200, i, 7), share=0.1, seen=i > 0)
        for i in range(10)
    ]
    draw_legend(image, entries)
    changed = np.flatnonzero((image != 255).any(axis=(1, 2)))
    assert changed.min() >= size_hw[0] * 0.6
    assert changed.max() == size_hw[0] - 1
    chip = (image == (7, 0, 200)).all(axis=2)  # BGR of the first entry
    assert chip.sum() >= 64  # at least 8 x 8 pixels


def test_legend_on_a_frame_of_a_few_pixels_does_not_fail() -> None:
    image = np.full((3, 2, 3), 255, np.uint8)
    entry = LegendEntry(name="cow", colour_rgb=(1, 2, 3), share=1.0, seen=False)
    draw_legend(image, [entry])
    assert image.shape == (3, 2, 3)
