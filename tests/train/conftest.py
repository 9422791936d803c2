"""Batches, and unbroken runs trained once that several files compare others with."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from szn_train.batches import Batches
from szn_train.config import TrainConfig
from szn_train.datasets import FolderDataset
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.trainer import train
from tests.train import catalogue

Unbroken = tuple[TrainConfig, Run]
"""Nothing writes into its folder."""


@pytest.fixture(scope="session")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Batches:
    """Four batches an epoch, of random numbers on whatever images there are."""
    root = catalogue.write_dataset(tmp_path_factory.mktemp("step") / "data")
    return Batches(
        FolderDataset(root=root, split="train"),
        catalogue.SPLIT,
        ("t0", "t1", "t2", "t3"),
        transform=lambda image, target: (torch.randn(3, 2, 2), torch.zeros(2, 2).long()),
        batch_size=1,
    )


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """Both steps, the second for a linear seenmask."""
    root = tmp_path_factory.mktemp("whole")
    config = catalogue.stateful_config(root)
    return config, train(config, root / "run", progress=Progress(quiet=True))


@pytest.fixture(scope="session")
def refitted(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """The same with a refit of the embedding head between them."""
    root = tmp_path_factory.mktemp("refitted")
    config = catalogue.stateful_config(root, refit_embedding=True)
    return config, train(config, root / "run", progress=Progress(quiet=True))


@pytest.fixture(scope="session")
def statistical(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """With a seenmask of statistics."""
    root = tmp_path_factory.mktemp("statistical")
    config = catalogue.statistical_config(root)
    return config, train(config, root / "run", progress=Progress(quiet=True))


@pytest.fixture(scope="session")
def refitted_statistical(
    statistical: Unbroken, tmp_path_factory: pytest.TempPathFactory
) -> Unbroken:
    """The same with a refit in front of it."""
    config = dataclasses.replace(statistical[0], refit_embedding=True)
    folder = tmp_path_factory.mktemp("refitted-statistical")
    return config, train(config, folder, progress=Progress(quiet=True))
