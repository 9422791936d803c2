from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from szn_runtime.errors import TrainingError
from szn_train.batches import Batches
from szn_train.checkpoint import load_checkpoint
from szn_train.config import StepConfig
from szn_train.history import History
from tests.train.small import QUIET, Net, squares, step_of


def train_with_scores(
    folder: Path, batches: Batches, scores: list[float], *, early_stop: int, ema: float = 0.0
) -> tuple[Net, History, list[Tensor]]:
    """Scores in the order of the epochs, and the weights that were scored."""
    network, scored = Net(), []
    values = iter(scores)

    def score(trained: nn.Module) -> float:
        assert not any(module.training for module in trained.modules())
        scored.append(trained.get_parameter("head.weight").detach().clone())
        return next(values)

    config = StepConfig(epochs=8, learning_rate=0.01, early_stop=early_stop, ema=ema)
    checkpoint = folder / "checkpoint.pt"
    saved = load_checkpoint(checkpoint) if checkpoint.is_file() else None
    if saved:
        network.load_state_dict(saved["network"])
    with History(folder, saved) as history:
        step_of(network, config).run(batches, squares(network), history, QUIET, score=score)
    return network, history, scored


@pytest.mark.parametrize("ema", [0.0, 0.6])
def test_a_step_stops_when_scores_no_longer_rise_and_keeps_the_best_weights(
    batches: Batches, tmp_path: Path, ema: float
) -> None:
    scores = [10.0, 30.0, 20.0, 30.0, 25.0]
    network, history, scored = train_with_scores(tmp_path, batches, scores, early_stop=3, ema=ema)
    assert [row["score"] for row in history.rows] == scores  # epoch 2 was best, 5 the third after
    assert torch.equal(network.head.weight, scored[1])
    best = load_checkpoint(tmp_path / "best.pt")
    assert best["best"] == {"epoch": 2, "score": 30.0}
    assert torch.equal(best["network"]["head.weight"], scored[1])
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "step,epoch,loss,learning_rate,images_per_s,score"


def test_a_step_that_keeps_rising_is_not_stopped(batches: Batches, tmp_path: Path) -> None:
    scores = [float(n) for n in range(8)]
    network, history, scored = train_with_scores(tmp_path, batches, scores, early_stop=1)
    assert len(history.rows) == 8
    assert torch.equal(network.head.weight, scored[-1])


def test_a_stopped_step_stays_stopped_when_it_is_resumed(batches: Batches, tmp_path: Path) -> None:
    first, history, _ = train_with_scores(tmp_path, batches, [5.0, 4.0], early_stop=1)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    again, resumed, scored = train_with_scores(tmp_path, batches, [], early_stop=1)
    assert (tmp_path / "checkpoint.pt").read_bytes() == content
    assert len(history.rows) == len(resumed.rows) == 2
    assert scored == []
    assert torch.equal(again.head.weight, first.head.weight)


def test_a_score_that_is_no_number_is_refused(batches: Batches, tmp_path: Path) -> None:
    expected = "step 'embedding' has no validation score: expected a validation split that shows"
    with pytest.raises(TrainingError, match=expected):
        train_with_scores(tmp_path, batches, [float("nan")], early_stop=1)


def test_without_an_early_stop_nothing_is_scored(batches: Batches, tmp_path: Path) -> None:
    _, history, scored = train_with_scores(tmp_path, batches, [], early_stop=0)
    assert len(history.rows) == 8
    assert scored == []
    assert not (tmp_path / "best.pt").exists()
