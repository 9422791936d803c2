"""A contact sheet: images of a data set beside their coloured masks, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError, SinkError
from szn_runtime.overlay import label_colours
from szn_train.classes import VOID
from szn_train.datasets.base import Dataset

__all__ = ["contact_sheet", "write_contact_sheet"]

_BOX_HW = (144, 192)
_GAP = 8
_COLUMNS = 3
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = 255
_VOID_BGR = (0, 0, 0)


def write_contact_sheet(path: Path, dataset: Dataset, ids: Sequence[str], count: int = 24) -> None:
    """Write the sheet of some images as a PNG.

    Raises:
        InputError: If there is no image, or one cannot be read.
        SinkError: If the file cannot be written.
    """
    content = cv2.imencode(".png", contact_sheet(dataset, ids, count))[1].tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise SinkError(f"{path} cannot be written ({error.strerror})") from error


def contact_sheet(dataset: Dataset, ids: Sequence[str], count: int = 24) -> NDArray[np.uint8]:
    """Images beside their masks, in rows of three pairs, and the colours of the classes below.

    Args:
        dataset: Where the images come from.
        ids: Images to take from.
        count: How many, evenly spread over `ids`.

    Returns:
        (H, W, 3) uint8 BGR. Void is black.

    Raises:
        InputError: If there is no image, or one cannot be read.
    """
    if not ids:
        raise InputError(f"split {dataset.split!r} of {dataset.root} has no image to draw")
    colours = np.zeros((VOID + 1, 3), np.uint8)
    colours[: len(dataset.class_names)] = label_colours(range(len(dataset.class_names)))
    colours[VOID] = _VOID_BGR[::-1]
    positions = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    cells = []
    for position in positions:
        image, mask = dataset.pair(ids[position])
        coloured = np.ascontiguousarray(colours[mask][:, :, ::-1])  # (H, W) -> (H, W, 3) BGR
        cells.append(
            np.hstack([_fitted(image, cv2.INTER_AREA), _fitted(coloured, cv2.INTER_NEAREST)])
        )
    blank = np.full_like(cells[0], _WHITE)
    cells += [blank] * (-len(cells) % _COLUMNS)
    rows = [np.hstack(cells[start : start + _COLUMNS]) for start in range(0, len(cells), _COLUMNS)]
    return np.vstack([*rows, _legend(dataset.class_names, colours, rows[0].shape[1])])


def _fitted(picture: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) scaled into a box, on white."""
    height, width = picture.shape[:2]
    scale = min(_BOX_HW[0] / height, _BOX_HW[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    box = np.full((_BOX_HW[0] + _GAP, _BOX_HW[1] + _GAP, 3), _WHITE, np.uint8)
    box[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=interpolation)
    return box


def _legend(names: Sequence[str], colours: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Chips and names of the classes on white, in as many rows as they need."""
    entries = [
        *((name, colours[value]) for value, name in enumerate(names)),
        ("void", colours[VOID]),
    ]
    column, line = 180, 20
    across = max(1, width // column)
    strip = np.full((line * -(-len(entries) // across) + _GAP, width, 3), _WHITE, np.uint8)
    for number, (name, rgb) in enumerate(entries):
        x, y = number % across * column, number // across * line
        chip = tuple(int(part) for part in rgb[::-1])
        cv2.rectangle(strip, (x + 2, y + 3), (x + 16, y + 17), chip, cv2.FILLED)
        text = name.encode("ascii", "replace").decode()[:20]
        cv2.putText(strip, text, (x + 22, y + 15), _FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
