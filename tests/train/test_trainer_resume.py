from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from szn_runtime.errors import TrainingError
from szn_train.checkpoint import load_checkpoint, save_checkpoint, save_label_space
from szn_train.config import TrainConfig
from szn_train.history import History
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.semantic import label_space
from szn_train.trainer import train
from tests.train import catalogue
from tests.train.catalogue import stateful_config
from tests.train.killed import Killed, KilledAfter, assert_same_weights, weights


# two epochs of the first step, passes of what is fitted, two epochs of a linear seenmask
@pytest.mark.parametrize(
    ("recipe", "tasks", "epochs"),
    [
        *(("whole", tasks, 4) for tasks in (1, 2, 3)),
        ("refitted", 3, 4),
        ("statistical", 3, 2),
        *(("refitted_statistical", tasks, 2) for tasks in (2, 4)),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(
    request: pytest.FixtureRequest, tmp_path: Path, recipe: str, tasks: int, epochs: int
) -> None:
    config, unbroken = request.getfixturevalue(recipe)
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(tasks))
    assert not (tmp_path / "model.safetensors").exists()
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    assert_same_weights(resumed, unbroken)
    assert (tmp_path / "history.csv").read_text().count("\n") == 1 + epochs  # and a header


def test_a_run_is_trained_resumed_and_read_with_the_words_of_its_labels(tmp_path: Path) -> None:
    config = stateful_config(
        tmp_path, label_words=(("sheep", ("goat",)), ("cow", ("horse", "cat")))
    )
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=KilledAfter(3))
    Path(config.embeddings).unlink()  # the space is that of the run's first half
    run = train(config, tmp_path / "run", progress=Progress(quiet=True), resume=True)
    words = catalogue.write_words(tmp_path / "words.txt")
    spaces = [
        label_space(run.split.labels, source=str(words), dim=4, words=given)
        for given in (None, {"sheep": ("goat",), "cow": ("horse", "cat")})
    ]
    np.testing.assert_allclose(run.space.embeddings, spaces[1].embeddings, atol=1e-4)
    moved = np.abs(run.space.embeddings - spaces[0].embeddings).max(axis=1) > 0.1
    assert [name for name, has in zip(run.split.labels, moved, strict=True) if has] == [
        "cow",
        "sheep",
    ]
    saved = json.loads((run.folder / "config.json").read_text())["config"]
    assert saved["label_words"] == {"sheep": ["goat"], "cow": ["horse", "cat"]}
    assert run.config == config


def test_a_checkpoint_of_another_network_is_refused(
    whole: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, run = whole
    (tmp_path / "checkpoint.pt").write_bytes((run.folder / "checkpoint.pt").read_bytes())
    other = dataclasses.replace(config, dim=3)
    expected = r"checkpoint\.pt does not fit its config\.json: got dim 4, expected dim 3; resume wi"
    with pytest.raises(TrainingError, match=expected):
        train(other, tmp_path, progress=Progress(quiet=True), resume=True)
    # checkpoints that do not say what wrote them are known by their tensors
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    save_checkpoint(tmp_path / "checkpoint.pt", {k: v for k, v in state.items() if k != "config"})
    space = label_space(run.split.labels, source=other.embeddings, dim=3)
    save_label_space(tmp_path / "label_space.npz", space)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt does not fit its config\.json$"):
        train(other, tmp_path, progress=Progress(quiet=True), resume=True)


@pytest.mark.parametrize(
    ("change", "fact"),
    [({"seed": 9}, "seed"), ({"unseen": ()}, "unseen"), ({"precision": "bf16"}, "precision")],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    whole: tuple[TrainConfig, Run], tmp_path: Path, change: dict[str, Any], fact: str
) -> None:
    config, run = whole
    (tmp_path / "checkpoint.pt").write_bytes((run.folder / "checkpoint.pt").read_bytes())
    other = dataclasses.replace(config, **change)
    expected = rf"does not fit its config\.json: got {fact} .*, expected {fact} "
    with pytest.raises(TrainingError, match=expected) as caught:
        train(other, tmp_path, progress=Progress(quiet=True), resume=True)
    assert "\n" not in str(caught.value)


def test_a_data_set_may_move_between_both_halves_of_a_run(
    whole: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, unbroken = whole
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=KilledAfter(2))
    moved = dataclasses.replace(config, data=str(catalogue.write_dataset(tmp_path / "moved")))
    resumed = train(moved, tmp_path / "run", progress=Progress(quiet=True), resume=True)
    assert_same_weights(resumed, unbroken)


def test_a_full_disk_is_one_line_and_loses_no_earlier_checkpoint(
    whole: tuple[TrainConfig, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, unbroken = whole
    writes = 0

    def full(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if (tmp_path / "history.csv").exists():  # the first epoch is on disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        expected = r"cannot be written \(No space left on device\); free space; --resume goes on"
        with pytest.raises(TrainingError, match=expected) as caught:
            train(config, tmp_path, progress=Progress(quiet=True))
    assert "\n" not in str(caught.value)
    assert writes == 6
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert [row["epoch"] for row in saved["history"]] == [1]
    assert list(tmp_path.glob(".*.tmp")) == []
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    assert_same_weights(resumed, unbroken)


def test_a_refit_is_not_done_again_once_the_seenmask_trains(
    refitted: tuple[TrainConfig, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, unbroken = refitted
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(4))
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["step"] == "seenmask"
    expected = weights(unbroken)["embedding_head.weight"]
    assert torch.equal(saved["network"]["embedding_head.weight"], expected)
    monkeypatch.delattr("szn_train.two_steps.fit_embedding")
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    assert torch.equal(weights(resumed)["embedding_head.weight"], expected)


@pytest.mark.parametrize(("refit", "ema"), [(False, 0.0), (True, 0.5)])
def test_a_run_killed_as_the_seenmask_overwrote_the_best_weights_resumes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool, ema: float
) -> None:
    config = stateful_config(tmp_path, refit_embedding=refit)
    config = dataclasses.replace(
        config,
        embedding_step=dataclasses.replace(config.embedding_step, early_stop=2),
        seenmask_step=dataclasses.replace(config.seenmask_step, early_stop=2, ema=ema),
    )
    unbroken = train(config, tmp_path / "unbroken", progress=Progress(quiet=True))
    save_best = History.save_best

    def killed(history: History, state: dict[str, Any]) -> None:
        save_best(history, state)
        if state["step"] == "seenmask":
            raise Killed

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(History, "save_best", killed)
        with pytest.raises(Killed):
            train(config, folder, progress=Progress(quiet=True))
    assert load_checkpoint(folder / "best.pt")["step"] == "seenmask"
    rows = load_checkpoint(folder / "checkpoint.pt")["history"]
    assert [row["step"] for row in rows] == ["embedding"] * 2  # no epoch of the seenmask
    resumed = train(config, folder, progress=Progress(quiet=True), resume=True)
    assert_same_weights(resumed, unbroken)
    ours, theirs = (
        [
            {key: value for key, value in row.items() if key != "images_per_s"}
            for row in load_checkpoint(run.folder / "checkpoint.pt")["history"]
        ]
        for run in (resumed, unbroken)
    )
    assert ours == theirs


def test_resuming_nothing(tmp_path: Path) -> None:
    config = stateful_config(tmp_path)
    with pytest.raises(TrainingError, match="has no checkpoint; train without --resume"):
        train(config, tmp_path / "run", progress=Progress(quiet=True), resume=True)
