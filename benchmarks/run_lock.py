"""One process at a time in a folder of runs."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from szn_runtime.errors import InputError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, made if need be.

    Raises:
        InputError: If one is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # the system releases it when the process ends, however it ends
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another process trains in {folder}", fix="wait, or give another --runs"
            ) from error
        yield
