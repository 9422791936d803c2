"""What the command lines share: one-line errors with exit codes, never a traceback."""

from __future__ import annotations

import os
from typing import Any

import click

from szn_runtime.errors import SznError

__all__ = ["Command", "Group"]


class _CommandError(click.ClickException):
    """An error as click shows it: one line on standard error, then the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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


class _OneLineErrors:
    """Mixin for click commands: SznError and system errors become one line and an exit code.

    A bug is shown as one line too; `SZN_DEBUG=1` shows the traceback of every error.
    """

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("SZN_DEBUG"):
            return super().invoke(ctx)  # type: ignore[misc]
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:  # noqa: BLE001 - the one place where a command ends
            shown = _as_click(error) or _CommandError(
                f"internal error ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
                "please report it with the output of SZN_DEBUG=1",
                1,
            )
            raise shown from error


class Command(_OneLineErrors, click.Command):
    """A click command that ends in one line and an exit code."""


class Group(_OneLineErrors, click.Group):
    """A click group that ends in one line and an exit code."""

    command_class = Command
