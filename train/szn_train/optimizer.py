"""Optimisers of a training step, and the learning rate over its course."""

from __future__ import annotations

import math

import torch
from torch import nn

from szn_train.config import StepConfig

__all__ = ["build_optimizer", "learning_rate"]


def build_optimizer(
    config: StepConfig, body: list[nn.Parameter], heads: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """Body and heads at their own rates.

    Parameters of one dimension, which are biases and normalisation, learn `bias_rate` times as
    fast and do not decay. Each group holds its `factor` on the learning rate.
    """
    groups = []
    for parameters, factor in ((body, 1.0), (heads, config.head_rate)):
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decays]
            if chosen:
                decay = config.weight_decay if decays else 0.0
                rate = factor if decays else factor * config.bias_rate
                groups.append({"params": chosen, "factor": rate, "weight_decay": decay})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.Adam(groups, lr=config.learning_rate)


def learning_rate(config: StepConfig, done: float) -> float:
    """Learning rate after the share `done` in [0, 1) of the step."""
    if config.schedule == "constant":
        return config.learning_rate
    if done < config.warmup:
        return config.learning_rate * (0.01 + 0.99 * done / config.warmup)
    share = (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
