"""What a row of `sei.py` measures: a number of labels, a seenmask, a frame and a grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["MANY", "SEENMASKS", "Case", "cases"]

SEENMASKS = {
    "own": "the network's own seenmask; its own labels are seen or not as it was trained",
    "half": "shifted by its median so that half of the nodes are unseen, every other label seen: "
    "both halves of SEI have work everywhere",
}
"""Names of the seenmasks, and what each means."""

MANY = 400_000
"""The most labels of a row."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: what is segmented, and how many turns."""

    labels: int
    seenmask: str = "half"
    size_hw: tuple[int, int] = (480, 640)
    stride: int = 32
    turns: int = 3


def cases(*, quick: bool) -> Iterator[Case]:
    """The rows of a run."""
    if quick:
        yield Case(labels=21, seenmask="own", turns=7)
        yield Case(labels=21, turns=7)
        yield Case(labels=1000)
        yield Case(labels=MANY)
        return
    for seenmask in SEENMASKS:
        for labels, turns in ((21, 15), (1000, 7), (20_000, 3), (MANY, 5)):
            yield Case(labels=labels, seenmask=seenmask, turns=turns)
    for size_hw, stride in (
        ((480, 640), 16),
        ((480, 640), 8),
        ((720, 1280), 32),
        ((1080, 1920), 32),
    ):
        yield Case(labels=21, size_hw=size_hw, stride=stride, turns=5)
        yield Case(labels=1000, size_hw=size_hw, stride=stride, turns=2)
