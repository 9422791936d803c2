from __future__ import annotations

import numpy as np
import pytest
from zero_shot_head import refit_embedding

from szn_runtime.errors import InputError

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
    head = refit_embedding(features, labels, TARGETS, scale=20.0)
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
    head = refit_embedding(features, labels, TARGETS[:2], scale=20.0)
    found = (unit(head(features)) @ TARGETS[:2].T).argmax(1)
    shares = [(found[labels == label] == label).mean() for label in (0, 1)]
    assert min(shares) > 0.6
    assert abs(shares[0] - shares[1]) < 0.15


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
    exact = refit_embedding(features.astype(np.float16), labels, TARGETS, scale=10.0, steps=3)
    wide = refit_embedding(
        features.astype(np.float16).astype(np.float64), labels, TARGETS, scale=10.0, steps=3
    )
    np.testing.assert_array_equal(exact.weight, wide.weight)


def test_a_label_without_cells_is_left_out() -> None:
    features, labels = cells((40, 0, 40, 40))
    head = refit_embedding(features, labels, TARGETS, scale=20.0)
    found = (unit(head(features)) @ TARGETS.T).argmax(1)
    assert (found == labels).mean() > 0.95


def test_no_cells() -> None:
    with pytest.raises(InputError, match=r"got features \(0, 3\) and labels \(0,\)"):
        refit_embedding(np.zeros((0, 3)), np.zeros(0, np.int64), TARGETS, scale=10.0)


def test_a_label_without_a_target() -> None:
    with pytest.raises(InputError, match="got 0 to 4, expected 0 to 3, rows of the targets"):
        refit_embedding(np.zeros((5, 3)), np.arange(5), TARGETS, scale=10.0)
