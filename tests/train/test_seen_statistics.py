from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.calibration import class_balance
from szn_train.seen_statistics import STATISTICS, SeenStatistics, fit_statistics

SCALE = 10.0
CHANNELS, DIM, LABELS = 10, 4, 3


def unit_labels() -> NDArray[np.float32]:
    rows = np.random.default_rng(1).normal(size=(LABELS, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cells(seed: int = 0, count: int = 400) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Features around a mean for each class; channels 6 to 9 hardly vary."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(LABELS, count, p=[0.7, 0.2, 0.1]).astype(np.uint8)
    means = np.random.default_rng(99).normal(size=(LABELS, CHANNELS)) * 4
    spread = np.array([2.0] * 3 + [0.5] * 3 + [0.01] * 4)
    means[:, 6:] = 1.0
    return (means[labels] + rng.normal(size=(count, CHANNELS)) * spread).astype(np.float32), labels


def fitted(components: int = 6) -> SeenStatistics:
    features, labels = cells()
    return fit_statistics(features, labels, unit_labels(), scale=SCALE, components=components)


def column(table: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    return table[:, STATISTICS.index(name)]


def test_what_concerns_the_embedding_by_hand() -> None:
    features, _ = cells(5, 40)
    embedding = np.random.default_rng(3).normal(size=(40, DIM)).astype(np.float32) * 3
    statistics = fitted()
    table = statistics.of_cells(features, embedding)
    norm = np.linalg.norm(embedding, axis=1)
    cosine = embedding / norm[:, None] @ unit_labels().T
    ordered = np.sort(cosine, axis=1)
    share = np.exp(SCALE * cosine)
    share /= share.sum(axis=1, keepdims=True)
    for name, expected in (
        ("top_cosine", ordered[:, -1]),
        ("margin", ordered[:, -1] - ordered[:, -2]),
        ("impurity", 1 - (share**2).sum(axis=1)),
        ("embedding_norm", norm),
        ("feature_norm", np.linalg.norm(features, axis=1) * statistics.feature_scale.item()),
    ):
        np.testing.assert_allclose(column(table, name), expected, rtol=1e-4, atol=1e-5)


def test_the_residual_is_what_the_subspace_misses() -> None:
    statistics = fitted(components=6)
    features, _ = cells(6, 30)
    embedding = np.ones((30, DIM), np.float32)
    inside = column(statistics.of_cells(features, embedding), "residual")
    odd = features.copy()
    odd[:, 8] += 5  # a direction in which seen cells do not vary
    outside = column(statistics.of_cells(odd, embedding), "residual")
    scale = statistics.feature_scale.item()
    assert inside.max() < 0.2 * scale
    np.testing.assert_allclose(outside, 5 * scale, atol=0.2 * scale)


def test_seen_features_have_a_norm_of_8_whatever_their_unit() -> None:
    features, labels = cells()
    embedding = np.ones((len(features), DIM), np.float32)
    tables = [
        fit_statistics(unit * features, labels, unit_labels(), scale=SCALE, components=6).of_cells(
            unit * features, embedding
        )
        for unit in (1.0, 300.0)
    ]
    balance = class_balance(labels)
    assert balance @ column(tables[0], "feature_norm") == pytest.approx(8, rel=1e-4)
    np.testing.assert_allclose(tables[1], tables[0], rtol=2e-3, atol=1e-2)


def test_a_fit_loads_into_one_of_the_same_shapes() -> None:
    features, labels = cells()
    two = labels < 2  # a label that the fit never meets
    fit = fit_statistics(features[two], labels[two], unit_labels(), scale=SCALE, components=6)
    empty = SeenStatistics.unfitted(
        channels=CHANNELS, dim=DIM, labels=LABELS, components=6, scale=SCALE
    )
    empty.load_state_dict(fit.state_dict())
    embedding = np.random.default_rng(3).normal(size=(len(features), DIM)).astype(np.float32)
    table = fit.of_cells(features, embedding)
    np.testing.assert_array_equal(empty.of_cells(features, embedding), table)
    distance = column(table, "mahalanobis")
    assert np.median(distance[~two]) > 3 * np.median(distance[two])


def test_distances_agree_with_the_covariances() -> None:
    features, labels = cells()
    statistics = fitted(components=CHANNELS)
    table = statistics.of_cells(features, np.ones((len(features), DIM), np.float32))
    # every class counts the same, and the covariance is shrunk by 5 %
    x = features.astype(np.float64)
    means = np.stack([x[labels == k].mean(axis=0) for k in range(LABELS)])
    within = np.mean([np.cov(x[labels == k].T, bias=True) for k in range(LABELS)], axis=0)
    within = 0.95 * within + 0.05 * np.trace(within) / CHANNELS * np.eye(CHANNELS)
    inverse = np.linalg.inv(within)
    away = x[:, None] - means
    expected = np.einsum("pkc,cd,pkd->pk", away, inverse, away).min(axis=1)
    found = column(table, "mahalanobis") * CHANNELS
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


def test_strange_cells_are_further_away() -> None:
    statistics = fitted()
    features, _ = cells(7, 200)
    embedding = np.ones((200, DIM), np.float32)
    strange = features[:, ::-1].copy()
    for name in ("residual", "mahalanobis"):
        near = column(statistics.of_cells(features, embedding), name)
        far = column(statistics.of_cells(strange, embedding), name)
        assert np.median(far) > np.quantile(near, 0.95)


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_grids_and_cells_give_the_same(n: int, h: int, w: int) -> None:
    statistics = fitted()
    generator = torch.Generator().manual_seed(h * 10 + w)
    features = torch.randn(n, CHANNELS, h, w, generator=generator)
    embedding = torch.randn(n, DIM, h, w, generator=generator)
    grid = statistics(features, embedding)
    assert grid.shape == (n, len(STATISTICS), h, w)
    rows = [g.permute(0, 2, 3, 1).reshape(-1, g.shape[1]).numpy() for g in (features, embedding)]
    table = statistics.of_cells(rows[0], rows[1], chunk=7)
    expected = grid.permute(0, 2, 3, 1).reshape(-1, len(STATISTICS)).numpy()
    np.testing.assert_allclose(table, expected, rtol=1e-3, atol=1e-3)


def test_no_cell_and_an_embedding_of_zero() -> None:
    statistics = fitted()
    none = statistics.of_cells(np.zeros((0, CHANNELS)), np.zeros((0, DIM)))
    assert none.shape == (0, len(STATISTICS))
    zero = statistics.of_cells(np.zeros((1, CHANNELS)), np.zeros((1, DIM)))
    assert np.isfinite(zero).all()


def test_what_cannot_be_fitted() -> None:
    features, labels = cells()
    with pytest.raises(InputError, match="principal components: got 11, expected 1 to 10"):
        fit_statistics(features, labels, unit_labels(), scale=SCALE, components=11)
    with pytest.raises(InputError, match="labels of train_seen: got 1"):
        fit_statistics(features, 0 * labels, unit_labels()[:1], scale=SCALE, components=2)
    with pytest.raises(InputError, match="labels of the cells: got 3, expected 1 to 2, of 400"):
        fit_statistics(features, labels, unit_labels()[:2], scale=SCALE, components=2)
