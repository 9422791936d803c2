"""What a sink for results is, and whether a place can be written to."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import SinkError
from szn_runtime.segmentation import Segmentation
from szn_runtime.sources.base import Frame

__all__ = ["Result", "Sink", "cannot_write", "check_file", "check_folder"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What the pipeline made of a frame.

    Args:
        frame: From the source.
        segmentation: Its labels.
        overlay: (H, W, 3) uint8 BGR, None if it was not drawn.
    """

    frame: Frame
    segmentation: Segmentation
    overlay: NDArray[np.uint8] | None = None

    def picture(self) -> NDArray[np.uint8]:
        """The overlay, drawn now if it was not yet."""
        return self.segmentation.overlay() if self.overlay is None else self.overlay


class Sink(Protocol):
    """Takes results in order; a context manager that completes what it wrote.

    Making a sink checks that it can write, without touching what is there; the first result
    replaces it. What was written stays readable when a later result cannot be written.

    Attributes:
        wants_overlay: Whether the pipeline should draw the overlay.
        path: What is written, for the summary; None for a window.
    """

    wants_overlay: bool
    path: Path | None

    def write(self, result: Result) -> None:
        """Take one result.

        Args:
            result: With its overlay if the sink wants it; its arrays are shared and not changed.

        Raises:
            SinkError: If it cannot be written.
        """
        ...

    def close(self) -> None:
        """Complete what was written; closing twice is allowed.

        Raises:
            SinkError: If that fails and `write` did not raise before.
        """
        return

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close, whether or not there was an error."""
        self.close()


def cannot_write(path: Path, error: OSError) -> SinkError:
    """The error for a place that the system refuses to write to."""
    return SinkError(
        f"{path} cannot be written",
        got=error.strerror or error,
        fix="choose another place, or check its rights and free space",
    )


def check_file(path: Path) -> None:
    """See that a file can be written, leaving an existing one as it is; make its folder.

    Raises:
        SinkError: If it cannot.
    """
    if path.is_dir():
        raise SinkError(f"{path} cannot be written", got="a folder", expected="a file")
    check_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise SinkError(f"{path} cannot be written", got="a file that is read-only")


def check_folder(path: Path) -> None:
    """Make a folder if it is missing and see that files can be made in it.

    Raises:
        SinkError: If it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError as error:
        raise SinkError(f"{path} cannot be written", got="a file", expected="a folder") from error
    except OSError as error:
        raise cannot_write(path, error) from error
