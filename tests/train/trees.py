"""Miniature data sets in the official folder layouts of PASCAL VOC, SBD and PASCAL-Context.

Masks are real palette PNGs and MATLAB files. `write_voc_sbd` and `write_context` make whole trees:

    VOC   train (SBD)   classes of `SBD_TRAIN`, two images each with aeroplane, horse, sheep, train
          val           `VAL`; VOC 2011's list has two ids of SBD more
    Context             the scenes of `CONTEXT`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from szn_runtime._cv import cv2
from szn_runtime.overlay import palette
from szn_train.datasets.context import CONTEXT_CLASSES
from szn_train.datasets.voc import VOC_CLASSES

if TYPE_CHECKING:
    from tests.train.catalogue import Pair

SIZE_HW = (36, 48)

SBD_TRAIN = {
    "2008_000002": ("background", "cat"),
    "2008_000008": ("background", "cow", "person"),
    "2008_000015": ("background", "bottle"),
    "2008_000019": ("background", "cat", "sofa"),
    "2009_000001": ("background", "aeroplane"),
    "2009_000006": ("background", "aeroplane", "person"),
    "2010_000001": ("background", "horse"),
    "2010_000009": ("background", "horse", "person"),
    "2010_000015": ("background", "sheep"),
    "2011_000004": ("background", "train"),
}
SBD_VAL = {
    "2008_000001": ("background", "cow"),
    "2009_000002": ("background", "sofa"),
}
VAL = {
    "2007_000033": ("background", "cat"),
    "2007_000042": ("background", "train", "person"),
    "2008_000003": ("background", "sheep"),
    "2011_000003": ("background", "aeroplane", "cow"),
}
"""The images that `val` must have: those of VOC 2011 val outside SBD."""

CONTEXT = {
    "train": {
        "2008_000008": ("grass", "sky", "cow"),
        "2008_000015": ("wall", "floor", "bottle"),
        "2010_000011": ("grass", "sky", "aeroplane"),
        "2010_000020": ("road", "building", "train"),
    },
    "val": {
        "2008_000002": ("wall", "floor", "diningtable"),
        "2008_000003": ("grass", "sky", "sheep"),
    },
}

NUMBERS_OF_459 = {
    "aeroplane": 2, "bicycle": 23, "bird": 25, "boat": 31, "bottle": 34, "bus": 45, "car": 59,
    "cat": 65, "chair": 72, "cow": 98, "diningtable": 397, "dog": 113, "horse": 207,
    "motorbike": 258, "person": 284, "pottedplant": 308, "sheep": 347, "sofa": 368, "train": 416,
    "tvmonitor": 427, "sky": 360, "grass": 187, "ground": 189, "road": 324, "building": 44,
    "tree": 420, "water": 445, "mountain": 259, "wall": 440, "floor": 158, "track": 415,
    "keyboard": 220, "ceiling": 68,
}  # fmt: skip
"""Numbers of the 33 classes in PASCAL-Context's `labels.txt`."""


def picture(names: Sequence[str], classes: Sequence[str], *, seed: int = 0) -> Pair:
    """An image of vertical stripes in the classes' palette colours with noise, and its mask."""
    height, width = SIZE_HW
    values = np.array([classes.index(name) for name in names], np.uint8)
    columns = np.arange(width) * len(values) // width
    mask = np.tile(values[columns], (height, 1))  # (H, W)
    colours = palette(256)[:, ::-1].astype(np.int64)
    noise = np.random.default_rng(seed).integers(-10, 11, (height, width, 3))
    return np.clip(colours[mask] + noise, 0, 255).astype(np.uint8), mask


def write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())


def write_palette_png(path: Path, mask: NDArray[np.uint8]) -> None:
    """A mask as VOC has it: 8 bit with the VOC palette, white for void."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coloured = Image.fromarray(mask, mode="P")
    coloured.putpalette(palette(256).tobytes())
    coloured.save(path)


def write_sbd_mat(path: Path, mask: NDArray[np.uint8]) -> None:
    """A mask as SBD has it: the structure GTcls with boundaries, labels and categories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    present = np.setdiff1d(np.unique(mask), [0])
    boundaries = np.empty((20, 1), dtype=object)
    boundaries[:, 0] = [np.zeros(mask.shape, np.uint8) for _ in range(20)]
    structure = {
        "Boundaries": boundaries,
        "Segmentation": mask,
        "CategoriesPresent": present[:, None],
    }
    savemat(path, {"GTcls": structure}, do_compression=True)


def write_list(path: Path, ids: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image_id}\n" for image_id in ids))


def write_devkit(
    folder: Path, pairs: Mapping[str, Pair], lists: Mapping[str, Iterable[str]]
) -> None:
    """A folder `VOC<year>`: images, palette masks and the lists of `ImageSets`."""
    for image_id, (image, mask) in pairs.items():
        write_jpeg(folder / "JPEGImages" / f"{image_id}.jpg", image)
        write_palette_png(folder / "SegmentationClass" / f"{image_id}.png", mask)
    for name, ids in lists.items():
        write_list(folder / "ImageSets" / f"{name}.txt", ids)


def write_sbd(folder: Path, pairs: Mapping[str, Pair], lists: Mapping[str, Iterable[str]]) -> None:
    """SBD's folder: images, MATLAB masks, `train.txt` and `val.txt`."""
    for image_id, (image, mask) in pairs.items():
        write_jpeg(folder / "img" / f"{image_id}.jpg", image)
        write_sbd_mat(folder / "cls" / f"{image_id}.mat", mask)
    for name, ids in lists.items():
        write_list(folder / f"{name}.txt", ids)


def voc_pairs(scenes: Mapping[str, Sequence[str]]) -> dict[str, Pair]:
    """Images of VOC's classes; the last row of each mask is void, as at the edge of an object."""
    pairs = {}
    for seed, (image_id, names) in enumerate(scenes.items()):
        image, mask = picture(names, VOC_CLASSES, seed=seed)
        mask[-1] = 255
        pairs[image_id] = image, mask
    return pairs


def sbd_pairs(scenes: Mapping[str, Sequence[str]]) -> dict[str, Pair]:
    """Images of VOC's classes without void, as SBD labels them."""
    return {
        image_id: picture(names, VOC_CLASSES, seed=seed)
        for seed, (image_id, names) in enumerate(scenes.items())
    }


def write_voc_sbd(root: Path) -> Path:
    """VOC 2012, the lists of VOC 2011 and SBD, where their archives put them."""
    in_sbd = ("2008_000002", "2009_000002")  # one of each list of SBD
    write_devkit(
        root / "VOCdevkit" / "VOC2012",
        voc_pairs(VAL | SBD_VAL),
        {
            "Segmentation/train": list(SBD_VAL),
            "Segmentation/val": list(VAL),
            "Segmentation/trainval": sorted(VAL | SBD_VAL),
        },
    )
    write_devkit(
        root / "TrainVal" / "VOCdevkit" / "VOC2011",
        {},
        {"Segmentation/val": sorted([*VAL, *in_sbd])},
    )
    write_sbd(
        root / "benchmark_RELEASE" / "dataset",
        sbd_pairs(SBD_TRAIN | SBD_VAL),
        {"train": list(SBD_TRAIN), "val": list(SBD_VAL)},
    )
    return root


def labels_of_459() -> list[str]:
    """Lines of `labels.txt`: the 33 classes at their real numbers, placeholders elsewhere."""
    names = {number: name for name, number in NUMBERS_OF_459.items()}
    names[NUMBERS_OF_459["diningtable"]] = "table"
    return [f"{number}: {names.get(number, f'other {number}')}" for number in range(1, 460)]


def context_map(mask: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Class indices (H, W) as numbers of the 459 labels; void becomes one of the other labels."""
    numbers = np.full(256, 459, np.uint16)
    for index, name in enumerate(CONTEXT_CLASSES):
        numbers[index] = NUMBERS_OF_459[name]
    return numbers[mask]


def write_context(root: Path, *, reduced: bool = False, year: int = 2010) -> Path:
    """VOC 2010 and PASCAL-Context; every second image has a void row, the others none.

    Args:
        root: Where to.
        reduced: Write `33_context_labels`, not the 459 labels.
        year: Of the development kit that has the images and, for 2010, the lists.
    """
    lists = {f"Main/{split}": list(scenes) for split, scenes in CONTEXT.items()}
    devkit = root / "VOCdevkit" / f"VOC{year}"
    write_devkit(devkit, {}, lists if year == 2010 else {"Main/train": ["2012_000001"]})
    if not reduced:
        write_list(root / "labels.txt", labels_of_459())
    for scenes in CONTEXT.values():
        for image_id in scenes:
            image, mask = context_pair(image_id)
            write_jpeg(devkit / "JPEGImages" / f"{image_id}.jpg", image)
            if reduced:
                write_palette_png(root / "33_context_labels" / f"{image_id}.png", mask + 1)
            else:
                path = root / "trainval" / f"{image_id}.mat"
                path.parent.mkdir(exist_ok=True)
                savemat(path, {"LabelMap": context_map(mask)}, do_compression=True)
    return root


def context_pair(image_id: str) -> Pair:
    """Image and mask of an image of `CONTEXT`; odd ids have a void row."""
    names = next(scenes[image_id] for scenes in CONTEXT.values() if image_id in scenes)
    image, mask = picture(names, CONTEXT_CLASSES, seed=int(image_id[-3:]))
    if int(image_id[-1]) % 2:
        mask[0] = 255
    return image, mask
