"""How far a run has come: its checkpoint, its table of epochs and its TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from szn_train.checkpoint import save_checkpoint, write_csv

__all__ = ["History"]


class History:
    """The record of a run; a context manager that closes the event file.

    Args:
        folder: The run folder.
        checkpoint: State to go on from, or None for a new run.

    Attributes:
        checkpoint: As given.
        rows: One mapping per finished epoch: step, epoch, loss, learning_rate, images_per_s.
    """

    def __init__(self, folder: Path, checkpoint: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.checkpoint = checkpoint
        self.rows: list[dict[str, Any]] = list(checkpoint["history"]) if checkpoint else []

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter

        self._events = self._stack.enter_context(SummaryWriter(str(self._folder / "events")))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def finished_epochs(self, step: str) -> int:
        """Epochs of a step that are done."""
        return sum(row["step"] == step for row in self.rows)

    def record(self, row: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Add an epoch and write everything to disk, the checkpoint first."""
        self.rows.append(dict(row))
        save_checkpoint(self._folder / "checkpoint.pt", {**state, "history": self.rows})
        write_csv(self._folder / "history.csv", self.rows)
        for key in ("loss", "learning_rate", "images_per_s"):
            self._events.add_scalar(f"{row['step']}/{key}", row[key], row["epoch"])
        self._events.flush()
