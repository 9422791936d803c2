"""What a model says of one image: the two-row figures of thesis section 6.4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.overlay import label_colours
from szn_train.classes import VOID, ClassSplit
from szn_train.figures.canvas import new_figure, save_figure
from szn_train.figures.confusion import marked
from szn_train.mistakes import role

__all__ = ["Picture", "predictions_figure"]

_SEEN_RGB, _UNSEEN_RGB, _VOID_RGB = (225, 225, 225), (178, 38, 46), (0, 0, 0)
_WIDTH = 3.0  # inches of a picture
_LEAST_SHARE = 0.005  # of the picture, for a legend entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image, its truth and what a model says.

    Args:
        name: Of the image.
        image: (H, W, 3) uint8 BGR.
        truth: (H, W) label indices or 255 for void.
        prediction: (H, W) label indices.
        seenmask: (H, W) bool, True where the model takes a pixel for seen.
    """

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.integer]
    seenmask: NDArray[np.bool_]


def predictions_figure(
    picture: Picture, split: ClassSplit, stem: Path, *, title: str
) -> list[Path]:
    """Draw input, segmentation and seenmask: the truth above, the prediction below.

    Void is black in the truth. The prediction has no void: its map shows a label everywhere. Seen
    is light, unseen red. Below the input stands the legend; classes of train_unseen are marked
    (t), those of U (u).

    Args:
        picture: What is drawn.
        split: The classes.
        stem: Of the files; the data is a JSON file with pixels of each label and pixel accuracy.
        title: Above everything.

    Returns:
        The files written.
    """
    from matplotlib.patches import Patch

    height, width = picture.truth.shape
    figure, axes = new_figure(3 * _WIDTH, 2 * _WIDTH * height / width + 0.8, rows=2, columns=3)
    is_seen = split.is_member(split.train_seen)
    labelled = picture.truth != VOID
    true_seen = is_seen[np.where(labelled, picture.truth, 0)]
    panels = (
        ("input", picture.image[:, :, ::-1]),
        ("true segmentation", _coloured(picture.truth)),
        ("true seenmask", _seen_colours(true_seen, labelled)),
        ("", None),
        ("predicted segmentation", _coloured(picture.prediction)),
        ("predicted seenmask", _seen_colours(picture.seenmask, np.ones_like(labelled))),
    )
    for panel, (name, content) in zip([*axes[0], *axes[1]], panels, strict=True):
        panel.set_axis_off()
        if content is not None:
            panel.set_title(name, fontsize="medium")
            panel.imshow(content, interpolation="nearest")
    counts = {
        label: (int((picture.truth == i).sum()), int((picture.prediction == i).sum()))
        for i, label in enumerate(split.labels)
    }
    axes[1][0].legend(
        handles=[
            Patch(color=_unit(label_colours([index])[0]), label=marked(split, label))
            for index, label in enumerate(split.labels)
            if max(counts[label]) >= _LEAST_SHARE * picture.truth.size
        ],
        loc="center",
        ncols=2,
        frameon=False,
        fontsize="small",
    )
    figure.suptitle(title)
    right = (picture.prediction == picture.truth)[labelled]
    agrees = (picture.seenmask == true_seen)[labelled]
    data = {
        "image": picture.name,
        "title": title,
        "size_hw": [height, width],
        "pixel_accuracy": 100 * float(right.mean()) if right.size else None,
        "seenmask_accuracy": 100 * float(agrees.mean()) if agrees.size else None,
        "void_pixels": int((~labelled).sum()),
        "labels": [
            {
                "label": label,
                "set": role(split, label),
                "true_pixels": here,
                "predicted_pixels": said,
            }
            for label, (here, said) in counts.items()
            if here or said
        ],
    }
    return save_figure(figure, stem, data)


def _coloured(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(H, W) labels or void to (H, W, 3) RGB, each label in its colour of the overlays."""
    colours = np.empty((VOID + 1, 3), np.uint8)
    colours[:VOID] = label_colours(range(VOID))
    colours[VOID] = _VOID_RGB
    coloured: NDArray[np.uint8] = colours[labels]
    return coloured


def _seen_colours(seen: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(H, W) seenmask to (H, W, 3) RGB."""
    colours = np.where(seen[:, :, None], _SEEN_RGB, _UNSEEN_RGB)
    return np.where(labelled[:, :, None], colours, _VOID_RGB).astype(np.uint8)


def _unit(rgb: NDArray[np.uint8]) -> tuple[float, float, float]:
    red, green, blue = (float(part) / 255 for part in rgb)
    return red, green, blue
