"""PASCAL VOC's development kit: where its folders are and what to do when one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from szn_runtime.errors import InputError
from szn_train.datasets.files import read_lines

__all__ = ["DEVKITS", "find_devkits", "first_file", "missing", "read_ids"]

DEVKITS = {
    2012: "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    2011: "http://host.robots.ox.ac.uk/pascal/VOC/voc2011/VOCtrainval_25-May-2011.tar",
    2010: "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
}
"""Year of a challenge to its archive of training and validation data, the newest first."""

_PARENTS = ("VOCdevkit", "TrainVal/VOCdevkit", ".", "..")
"""Where the archives put `VOC<year>`, 2011's below `TrainVal`; or the user named VOCdevkit, or the
folder of one year."""


def find_devkits(root: Path) -> dict[int, Path]:
    """Folders `VOC<year>` of the years in `DEVKITS`, the newest first.

    Args:
        root: Folder that holds `VOCdevkit`, or is `VOCdevkit` or one of its `VOC<year>`.

    Returns:
        Year to folder, of those that are there.

    Raises:
        InputError: If `root` is no folder.
    """
    if not root.is_dir():
        raise InputError(f"no data set at {root}", expected="a folder", fix="check --data")
    # ".." only for a folder of one year, or strangers' data would be found beside the root
    parents = _PARENTS if root.name.startswith("VOC2") else _PARENTS[:-1]
    found = {}
    for year in DEVKITS:
        folders = (root / parent / f"VOC{year}" for parent in parents)
        folder = next((folder for folder in folders if (folder / "ImageSets").is_dir()), None)
        if folder is not None:
            found[year] = folder
    return found


def missing(what: str, root: Path, *, expected: str, url: str) -> InputError:
    """The error for a part of a data set that is not there: what to download, and where to."""
    return InputError(
        f"no {what} in {root}", expected=expected, fix=f"download {url} and unpack it in {root}"
    )


def first_file(candidates: Sequence[Path], what: str) -> Path:
    """The first of some files that exists.

    Raises:
        InputError: If none does.
    """
    for path in candidates:
        if path.is_file():
            return path
    others = "".join(f", nor at {path}" for path in candidates[1:])
    raise InputError(f"{what} is not at {candidates[0]}{others}", fix="unpack the data set again")


def read_ids(path: Path) -> tuple[str, ...]:
    """Image ids of a list, in file order.

    Raises:
        InputError: If the list is missing or empty, has several words a line, or an id twice.
    """
    ids = read_lines(path, "one image id a line")
    seen: set[str] = set()
    for image_id in ids:
        if len(image_id.split()) > 1:
            raise InputError(f"{path}", got=repr(image_id), expected="one image id a line")
        if image_id in seen:
            raise InputError(f"{path} lists {image_id!r} twice")
        seen.add(image_id)
    return ids
