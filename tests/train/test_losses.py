from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from szn_train.classes import VOID
from szn_train.losses import (
    cosine_ce_loss,
    cosine_loss,
    exposure_loss,
    mse_loss,
    seenmask_loss,
    softmax_loss,
)

LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])
SEEN = torch.tensor([True, False, True])


def pixels(*vectors: tuple[float, float]) -> Tensor:
    """(1, 2, 1, P) from P vectors."""
    return torch.tensor(vectors).T[None, :, None, :]


def targets(*values: int) -> Tensor:
    """(1, 1, P)."""
    return torch.tensor([[values]])


def random_case(seed: int, shape: tuple[int, int, int], void: float) -> tuple[Tensor, Tensor]:
    """An embedding (N, 5, H, W) and a target (N, H, W) among 4 labels or void."""
    generator = torch.Generator().manual_seed(seed)
    n, height, width = shape
    target = torch.randint(0, 4, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < void] = VOID
    return torch.randn(n, 5, height, width, generator=generator), target


def unit_labels(count: int = 4, dim: int = 5) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(9)))


shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))


def test_cosine_loss_by_hand() -> None:
    # cosines 1, 0 and -1 whatever the length
    grid = pixels((3.0, 0.0), (0.5, 0.0), (6.0, -8.0))
    assert cosine_loss(grid, targets(0, 1, 2), LABELS).item() == pytest.approx((0 + 1 + 2) / 3)


def test_cosine_ce_loss_by_hand() -> None:
    # cosines with the seen labels 0 and 2: (1, -0.6); the unseen label 1 takes no part
    value = cosine_ce_loss(pixels((2.0, 0.0)), targets(0), LABELS, SEEN, 5.0).item()
    assert value == pytest.approx(math.log1p(math.exp(-5 * 0.6 - 5)), rel=1e-3)
    value = cosine_ce_loss(pixels((2.0, 0.0)), targets(2), LABELS, SEEN, 5.0).item()
    assert value == pytest.approx(8 + math.log1p(math.exp(-8)), rel=1e-5)


def test_exposure_loss_by_hand() -> None:
    # the pixel of the unseen label 1 has cosines (1, -0.6) with the seen ones; label 0 is seen
    value = exposure_loss(pixels((2.0, 0.0), (9.0, 1.0)), targets(1, 0), LABELS, SEEN, 5.0).item()
    shares = math.log(1 / (1 + math.exp(-8))), math.log(1 / (1 + math.exp(8)))
    assert value == pytest.approx(-sum(shares) / 2 - math.log(2), rel=1e-4)
    middle = LABELS[0] + LABELS[2]  # as near to both
    between = exposure_loss(
        pixels((middle[0].item(), middle[1].item())), targets(1), LABELS, SEEN, 5
    )
    assert between.item() == pytest.approx(0, abs=1e-5)
    assert exposure_loss(pixels((2.0, 0.0)), targets(0), LABELS, SEEN, 5.0).item() == 0


def test_mse_loss_by_hand() -> None:
    # differences (2, 0), (0, -1) and void
    value = mse_loss(pixels((3.0, 0.0), (0.0, 0.0), (9.0, 9.0)), targets(0, 1, VOID), LABELS)
    assert value.item() == pytest.approx((4 / 2 + 1 / 2) / 2)


def test_softmax_loss_by_hand() -> None:
    # the unseen label 1 has the highest score and takes no part
    scores = torch.tensor([[1.0, 50.0, 1.0 + math.log(3)]]).T[None, :, None, :]  # (1, 3, 1, 1)
    assert softmax_loss(scores, targets(0), SEEN).item() == pytest.approx(math.log(4), rel=1e-5)
    value = softmax_loss(scores, targets(2), SEEN).item()
    assert value == pytest.approx(math.log(4 / 3), rel=1e-5)


def test_seenmask_loss_by_hand() -> None:
    # channel 1 is seen; label 1 is the unseen one
    scores = pixels((0.0, math.log(3)), (0.0, math.log(3)))
    value = seenmask_loss(scores, targets(0, 1), SEEN).item()
    assert value == pytest.approx((-math.log(3 / 4) - math.log(1 / 4)) / 2, rel=1e-6)


def test_seenmask_loss_weighs_both_sides_by_hand() -> None:
    scores = pixels((0.0, math.log(3)), (0.0, math.log(3)), (0.0, 0.0))
    weights = torch.tensor([5.0, 1.0])  # unseen, seen
    value = seenmask_loss(scores, targets(0, 1, VOID), SEEN, weights).item()
    assert value == pytest.approx((-1 * math.log(3 / 4) - 5 * math.log(1 / 4)) / 6, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10_000), void=st.sampled_from([0.0, 0.4]))
def test_cosine_loss_equals_torchs_cosine(
    shape: tuple[int, int, int], seed: int, void: float
) -> None:
    embedding, target = random_case(seed, shape, void)
    known = target != VOID
    labels = unit_labels()
    wanted = labels[target.clamp(max=3)].permute(0, 3, 1, 2)  # (N, H, W, j) -> (N, j, H, W)
    each = 1 - F.cosine_similarity(embedding, wanted, dim=1)  # (N, H, W)
    expected = each[known].mean().item() if known.any() else 0.0
    assert cosine_loss(embedding, target, labels).item() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10_000), void=st.sampled_from([0.0, 0.4]))
def test_mse_loss_equals_torchs(shape: tuple[int, int, int], seed: int, void: float) -> None:
    embedding, target = random_case(seed, shape, void)
    known, labels = target != VOID, unit_labels()
    flat = embedding.permute(0, 2, 3, 1)[known]  # (P, j)
    expected = F.mse_loss(flat, labels[target[known]]).item() if known.any() else 0.0
    assert mse_loss(embedding, target, labels).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10_000), void=st.sampled_from([0.0, 0.4]))
def test_softmax_loss_of_all_labels_equals_torchs(
    shape: tuple[int, int, int], seed: int, void: float
) -> None:
    scores, target = random_case(seed, shape, void)
    truth = torch.where(target == VOID, -100, target)
    expected = F.cross_entropy(scores, truth).item() if (truth >= 0).any() else 0.0
    value = softmax_loss(scores, target, torch.ones(5, dtype=torch.bool)).item()
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10_000), scale=st.floats(0.5, 20))
def test_cosine_ce_loss_equals_cross_entropy_over_the_seen_labels(
    shape: tuple[int, int, int], seed: int, scale: float
) -> None:
    embedding, target = random_case(seed, shape, 0.2)
    target[target == 1] = 3  # label 1 is unseen: no image of the first step shows it
    labels, seen = unit_labels(), torch.tensor([True, False, True, True])
    logits = scale * torch.einsum("njhw,kj->nkhw", F.normalize(embedding), labels[seen])
    position = torch.tensor([0, -1, 1, 2])  # label index to index among the seen ones
    truth = torch.where(target == VOID, -100, position[target.clamp(max=3)])
    known = (target != VOID).any().item()
    expected = F.cross_entropy(logits, truth).item() if known else 0.0
    value = cosine_ce_loss(embedding, target, labels, seen, scale).item()
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10_000))
def test_seenmask_loss_equals_binary_cross_entropy(shape: tuple[int, int, int], seed: int) -> None:
    embedding, target = random_case(seed, shape, 0.2)
    scores, seen = embedding[:, :2], torch.tensor([True, False, True, False])
    known = target != VOID
    truth = seen[target.clamp(max=3)].float()
    margin = scores[:, 1] - scores[:, 0]
    each = F.binary_cross_entropy_with_logits(margin, truth, reduction="none")
    expected = each[known].mean().item() if known.any() else 0.0
    assert seenmask_loss(scores, target, seen).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10_000), weights=st.tuples(*[st.floats(0.1, 9)] * 2))
def test_weighted_seenmask_loss_equals_torchs(
    shape: tuple[int, int, int], seed: int, weights: tuple[float, float]
) -> None:
    embedding, target = random_case(seed, shape, 0.0)
    scores, seen = embedding[:, :2], torch.tensor([True, False, True, False])
    expected = F.cross_entropy(scores, seen[target].long(), weight=torch.tensor(weights))
    value = seenmask_loss(scores, target, seen, torch.tensor(weights))
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


def _cosine(grid: Tensor, target: Tensor) -> Tensor:
    return cosine_loss(grid, target, LABELS)


def _cosine_ce(grid: Tensor, target: Tensor) -> Tensor:
    return cosine_ce_loss(grid, target, LABELS, SEEN, 10.0)


def _seenmask(grid: Tensor, target: Tensor) -> Tensor:
    return seenmask_loss(grid, target, SEEN)


def _weighted_seenmask(grid: Tensor, target: Tensor) -> Tensor:
    return seenmask_loss(grid, target, SEEN, torch.tensor([2.0, 0.5]))


def _mse(grid: Tensor, target: Tensor) -> Tensor:
    return mse_loss(grid, target, LABELS)


def _softmax(grid: Tensor, target: Tensor) -> Tensor:
    scores = torch.cat([grid[:, :1], -grid[:, :1], grid[:, 1:]], dim=1)  # labels 0, 1 and 2
    return softmax_loss(scores, target, SEEN)


every_loss = pytest.mark.parametrize(
    "loss", [_cosine, _cosine_ce, _mse, _softmax, _seenmask, _weighted_seenmask]
)
Loss = Callable[[Tensor, Tensor], Tensor]


@every_loss
def test_void_pixels_change_neither_value_nor_gradient(loss: Loss) -> None:
    known = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([[[0, 2, 0, 2]] * 3])
    alone = known.clone().requires_grad_()
    loss(alone, target).backward()  # type: ignore[no-untyped-call]
    padded = torch.cat([known, torch.full((1, 2, 3, 2), 1e4)], dim=3).requires_grad_()
    value = loss(padded, F.pad(target, (0, 2), value=VOID))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(loss(alone, target).item(), rel=1e-6)
    assert alone.grad is not None
    assert padded.grad is not None
    torch.testing.assert_close(padded.grad[..., :4], alone.grad)
    assert (padded.grad[..., 4:] == 0).all()


@every_loss
def test_a_batch_of_void_alone_gives_zero_and_a_finite_gradient(loss: Loss) -> None:
    grid = torch.randn(2, 2, 3, 4).requires_grad_()
    value = loss(grid, torch.full((2, 3, 4), VOID))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0
    assert grid.grad is not None
    np.testing.assert_array_equal(grid.grad.numpy(), np.zeros((2, 2, 3, 4)))


@every_loss
def test_an_embedding_of_zero_gives_a_finite_gradient(loss: Loss) -> None:
    grid = torch.zeros(1, 2, 2, 2).requires_grad_()
    value = loss(grid, torch.zeros(1, 2, 2, dtype=torch.int64))
    value.backward()  # type: ignore[no-untyped-call]
    assert grid.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(grid.grad).all()


@every_loss
def test_the_gradient_points_downhill(loss: Loss) -> None:
    grid = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(4)).requires_grad_()
    target = torch.tensor([[[0, 2, 0], [2, 0, VOID], [0, 0, 2]]])
    before = loss(grid, target)
    before.backward()  # type: ignore[no-untyped-call]
    assert grid.grad is not None
    after = loss(grid.detach() - 0.01 * grid.grad, target)
    assert after.item() < before.item()
