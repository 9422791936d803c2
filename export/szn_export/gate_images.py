"""Real images for the gate and for calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from szn_export.quality import GateData
from szn_runtime._cv import cv2
from szn_runtime.errors import InputError
from szn_runtime.manifest import Preprocess
from szn_runtime.preprocess import normalise_into, plan
from szn_train.classes import ClassSplit
from szn_train.datasets import Dataset, open_dataset
from szn_train.run import Run

__all__ = ["calibration_frames", "gate_data", "gate_ids", "photos", "spread"]

_T = TypeVar("_T")

_MOST_MASKS = 1000
_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


def gate_data(run: Run, *, images: Path | None, count: int) -> GateData:
    """The images that artefacts are compared on.

    Args:
        run: The finished run; its validation split is used, with masks, if there are no others.
        images: A folder of photos instead.
        count: How many: photos evenly spread, those with masks as `gate_ids` chooses them.

    Raises:
        InputError: If there are none, or one cannot be read.
    """
    if images is not None:
        return GateData(images=photos(images, count, what="the gate"))
    dataset = _dataset(run, run.config.val_split, what="the gate", option="--images")
    lookup = run.split.mask_lookup()
    pairs = [dataset.pair(image_id) for image_id in gate_ids(dataset, run.split, count)]
    return GateData(
        images=[image for image, _ in pairs],
        truths=[lookup[mask] for _, mask in pairs],
        split=run.split,
        space=run.space,
    )


def gate_ids(dataset: Dataset, split: ClassSplit, count: int) -> list[str]:
    """Images of a data set for the gate, in its order: up to half of them show a class of U.

    U is rare, and its mIoU over two or three images says more of these than of an artefact. Beside
    them the images are evenly spread; where U is empty all are.

    Args:
        dataset: The images with their masks, of which at most 1,000 are looked at, and none if
            all images are taken.
        split: Its classes.
        count: How many at most.

    Raises:
        InputError: If a mask cannot be read.
    """
    if count >= len(dataset.ids):
        return list(dataset.ids)  # there is nothing to choose, and no mask to look at
    lookup, unseen = split.mask_lookup(), split.indices(split.unseen)
    looked_at = spread(dataset.ids, _MOST_MASKS) if len(unseen) else []
    of_unseen = [i for i in looked_at if np.isin(lookup[dataset.mask(i)], unseen).any()]
    chosen = set(spread(of_unseen, count // 2))
    chosen.update(spread([i for i in dataset.ids if i not in chosen], count - len(chosen)))
    return [image_id for image_id in dataset.ids if image_id in chosen]


def calibration_frames(
    run: Run, preprocess: Preprocess, *, images: Path | None, count: int
) -> list[NDArray[np.float32]]:
    """Normalised frames (1, 3, H, W) to calibrate INT8 with.

    Args:
        run: The finished run; its training split is used if there are no other images.
        preprocess: Of the bundle.
        images: A folder of photos instead.
        count: How many, evenly spread.

    Raises:
        InputError: If there are none, or one cannot be read.
    """
    if images is not None:
        chosen: list[NDArray[np.uint8]] = photos(images, count, what="calibration")
    else:
        dataset = _dataset(run, run.config.train_split, what="calibration", option="--calibration")
        chosen = [dataset.image(image_id) for image_id in spread(dataset.ids, count)]
    frames = []
    for image in chosen:
        layout = plan(image.shape[:2], long_side=preprocess.long_side, multiple=preprocess.multiple)
        frame = np.empty((1, 3, *layout.padded_hw), np.float32)
        normalise_into(image, layout, preprocess, frame[0])
        frames.append(frame)
    return frames


def photos(folder: Path, count: int, *, what: str) -> list[NDArray[np.uint8]]:
    """Photos of a folder, evenly spread.

    Raises:
        InputError: If there are none, or one cannot be read.
    """
    found = [path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES]
    if not found:
        raise InputError(
            f"no images for {what} in {folder}",
            expected=", ".join(sorted(_SUFFIXES)),
            fix="give a folder of photos such as the camera will see",
        )
    return [_read(path) for path in spread(sorted(found), count)]


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` items, evenly spaced, the first and last among them."""
    positions = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round())
    return [items[int(position)] for position in positions]


def _dataset(run: Run, split: str, *, what: str, option: str) -> Dataset:
    if not Path(run.config.data).is_dir():
        raise InputError(
            f"{what} needs real images, and the run's data set {run.config.data} is not there",
            fix=f"give {option} a folder of photos such as the camera will see",
        )
    return open_dataset(run.config, Path(run.config.data), split)


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} is not an image that OpenCV decodes")
    return np.asarray(image, dtype=np.uint8)
