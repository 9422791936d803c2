from __future__ import annotations

from pathlib import Path

import pytest
import torch

from szn_runtime.errors import InputError
from szn_train.batches import Batches
from szn_train.classes import VOID
from szn_train.datasets import FolderDataset
from szn_train.transforms import Transform
from tests.train import catalogue


def as_it_is() -> Transform:
    """Pixels and labels without preprocessing."""
    return lambda image, target: (
        torch.from_numpy(image).permute(2, 0, 1).float(),
        torch.from_numpy(target).long(),
    )


@pytest.fixture
def dataset(tmp_path: Path) -> FolderDataset:
    """Five images of different sizes; the second class of each name's number is void."""
    pairs = {
        f"i{n}": catalogue.scene("grass", "rock", size_hw=(8 + 2 * n, 20 - 2 * n), seed=n)
        for n in range(5)
    }
    root = catalogue.write_dataset(tmp_path / "data", {"train": pairs})
    return FolderDataset(root=root, split="train")


def batches_of(dataset: FolderDataset, batch_size: int) -> Batches:
    return Batches(
        dataset, catalogue.SPLIT, dataset.ids, transform=as_it_is(), batch_size=batch_size
    )


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (9, [5])])
def test_every_image_comes_once(dataset: FolderDataset, batch_size: int, sizes: list[int]) -> None:
    batches = batches_of(dataset, batch_size)
    assert len(batches) == len(sizes)
    drawn = list(batches)
    assert [len(frames) for frames, _ in drawn] == sizes
    assert [len(target) for _, target in drawn] == sizes
    # images differ in size, so their number of labelled pixels tells them apart
    labelled = sorted(int((t != VOID).sum()) for _, target in drawn for t in target)
    assert labelled == sorted((8 + 2 * n) // 2 * (20 - 2 * n) for n in range(5))


def test_smaller_images_are_padded_with_zeros_and_void(dataset: FolderDataset) -> None:
    torch.manual_seed(0)
    ((frames, targets),) = batches_of(dataset, 5)
    assert frames.shape == (5, 3, 16, 20)
    assert targets.shape == (5, 16, 20)
    assert (frames.dtype, targets.dtype) == (torch.float32, torch.int64)
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
        return [tuple(target.shape) for _, target in batches]

    torch.manual_seed(7)
    first, second = order(), order()
    torch.manual_seed(7)
    assert order() == first
    assert sorted(second) == sorted(first)
    assert second != first


def test_an_order_can_be_drawn_from_any_batch_on(dataset: FolderDataset) -> None:
    batches = batches_of(dataset, 2)
    order = [3, 0, 4, 1, 2]
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
    order = [3, 0, 4, 1, 2]
    sizes, counts = [], []
    for rank in range(processes):
        batches = Batches(
            dataset, catalogue.SPLIT, dataset.ids, transform=as_it_is(), batch_size=batch_size,
            rank=rank, processes=processes,
        )  # fmt: skip
        drawn = list(batches.draw(order))
        assert len(drawn) == len(batches)
        counts.append(len(drawn))
        for frames, target in drawn:
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
        list(batches_of(dataset, 2))
