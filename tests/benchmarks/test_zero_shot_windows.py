from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from zero_shot_windows import smoothed

from szn_runtime.errors import InputError


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 5]), st.integers(0, 2**32 - 1))
def test_smoothing_is_average_pooling(h: int, w: int, window: int, seed: int) -> None:
    grid = np.random.default_rng(seed).normal(size=(h, w)).astype(np.float32)
    pooled = F.avg_pool2d(
        torch.from_numpy(grid)[None, None],
        window,
        stride=1,
        padding=window // 2,
        count_include_pad=False,
    )
    np.testing.assert_allclose(smoothed(grid, window), pooled[0, 0].numpy(), atol=1e-5)


def test_an_even_window() -> None:
    with pytest.raises(InputError, match="window of nodes: got 2"):
        smoothed(np.zeros((2, 2), np.float32), 2)
