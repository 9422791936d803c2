"""Readers of the files that data sets are made of; each failure is one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError, MissingDependencyError
from szn_train.classes import VOID

__all__ = ["checked_mask", "checked_pair", "read_image", "read_indices", "read_lines", "read_mat"]


def read_lines(path: Path, what: str) -> tuple[str, ...]:
    """Lines of a text file that are not empty, without surrounding blanks.

    Args:
        path: The file.
        what: What its lines should be, for messages.

    Raises:
        InputError: If there is no such file, it is not UTF-8 or has no such line.
    """
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


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 BGR; `cv2.imread` would print warnings and return None.

    Raises:
        InputError: If it cannot be read or decoded.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise InputError(f"{path} is not an image that OpenCV decodes", got=f"{content.size} bytes")
    return np.asarray(image, dtype=image.dtype)


def read_indices(path: Path) -> NDArray[np.uint8]:
    """Index values (H, W) of a grey or palette PNG; OpenCV would turn a palette into colours.

    Raises:
        InputError: If it is missing, no image, or not of one channel of 8 bits.
    """
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


def read_mat(path: Path, variable: str) -> Any:
    """One variable of a MATLAB file up to version 7, as scipy gives it; others stay unread.

    Raises:
        InputError: If the file is missing, damaged, or has no such variable.
        MissingDependencyError: If scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependencyError(
            "scipy is not installed", fix='pip install "szn[train]"'
        ) from error
    try:
        return loadmat(str(path), appendmat=False, variable_names=(variable,))[variable]
    except FileNotFoundError:
        raise InputError(f"mask {path} is missing") from None
    except KeyError:
        raise InputError(
            f"mask {path} has no variable {variable!r}", fix="unpack the data set again"
        ) from None
    except Exception as error:  # scipy's parser fails in a dozen ways on damaged files
        raise InputError(
            f"mask {path} is not a MATLAB file that scipy reads ({type(error).__name__}: {error})",
            fix="unpack the data set again",
        ) from error


def checked_mask(
    mask: NDArray[np.uint8], path: Path, count: int, *, classes: str, fix: str
) -> NDArray[np.uint8]:
    """A mask whose values are all classes or void.

    Args:
        mask: (H, W) uint8.
        path: Its file, for messages.
        count: Number of classes.
        classes: What names them, for messages.
        fix: What to do about a wrong value, for messages.

    Raises:
        InputError: If a value is neither below `count` nor 255.
    """
    wrong = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[count:VOID]) + count
    if wrong.size:
        raise InputError(
            f"mask {path} has an index outside {classes}",
            got=", ".join(map(str, wrong[:5].tolist())),
            expected=f"0 to {count - 1}, or {VOID} for void",
            fix=fix,
        )
    return mask


def checked_pair(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], image_id: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) and mask (H, W) as they came.

    Raises:
        InputError: If the two differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"image and mask {image_id!r} differ in size",
            got=f"image {image.shape[1]} x {image.shape[0]}, "
            f"mask {mask.shape[1]} x {mask.shape[0]}",
            expected="the same size",
            fix="resize the mask with nearest neighbour",
        )
    return image, mask
