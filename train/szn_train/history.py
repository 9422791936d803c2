"""How far a run has come: its checkpoints, its table of epochs and its TensorBoard events."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from szn_runtime.errors import TrainingError
from szn_train.checkpoint import load_checkpoint, save_checkpoint, write_csv

__all__ = ["History"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class History:
    """The record of a run; a context manager that closes the event file.

    Args:
        folder: The run folder.
        checkpoint: State to go on from, or None for a new run.
        facts: Plain values that every checkpoint carries.
        writes: Whether this process writes; one of several does.

    Attributes:
        checkpoint: As given.
        rows: One mapping per finished epoch: step, epoch, loss, learning_rate, images_per_s, and
            score where the epoch was validated.
    """

    def __init__(
        self,
        folder: Path,
        checkpoint: Mapping[str, Any] | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
        writes: bool = True,
    ) -> None:
        self._folder, self._facts, self._writes = folder, dict(facts or {}), writes
        self._stack = ExitStack()
        self.checkpoint = checkpoint
        self.rows: list[dict[str, Any]] = list(checkpoint["history"]) if checkpoint else []

    def __enter__(self) -> Self:
        if self._writes:
            from torch.utils.tensorboard import SummaryWriter

            self._events = self._stack.enter_context(SummaryWriter(str(self._folder / "events")))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def finished_epochs(self, step: str) -> int:
        """Epochs of a step that are done."""
        return sum(row["step"] == step for row in self.rows)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint to go on from.

        Raises:
            TrainingError: If the disk is full; the older checkpoint stays.
        """
        if self._writes:
            with self._space():
                content = {**state, **self._facts, "history": self.rows}
                save_checkpoint(self._folder / "checkpoint.pt", content)

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Write the weights with the best score so far.

        Raises:
            TrainingError: If the disk is full; the older ones stay.
        """
        if self._writes:
            with self._space():
                content = {**state, **self._facts, "history": self.rows}
                save_checkpoint(self._folder / "best.pt", content)

    def best(self) -> dict[str, Any]:
        """What `save_best` wrote last.

        Raises:
            TrainingError: If it is missing or damaged.
        """
        return load_checkpoint(self._folder / "best.pt")

    def record(self, row: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Add an epoch and write everything to disk, the checkpoint first.

        Raises:
            TrainingError: If the disk is full; the older checkpoint stays.
        """
        self.rows.append(dict(row))
        self.save(state)
        if not self._writes:
            return
        with self._space():
            write_csv(self._folder / "history.csv", self.rows)
            for key in ("loss", "learning_rate", "images_per_s", "score"):
                if key in row:
                    self._events.add_scalar(f"{row['step']}/{key}", row[key], row["epoch"])
            self._events.flush()

    @contextmanager
    def _space(self) -> Iterator[None]:
        """A full disk is no bug: say so in a line."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise TrainingError(
                f"{self._folder} cannot be written ({error.strerror})",
                fix="free space; --resume goes on from the last checkpoint",
            ) from error
