from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from szn_train.batches import Batches
from szn_train.checkpoint import load_checkpoint
from szn_train.config import StepConfig
from szn_train.history import History
from szn_train.step import Loss
from tests.train.small import QUIET, Net, squares, step_of


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


# checkpoints within an epoch ------------------------------------------------------------------


@pytest.mark.parametrize(("every", "accumulation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6, 7])
def test_a_run_that_stops_within_an_epoch_ends_with_the_weights_of_an_unbroken_one(
    batches: Batches, tmp_path: Path, every: int, accumulation: int, stop: int
) -> None:
    config = StepConfig(
        epochs=2, learning_rate=0.05, ema=0.5, checkpoint_every=every, accumulation=accumulation
    )

    def go(folder: Path, stop: int | None) -> tuple[Net, History]:
        folder.mkdir(exist_ok=True)
        network, calls = Net(), 0
        path = folder / "checkpoint.pt"
        saved = load_checkpoint(path) if path.is_file() else None
        if saved:
            network.load_state_dict(saved["network"])

        def loss(frames: Tensor, target: Tensor) -> Tensor:
            nonlocal calls
            if calls == stop:
                raise KeyboardInterrupt
            calls += 1
            noise = torch.rand(())  # as dropout draws
            return noise * squares(network)(frames, target)

        with History(folder, saved) as history:
            step_of(network, config).run(batches, loss, history, QUIET)
        return network, history

    whole, unbroken = go(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "broken", stop)
    resumed, history = go(tmp_path / "broken", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    losses = [row["loss"] for row in history.rows]
    assert losses == pytest.approx([row["loss"] for row in unbroken.rows], rel=1e-12)


def test_a_checkpoint_within_an_epoch_says_how_far_it_came(
    batches: Batches, tmp_path: Path
) -> None:
    network, seen = Net(), []
    config = StepConfig(epochs=1, checkpoint_every=3)

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        path = tmp_path / "checkpoint.pt"
        seen.append(load_checkpoint(path)["batches"] if path.is_file() else None)
        return network.head.weight.square().sum()

    with History(tmp_path) as history:
        step_of(network, config).run(batches, loss, history, QUIET)
    assert seen == [None, None, None, 3]
    last = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (last["batches"], len(last["history"]), len(last["random"])) == (0, 1, 1)
