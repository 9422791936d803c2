"""What the command lines share: one-line errors with exit codes, never a traceback."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import click

from szn_runtime.errors import MissingDependencyError, SznError

__all__ = ["Command", "require_extra"]


class _CommandError(click.ClickException):
    """An error as click shows it: one line on standard error, then the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


def _as_click(error: Exception) -> click.ClickException | None:
    """Translate an error a user can act on; None for a programming error."""
    if isinstance(error, SznError):
        return _CommandError(str(error), error.exit_code)
    if isinstance(error, MemoryError):
        return _CommandError("out of memory; use a smaller --size, --batch or vocabulary", 1)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _CommandError(f"{where}{error.strerror}", 1)
    return None


class Command(click.Command):
    """A click command: SznError and system errors become one line and an exit code.

    A bug is shown as one line too; `SZN_DEBUG=1` shows the traceback of every error.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command's function."""
        if os.environ.get("SZN_DEBUG"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:
            shown = _as_click(error) or _CommandError(
                f"internal error ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
                "please report it with the output of SZN_DEBUG=1",
                1,
            )
            raise shown from error


def require_extra(module: str, extra: str) -> None:
    """Refuse to start a command whose optional libraries are not installed.

    Args:
        module: One that the extra brings.
        extra: Of the distribution `szn`.

    Raises:
        MissingDependencyError: With the line that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingDependencyError(
            f"{module} is not installed", fix=f'pip install "szn[{extra}]"'
        )
