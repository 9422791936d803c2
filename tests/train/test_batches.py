from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from szn_runtime.errors import InputError, TrainingError
from szn_train.backbones import BackboneInfo
from szn_train.batches import BYTES_PER_PIXEL, Batches, Drawn
from szn_train.classes import VOID
from szn_train.datasets import FolderDataset
from szn_train.transforms import augmented, plain, preprocess_of
from tests.train import catalogue


def as_it_is(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Pixels and labels without preprocessing."""
    return torch.from_numpy(image).permute(2, 0, 1).float(), torch.from_numpy(target).long()


def noisy(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Random numbers in the place of pixels."""
    return torch.rand(3, *target.shape), torch.from_numpy(target).long()


def killed(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """The system ends a worker that takes more memory than there is."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return as_it_is(image, target)


def drawn(*positions: int) -> list[Drawn]:
    """An order with seeds of its own."""
    return [Drawn(position, 100 + position) for position in positions]


@pytest.fixture
def dataset(tmp_path: Path) -> FolderDataset:
    """Five images of different sizes; the second class of each name's number is void."""
    pairs = {
        f"i{n}": catalogue.scene("grass", "rock", size_hw=(8 + 2 * n, 20 - 2 * n), seed=n)
        for n in range(5)
    }
    root = catalogue.write_dataset(tmp_path / "data", {"train": pairs})
    return FolderDataset(root=root, split="train")


def epoch_of(batches: Batches) -> list[tuple[Tensor, Tensor]]:
    """The batches of a new order."""
    return list(batches.draw(batches.order()))


def batches_of(dataset: FolderDataset, batch_size: int) -> Batches:
    return Batches(dataset, catalogue.SPLIT, dataset.ids, transform=as_it_is, batch_size=batch_size)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (9, [5])])
def test_every_image_comes_once(dataset: FolderDataset, batch_size: int, sizes: list[int]) -> None:
    batches = batches_of(dataset, batch_size)
    assert len(batches) == len(sizes)
    found = epoch_of(batches)
    assert [len(frames) for frames, _ in found] == sizes
    assert [len(target) for _, target in found] == sizes
    # images differ in size, so their number of labelled pixels tells them apart
    labelled = sorted(int((t != VOID).sum()) for _, target in found for t in target)
    assert labelled == sorted((8 + 2 * n) // 2 * (20 - 2 * n) for n in range(5))


def test_smaller_images_are_padded_with_zeros_and_void(dataset: FolderDataset) -> None:
    torch.manual_seed(0)
    ((frames, targets),) = epoch_of(batches_of(dataset, 5))
    assert frames.shape == (5, 3, 16, 20)
    assert targets.shape == (5, 16, 20)
    assert (frames.dtype, targets.dtype) == (torch.float32, torch.uint8)
    assert frames.nbytes + targets.nbytes == targets.numel() * BYTES_PER_PIXEL
    assert frames.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    order = torch.randperm(5).tolist()
    for row, number in enumerate(order):
        height, width = 8 + 2 * number, 20 - 2 * number
        image, mask = dataset.pair(f"i{number}")
        expected = torch.from_numpy(image).permute(2, 0, 1).float()
        torch.testing.assert_close(frames[row, :, :height, :width], expected)
        assert (frames[row, :, height:] == 0).all()
        assert (frames[row, :, :, width:] == 0).all()
        assert (targets[row, height:] == VOID).all()
        assert (targets[row, :, width:] == VOID).all()
        rock = torch.from_numpy(mask == catalogue.CLASSES.index("rock"))
        inside = targets[row, :height, :width]
        assert (inside[rock] == VOID).all()
        assert (inside[~rock] == catalogue.SPLIT.labels.index("grass")).all()


def test_the_order_is_new_each_time_and_torchs(dataset: FolderDataset) -> None:
    batches = batches_of(dataset, 1)

    def order() -> list[tuple[int, ...]]:
        return [tuple(target.shape) for _, target in epoch_of(batches)]

    torch.manual_seed(7)
    first, second = order(), order()
    torch.manual_seed(7)
    assert order() == first
    assert sorted(second) == sorted(first)
    assert second != first


def test_an_order_can_be_drawn_from_any_batch_on(dataset: FolderDataset) -> None:
    batches = batches_of(dataset, 2)
    order = drawn(3, 0, 4, 1, 2)
    whole = list(batches.draw(order))
    for first in range(4):
        rest = list(batches.draw(order, first))
        assert len(rest) == 3 - first
        for (ours, _), (theirs, _) in zip(rest, whole[first:], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("processes", "batch_size"), [(2, 1), (2, 2), (3, 1), (4, 2)])
def test_processes_share_every_image_of_an_order(
    dataset: FolderDataset, processes: int, batch_size: int
) -> None:
    order = drawn(3, 0, 4, 1, 2)
    sizes, counts = [], []
    for rank in range(processes):
        batches = Batches(
            dataset, catalogue.SPLIT, dataset.ids, transform=as_it_is, batch_size=batch_size,
            rank=rank, processes=processes,
        )  # fmt: skip
        found = list(batches.draw(order))
        assert len(found) == len(batches)
        counts.append(len(found))
        for frames, target in found:
            assert len(frames) <= batch_size
            sizes += [int((t != VOID).sum()) for t in target]
    assert len(set(counts)) == 1  # none waits for another
    labelled = sorted(size for size in sizes if size)
    assert labelled == sorted((8 + 2 * n) // 2 * (20 - 2 * n) for n in range(5))
    # where images ran out, an image without labels stands in
    together = processes * batch_size
    missing = [max(0, processes - min(together, 5 - start)) for start in range(0, 5, together)]
    assert len(sizes) - len(labelled) == sum(missing)


def test_bad_data_is_found_when_it_is_read(dataset: FolderDataset) -> None:
    (dataset.root / "masks" / "i3.png").unlink()
    with pytest.raises(InputError, match=r"mask .*i3\.png is missing"):
        epoch_of(batches_of(dataset, 2))


# random numbers ---------------------------------------------------------------------------------


def test_the_augmentation_of_an_image_is_its_seeds(dataset: FolderDataset) -> None:
    batches = Batches(dataset, catalogue.SPLIT, dataset.ids, transform=noisy, batch_size=1)
    order = drawn(3, 0, 4)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    alone = [frames for frames, _ in batches.draw(order)]
    assert torch.equal(torch.get_rng_state(), state)  # whoever draws next does not notice
    torch.manual_seed(2)  # as dropout may have left it
    assert torch.equal(next(batches.draw(order, 2))[0], alone[2])
    (other, _) = next(batches.draw([Drawn(3, seed=7)]))
    assert other.shape == alone[0].shape
    assert not torch.equal(other, alone[0])
    # two processes augment as one does
    pair = Batches(
        dataset, catalogue.SPLIT, dataset.ids, transform=noisy, batch_size=1, rank=1, processes=2
    )
    assert torch.equal(next(pair.draw(order))[0], alone[1])


def test_an_order_has_new_seeds_each_time_that_are_torchs(dataset: FolderDataset) -> None:
    batches = batches_of(dataset, 1)
    torch.manual_seed(7)
    first, second = batches.order(), batches.order()
    torch.manual_seed(7)
    assert batches.order() == first
    seeds = {each.seed for each in (*first, *second)}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**32 for seed in seeds)


# workers ----------------------------------------------------------------------------------------

INFO = BackboneInfo(
    name="tiny", channels=1, stride=32, node_offset=15.5, multiple=32, mean=(123.0,) * 3,
    std=(58.0,) * 3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("workers", "rank", "processes", "sizes"), [(2, 0, 1, [2, 2, 1]), (1, 1, 2, [2, 1])]
)
def test_workers_prepare_what_the_training_process_would(
    dataset: FolderDataset, workers: int, rank: int, processes: int, sizes: list[int]
) -> None:
    preprocess = preprocess_of(INFO, 64)
    transform = plain(preprocess) if rank else augmented(preprocess, (32, 64))
    both = [
        Batches(
            dataset,
            catalogue.SPLIT,
            dataset.ids,
            transform=transform,
            batch_size=2,
            rank=rank,
            processes=processes,
            workers=count,
        )
        for count in (0, workers)
    ]
    found, states = [], []
    for batches in both:
        torch.manual_seed(3)
        with batches:
            epochs = [epoch_of(batches), epoch_of(batches)]
            order = batches.order()
            next(batches.draw(order))  # broken off
            epochs.append(list(batches.draw(order, 1)))
        found.append(epochs)
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1])
    assert multiprocessing.active_children() == []
    for one, other in zip(*found, strict=True):
        for (frames, target), (theirs, labels) in zip(one, other, strict=True):
            assert torch.equal(frames, theirs)
            assert torch.equal(target, labels)
            assert (theirs.dtype, labels.dtype) == (torch.float32, torch.uint8)
            assert theirs.is_contiguous(memory_format=torch.channels_last)
    assert [len(frames) for frames, _ in found[1][0]] == sizes
    if rank:  # no image was left for it
        assert all((epoch[-1][1] == VOID).all() for epoch in found[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_pinned_batches_of_workers_are_those_of_the_training_process(
    dataset: FolderDataset,
) -> None:
    transform = augmented(preprocess_of(INFO, 64), (32, 64))
    order, found = drawn(3, 0, 4, 1, 2), []
    for workers in (0, 2):
        with Batches(
            dataset, catalogue.SPLIT, dataset.ids, transform=transform, batch_size=2,
            workers=workers, pinned=True,
        ) as batches:  # fmt: skip
            found.append(list(batches.draw(order)))
    for (frames, targets), (theirs, labels) in zip(*found, strict=True):
        for ours, other in ((frames, theirs), (targets, labels)):
            assert other.is_pinned()
            assert (other.dtype, other.stride()) == (ours.dtype, ours.stride())
            assert torch.equal(other, ours)
            assert torch.equal(other.to("cuda", non_blocking=True).cpu(), ours)


def test_an_error_of_a_worker_is_the_one_line_that_it_is_without(dataset: FolderDataset) -> None:
    (dataset.root / "masks" / "i3.png").unlink()
    with (
        pytest.raises(InputError, match=r"^mask [^ ]*i3\.png is missing$"),
        Batches(
            dataset, catalogue.SPLIT, dataset.ids, transform=as_it_is, batch_size=2, workers=1
        ) as batches,
    ):
        epoch_of(batches)
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_ends_the_run_with_one_line(dataset: FolderDataset) -> None:
    expected = "^a process that prepares batches ended unexpectedly, as for want of memory; give f"
    with (
        pytest.raises(TrainingError, match=expected),
        Batches(
            dataset, catalogue.SPLIT, dataset.ids, transform=killed, batch_size=2, workers=1
        ) as batches,
    ):
        epoch_of(batches)
    assert multiprocessing.active_children() == []
