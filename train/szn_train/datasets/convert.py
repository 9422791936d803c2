"""ADE20K and Cityscapes in the folder format: `python -m szn_train.datasets.convert`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from szn_runtime._command import Command
from szn_runtime._cv import cv2
from szn_runtime.errors import InputError
from szn_train.classes import VOID
from szn_train.datasets.files import read_indices, read_lines

__all__ = ["convert"]

_CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
"""The 19 classes that Cityscapes evaluates, and their values in `labelIds`."""

Files = tuple[str, Path, Path]
"""Image id, image and mask."""


def convert(kind: str, source: Path, target: Path) -> dict[str, int]:
    """Write the training and the validation split of a data set in the folder format.

    Images are linked, masks are written anew with class indices and 255 for void.

    Args:
        kind: "ade20k" (ADEChallengeData2016, 150 classes) or "cityscapes" (gtFine, 19 classes).
        source: Folder that the data set's archive was unpacked to.
        target: Folder to write; it must be new or empty.

    Returns:
        Number of images of each split.

    Raises:
        InputError: If a part of the data set is missing or damaged, or `target` has files.
    """
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} is not empty", fix="name a new folder")
    values = _ade20k_classes(source) if kind == "ade20k" else _CITYSCAPES
    files = _ade20k_files if kind == "ade20k" else _cityscapes_files
    lookup = np.full(256, VOID, np.uint8)
    lookup[list(values.values())] = np.arange(len(values))
    for name in ("images", "masks", "splits"):
        (target / name).mkdir(parents=True, exist_ok=True)
    (target / "classes.txt").write_text("".join(f"{name}\n" for name in values))
    counts = {}
    for split in ("train", "val"):
        ids = []
        for image_id, image, mask in files(source, split):
            (target / "images" / f"{image_id}{image.suffix}").symlink_to(image.resolve())
            _write_mask(target / "masks" / f"{image_id}.png", lookup[read_indices(mask)])
            ids.append(image_id)
        if not ids:
            raise InputError(f"{source} has no images of split {split!r}", expected=f"{kind}")
        (target / "splits" / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
        counts[split] = len(ids)
    return counts


def _ade20k_classes(source: Path) -> Mapping[str, int]:
    """First name of each of the 150 classes to its value; 0 is "other objects"."""
    path = source / "objectInfo150.txt"
    classes = {}
    for line in read_lines(path, "the table of classes of ADEChallengeData2016")[1:]:
        value, *_, names = line.split("\t")
        if not value.isdecimal():
            raise InputError(f"{path}", got=repr(line), expected="lines that start with a number")
        classes[names.split(",")[0].strip()] = int(value)
    return classes


def _ade20k_files(source: Path, split: str) -> Iterator[Files]:
    folder = {"train": "training", "val": "validation"}[split]
    for image in sorted((source / "images" / folder).glob("*.jpg")):
        yield image.stem, image, source / "annotations" / folder / f"{image.stem}.png"


def _cityscapes_files(source: Path, split: str) -> Iterator[Files]:
    for image in sorted((source / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        image_id = image.stem.removesuffix("_leftImg8bit")
        folder = source / "gtFine" / split / image.parent.name
        yield image_id, image, folder / f"{image_id}_gtFine_labelIds.png"


def _write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    path.write_bytes(cv2.imencode(".png", mask)[1].tobytes())


@click.command("python -m szn_train.datasets.convert", cls=Command)
@click.argument("kind", type=click.Choice(["ade20k", "cityscapes"]))
@click.argument("source", type=click.Path(file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(kind: str, source: Path, target: Path) -> None:
    """Write ADE20K or Cityscapes in SOURCE to TARGET, in the folder format of szn-train."""
    for split, count in convert(kind, source, target).items():
        click.echo(f"{split}: {count} images")


if __name__ == "__main__":
    main()
