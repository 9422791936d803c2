"""A confusion matrix, each row in percent of its class' pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_train.classes import ClassSplit
from szn_train.figures.canvas import new_figure, save_figure
from szn_train.metrics import row_percent
from szn_train.mistakes import role

__all__ = ["confusion_figure", "marked"]

_MARKS = {"train_seen": "", "train_unseen": " (t)", "unseen": " (u)"}
_LEAST_PERCENT = 5  # smaller numbers would fill the matrix with noise


def confusion_figure(
    confusion: NDArray[np.int64], split: ClassSplit, stem: Path, *, title: str
) -> list[Path]:
    """Draw a confusion matrix; classes of train_unseen are marked (t), those of U (u).

    Args:
        confusion: (K, K) pixels, rows truth, columns prediction, over the labels of `split`.
        split: The classes.
        stem: Of the files; the data is a CSV file with a row for each class.
        title: Above the matrix.

    Returns:
        The files written.
    """
    percent = row_percent(confusion)  # (K, K)
    labels = split.labels
    # The seen classes first: what the seenmask mixes up are then the two blocks off the diagonal.
    roles = [role(split, label) for label in labels]
    order = np.argsort([list(_MARKS).index(each) for each in roles], kind="stable")
    shown = percent[np.ix_(order, order)]
    names = [marked(split, labels[index]) for index in order]
    side = 2 + 0.32 * len(labels)
    figure, [[axes]] = new_figure(side + 0.8, side)
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(labels))
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    axes.tick_params(labelsize="small")
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    axes.set_title(title)
    for border in np.flatnonzero(np.diff([roles[i] != "train_seen" for i in order])):
        axes.axhline(border + 0.5, color="black", linewidth=0.8)
        axes.axvline(border + 0.5, color="black", linewidth=0.8)
    for row, column in zip(*np.nonzero(np.nan_to_num(shown) >= _LEAST_PERCENT), strict=True):
        value = shown[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=6,
            color="white" if value > 50 else "black",
        )  # fmt: skip
    figure.colorbar(image, ax=axes, label="percent of the class' pixels", shrink=0.8)
    rows = [
        {"truth": labels[i], **dict(zip(labels, percent[i].tolist(), strict=True))}
        for i in range(len(labels))
    ]
    return save_figure(figure, stem, rows)


def marked(split: ClassSplit, label: str) -> str:
    """A label with the mark of its set: `boat (t)` of train_unseen, `sheep (u)` of U."""
    return label + _MARKS[role(split, label)]
