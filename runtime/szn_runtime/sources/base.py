"""What a source of frames is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "Source"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture from a source.

    Args:
        image_bgr: (H, W, 3) uint8 BGR in [0, 255], C-contiguous; the frame's own, never reused.
        index: Number in the source, from 0; a gap is a frame that nobody waited for.
        timestamp_s: Presentation time in the source in seconds, None where it has no time.
        captured_at_s: `time.perf_counter()` when the frame was there: for a live source when it
            arrived, for files when its reading began.
        decode_ms: Time that reading and decoding took, without waiting for a camera or network.
        name: Unique in the source, fit for the stem of a file.
        source: Name of the source.
    """

    image_bgr: NDArray[np.uint8]
    index: int
    timestamp_s: float | None
    captured_at_s: float
    decode_ms: float
    name: str
    source: str


class Source(Protocol):
    """Frames in order, once; a context manager that frees what it holds.

    Opening and reading raise `SourceError`. Frames that came before an error are good.

    Attributes:
        name: For messages and file names.
        live: True where frames are lost if nobody reads them, so that the newest one counts.
        frame_rate: Frames per second, exact, or None where the source has none.
        frame_hw: Height and width of the frames, or None where it is not known before they come.
        time_base: Unit of the timestamps in seconds, exact, or None.
        frame_count: Number of frames, or None where it is not known; a hint for progress bars.
        paths: Files that are read, which outputs must not replace.
    """

    name: str
    live: bool
    frame_rate: Fraction | None
    frame_hw: tuple[int, int] | None = None
    time_base: Fraction | None
    frame_count: int | None
    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Frame]:
        """Read the frames."""
        ...

    def close(self) -> None:
        """Free what is held; closing twice is allowed."""
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
