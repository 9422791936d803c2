from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from szn_runtime.geometry import GridGeometry
from szn_train import losses
from szn_train.classes import VOID
from szn_train.config import TrainConfig
from szn_train.objectives import (
    Objective,
    embedding_objective,
    labelled_pixels,
    seenmask_objective,
)
from szn_train.semantic import LabelSpace
from tests.train.catalogue import SPLIT

GEOMETRY = GridGeometry.square(4, 1.5)
KNOWN = 3  # grass, sky and cow come first, then boat and sheep
SPACE = LabelSpace(
    source="x",
    names=SPLIT.labels,
    embeddings=np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32) * 3,
)
EVERY: list[dict[str, Any]] = [
    {"loss": "cosine"},
    {"loss": "mse"},
    {"loss": "cosine_ce"},
    {"loss": "cross_entropy", "embeddings": "one-hot"},
    {"loss": "cosine", "reduction": "sum"},
    {"loss": "cross_entropy", "embeddings": "one-hot", "reduction": "sum"},
]


def pooled(frames: Tensor) -> Tensor:
    """A grid (N, 5, h, w): a head that is an average."""
    return F.avg_pool2d(frames, 4)


def objective_of(values: dict[str, Any]) -> Objective:
    return embedding_objective(TrainConfig(data="d", **values), SPLIT, SPACE, pooled, GEOMETRY)


def batch(seed: int, count: int = 4, void: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, KNOWN, (count, 8, 12), generator=generator)
    target[torch.rand(target.shape, generator=generator) < void] = VOID
    return torch.randn(count, 5, 8, 12, generator=generator), target


def pixels_of(frames: Tensor) -> Tensor:
    """The grid upsampled by torch: half-pixel bilinear with repeated borders."""
    return F.interpolate(pooled(frames), scale_factor=4, mode="bilinear", align_corners=False)


# the embedding --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cosine", "mse", "cosine_ce", "cross_entropy"])
def test_each_loss_is_taken_at_the_pixels(loss: str) -> None:
    frames, target = batch(1)
    pixels, seen = pixels_of(frames), torch.tensor([True] * KNOWN + [False] * 2)
    unit, scaled = torch.from_numpy(SPACE.unit), torch.from_numpy(SPACE.scaled)
    expected = {
        "cosine": losses.cosine_loss(pixels, target, unit),
        "mse": losses.mse_loss(pixels, target, scaled),
        "cosine_ce": losses.cosine_ce_loss(pixels, target, unit, seen, 10.0),
        "cross_entropy": losses.softmax_loss(pixels, target, seen),
    }
    values = {"loss": loss} | ({"embeddings": "one-hot"} if loss == "cross_entropy" else {})
    value = objective_of(values).loss(frames, target)
    torch.testing.assert_close(value, expected[loss], rtol=1e-4, atol=1e-6)
    assert len({round(float(other), 4) for other in expected.values()}) == 4


def test_the_sum_is_over_an_images_pixels_and_the_mean_over_images() -> None:
    frames, target = batch(2)
    pixels = pixels_of(frames)
    truth = torch.where(target == VOID, -100, target)
    expected = F.cross_entropy(pixels[:, :KNOWN], truth, reduction="sum") / len(frames)
    values = {"loss": "cross_entropy", "embeddings": "one-hot", "reduction": "sum"}
    torch.testing.assert_close(objective_of(values).loss(frames, target), expected)


def test_exposure_joins_pixels_of_train_unseen() -> None:
    frames, target = batch(3)
    target[0, :4] = 3  # boat
    pixels, seen = pixels_of(frames), torch.tensor([True] * KNOWN + [False] * 2)
    unit = torch.from_numpy(SPACE.unit)
    alone = target.masked_fill(target == 3, VOID)
    known, strange = labelled_pixels(alone), float((target == 3).sum())
    expected = (
        known * losses.cosine_ce_loss(pixels, alone, unit, seen, 10.0)
        + 0.5 * strange * losses.exposure_loss(pixels, target, unit, seen, 10.0)
    ) / (known + strange)
    objective = objective_of({"loss": "cosine_ce", "exposure": 0.5})
    torch.testing.assert_close(objective.loss(frames, target), expected, rtol=1e-4, atol=1e-6)
    assert objective.weight(target) == known + strange
    without = objective_of({"loss": "cosine_ce"}).loss(frames, alone)
    torch.testing.assert_close(objective.loss(frames, alone), without, rtol=1e-4, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), cut=st.integers(1, 3), void=st.sampled_from([0.0, 0.3, 0.9]))
@pytest.mark.parametrize("values", EVERY)
def test_weighed_parts_make_the_whole_batch(
    values: dict[str, Any], seed: int, cut: int, void: float
) -> None:
    objective = objective_of(values)
    frames, target = batch(seed, void=void)
    parts = [(frames[:cut], target[:cut]), (frames[cut:], target[cut:])]
    whole = objective.weight(target)
    assert sum(objective.weight(t) for _, t in parts) == pytest.approx(whole)
    summed = sum(float(objective.loss(f, t)) * objective.weight(t) for f, t in parts)
    expected = float(objective.loss(frames, target)) * whole
    assert summed == pytest.approx(expected, rel=1e-4, abs=1e-4)


# the seenmask ---------------------------------------------------------------------------------


def seenmask_of(*, balance: bool) -> Objective:
    pixels = np.array([100, 50, 50, 40, 0])  # 200 seen, 40 unseen
    config = TrainConfig(data="d", balance_seenmask=balance)
    return seenmask_objective(config, SPLIT, pixels, lambda f: pooled(f)[:, :2], GEOMETRY)


@pytest.mark.parametrize("balance", [False, True])
def test_the_seenmask_may_weigh_both_sides_alike(balance: bool) -> None:
    frames, target = batch(3)
    target[:, :4] = 3  # boat, of train_unseen
    truth = torch.where(target == VOID, -100, (target < KNOWN).long())
    weight = torch.tensor([240 / 80, 240 / 400]) if balance else None
    expected = F.cross_entropy(pixels_of(frames)[:, :2], truth, weight=weight)
    torch.testing.assert_close(seenmask_of(balance=balance).loss(frames, target), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), cut=st.integers(1, 3))
@pytest.mark.parametrize("balance", [False, True])
def test_weighed_parts_make_the_whole_batch_of_the_seenmask(
    balance: bool, seed: int, cut: int
) -> None:
    objective = seenmask_of(balance=balance)
    frames, target = batch(seed)
    target[1, :4] = 3
    parts = [(frames[:cut], target[:cut]), (frames[cut:], target[cut:])]
    whole = objective.weight(target)
    assert sum(objective.weight(t) for _, t in parts) == pytest.approx(whole, rel=1e-5)
    assert objective.weight(target.to(torch.uint8)) == whole
    summed = sum(float(objective.loss(f, t)) * objective.weight(t) for f, t in parts)
    assert summed == pytest.approx(float(objective.loss(frames, target)) * whole, rel=1e-4)


def test_pixels_that_are_not_void_are_counted() -> None:
    target = torch.tensor([[[0, VOID], [4, VOID]]])
    assert labelled_pixels(target) == 2.0
