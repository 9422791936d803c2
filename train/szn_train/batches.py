"""Batches of images for a training step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import Dataset
from szn_train.transforms import Transform

__all__ = ["Batches"]


class Batches:
    """Batches of some images of a data set, in a new random order each time they are iterated.

    Args:
        dataset: Where the images come from.
        split: Its classes; targets are its label indices.
        ids: The images.
        transform: Image and label indices to tensors.
        batch_size: Images in a batch; the last may have fewer.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: ClassSplit,
        ids: tuple[str, ...],
        *,
        transform: Transform,
        batch_size: int,
    ) -> None:
        self._dataset, self._ids, self._batch_size = dataset, ids, batch_size
        self._lookup = split.mask_lookup()
        self._transform = transform

    def __len__(self) -> int:
        return math.ceil(len(self._ids) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames (N, 3, H, W) float32 and targets (N, H, W) int64."""
        order = torch.randperm(len(self._ids)).tolist()
        for start in range(0, len(order), self._batch_size):
            pairs = []
            for position in order[start : start + self._batch_size]:
                image, mask = self._dataset.pair(self._ids[position])
                pairs.append(self._transform(image, self._lookup[mask]))
            yield _stack(pairs)


def _stack(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One batch (N, 3, H, W), (N, H, W); smaller frames are padded with zeros and void."""
    height = max(frame.shape[1] for frame, _ in pairs)
    width = max(frame.shape[2] for frame, _ in pairs)
    frames = torch.zeros(len(pairs), 3, height, width)
    targets = torch.full((len(pairs), height, width), VOID)
    for row, (frame, target) in enumerate(pairs):
        frames[row, :, : frame.shape[1], : frame.shape[2]] = frame
        targets[row, : target.shape[0], : target.shape[1]] = target
    return frames.contiguous(memory_format=torch.channels_last), targets
