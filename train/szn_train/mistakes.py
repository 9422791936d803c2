"""Where the pixels of a class went: which labels a model gave them."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.classes import ClassSplit

__all__ = ["Destination", "check_labels", "destinations", "role"]


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A label that pixels of a class received.

    Attributes:
        label: The label given.
        pixels: How many of the class' pixels received it.
        percent: These as a share of the class' pixels.
        right: Whether the label is the class itself.
    """

    label: str
    pixels: int
    percent: float
    right: bool


def destinations(
    confusion: NDArray[np.int64], labels: tuple[str, ...], name: str
) -> tuple[Destination, ...]:
    """The labels that the pixels of one class received, most pixels first.

    Labels that none received are left out, so a class without pixels has no destination. Ties
    keep the order of the labels.

    Args:
        confusion: (K, K), rows truth, columns prediction.
        labels: K names.
        name: The class.

    Raises:
        InputError: If `name` is no label; the message names similar ones.
    """
    check_labels(labels, (name,))
    row = confusion[labels.index(name)]
    total = int(row.sum())
    return tuple(
        Destination(
            label=labels[column],
            pixels=int(row[column]),
            percent=100 * int(row[column]) / total,
            right=labels[column] == name,
        )
        for column in np.argsort(-row, kind="stable")
        if row[column]
    )


def check_labels(labels: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Refuse names that are no labels.

    Raises:
        InputError: Naming the first such name and similar labels.
    """
    for name in names:
        if name not in labels:
            near = get_close_matches(name, labels, n=3, cutoff=0.5) or labels[:5]
            raise InputError(
                f"{name!r} is not a label of the run", fix=f"use one such as {', '.join(near)}"
            )


def role(split: ClassSplit, label: str) -> str:
    """The set of a split that a label is in: "train_seen", "train_unseen" or "unseen"."""
    if label in split.unseen:
        return "unseen"
    return "train_unseen" if label in split.train_unseen else "train_seen"
