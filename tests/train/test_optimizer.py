from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from szn_train.config import StepConfig
from szn_train.optimizer import build_optimizer, learning_rate


def layers() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(3, 3), nn.Linear(3, 1)


def groups_of(**values: Any) -> list[dict[str, Any]]:
    body, head = layers()
    config = StepConfig(epochs=1, learning_rate=0.5, **values)
    optimizer = build_optimizer(config, list(body.parameters()), list(head.parameters()))
    return optimizer.param_groups


# groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_the_optimiser_is_the_one_of_the_configuration(name: Any, kind: type) -> None:
    body, head = layers()
    config = StepConfig(epochs=1, optimizer=name)
    assert type(build_optimizer(config, list(body.parameters()), list(head.parameters()))) is kind


def test_heads_and_biases_have_their_own_rates() -> None:
    groups = groups_of(head_rate=3.0, bias_rate=2.0, weight_decay=0.1)
    facts = [(g["params"][0].ndim, g["factor"], g["weight_decay"]) for g in groups]
    assert facts == [(2, 1.0, 0.1), (1, 2.0, 0.0), (2, 3.0, 0.1), (1, 6.0, 0.0)]


def test_parameters_that_there_are_not_make_no_group() -> None:
    _, head = layers()
    optimizer = build_optimizer(StepConfig(epochs=1), [], [head.weight])
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_sgd_keeps_its_momentum_by_hand() -> None:
    # gradient 1, momentum 0.5, weight decay 0.1 on the weights only
    body, _ = layers()
    nn.init.constant_(body.weight, 2.0)
    nn.init.constant_(body.bias, 2.0)
    config = StepConfig(
        epochs=1, learning_rate=0.1, optimizer="sgd", momentum=0.5, weight_decay=0.1
    )
    optimizer = build_optimizer(config, list(body.parameters()), [])
    weight, bias, velocity_of_weight, velocity_of_bias = 2.0, 2.0, 0.0, 0.0
    for _ in range(3):
        optimizer.zero_grad()
        (body.weight.sum() + body.bias.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        velocity_of_weight = 0.5 * velocity_of_weight + 1 + 0.1 * weight
        velocity_of_bias = 0.5 * velocity_of_bias + 1
        weight, bias = weight - 0.1 * velocity_of_weight, bias - 0.1 * velocity_of_bias
    torch.testing.assert_close(body.weight.detach(), torch.full((3, 3), weight))
    torch.testing.assert_close(body.bias.detach(), torch.full((3,), bias))


# schedule -------------------------------------------------------------------------------------


@given(
    warmup=st.floats(0.01, 0.9),
    places=st.lists(st.floats(0, 0.999), min_size=2, max_size=9),
)
def test_the_rate_rises_and_then_falls(warmup: float, places: list[float]) -> None:
    config = StepConfig(epochs=1, learning_rate=2.0, schedule="cosine", warmup=warmup)
    rising = [learning_rate(config, place) for place in sorted(places) if place < warmup]
    falling = [learning_rate(config, place) for place in sorted(places) if place >= warmup]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(0 < rate <= 2.0 for rate in rising + falling)


def test_the_rate_without_warm_up_starts_at_its_peak() -> None:
    config = StepConfig(epochs=1, learning_rate=2.0, schedule="cosine")
    values = [learning_rate(config, done) for done in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(values, 1 + np.cos(np.pi * np.arange(4) / 4), rtol=1e-12)


@pytest.mark.parametrize(("done", "share"), [(0.0, 0.01), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0)])
def test_warm_up_and_cosine(done: float, share: float) -> None:
    step = StepConfig(epochs=1, learning_rate=2.0, schedule="cosine", warmup=0.1)
    assert learning_rate(step, done) == pytest.approx(2.0 * share, abs=1e-9)


def test_constant_schedule() -> None:
    step = StepConfig(epochs=1, learning_rate=0.5)
    assert {learning_rate(step, done) for done in (0.0, 0.5, 0.99)} == {0.5}
