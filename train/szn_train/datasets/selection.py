"""Which images of a split train which part of the network (thesis section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets.folder import FolderDataset

__all__ = ["Selection", "select"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Image ids for the two training steps, and what was left out.

    Attributes:
        embedding_ids: Images whose labelled pixels are all in train_seen.
        seenmask_ids: Images whose labelled pixels are in train_seen or train_unseen; holds
            `embedding_ids`.
        dropped_unseen: Number of images with a class of U.
        dropped_empty: Number of images with void pixels only.
        pixels: Of shape (labels,): pixels per label over the whole split.
    """

    embedding_ids: tuple[str, ...]
    seenmask_ids: tuple[str, ...]
    dropped_unseen: int
    dropped_empty: int
    pixels: NDArray[np.int64]

    def facts(self, split: ClassSplit) -> dict[str, object]:
        """Plain values for the run folder and the console."""
        return {
            "tuple": list(split.sizes),
            "embedding_images": len(self.embedding_ids),
            "seenmask_images": len(self.seenmask_ids),
            "dropped_unseen": self.dropped_unseen,
            "dropped_empty": self.dropped_empty,
            "pixels": dict(zip(split.labels, self.pixels.tolist(), strict=True)),
        }


def select(dataset: FolderDataset, split: ClassSplit) -> Selection:
    """Choose the images for both steps from the classes that their masks show.

    Void pixels never drop an image. Every mask and every image size is checked on the way, so
    that bad data is found before hours are spent.

    Raises:
        InputError: If a mask is bad, or no image is left for a step that is needed.
    """
    lookup = split.mask_lookup()
    seen, unseen = split.is_member(split.train_seen), split.is_member(split.unseen)
    pixels = np.zeros(len(split.labels), dtype=np.int64)
    embedding_ids, seenmask_ids = [], []
    dropped_unseen = dropped_empty = 0
    for image_id in dataset.ids:
        _, mask = dataset.pair(image_id)
        counts = np.bincount(lookup[mask].ravel(), minlength=VOID + 1)[: len(split.labels)]
        pixels += counts
        present = counts > 0
        if not present.any():
            dropped_empty += 1
        elif (present & unseen).any():
            dropped_unseen += 1
        else:
            seenmask_ids.append(image_id)
            if not (present & ~seen).any():
                embedding_ids.append(image_id)
    if not embedding_ids:
        raise InputError(
            f"split {dataset.split!r} of {dataset.root} leaves no image for the embedding",
            expected="images whose pixels are all in train_seen",
            fix="shorten --train-unseen or --unseen",
        )
    if split.train_unseen and len(seenmask_ids) == len(embedding_ids):
        raise InputError(
            f"split {dataset.split!r} of {dataset.root} has no image of "
            f"{', '.join(split.train_unseen)} without a class of U",
            fix="choose another --train-unseen",
        )
    return Selection(
        embedding_ids=tuple(embedding_ids),
        seenmask_ids=tuple(seenmask_ids),
        dropped_unseen=dropped_unseen,
        dropped_empty=dropped_empty,
        pixels=pixels,
    )
