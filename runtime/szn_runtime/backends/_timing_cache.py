"""What TensorRT measured while it built, kept in a file for the next build."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from szn_runtime.backends._engine import Library
from szn_runtime.errors import BackendError

__all__ = ["load_timing_cache", "save_timing_cache"]


def load_timing_cache(
    library: Library, config: Any, path: Path, say: Callable[[str], None]
) -> None:
    """Let a build use a file, or begin a new cache where there is none that fits.

    Args:
        library: TensorRT.
        config: Its options of the build.
        path: The file; its folder is made if it is missing.
        say: Told if the file is of another version or GPU.

    Raises:
        BackendError: If the file cannot be read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise BackendError(
            f"the timing cache {path} cannot be read", got=error.strerror or error
        ) from error
    failure = f"{library} makes no timing cache"
    # of a damaged file the library makes an empty cache
    cache = library.call(failure, config.create_timing_cache, data)
    if not config.set_timing_cache(cache, False):
        say(f"{path} is of another version or GPU and begins anew")
        cache = library.call(failure, config.create_timing_cache, b"")
        library.call(failure, config.set_timing_cache, cache, False)


def save_timing_cache(config: Any, path: Path, say: Callable[[str], None]) -> None:
    """Replace the file, all of it or nothing.

    Args:
        config: Options of a build that is done.
        path: The file.
        say: Told if it cannot be written, which is no reason to lose an engine.
    """
    data = config.get_timing_cache().serialize()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            new = Path(folder) / path.name
            new.write_bytes(memoryview(data))
            new.replace(path)
    except OSError as error:
        say(f"the timing cache {path} was not written ({error.strerror or error})")
