"""Where the runtime keeps what it would otherwise have to find out again."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["cache_folder"]


def cache_folder(name: str) -> Path:
    """A folder of the user's cache, such as `~/.cache/szn/NAME` (`XDG_CACHE_HOME` moves it).

    Nothing in it is needed: whoever deletes it makes the next start slower.

    Args:
        name: Of the part of the runtime that uses it.
    """
    return user_cache_path("szn", appauthor=False) / name
