"""A network of three layers whose training step takes no time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from szn_train.config import StepConfig
from szn_train.progress import Progress
from szn_train.step import Loss, TrainingStep

QUIET = Progress(quiet=True)


class Net(nn.Module):
    """Two linear layers in the place of a backbone and a head, and one with a state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 1)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.flatten(2).transpose(1, 2).flatten(0, 1)  # (N, 3, H, W) -> (N H W, 3)
        result: Tensor = self.head(self.norm(self.body(pixels)))
        return result


def squares(network: Net) -> Loss:
    return lambda frames, target: (network(frames) - 3).square().mean()


def step_of(network: Net, config: StepConfig, name: str = "embedding") -> TrainingStep:
    body = [*network.body.parameters(), *network.norm.parameters()] if name == "embedding" else []
    return TrainingStep(
        name,
        config,
        seed=3,
        network=network,
        body=body,
        heads=list(network.head.parameters()),
    )
