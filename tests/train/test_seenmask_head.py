from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from szn_runtime.errors import InputError
from szn_train.cells import smoothed
from szn_train.seenmask_head import StatisticalSeenmask
from tests.train.test_seen_statistics import CHANNELS, DIM, fitted

FEATURES = torch.randn(2, CHANNELS, 4, 5, generator=torch.Generator().manual_seed(0))
EMBEDDING = torch.randn(2, DIM, 4, 5, generator=torch.Generator().manual_seed(1))


def logit(seenmask: StatisticalSeenmask) -> np.ndarray:
    scores = seenmask(FEATURES, EMBEDDING)
    assert scores.shape == (2, 2, 4, 5)
    difference: np.ndarray = (scores[:, 1] - scores[:, 0]).numpy()
    return difference


def test_features_alone_are_the_thesis_seenmask() -> None:
    weight = np.random.default_rng(0).normal(size=CHANNELS)
    seenmask = StatisticalSeenmask(feature_weight=weight, bias=0.25)
    filters = torch.from_numpy(weight.astype(np.float32))[None, :, None, None]
    expected = F.conv2d(FEATURES, filters)[:, 0] + 0.25
    np.testing.assert_allclose(logit(seenmask), expected.numpy(), atol=1e-5)


def test_terms_add_up_and_are_smoothed() -> None:
    rng = np.random.default_rng(1)
    weight, others, statistics = rng.normal(size=CHANNELS), rng.normal(size=8), fitted()
    one = logit(StatisticalSeenmask(feature_weight=weight))
    two = logit(StatisticalSeenmask(statistics=statistics, statistic_weight=others))
    both = StatisticalSeenmask(
        feature_weight=weight, statistics=statistics, statistic_weight=others, bias=-1.0, window=3
    )
    expected = np.stack([smoothed(grid, 3) for grid in one + two - 1.0])
    np.testing.assert_allclose(logit(both), expected, rtol=1e-3, atol=1e-2)


def test_what_makes_no_seenmask() -> None:
    with pytest.raises(InputError, match="a seenmask of nothing"):
        StatisticalSeenmask()
    with pytest.raises(InputError, match="come together"):
        StatisticalSeenmask(statistics=fitted())
    with pytest.raises(InputError, match=r"weights of the statistics: got \(3,\)"):
        StatisticalSeenmask(statistics=fitted(), statistic_weight=np.ones(3))
    with pytest.raises(InputError, match="window of nodes: got 4"):
        StatisticalSeenmask(feature_weight=np.ones(3), window=4)
