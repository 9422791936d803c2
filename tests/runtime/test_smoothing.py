from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_runtime.errors import InputError, UsageError
from szn_runtime.smoothing import GridSmoother

Grid = NDArray[np.float32]


def grids(rng: np.random.Generator, h: int = 2, w: int = 3) -> tuple[Grid, Grid]:
    return (
        rng.normal(size=(5, h, w)).astype(np.float32),
        rng.normal(size=(2, h, w)).astype(np.float32),
    )


@given(st.floats(0, 0.99), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_equals_the_closed_form(share: float, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_grids = [grids(rng) for _ in range(frames)]
    smooth = GridSmoother(share)
    for embedding, seenmask in given_grids:
        ours = smooth("a", embedding, seenmask)
    weights = [(1 - share) * share ** (frames - 1 - i) for i in range(frames)]
    weights[0] = share ** (frames - 1)
    for part in (0, 1):
        expected = sum(
            weight * both[part].astype(np.float64)
            for weight, both in zip(weights, given_grids, strict=True)
        )
        assert ours[part].dtype == np.float32
        np.testing.assert_allclose(ours[part], expected, atol=1e-5)


def test_what_stays_the_same_stays_so_to_the_bit() -> None:
    embedding, seenmask = grids(np.random.default_rng(0))
    smooth = GridSmoother(0.7)
    for _ in range(50):
        ours = smooth(0, embedding, seenmask)
    np.testing.assert_array_equal(ours[0], embedding)
    np.testing.assert_array_equal(ours[1], seenmask)


@pytest.mark.parametrize("half_life", [1, 3, 10])
def test_half_life(half_life: int) -> None:
    share = 0.5 ** (1 / half_life)
    assert math.log(0.5) / math.log(share) == pytest.approx(half_life)
    smooth = GridSmoother(share)
    embedding, seenmask = np.ones((1, 1, 1), np.float32), np.ones((2, 1, 1), np.float32)
    smooth(0, embedding, seenmask)
    for _ in range(half_life):
        ours = smooth(0, np.zeros_like(embedding), np.zeros_like(seenmask))
    assert ours[0][0, 0, 0] == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_allclose(ours[1], 0.5, atol=1e-6)


def test_a_share_of_zero_passes_the_grids_on() -> None:
    rng = np.random.default_rng(0)
    smooth = GridSmoother(0)
    for _ in range(2):
        embedding, seenmask = grids(rng)
        ours = smooth("a", embedding, seenmask)
        assert ours[0] is embedding
        assert ours[1] is seenmask


def test_sources_do_not_mix_and_can_be_forgotten() -> None:
    rng = np.random.default_rng(0)
    first, second = grids(rng), grids(rng)
    smooth = GridSmoother(0.5)
    smooth("a", *first)
    np.testing.assert_array_equal(smooth("b", *second)[0], second[0])
    mixed = smooth("a", *second)
    np.testing.assert_allclose(mixed[0], (first[0] + second[0]) / 2, atol=1e-6)
    np.testing.assert_allclose(mixed[1], (first[1] + second[1]) / 2, atol=1e-6)
    smooth.forget("a")
    smooth.forget("never seen")
    np.testing.assert_array_equal(smooth("a", *first)[0], first[0])


@pytest.mark.parametrize("size", [(3, 2), (2, 4), (6, 1)])
def test_another_shape_starts_anew(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    smooth = GridSmoother(0.9)
    smooth("a", *grids(rng))
    other = grids(rng, *size)
    for part in (0, 1):
        np.testing.assert_array_equal(smooth("a", *other)[part], other[part])


def test_nobody_else_holds_its_state() -> None:
    rng = np.random.default_rng(0)
    first, second = grids(rng), grids(rng)
    copies = [part.copy() for part in (*first, *second)]
    expected = (copies[0] + copies[2]) / 2, (copies[1] + copies[3]) / 2
    smooth = GridSmoother(0.5)
    ours = smooth("a", *first)
    for part in (*first, *ours):
        part += 100
    now = smooth("a", *second)
    np.testing.assert_allclose(now[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(now[1], expected[1], atol=1e-6)
    np.testing.assert_array_equal(second[0], copies[2])
    np.testing.assert_array_equal(second[1], copies[3])
    for part in now:
        part += 100
    np.testing.assert_allclose(smooth("a", *second)[0], (expected[0] + copies[2]) / 2, atol=1e-6)


@pytest.mark.parametrize("share", [1, -0.1, 2, float("nan")])
def test_share(share: float) -> None:
    with pytest.raises(UsageError, match="share in the smoothing is out of range: got"):
        GridSmoother(share)


class TestErrors:
    embedding, seenmask = grids(np.random.default_rng(0))

    def test_type(self) -> None:
        with pytest.raises(InputError, match="seenmask is no grid: got float64"):
            GridSmoother(0.5)(0, self.embedding, self.seenmask.astype(np.float64))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"embedding is no grid: got float32 \(1, 5, 2, 3\)"):
            GridSmoother(0.5)(0, self.embedding[None], self.seenmask)

    def test_sizes_differ(self) -> None:
        with pytest.raises(InputError, match="seenmask and embedding do not fit together"):
            GridSmoother(0.5)(0, self.embedding, self.seenmask[:, :1])

    def test_one_bad_frame_does_not_spoil_those_to_come(self) -> None:
        smooth = GridSmoother(0.5)
        smooth(0, self.embedding, self.seenmask)
        bad = self.embedding.copy()
        bad[0, 0, 0] = np.nan
        with pytest.raises(InputError, match="embedding holds numbers that are not finite"):
            smooth(0, bad, self.seenmask)
        ours, _ = smooth(0, self.embedding, self.seenmask)
        np.testing.assert_array_equal(ours, self.embedding)
