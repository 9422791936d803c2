from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from szn_runtime.errors import InputError
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.cell_sample import CellSample, GridReader
from szn_train.classes import VOID
from szn_train.datasets import FolderDataset
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.transforms import plain, preprocess_of
from tests.train import catalogue


def image(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shuffled cells, 60 of label 0, one of 1 and 20 of 7, with their image and their number."""
    labels = np.random.default_rng(number).permutation([0] * 60 + [1] + [7] * 20).astype(np.uint8)
    features = np.full((81, 2), number, np.float16)
    return labels, features, 81 * number + np.arange(81)


def sampled(most: int | None, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sample = CellSample([0, 1], most, seed)
    for number in range(50):
        sample.add(*image(number))
        if most is not None:
            held = sum(len(part[0]) for kept in sample._kept.values() for part in kept)
            assert held <= 2 * 2 * most + 60
    labels, (features, places) = sample.taken()
    return labels, features, places


def test_a_sample_is_bounded_even_and_repeatable() -> None:
    labels, features, places = sampled(100)
    assert labels.tolist() == [0] * 100 + [1] * 50
    assert (labels.dtype, features.dtype) == (np.uint8, np.float16)
    assert features[:100, 0].mean() == pytest.approx(24.5, abs=4)  # from all images alike
    for label in (0, 1):
        assert (np.diff(places[labels == label]) > 0).all()
    np.testing.assert_array_equal(features[:, 0], places // 81)  # the columns stay together
    truth = np.concatenate([image(number)[0] for number in range(50)])
    np.testing.assert_array_equal(truth[places], labels)
    np.testing.assert_array_equal(sampled(100)[2], places)
    assert not np.array_equal(sampled(100, seed=4)[2], places)


def test_without_a_bound_all_cells_stay() -> None:
    labels, _, places = sampled(None)
    assert np.bincount(labels).tolist() == [3000, 50]
    assert len(set(places.tolist())) == 3050


def test_no_cell_of_the_labels_still_has_columns() -> None:
    sample = CellSample([3], 5, seed=0)
    sample.add(*image(0))
    labels, (features, places) = sample.taken()
    assert (labels.shape, features.shape, places.shape) == ((0,), (0, 2), (0,))
    with pytest.raises(InputError, match="there is no image to take cells of"):
        CellSample([3], 5, seed=0).taken()


def reader_of(tmp_path: Path) -> GridReader:
    """The mean colour of 4 x 4 pixels is the feature, and the embedding is twice the feature."""
    root = catalogue.write_dataset(tmp_path / "data")
    info = BackboneInfo(
        name="pool", channels=3, stride=4, node_offset=1.5, multiple=4,
        mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    network = SeenmaskZeroShotNetwork(Backbone(nn.AvgPool2d(4), info), dim=3).eval()
    with torch.no_grad():
        network.embedding_head.weight.copy_(2 * torch.eye(3)[:, :, None, None])
    return GridReader(
        network,
        FolderDataset(root=root, split="train"),
        catalogue.SPLIT,
        plain(preprocess_of(info, 64)),
        Progress(quiet=True),
    )


def test_cells_of_an_image(tmp_path: Path) -> None:
    first, second = reader_of(tmp_path).read(["t0", "t5"], "cells")
    assert first.features.shape == (12 * 16, 3)
    assert first.labels.reshape(12, 16)[[0, 5, 6, 11], 3].tolist() == [1, 1, 0, 0]  # sky, grass
    grass = first.features[first.labels == 0].mean(axis=0)
    np.testing.assert_allclose(grass, catalogue.COLOURS_RGB["grass"], atol=2)
    np.testing.assert_allclose(first.embedding, 2 * first.features, rtol=1e-5)
    assert second.labels.reshape(12, 16)[[0, 11], 3].tolist() == [VOID, 0]  # rock is void


def test_samples_of_one_pass_are_those_of_a_pass_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, passed = reader_of(tmp_path), []
    pair = FolderDataset.pair

    def counted(dataset: FolderDataset, image_id: str) -> object:
        passed.append(image_id)
        return pair(dataset, image_id)

    monkeypatch.setattr(FolderDataset, "pair", counted)
    some, every = (("t0", "t2", "t4"), 60), (("t0", "t1", "t2", "t3", "t4", "t6"), 90)
    both = reader.seen_features([some, every], seed=3)
    assert passed == list(every[0])
    alone = [*reader.seen_features([some], seed=3), *reader.seen_features([every], seed=3)]
    for ours, theirs, (_, most) in zip(both, alone, (some, every), strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)
        labels, features = ours
        assert np.bincount(labels).tolist() == [most // 3] * 3  # of train_seen, and no boat
        assert (features.shape, features.dtype) == ((most, 3), np.float16)
    other_seed = reader.seen_features([some], seed=4)
    assert not np.array_equal(other_seed[0][1], both[0][1])


def assert_as_alone(reader: GridReader, wanted: list[tuple[tuple[str, ...], int]]) -> None:
    """Samples of one pass are those of a pass each, to the bit."""
    for (labels, features), each in zip(reader.seen_features(wanted, seed=3), wanted, strict=True):
        ((own_labels, own_features),) = reader.seen_features([each], seed=3)
        assert len(labels) > 0
        np.testing.assert_array_equal(labels, own_labels)
        np.testing.assert_array_equal(features, own_features)


def test_no_list_of_images_has_to_hold_the_others(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    # the longer list first would read t0 last
    assert_as_alone(reader, [(("t0", "t2"), 60), (("t1", "t2", "t3", "t4"), 60)])
    assert_as_alone(reader, [(("t4", "t1"), 60), (("t3", "t4"), 60), (("t0",), 60)])


@pytest.mark.parametrize(
    ("lists", "got"),
    [
        ([("t1", "t0"), ("t0", "t1", "t2")], r"'t\d' before 't\d' before 't\d'"),
        ([("t0", "t1"), ("t1", "t2"), ("t2", "t0")], r"'t\d' before 't\d' before 't\d' before"),
        ([("t3", "t3")], "'t3' before 't3'"),
    ],
)
def test_samples_that_share_no_order_of_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: list[tuple[str, ...]], got: str
) -> None:
    reader = reader_of(tmp_path)
    monkeypatch.setattr(FolderDataset, "pair", None)  # no image is read
    with pytest.raises(InputError, match=rf"images to sample cells of: got {got}.*expected one th"):
        reader.seen_features([(ids, 60) for ids in lists], seed=3)
