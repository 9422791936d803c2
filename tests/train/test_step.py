from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from szn_runtime.errors import TrainingError
from szn_train.batches import Batches
from szn_train.checkpoint import load_checkpoint
from szn_train.config import StepConfig
from szn_train.datasets import FolderDataset
from szn_train.history import History
from szn_train.progress import Progress
from szn_train.step import Loss, TrainingStep, epoch_seed
from tests.train import catalogue

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Batches:
    """Four batches an epoch; the losses below look at the drawn numbers alone."""
    root = catalogue.write_dataset(tmp_path_factory.mktemp("step") / "data")
    return Batches(
        FolderDataset(root=root, split="train"),
        catalogue.SPLIT,
        ("t0", "t1", "t2", "t3"),
        transform=lambda image, target: (torch.randn(3, 2, 2), torch.zeros(2, 2).long()),
        batch_size=1,
    )


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


def moved(network: Net, before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value - before[name] for name, value in network.named_parameters()}


def copy_of(network: Net) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


# the optimiser --------------------------------------------------------------------------------


def test_heads_learn_at_their_own_rate(batches: Batches, tmp_path: Path) -> None:
    network = Net()
    before = copy_of(network)
    config = StepConfig(epochs=1, learning_rate=1e-3, head_rate=5.0)

    def every_parameter(frames: Tensor, target: Tensor) -> Tensor:
        return sum((p.sum() for p in network.parameters()), torch.zeros(()))

    with History(tmp_path) as history:
        step_of(network, config).run(batches, every_parameter, history, QUIET)
    # with a constant gradient Adam moves by its rate, four times
    for name, difference in moved(network, before).items():
        expected = -4e-3 * (5 if name.startswith("head") else 1)
        wanted = torch.full_like(difference, expected)
        torch.testing.assert_close(difference, wanted, rtol=1e-3, atol=0)


def test_weights_decay_and_biases_do_not(batches: Batches, tmp_path: Path) -> None:
    network = Net()
    before = copy_of(network)
    config = StepConfig(epochs=1, learning_rate=0.1, optimizer="adamw", weight_decay=0.5)

    def nothing(frames: Tensor, target: Tensor) -> Tensor:
        return sum((0 * p.sum() for p in network.parameters()), torch.zeros(()))

    with History(tmp_path) as history:
        step_of(network, config).run(batches, nothing, history, QUIET)
    for name, value in network.named_parameters():
        decays = name in {"body.weight", "head.weight"}
        expected = before[name] * ((1 - 0.1 * 0.5) ** 4 if decays else 1)
        torch.testing.assert_close(value.detach(), expected)


def test_the_moving_average_is_what_is_left(batches: Batches, tmp_path: Path) -> None:
    network = Net()
    start = copy_of(network)["head.weight"]
    config = StepConfig(epochs=1, learning_rate=1e-2, ema=0.75)

    def falling(frames: Tensor, target: Tensor) -> Tensor:
        return network.head.weight.sum()

    with History(tmp_path) as history:
        step_of(network, config, "seenmask").run(batches, falling, history, QUIET)
    # the weights fall by 0.01 a batch; the average starts at the first
    average = -0.01
    for batch in (2, 3, 4):
        average = 0.75 * average + 0.25 * -0.01 * batch
    difference = network.head.weight.detach() - start
    torch.testing.assert_close(difference, torch.full_like(start, average), rtol=1e-3, atol=0)


# the loop -------------------------------------------------------------------------------------


def test_the_loss_falls_and_is_recorded(batches: Batches, tmp_path: Path) -> None:
    network = Net()
    with History(tmp_path) as history:
        config = StepConfig(epochs=6, learning_rate=0.1)
        step_of(network, config).run(batches, squares(network), history, QUIET)
        rows = history.rows
    assert [(row["step"], row["epoch"]) for row in rows] == [("embedding", n) for n in range(1, 7)]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert all(row["images_per_s"] > 0 for row in rows)
    assert {row["learning_rate"] for row in rows} == {0.1}


def test_the_recorded_loss_is_the_mean_over_the_images(batches: Batches, tmp_path: Path) -> None:
    network = Net()
    values = iter([1.0, 2.0, 3.0, 10.0])

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        return next(values) + 0 * network.head.weight.sum()

    with History(tmp_path) as history:
        step_of(network, StepConfig(epochs=1), "seenmask").run(batches, loss, history, QUIET)
    assert history.rows[0]["loss"] == 4.0


@pytest.mark.parametrize(("name", "training"), [("embedding", True), ("seenmask", False)])
def test_only_a_step_with_a_body_is_in_training_mode(
    batches: Batches, tmp_path: Path, name: str, training: bool
) -> None:
    network = Net()
    network.eval()
    modes = []

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        modes.append(network.training)
        return network.head.weight.sum()

    with History(tmp_path) as history:
        step_of(network, StepConfig(epochs=1), name).run(batches, loss, history, QUIET)
    assert modes == [training] * 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(
    batches: Batches, tmp_path: Path, value: float
) -> None:
    network = Net()
    before = copy_of(network)
    expected = (
        rf"the loss of step 'seenmask' is not finite in epoch 1, batch 1: got {value}; lower the"
    )
    with History(tmp_path) as history, pytest.raises(TrainingError, match=expected):
        step_of(network, StepConfig(epochs=1), "seenmask").run(
            batches, lambda *_: value * network.head.weight.abs().sum(), history, QUIET
        )
    assert all(torch.equal(now, before[name]) for name, now in network.state_dict().items())
    assert not (tmp_path / "checkpoint.pt").exists()


# going on -------------------------------------------------------------------------------------


def both_steps(
    folder: Path, batches: Batches, *, ema: float, epochs: tuple[int, int], stop: int | None
) -> Net:
    """Run the steps, or those epochs that a checkpoint leaves, up to a number of epochs in all."""
    network = Net()
    path = folder / "checkpoint.pt"
    checkpoint = load_checkpoint(path) if path.is_file() else None
    if checkpoint:
        network.load_state_dict(checkpoint["network"])

    class Stopped(Exception):  # noqa: N818 - it is no error
        pass

    loss = squares(network)

    def until(history: History) -> Loss:
        def counted(frames: Tensor, target: Tensor) -> Tensor:
            if stop is not None and len(history.rows) == stop:
                raise Stopped
            return loss(frames, target)

        return counted

    try:
        with History(folder, checkpoint) as history:
            for name, count in zip(("embedding", "seenmask"), epochs, strict=True):
                if name == "seenmask":
                    network.requires_grad_(False)
                    network.head.requires_grad_(True)
                    network.eval()
                config = StepConfig(epochs=count, learning_rate=0.05, ema=ema)
                step_of(network, config, name).run(batches, until(history), history, QUIET)
    except Stopped:
        pass
    return network


@pytest.mark.parametrize("ema", [0.0, 0.6])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_that_stops_anywhere_ends_with_the_weights_of_an_unbroken_one(
    batches: Batches, tmp_path: Path, ema: float, stop: int
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = both_steps(tmp_path / "whole", batches, ema=ema, epochs=(2, 2), stop=None)
    both_steps(tmp_path / "broken", batches, ema=ema, epochs=(2, 2), stop=stop)
    saved = load_checkpoint(tmp_path / "broken" / "checkpoint.pt")
    assert len(saved["history"]) == stop
    resumed = both_steps(tmp_path / "broken", batches, ema=ema, epochs=(2, 2), stop=None)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_finished_run_is_left_as_it_is(batches: Batches, tmp_path: Path) -> None:
    whole = both_steps(tmp_path, batches, ema=0.6, epochs=(1, 1), stop=None)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    again = both_steps(tmp_path, batches, ema=0.6, epochs=(1, 1), stop=None)
    assert (tmp_path / "checkpoint.pt").read_bytes() == content
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


# seeds ------------------------------------------------------------------------------------------


def test_every_epoch_has_its_own_seed() -> None:
    seeds = {
        epoch_seed(seed, step, epoch)
        for seed in (1, 2)
        for step in ("embedding", "seenmask")
        for epoch in range(50)
    }
    assert len(seeds) == 200
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert epoch_seed(1337, "embedding", 0) == epoch_seed(1337, "embedding", 0)
