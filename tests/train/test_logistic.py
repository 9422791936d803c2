from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from szn_runtime.errors import InputError
from szn_train.logistic import Logistic, fit_logistic


def cloud(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs of different units, sides that overlap, and weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 3)) * [1.0, 50.0, 0.01] + [0.0, 100.0, 3.0]
    positive = x[:, 0] + (x[:, 1] - 100) / 50 + rng.normal(size=300) > 0.5
    return x, positive, rng.uniform(0.2, 2.0, 300)


def test_it_finds_what_sklearn_finds() -> None:
    x, positive, weights = cloud()
    l2 = 0.03
    model = fit_logistic(x, positive, weights, l2=l2)
    share = weights / weights.sum()
    mean = share @ x
    std = np.sqrt(share @ (x - mean) ** 2)
    reference = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=1000)
    reference.fit((x - mean) / std, positive, sample_weight=share)
    expected = reference.decision_function((x - mean) / std)
    np.testing.assert_allclose(model(x), expected, atol=2e-3)


def test_a_weight_counts_like_copies() -> None:
    x, positive, _ = cloud(1)
    weights = np.ones(300)
    weights[:40] = 3
    copied = np.concatenate([x, x[:40], x[:40]])
    sides = np.concatenate([positive, positive[:40], positive[:40]])
    once = fit_logistic(x, positive, weights, l2=0.1)
    thrice = fit_logistic(copied, sides, np.ones(380), l2=0.1)
    np.testing.assert_allclose(once(x), thrice(x), atol=2e-3)


def test_units_do_not_matter() -> None:
    x, positive, weights = cloud(2)
    scaled = x * [3.0, 0.1, 1000.0]
    a, b = fit_logistic(x, positive, weights), fit_logistic(scaled, positive, weights)
    np.testing.assert_allclose(a(x), b(scaled), atol=5e-3)


def test_logits_are_linear() -> None:
    model = Logistic(weight=np.array([2.0, -1.0]), bias=0.5)
    assert model(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist() == [-0.5, 0.5]


def test_what_it_cannot_fit() -> None:
    x, positive, weights = cloud()
    with pytest.raises(InputError, match="needs both sides"):
        fit_logistic(x, np.ones(300, np.bool_), weights)
    with pytest.raises(InputError, match=r"expected \(P, F\), \(P,\), \(P,\)"):
        fit_logistic(x, positive, weights[:5])
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        fit_logistic(x, positive, weights)
