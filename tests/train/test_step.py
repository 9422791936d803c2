from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from szn_runtime.errors import TrainingError
from szn_train.batches import Batch, Batches, Drawn
from szn_train.checkpoint import load_checkpoint
from szn_train.classes import VOID
from szn_train.config import StepConfig
from szn_train.datasets import FolderDataset
from szn_train.history import History
from szn_train.step import Loss, epoch_seed
from tests.train import catalogue
from tests.train.small import QUIET, Net, squares, step_of


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
        assert (frames.dtype, target.dtype) == (torch.float32, torch.int64)
        return next(values) + 0 * network.head.weight.sum()

    with History(tmp_path) as history:
        step_of(network, StepConfig(epochs=1), "seenmask").run(batches, loss, history, QUIET)
    assert history.rows[0]["loss"] == 4.0


def test_the_start_of_workers_is_no_part_of_the_speed(
    batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    draw = batches.draw

    def slow(order: list[Drawn], first: int = 0) -> Iterator[Batch]:
        for position, batch in enumerate(draw(order, first)):
            now[0] += 2.0 if position else 100.0
            yield batch

    monkeypatch.setattr(batches, "draw", slow)
    monkeypatch.setattr("szn_train.step.time.perf_counter", lambda: now[0])

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        now[0] += 1.0
        return network.head.weight.sum()

    network = Net()
    with History(tmp_path) as history:
        config = StepConfig(epochs=1, accumulation=2)
        step_of(network, config).run(batches, loss, history, QUIET)
    assert history.rows[0]["images_per_s"] == 4 / (3 * 2.0 + 4 * 1.0)


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


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    batches: Batches, tmp_path: Path
) -> None:
    network, calls = Net(), 0

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return network.head.weight.sum() * (float("nan") if calls > 6 else 1.0)

    expected = "loss of step 'embedding' is not finite in epoch 2, batch 3: got nan"
    with History(tmp_path) as history, pytest.raises(TrainingError, match=expected):
        step_of(network, StepConfig(epochs=3)).run(batches, loss, history, QUIET)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert [row["epoch"] for row in saved["history"]] == [1]


# accumulation ---------------------------------------------------------------------------------


def masked(network: Net) -> Loss:
    """Mean over the pixels that are not void."""

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        values = (network.head(frames.flatten(2).transpose(1, 2)) - 3).square()[..., 0]  # (N, P)
        known = target.flatten(1) != VOID
        return (values * known).sum() / max(int(known.sum()), 1)

    return loss


def uneven(root: Path, batch_size: int, count: int) -> Batches:
    """Batches of images with 4, 3, 2 ... labelled pixels."""
    numbers = iter(range(100))

    def transform(image: object, target: object) -> tuple[Tensor, Tensor]:
        number = next(numbers) % count
        frame = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(number))
        labels = torch.zeros(4).long()
        labels[: number % 4] = VOID
        return frame, labels.view(2, 2)

    dataset = FolderDataset(root=root, split="train")
    ids = tuple(f"t{n}" for n in range(count))
    return Batches(dataset, catalogue.SPLIT, ids, transform=transform, batch_size=batch_size)


@pytest.mark.parametrize(("count", "optimizer"), [(6, "sgd"), (8, "sgd"), (7, "adam")])
def test_accumulated_batches_are_one_large_batch(
    tmp_path: Path, count: int, optimizer: Literal["adam", "sgd"]
) -> None:
    # void pixels make means of batches differ from the mean of all: weights must set that right
    root = catalogue.write_dataset(tmp_path / "data")
    trained = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        network = Net()
        config = StepConfig(
            epochs=2, batch_size=batch_size, accumulation=accumulation, learning_rate=0.05,
            optimizer=optimizer, ema=0.5,
        )  # fmt: skip
        folder = tmp_path / f"{batch_size}"
        folder.mkdir()
        with History(folder) as history:
            batches = uneven(root, batch_size, count)
            step_of(network, config, "seenmask").run(batches, masked(network), history, QUIET)
        trained.append((network.head.weight.detach(), history.rows[0]["loss"]))
    for weight, _ in trained[1:]:
        torch.testing.assert_close(weight, trained[0][0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(trained[0][0], Net().head.weight)


def test_a_group_of_void_alone_changes_nothing(batches: Batches, tmp_path: Path) -> None:
    network = Net()
    before = copy_of(network)
    config = StepConfig(epochs=1, accumulation=3, optimizer="sgd", learning_rate=0.1)

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        return 0 * network.head.weight.sum()

    with History(tmp_path) as history:
        step_of(network, config, "seenmask").run(
            batches, loss, history, QUIET, weight=lambda target: 0.0
        )
    assert torch.equal(network.head.weight, before["head.weight"])


# memory ---------------------------------------------------------------------------------------


def test_out_of_memory_is_one_line_and_keeps_the_last_checkpoint(
    batches: Batches, tmp_path: Path
) -> None:
    network, calls = Net(), 0

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            torch.empty(2**52)  # petabytes: the allocator refuses
        return network.head.weight.square().sum()

    expected = r"out of memory for a batch of 1 frames of 2 x 2 in step 'embedding'; lower batch_si"
    with History(tmp_path) as history, pytest.raises(TrainingError, match=expected) as caught:
        step_of(network, StepConfig(epochs=2)).run(batches, loss, history, QUIET)
    assert "\n" not in str(caught.value)
    assert len(load_checkpoint(tmp_path / "checkpoint.pt")["history"]) == 1


def test_other_errors_are_not_taken_for_memory(batches: Batches, tmp_path: Path) -> None:
    def loss(frames: Tensor, target: Tensor) -> Tensor:
        return torch.zeros(2, 3) @ torch.zeros(2, 3)

    with History(tmp_path) as history, pytest.raises(RuntimeError, match="cannot be multiplied"):
        step_of(Net(), StepConfig(epochs=1)).run(batches, loss, history, QUIET)


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
