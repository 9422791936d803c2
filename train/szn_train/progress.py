"""Progress on the terminal, and nowhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

__all__ = ["Progress", "Task"]


class Task:
    """A bar that is shown while its context is open."""

    def __init__(self, bars: RichProgress, name: str, total: int) -> None:
        self._bars, self._name, self._total = bars, name, total

    def __enter__(self) -> Self:
        self._id = self._bars.add_task(self._name, total=self._total, facts="")
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.remove_task(self._id)

    def advance(self, facts: str = "") -> None:
        """One batch is done; `facts` stands behind the bar."""
        self._bars.update(self._id, advance=1, facts=facts)


class Progress:
    """Lines and bars on standard error; a context while bars are wanted.

    Args:
        quiet: Print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def task(self, name: str, total: int) -> Task:
        """A bar for a number of batches; the time left is that of the whole."""
        return Task(self._bars, name, total)
