"""A source and a sink for tests of what lies between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from szn_runtime.errors import SinkError, SourceError
from szn_runtime.pipeline import Lane, Pipeline
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks import Result, Sink
from szn_runtime.sources import Frame, Source
from tests.runtime.clips import ramp_frame


class Stub(Source):
    """Ramp frames; fails after some of them, or delivers them at its own pace."""

    time_base: Fraction | None = None
    frame_rate: Fraction | None = Fraction(25)
    paths: tuple[Path, ...] = ()

    def __init__(
        self,
        frames: int = 10,
        *,
        name: str = "stub",
        live: bool = False,
        pace_s: float = 0.0,
        fail_at: int | None = None,
        size_hw: Callable[[int], tuple[int, int]] = lambda _: (48, 64),
    ) -> None:
        self.name = name
        self.frame_count: int | None = frames
        self.live = live
        self.frame_hw: tuple[int, int] | None = size_hw(0)
        self._frames, self._pace_s, self._fail_at, self._size_hw = frames, pace_s, fail_at, size_hw
        self.read = 0
        self.closed = 0

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            if index == self._fail_at:
                raise SourceError("the stub fails")
            time.sleep(self._pace_s)
            self.read += 1
            yield Frame(
                image_bgr=ramp_frame(index % 40, size_hw=self._size_hw(index)),
                index=index,
                timestamp_s=None,
                captured_at_s=time.perf_counter(),
                decode_ms=0.1,
                name=f"{self.name}_{index:06d}",
                source=self.name,
            )

    def close(self) -> None:
        self.closed += 1


class Collect(Sink):
    """Keeps what it gets; fails at some frame, or when it is closed."""

    path: Path | None = None

    def __init__(
        self,
        *,
        wants_overlay: bool = False,
        fail_at: int | None = None,
        fail_closing: bool = False,
    ) -> None:
        self.wants_overlay = wants_overlay
        self._fail_at, self._fail_closing = fail_at, fail_closing
        self.results: list[Result] = []
        self.threads: set[threading.Thread] = set()
        self.closed = 0

    @property
    def indices(self) -> list[int]:
        return [result.frame.index for result in self.results]

    def write(self, result: Result) -> None:
        self.threads.add(threading.current_thread())
        if len(self.results) == self._fail_at:
            raise SinkError("the sink fails")
        self.results.append(result)

    def close(self) -> None:
        self.closed += 1
        if self._fail_closing:
            raise SinkError("closing fails")


def pipeline_of(
    source: Source, segmenter: Segmenter, sinks: Sequence[Sink] = (), **options: Any
) -> Pipeline:
    """A pipeline of one source."""
    return Pipeline([Lane(source=source, sinks=sinks)], segmenter, **options)
