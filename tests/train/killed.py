"""Runs that are killed, and whether others end with their weights."""

from __future__ import annotations

import torch
from torch import Tensor

from szn_train.progress import Progress
from szn_train.run import Run


class Killed(BaseException):
    """Stands for a process that is killed."""


class KilledAfter(Progress):
    """Progress that ends the run when a number of epochs have started."""

    def __init__(self, epochs: int) -> None:
        super().__init__(quiet=True)
        self._left = epochs

    def task(self, name: str, total: int):  # type: ignore[no-untyped-def]
        if self._left == 0:
            raise Killed
        self._left -= 1
        return super().task(name, total)


def weights(run: Run) -> dict[str, Tensor]:
    """By their names in `model.safetensors`."""
    return dict(run.network.state_dict())


def assert_same_weights(ours: Run, theirs: Run) -> None:
    """To the bit."""
    found, expected = weights(ours), weights(theirs)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
