from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from szn_train.semantic import label_space
from szn_train.variance import explained_variance
from tests.train import catalogue


def test_variance_along_axes_by_hand() -> None:
    vectors = np.array([[3, 0, 1], [-3, 0, 1], [0, 1, 1], [0, -1, 1]], np.float32)
    # scatter 18 along the first axis, 2 along the second, none along the third
    np.testing.assert_allclose(explained_variance(vectors), [0.9, 1, 1])


@settings(max_examples=30)
@given(rows=st.integers(3, 40), columns=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_it_is_what_a_pca_keeps(rows: int, columns: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    kept = explained_variance(vectors)
    most = min(rows, columns)
    ratios = PCA(n_components=most, svd_solver="full").fit(vectors).explained_variance_ratio_
    np.testing.assert_allclose(kept[:most], np.cumsum(ratios), atol=1e-5)
    assert kept.shape == (columns,)
    assert (np.diff(kept) >= 0).all()
    assert kept[-1] == pytest.approx(1)


def test_it_is_what_the_label_space_says(tmp_path: Path) -> None:
    words = catalogue.write_words(tmp_path / "words.txt")
    space = label_space(("grass", "cow"), source=str(words), dim=4)
    assert space.explained_variance == pytest.approx(
        explained_variance(catalogue.word_vectors())[3], abs=1e-5
    )
