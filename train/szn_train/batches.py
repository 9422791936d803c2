"""Batches of images for a training step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from szn_runtime.errors import SznError
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import Dataset
from szn_train.memory import memory_for
from szn_train.transforms import Transform
from szn_train.workers import START_METHOD, begin, ended_as_errors, starting

__all__ = ["BYTES_PER_PIXEL", "Batch", "Batches", "Drawn"]

Batch = tuple[Tensor, Tensor]
"""Frames (N, 3, H, W) float32 and targets (N, H, W) uint8, which are an eighth of int64 on the way
from a worker to the device; `ClassSplit` has no more labels than fit."""


BYTES_PER_PIXEL = 13
"""Of a batch: three values of its frame and a target."""


class Drawn(NamedTuple):
    """An image in an order: its position among the ids, and the seed of its augmentation."""

    position: int
    seed: int


class Batches:
    """Batches of some images of a data set, in an order that is drawn anew for each epoch.

    They are the same whatever process prepares them, and whatever else draws random numbers. One
    order at a time; a context that ends the workers, which the first order starts.

    Args:
        dataset: Where the images come from.
        split: Its classes; targets are its label indices.
        ids: The images.
        transform: Image and label indices to tensors.
        batch_size: Images in a batch of one process; the last may have fewer.
        rank: Of this process among those that share the batches.
        processes: Their number. Each takes its share of `processes * batch_size` images; where
            fewer are left than processes, some get an image without labels.
        workers: Processes that prepare batches ahead for this one; 0 prepares them in this one.
            Data set and transform are pickled for them.
        pinned: Whether batches of workers lie in memory that a GPU copies from by itself.
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
        workers: int = 0,
        pinned: bool = False,
    ) -> None:
        self._count = len(ids)
        self._rank, self._processes = rank, processes
        self._together = batch_size * processes
        self._preparation = _Preparation(
            dataset=dataset, ids=ids, lookup=split.mask_lookup(), transform=transform
        )
        self._workers, self._pinned = workers, pinned
        self._shares: list[_Share] = []
        self._loader: DataLoader[Batch | Exception] | None = None
        self._running: Any = None  # torch's iterator, which has the workers

    def __len__(self) -> int:
        return math.ceil(self._count / self._together)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, if there are any."""
        running, self._running, self._loader = self._running, None, None
        if running is not None:
            # torch does it when nothing refers to the iterator; the traceback of an error may
            running._shutdown_workers()

    def order(self) -> list[Drawn]:
        """A new random order of the images, from torch's generator."""
        positions: list[int] = torch.randperm(self._count).tolist()
        seeds: list[int] = torch.randint(2**32, (self._count,)).tolist()
        return [Drawn(*pair) for pair in zip(positions, seeds, strict=True)]

    def draw(self, order: list[Drawn], first: int = 0) -> Iterator[Batch]:
        """The batches of an order from batch `first` on.

        Raises:
            InputError: If an image or a mask cannot be used.
            TrainingError: If memory runs out, or a worker ended.
        """
        shares = [
            self._share(order[start : start + self._together])
            for start in range(first * self._together, len(order), self._together)
        ]
        prepared = map(self._preparation.__getitem__, shares)
        for batch in self._by_workers(shares) if self._workers else prepared:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def _share(self, together: list[Drawn]) -> _Share:
        """What this process takes of the images of one batch of all processes."""
        own = together[self._rank :: self._processes]
        return _Share(images=own or together[:1], is_labelled=bool(own))

    def _by_workers(self, shares: list[_Share]) -> Iterator[Batch | Exception]:
        """The batches of some shares as workers send them."""
        self._shares[:] = shares
        with ended_as_errors():
            with starting(), warnings.catch_warnings():
                # more of them than cores are the user's choice
                warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
                self._loader = self._loader or self._new_loader()
                self._running = iter(self._loader)
            yield from self._running

    def _new_loader(self) -> DataLoader[Batch | Exception]:
        """Torch's loader of what `_shares` holds when it is iterated."""
        return DataLoader(
            self._preparation,
            sampler=self._shares,
            batch_size=None,  # a share is a batch already
            collate_fn=_as_it_is,
            num_workers=self._workers,
            persistent_workers=True,
            multiprocessing_context=START_METHOD,
            worker_init_fn=begin,
            pin_memory=self._pinned,
            generator=torch.Generator(),  # else it draws from that of the training process
        )


class _Share(NamedTuple):
    """Images of one batch of one process, and whether their labels count."""

    images: list[Drawn]
    is_labelled: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _Preparation(MapDataset[Batch | Exception]):
    """From a share to its batch, in a worker or in the training process."""

    dataset: Dataset
    ids: tuple[str, ...]
    lookup: NDArray[np.uint8]
    transform: Transform

    def __getitem__(self, share: _Share) -> Batch | Exception:
        """The batch, or what is wrong: torch would make one text of an error and its traceback."""
        try:
            with memory_for(f"a batch of {len(share.images)} images"):
                frames, targets = _stack([self._pair(drawn) for drawn in share.images])
                if not share.is_labelled:
                    targets.fill_(VOID)
                if torch.utils.data.get_worker_info() is not None:
                    # here, because an error of the thread that sends them would be lost
                    for tensor in (frames, targets):
                        tensor.share_memory_()  # type: ignore[no-untyped-call]
                return frames, targets
        except (SznError, OSError) as error:
            return error

    def _pair(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        image, mask = self.dataset.pair(self.ids[drawn.position])
        with _seeded(drawn.seed):
            return self.transform(image, self.lookup[mask])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """A context whose random numbers are its own: those before and after it do not notice."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _as_it_is(batch: Any) -> Any:
    return batch


def _stack(pairs: list[tuple[Tensor, Tensor]]) -> Batch:
    """One batch (N, 3, H, W), (N, H, W); smaller frames are padded with zeros and void."""
    height = max(frame.shape[1] for frame, _ in pairs)
    width = max(frame.shape[2] for frame, _ in pairs)
    frames = torch.zeros(len(pairs), 3, height, width)
    targets = torch.full((len(pairs), height, width), VOID, dtype=torch.uint8)
    for row, (frame, target) in enumerate(pairs):
        frames[row, :, : frame.shape[1], : frame.shape[2]] = frame
        targets[row, : target.shape[0], : target.shape[1]] = target
    return frames.contiguous(memory_format=torch.channels_last), targets
