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
        batch_size: Images in a batch of one process; the last may have fewer.
        rank: Of this process among those that share the batches.
        processes: Their number. Each takes its share of `processes * batch_size` images; where
            fewer are left than processes, some get an image without labels.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: ClassSplit,
        ids: tuple[str, ...],
        *,
        transform: Transform,
        batch_size: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._dataset, self._ids = dataset, ids
        self._rank, self._processes = rank, processes
        self._together = batch_size * processes
        self._lookup = split.mask_lookup()
        self._transform = transform

    def __len__(self) -> int:
        return math.ceil(len(self._ids) / self._together)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames (N, 3, H, W) float32 and targets (N, H, W) int64."""
        yield from self.draw(self.order())

    def order(self) -> list[int]:
        """A new random order of the images, from torch's generator."""
        order: list[int] = torch.randperm(len(self._ids)).tolist()
        return order

    def draw(self, order: list[int], first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an order from batch `first` on."""
        for start in range(first * self._together, len(order), self._together):
            together = order[start : start + self._together]
            own = together[self._rank :: self._processes]
            pairs = [self._pair(position) for position in own or together[:1]]
            frames, targets = _stack(pairs)
            if not own:
                targets.fill_(VOID)
            yield frames, targets

    def _pair(self, position: int) -> tuple[Tensor, Tensor]:
        image, mask = self._dataset.pair(self._ids[position])
        return self._transform(image, self._lookup[mask])


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
