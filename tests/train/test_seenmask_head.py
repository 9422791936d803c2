from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from szn_runtime.errors import InputError
from szn_train.checkpoint import load_weights, save_weights
from szn_train.seenmask_head import StatisticalSeenmask
from tests.train.test_seen_statistics import CHANNELS, DIM, LABELS, SCALE, fitted

FEATURES = torch.randn(2, CHANNELS, 4, 5, generator=torch.Generator().manual_seed(0))
EMBEDDING = torch.randn(2, DIM, 4, 5, generator=torch.Generator().manual_seed(1))
WEIGHT = np.random.default_rng(1).normal(size=8)


def test_the_logit_is_linear_in_the_statistics() -> None:
    statistics = fitted()
    scores = StatisticalSeenmask(statistics=statistics, statistic_weight=WEIGHT, bias=-1.0)(
        FEATURES, EMBEDDING
    )
    assert scores.shape == (2, 2, 4, 5)
    table = statistics(FEATURES, EMBEDDING).numpy()  # (N, 8, h, w)
    expected = np.einsum("nkhw,k->nhw", table.astype(np.float64), WEIGHT) - 1.0
    np.testing.assert_allclose(
        (scores[:, 1] - scores[:, 0]).numpy(), expected, rtol=1e-4, atol=1e-3
    )


def test_what_a_finished_run_holds(tmp_path: Path) -> None:
    """Runs are read again by these names, whatever else becomes of the module."""
    seenmask = StatisticalSeenmask(statistics=fitted(CHANNELS), statistic_weight=WEIGHT, bias=0.5)
    save_weights(tmp_path / "model.safetensors", seenmask.state_dict())
    saved = load_weights(tmp_path / "model.safetensors")
    assert set(saved) == {"bias", "statistic_weight"} | {
        f"statistics.{name}" for name in (
            "labels", "feature_scale", "directions", "offset", "mean_square", "whitening",
            "class_means", "class_squares", "total", "total_shift",
        )
    }  # fmt: skip
    again = StatisticalSeenmask.unfitted(channels=CHANNELS, dim=DIM, labels=LABELS, scale=SCALE)
    again.load_state_dict(saved)
    assert torch.equal(again(FEATURES, EMBEDDING), seenmask(FEATURES, EMBEDDING))


def test_as_many_weights_as_statistics() -> None:
    with pytest.raises(InputError, match=r"weights of the statistics: got \(3,\)"):
        StatisticalSeenmask(statistics=fitted(), statistic_weight=np.ones(3))
