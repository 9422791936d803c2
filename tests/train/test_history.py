from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from szn_train.checkpoint import load_checkpoint
from szn_train.history import History


def row(step: str, epoch: int, loss: float = 1.0) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": epoch,
        "loss": loss,
        "learning_rate": 0.125,
        "images_per_s": 10.0,
    }


def state(step: str, value: float) -> dict[str, Any]:
    weight = torch.tensor([value])
    return {"step": step, "network": {"weight": weight}, "optimizer": {}, "average": {}}


def test_an_epoch_is_on_disk_when_it_is_recorded(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        for epoch in (1, 2):
            history.record(row("embedding", epoch, 1 / epoch), state("embedding", epoch))
            saved = load_checkpoint(tmp_path / "checkpoint.pt")
            assert saved["network"]["weight"].item() == epoch
            assert [r["epoch"] for r in saved["history"]] == list(range(1, epoch + 1))
            with (tmp_path / "history.csv").open() as file:
                rows = list(csv.DictReader(file))
            assert [r["loss"] for r in rows] == ["1.0", "0.5"][:epoch]


def test_a_new_history_is_empty(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        assert history.checkpoint is None
        assert history.rows == []
        assert history.finished_epochs("embedding") == 0


def test_a_history_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        history.record(row("embedding", 1), state("embedding", 1))
        history.record(row("seenmask", 1), state("seenmask", 2))
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    with History(tmp_path, checkpoint) as history:
        assert history.finished_epochs("embedding") == history.finished_epochs("seenmask") == 1
        history.record(row("seenmask", 2), state("seenmask", 3))
        assert history.finished_epochs("seenmask") == 2
    assert len(checkpoint["history"]) == 2  # what was given stays as it is
    rows = load_checkpoint(tmp_path / "checkpoint.pt")["history"]
    assert [(r["step"], r["epoch"]) for r in rows] == [
        ("embedding", 1),
        ("seenmask", 1),
        ("seenmask", 2),
    ]


def test_tensorboard_shows_both_steps(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        history.record(row("embedding", 1, 0.75), state("embedding", 1))
        history.record(row("embedding", 2, 0.5), state("embedding", 2))
        history.record(row("seenmask", 1, 0.25), state("seenmask", 3))
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    curves = [key for key in row("", 0) if key not in {"step", "epoch"}]
    expected = [f"{step}/{curve}" for step in ("embedding", "seenmask") for curve in curves]
    assert sorted(events.Tags()["scalars"]) == sorted(expected)
    assert [(e.step, e.value) for e in events.Scalars("embedding/loss")] == [(1, 0.75), (2, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("seenmask/loss")] == [(1, 0.25)]


def test_a_write_that_fails_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        history.record(row("embedding", 1), state("embedding", 1))
        (tmp_path / "history.csv").unlink()
        (tmp_path / "history.csv").mkdir()
        with pytest.raises(IsADirectoryError):
            history.record(row("embedding", 2), state("embedding", 2))
    # the checkpoint is written first, and whole
    assert load_checkpoint(tmp_path / "checkpoint.pt")["network"]["weight"].item() == 2
