"""Where the data of the thesis' tables lie, and what to download where they do not."""

from __future__ import annotations

from pathlib import Path

from thesis_voc import DOWNLOADS, KINDS

from szn_runtime.errors import InputError
from szn_train.datasets import open_dataset

__all__ = ["data_folder"]


def data_folder(dataset: str, root: Path) -> Path:
    """Folder of the data set below the root.

    Args:
        dataset: "msrc21", or "thesis" for VOC and Context.
        root: What the user named.

    Raises:
        InputError: If something is missing: one line that says what to download and where to put
            it.
    """
    if dataset == "msrc21":
        folder = root if (root / "classes.txt").is_file() else root / "msrc21"
        if not (folder / "classes.txt").is_file():
            raise InputError(
                f"no MSRC-21 in {root}",
                expected="msrc21/ with images, masks, classes.txt and splits, see docs/data.md",
                fix="download MSRC-21 (v2) from Microsoft Research Cambridge, write its masks as "
                "class indices, and put it there",
            )
        for split in ("train", "val"):
            open_dataset("folder", folder, split)
        return folder
    problems = []
    for kind in KINDS:
        for split in ("train", "val"):
            try:
                open_dataset(kind, root, split)
            except InputError as error:
                problems.append(error.what)
                break  # the other split lacks the same
    if problems:
        raise InputError(
            "; ".join(problems),
            fix=f"download {' '.join(DOWNLOADS)} and unpack all of them in {root}, "
            "or give --dataset msrc21",
        )
    return root
