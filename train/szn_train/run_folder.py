"""The folder of a run as training begins, or goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from szn_runtime.errors import TrainingError
from szn_train.checkpoint import (
    load_checkpoint,
    read_json,
    save_label_space,
    write_json,
)
from szn_train.config import TrainConfig
from szn_train.datasets import Dataset
from szn_train.semantic import LabelSpace

__all__ = ["checkpoint_to_resume", "keep_workers", "plain_values", "start_folder"]


def plain_values(config: TrainConfig) -> dict[str, Any]:
    """A configuration as JSON holds it."""
    values: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    return values


def checkpoint_to_resume(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint to go on from; None if the run was stopped before its first.

    Raises:
        TrainingError: If it is damaged or of another run, or the folder holds no run.
    """
    path = folder / "checkpoint.pt"
    for left in folder.glob(".*.pt.*.tmp"):  # of a process that was killed as it wrote
        left.unlink(missing_ok=True)
    if not path.is_file() and (folder / "config.json").is_file():
        return None
    state = load_checkpoint(path)
    was, is_now = dict(state.get("config", {})), dict(facts["config"])
    for values in (was, is_now):
        values.pop("data", None)  # a data set may move
        values.pop("workers", None)  # and where batches are prepared changes none
    odd = next((key for key in is_now if key in was and was[key] != is_now[key]), None)
    if odd is not None:
        raise TrainingError(
            f"{path} does not fit its config.json",
            got=f"{odd} {was[odd]}",
            expected=f"{odd} {is_now[odd]}",
            fix="resume with the configuration that it was written with",
        )
    if state.get("processes", facts["processes"]) != facts["processes"]:
        raise TrainingError(
            f"{path} was written by another number of processes",
            got=facts["processes"],
            expected=state["processes"],
            fix="resume with as many",
        )
    return state


def keep_workers(folder: Path, config: TrainConfig) -> None:
    """Write the number of workers that a run is resumed with, for those who resume it next."""
    path = folder / "config.json"
    values = read_json(path)
    if values["config"].get("workers", "auto") != config.workers:
        values["config"]["workers"] = config.workers
        write_json(path, values)


def start_folder(
    folder: Path,
    config: TrainConfig,
    dataset: Dataset,
    facts: dict[str, object],
    space: LabelSpace,
) -> None:
    """A run folder without results; those of an earlier run are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    old = ("config.json", "checkpoint.pt", "best.pt", "model.safetensors", "history.csv")
    for name in (*old, "eval-*.json", "eval-*.csv"):
        for path in folder.glob(name):
            path.unlink()
    names = list(dataset.class_names)
    write_json(folder / "config.json", {"config": config.to_dict(), "class_names": names})
    write_json(folder / "selection.json", facts)
    save_label_space(folder / "label_space.npz", space)
