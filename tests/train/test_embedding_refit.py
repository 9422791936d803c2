from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from szn_runtime.errors import InputError, TrainingError
from szn_train import cell_sample, embedding_refit
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.cell_sample import GridReader
from szn_train.datasets import FolderDataset, select
from szn_train.embedding_refit import (
    EmbeddingHead,
    fit_embedding,
    most_cells,
    refit_embedding,
)
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.semantic import LabelSpace
from szn_train.transforms import plain, preprocess_of
from tests.train import catalogue

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(4, 12)) * 3


def cells(counts: tuple[int, ...], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Features around a centre for each label, of units that differ between the channels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = CENTRES[labels] + rng.normal(size=(len(labels), 12))
    return features * np.geomspace(0.01, 100, 12) + 5, labels


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


TARGETS = unit(RNG.normal(size=(4, 6)))


def test_cells_end_nearest_their_own_label() -> None:
    features, labels = cells((400, 300, 200, 100))
    head = refit_embedding(features, labels, TARGETS, scale=20.0, seed=0)
    assert head.weight.shape == (6, 12)
    assert head.bias.shape == (6,)
    assert head.weight.dtype == head.bias.dtype == np.float32
    held_out, truth = cells((50, 50, 50, 50), seed=2)
    found = (unit(head(held_out)) @ TARGETS.T).argmax(1)
    assert (found == truth).mean() > 0.95


def test_rare_labels_count_as_much_as_frequent_ones() -> None:
    """Two labels that overlap: with all cells taken the frequent one would win nearly all."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [6000, 300])
    features = rng.normal(size=(6300, 12)) + 0.35 * labels[:, None]
    head = refit_embedding(features, labels, TARGETS[:2], scale=20.0, seed=0)
    found = (unit(head(features)) @ TARGETS[:2].T).argmax(1)
    shares = [(found[labels == label] == label).mean() for label in (0, 1)]
    assert min(shares) > 0.6
    assert abs(shares[0] - shares[1]) < 0.15


def test_a_label_of_few_cells_is_not_drowned() -> None:
    """Ten cells beside 5,000, whose centre is two deviations away."""
    rng = np.random.default_rng(4)

    def drawn(counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([0, 1], counts)
        return rng.normal(size=(len(labels), 4)) + 2 * np.eye(4)[labels], labels

    features, labels = drawn((5000, 10))
    held_out, truth = drawn((1000, 1000))

    def rare_found(most: int) -> float:
        head = refit_embedding(
            features, labels, TARGETS[:2], scale=20.0, cells_per_label=most, seed=0
        )
        found = (unit(head(held_out)) @ TARGETS[:2].T).argmax(1)
        return float((found == truth)[truth == 1].mean())

    assert rare_found(300) > rare_found(5000) + 0.2
    assert rare_found(300) > 0.5


def test_the_head_is_the_mean_of_heads_on_samples_of_their_own() -> None:
    features, labels = cells((400, 300, 200, 100))
    seeds = np.random.SeedSequence(7).generate_state(3).tolist()
    rows = [embedding_refit._balanced(labels, 4, 50, seed) for seed in seeds]
    assert [np.bincount(labels[each]).tolist() for each in rows] == [[50] * 4] * 3
    assert set(rows[0].tolist()) != set(rows[1].tolist())
    ones = [
        embedding_refit._trained(
            torch.from_numpy(features[each].astype(np.float32)),
            torch.from_numpy(labels[each]),
            torch.from_numpy(TARGETS),
            scale=10.0,
            steps=20,
            seed=seed,
        )
        for each, seed in zip(rows, seeds, strict=True)
    ]
    head = refit_embedding(
        features, labels, TARGETS, scale=10.0, heads=3, steps=20, cells_per_label=50, seed=7
    )
    for found, parts in ((head.weight, [w for w, _ in ones]), (head.bias, [b for _, b in ones])):
        np.testing.assert_allclose(found, np.mean([p.numpy() for p in parts], 0), rtol=1e-4)
        assert not torch.equal(parts[0], parts[1])


def test_the_same_seed_gives_the_same_head() -> None:
    features, labels = cells((40, 40, 40, 40))
    first, second, other = (
        refit_embedding(features, labels, TARGETS, scale=10.0, steps=5, seed=seed)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.weight, second.weight)
    np.testing.assert_array_equal(first.bias, second.bias)
    assert not np.array_equal(first.weight, other.weight)


def test_half_precision_features_are_taken() -> None:
    features, labels = cells((40, 40, 40, 40))
    halves = features.astype(np.float16)
    exact, wide = (
        refit_embedding(each, labels, TARGETS, scale=10.0, steps=3, seed=0)
        for each in (halves, halves.astype(np.float64))
    )
    np.testing.assert_array_equal(exact.weight, wide.weight)


def test_a_label_without_cells_is_left_out() -> None:
    features, labels = cells((40, 0, 40, 40))
    head = refit_embedding(features, labels, TARGETS, scale=20.0, seed=0)
    found = (unit(head(features)) @ TARGETS.T).argmax(1)
    assert (found == labels).mean() > 0.95


def test_no_cells() -> None:
    with pytest.raises(InputError, match=r"got features \(0, 3\) and labels \(0,\)"):
        refit_embedding(np.zeros((0, 3)), np.zeros(0, np.int64), TARGETS, scale=10.0, seed=0)


def test_a_label_without_a_target() -> None:
    with pytest.raises(InputError, match="got 0 to 4, expected 0 to 3, rows of the targets"):
        refit_embedding(np.zeros((5, 3)), np.arange(5), TARGETS, scale=10.0, seed=0)


def test_no_heads() -> None:
    with pytest.raises(InputError, match="heads of the embedding's refit: got 0, expected 1 or mo"):
        refit_embedding(np.zeros((4, 3)), np.arange(4), TARGETS, scale=10.0, heads=0, seed=0)


def test_a_head_becomes_a_convolution() -> None:
    head = EmbeddingHead(
        weight=RNG.normal(size=(3, 5)).astype(np.float32), bias=np.arange(3, dtype=np.float32)
    )
    convolution = nn.Conv2d(5, 3, kernel_size=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head.load_into(convolution)
    features = RNG.normal(size=(4, 5)).astype(np.float32)
    with torch.inference_mode():
        grid = convolution(torch.from_numpy(features.T.copy())[None, :, :, None])
    np.testing.assert_allclose(grid[0, :, :, 0].T, head(features), rtol=1e-5, atol=1e-6)


# on images --------------------------------------------------------------------------------------

INFO = BackboneInfo(
    name="pool", channels=3, stride=4, node_offset=1.5, multiple=4,
    mean=(127.5,) * 3, std=(127.5,) * 3,
)  # fmt: skip
LABELS = catalogue.SPLIT.labels
SPACE = LabelSpace(names=LABELS, embeddings=np.eye(len(LABELS), dtype=np.float32), source="one-hot")


@pytest.fixture
def dataset(tmp_path: Path) -> FolderDataset:
    root = catalogue.write_dataset(tmp_path / "data", catalogue.many_scenes(4))
    return FolderDataset(root=root, split="train")


def fitted(
    dataset: FolderDataset, seed: int = 0, ids: tuple[str, ...] | None = None
) -> tuple[SeenmaskZeroShotNetwork, EmbeddingHead]:
    """The mean colour of 4 x 4 pixels is the feature."""
    torch.manual_seed(1)
    network = SeenmaskZeroShotNetwork(Backbone(nn.AvgPool2d(4), INFO), dim=len(LABELS)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    transform = plain(preprocess_of(INFO, 64))
    grids = GridReader(network, dataset, catalogue.SPLIT, transform, Progress(quiet=True))
    ids = select(dataset, catalogue.SPLIT).embedding_ids if ids is None else ids
    (sample,) = grids.seen_features([(ids, most_cells(catalogue.SPLIT))], seed=seed)
    head = fit_embedding(*sample, catalogue.SPLIT, SPACE, scale=10.0, seed=seed)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    return network, head


def test_cells_of_images_are_nearest_their_label(dataset: FolderDataset) -> None:
    network, head = fitted(dataset)
    head.load_into(network.embedding_head)
    transform = plain(preprocess_of(INFO, 64))
    reader = GridReader(network, dataset, catalogue.SPLIT, transform, Progress(quiet=True))
    seen = catalogue.SPLIT.indices(catalogue.SPLIT.train_seen)
    for cells in reader.read(["t1-0", "t4-3"], "cells"):
        rows = np.isin(cells.labels, seen)
        found = seen[(cells.embedding[rows] @ SPACE.unit[seen].T).argmax(1)]
        assert (found == cells.labels[rows]).mean() > 0.95


def test_images_give_the_same_head_again(dataset: FolderDataset) -> None:
    (_, one), (_, two), (_, other) = fitted(dataset), fitted(dataset), fitted(dataset, seed=2)
    np.testing.assert_array_equal(one.weight, two.weight)
    np.testing.assert_array_equal(one.bias, two.bias)
    assert not np.array_equal(one.weight, other.weight)


def test_a_small_sample_of_features_suffices(
    dataset: FolderDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[np.ndarray] = []

    def refit(features: np.ndarray, labels: np.ndarray, *rest: object, **options: object) -> object:
        taken.append(labels)
        return refit_embedding(features, labels, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding_refit, "refit_embedding", refit)
    monkeypatch.setattr(cell_sample, "_MOST_BYTES", 4 * 3 * 3 * 20)
    fitted(dataset)
    assert np.bincount(taken[0]).tolist() == [20, 20, 20]


def test_images_without_cells_of_train_seen(dataset: FolderDataset) -> None:
    image, mask = catalogue.scene("rock")
    catalogue.write_png(dataset.root / "images" / "rock.png", image)
    catalogue.write_png(dataset.root / "masks" / "rock.png", mask)
    with pytest.raises(TrainingError, match="no cell of the grid shows a class of train_seen; giv"):
        fitted(dataset, ids=("rock",))
