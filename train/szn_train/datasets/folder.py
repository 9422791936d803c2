"""The folder format: `images/<id>.jpg`, `masks/<id>.png`, `classes.txt`, `splits/<split>.txt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError
from szn_train.classes import VOID

__all__ = ["FolderDataset"]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def _lines(path: Path, what: str) -> tuple[str, ...]:
    """Lines of a text file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing", expected=what, fix="see the data format") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text", expected=what) from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise InputError(f"{path} is empty", expected=what)
    return lines


def _decode(path: Path, flags: int) -> NDArray[np.uint8]:
    """An image file as an array; `cv2.imread` would print warnings and return None."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    image = cv2.imdecode(content, flags) if content.size else None
    if image is None:
        raise InputError(f"{path} is not an image that OpenCV decodes", got=f"{content.size} bytes")
    return np.asarray(image, dtype=image.dtype)


@dataclass(frozen=True, kw_only=True)
class FolderDataset:
    """One split of a data set in the folder format.

    Args:
        root: Folder with `images`, `masks`, `classes.txt` and `splits`.
        split: Name of a file in `splits`, without `.txt`.

    Raises:
        InputError: If a file of the format is missing, empty or lists an id twice.
    """

    root: Path
    split: str

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise InputError(f"no data set at {self.root}", expected="a folder", fix="check --data")
        names, ids = self.class_names, self.ids
        if len(names) > VOID:
            raise InputError(f"{self.root / 'classes.txt'}", got=len(names), expected=f"<= {VOID}")
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"split {self.split!r} of {self.root} lists {twice!r} twice")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Lines of `classes.txt`; the position is the mask value."""
        return _lines(self.root / "classes.txt", "one class name a line")

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids of the split, in file order."""
        path = self.root / "splits" / f"{self.split}.txt"
        if not path.is_file():
            there = sorted(p.stem for p in path.parent.glob("*.txt"))
            raise InputError(
                f"data set {self.root} has no split {self.split!r}",
                expected=f"one of {', '.join(there)}" if there else "splits/<split>.txt",
            )
        return _lines(path, "one image id a line")

    def image_path(self, image_id: str) -> Path:
        """Path of an image, whichever of the usual suffixes it has."""
        for suffix in _IMAGE_SUFFIXES:
            path = self.root / "images" / f"{image_id}{suffix}"
            if path.is_file():
                return path
        raise InputError(
            f"image {image_id!r} of split {self.split!r} is not in {self.root / 'images'}",
            expected=f"{image_id}.jpg or another of {', '.join(_IMAGE_SUFFIXES)}",
        )

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Image as HWC uint8 BGR in [0, 255]."""
        return _decode(self.image_path(image_id), cv2.IMREAD_COLOR)

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Mask as (H, W) uint8: class index, 255 = void.

        Raises:
            InputError: If the mask is missing, not 8 bit of one channel (a palette is fine), or
                holds an index outside `classes.txt`.
        """
        path = self.root / "masks" / f"{image_id}.png"
        mask = _read_indices(path)
        count = len(self.class_names)
        wrong = np.unique(mask[(mask >= count) & (mask != VOID)])
        if wrong.size:
            raise InputError(
                f"mask {path} has an index outside classes.txt",
                got=", ".join(map(str, wrong[:5].tolist())),
                expected=f"0 to {count - 1}, or {VOID} for void",
                fix="correct the mask or add the class",
            )
        return mask

    def pair(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and mask (H, W).

        Raises:
            InputError: Also if the two differ in size.
        """
        image, mask = self.image(image_id), self.mask(image_id)
        if image.shape[:2] != mask.shape:
            raise InputError(
                f"image and mask {image_id!r} differ in size",
                got=f"image {image.shape[1]} x {image.shape[0]}, "
                f"mask {mask.shape[1]} x {mask.shape[0]}",
                expected="the same size",
                fix="resize the mask with nearest neighbour",
            )
        return image, mask


def _read_indices(path: Path) -> NDArray[np.uint8]:
    """Index values of a grey or palette PNG; OpenCV would turn a palette into colours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            # Pillow stretches grey of 2 and 4 bits to 0..255, which would change the indices.
            packed = next((t[3] for t in picture.tile if t[3] in {"L;2", "L;4"}), None)
            picture.load()
            mode, indices = packed or picture.mode, np.asarray(picture)
    except FileNotFoundError:
        raise InputError(f"mask {path} is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"mask {path} is not an image ({error})") from error
    if mode not in {"L", "P"}:
        raise InputError(
            f"mask {path} is not a map of class indices",
            got=f"mode {mode}",
            expected="8 bit grey or palette PNG",
            fix="save the class index of each pixel, not its colour",
        )
    return np.ascontiguousarray(indices, dtype=np.uint8)
