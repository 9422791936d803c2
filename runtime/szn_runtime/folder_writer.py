"""Writing a folder of files: all of it, or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_folder"]


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a temporary folder beside the target, which then takes the target's name.

    Args:
        folder: The target, resolved, so that a link to it stays one. What is there is replaced; its
            parent is made if it is missing.
        files: Path within the folder, with slashes, to content.

    Raises:
        OSError: If it cannot be written; what was there stays there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workspace:
        new, old = Path(workspace) / "new", Path(workspace) / "old"
        new.mkdir()
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
