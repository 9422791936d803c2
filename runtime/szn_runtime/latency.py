"""Where the time of a frame goes: stage timers, percentiles, the report."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from szn_runtime.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["STAGES", "LatencyReport", "StageStats", "StageTimer"]

STAGES = ("decode", "preprocess", "network", "sei", "overlay", "encode", "capture_to_output")


@dataclass(frozen=True, kw_only=True)
class StageStats:
    """Milliseconds of one stage, per frame.

    `mean_ms`, `max_ms` and `count` are of all frames; percentiles (linear between samples, as
    `numpy.percentile`) are of all frames, or of a uniform sample of 65,536 where there are more.
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class _Samples:
    """Durations of one stage: exact sum, maximum and count, a bounded uniform sample."""

    def __init__(self, seed: int, kept: int) -> None:
        self._most = kept
        self.count, self.sum_ms, self.max_ms = 0, 0.0, 0.0
        self._kept = array("d")
        self._random = random.Random(seed)  # noqa: S311 - a statistical sample, no secret

    def add(self, duration_ms: float) -> None:
        self.count += 1
        self.sum_ms += duration_ms
        self.max_ms = max(self.max_ms, duration_ms)
        if len(self._kept) < self._most:
            self._kept.append(duration_ms)
        # algorithm R (Vitter 1985): each of the samples so far stays with equal probability
        elif (slot := self._random.randrange(self.count)) < self._most:
            self._kept[slot] = duration_ms

    def stats(self) -> StageStats:
        p50, p90, p95, p99 = np.percentile(np.frombuffer(self._kept), (50, 90, 95, 99)).tolist()
        return StageStats(
            count=self.count,
            mean_ms=self.sum_ms / self.count,
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=self.max_ms,
        )


class StageTimer:
    """Collects durations from the threads of a pipeline; its methods may be called from any.

    Args:
        kept_samples: Samples of a stage that are kept. Beyond, a uniform sample of this size, so
            that a pipeline that runs for days stays in 0.5 MB a stage.
    """

    def __init__(self, *, kept_samples: int = 1 << 16) -> None:
        self._lock = threading.Lock()
        self._samples = {stage: _Samples(seed, kept_samples) for seed, stage in enumerate(STAGES)}
        self._dropped = 0
        self._first_s: float | None = None
        self._last_s = 0.0

    def add(self, stage: str, duration_ms: float, *, frames: int = 1) -> None:
        """Record a stage's time for one frame, or for a batch, shared equally by its frames.

        Raises:
            InputError: If there is no such stage.
        """
        samples = self._samples.get(stage)
        if samples is None:
            raise InputError(f"no stage {stage!r}", expected=f"one of {', '.join(STAGES)}")
        with self._lock:
            for _ in range(frames):
                samples.add(duration_ms / frames)

    @contextmanager
    def measure(self, stage: str, *, frames: int = 1) -> Iterator[None]:
        """Record the time of the block; a block that raises is not recorded."""
        start_s = time.perf_counter()
        yield
        self.add(stage, 1e3 * (time.perf_counter() - start_s), frames=frames)

    def drop(self, frames: int = 1) -> None:
        """Count frames that were read and never processed."""
        with self._lock:
            self._dropped += frames

    def finish(self, captured_at_s: float, written_at_s: float) -> None:
        """Record a frame that has left the pipeline.

        Args:
            captured_at_s: `perf_counter` when the source had the frame.
            written_at_s: `perf_counter` after the last output took it.
        """
        self.add("capture_to_output", 1e3 * (written_at_s - captured_at_s))
        with self._lock:
            self._first_s = captured_at_s if self._first_s is None else self._first_s
            self._last_s = written_at_s

    @property
    def frames(self) -> int:
        """Frames that have left the pipeline."""
        return self._samples["capture_to_output"].count

    def report(self, **facts: Any) -> LatencyReport:
        """Summarise what was recorded so far.

        Args:
            facts: What the numbers belong to, such as `backend` and `frame_size_hw`; they follow
                the fixed keys of the JSON in the order given.
        """
        with self._lock:
            wall_s = self._last_s - self._first_s if self._first_s is not None else 0.0
            return LatencyReport(
                frames=self.frames,
                dropped=self._dropped,
                wall_s=wall_s,
                stages={n: s.stats() for n, s in self._samples.items() if s.count},
                facts=facts,
            )


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """Times of a run.

    Args:
        frames: Frames that left the pipeline.
        dropped: Frames that a live source delivered and nobody waited for.
        wall_s: Seconds from the first frame's capture to the last one's output.
        stages: For each stage that ran, its times.
        facts: What the numbers belong to.
    """

    frames: int
    dropped: int
    wall_s: float
    stages: Mapping[str, StageStats]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Throughput over the whole run; 0 without a frame."""
        return self.frames / self.wall_s if self.wall_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Numbers, names and lists for `json.dumps`; durations in ms, rounded to 1 µs."""
        return {
            "frames": self.frames,
            "dropped": self.dropped,
            "frames_per_second": round(self.frames_per_second, 3),
            "wall_s": round(self.wall_s, 6),
            "stages_ms": {
                name: {
                    key.removesuffix("_ms"): round(value, 3) for key, value in asdict(stats).items()
                }
                for name, stats in self.stages.items()
            },
            **self.facts,
        }

    def table(self) -> Table:
        """The report for a terminal."""
        from rich.table import Table

        facts = [f"{self.frames} frames", f"{self.frames_per_second:.1f} frames per second"]
        if self.dropped:
            facts.append(f"{self.dropped} dropped")
        facts += [str(self.facts[k]) for k in ("backend", "precision") if self.facts.get(k)]
        table = Table(title=", ".join(facts), title_justify="left", title_style="bold")
        table.add_column("stage [ms]")
        for column in ("mean", "p50", "p90", "p95", "p99", "max"):
            table.add_column(column, justify="right")
        for name, stats in self.stages.items():
            if name == "capture_to_output":
                table.add_section()
            row = (stats.mean_ms, stats.p50_ms, stats.p90_ms, stats.p95_ms, stats.p99_ms)
            table.add_row(
                name.replace("_", " "), *(f"{value:.2f}" for value in (*row, stats.max_ms))
            )
        return table
