"""Frames through the stages, each in a thread of its own.

    source -> [decode] -> [preprocess, network] -> [SEI, overlay] -> [encode] -> sinks

A bounded channel joins each pair of stages, so that memory does not grow and the slowest stage sets
the pace. The last stage runs in the calling thread, where windows and signals belong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Grids
from szn_runtime.channel import Cancelled, Channel
from szn_runtime.errors import UsageError
from szn_runtime.latency import LatencyReport, StageTimer
from szn_runtime.segmenter import Prepared, Segmenter
from szn_runtime.sinks.base import Result, Sink
from szn_runtime.sources.base import Frame, Source

__all__ = ["Pipeline", "PipelineConfig"]


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How frames flow.

    Args:
        policy: "every": all frames, in order; "latest": the newest frame whenever the network is
            free, the others are dropped and counted; "auto": "latest" for live sources.
        batch: Consecutive frames of one size that the network takes together.
        limit: Frames after which the run ends, None for all.
        alpha: Opacity of the labels' colours, 0 to 1.
        legend: Whether overlays have a legend.
        depth: Items that wait between two stages at most.

    Raises:
        UsageError: If a value is out of its range.
    """

    policy: Literal["auto", "every", "latest"] = "auto"
    batch: int = 1
    limit: int | None = None
    alpha: float = 0.5
    legend: bool = True
    depth: int = 3

    def __post_init__(self) -> None:
        if self.policy not in ("auto", "every", "latest"):
            raise UsageError("unknown policy", got=self.policy, expected="auto, every or latest")
        for name in ("batch", "limit", "depth"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is out of range", got=value, expected=">= 1")
        if not 0 <= self.alpha <= 1:
            raise UsageError("alpha is out of range", got=self.alpha, expected="0 to 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Inferred:
    """A batch between the network and SEI."""

    frames: list[Frame]
    prepared: Prepared
    grids: Grids


class Pipeline:
    """One run of a source through a segmenter into sinks.

    Args:
        source: Read once, and closed at the end.
        segmenter: Stays open.
        sinks: Take every result in turn; closed at the end.
        config: How frames flow; None for the defaults.
        on_result: Called in the calling thread after the sinks took a result.
        stop: Set from anywhere, it does what the method `stop` does.

    Raises:
        UsageError: If batches are asked for where only the newest frame counts.
    """

    def __init__(
        self,
        source: Source,
        segmenter: Segmenter,
        sinks: Sequence[Sink] = (),
        *,
        config: PipelineConfig | None = None,
        on_result: Callable[[Result], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._source, self._segmenter, self._sinks = source, segmenter, tuple(sinks)
        self._config = config or PipelineConfig()
        config = self._config
        if self.policy == "latest" and config.batch > 1:
            raise UsageError(
                f"a batch of {config.batch} does not go with the newest frame of {source.name}",
                fix="leave out --batch, or use --policy every",
            )
        self._on_result = on_result
        self._draws = any(sink.wants_overlay for sink in sinks)
        self._timer = StageTimer()
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._sizes: dict[str, list[int]] = {}

    @property
    def policy(self) -> str:
        """What is used where "auto" was asked for."""
        if self._config.policy != "auto":
            return self._config.policy
        return "latest" if self._source.live else "every"

    def stop(self) -> None:
        """Read no more frames; those in flight are finished. For any thread or signal handler."""
        self._stop.set()

    def run(self) -> LatencyReport:
        """Run until the source ends, the limit is reached, or `stop` is called.

        When a stage raises, those before it stop, those after it finish what they have, and the
        sinks are closed, so that everything made up to there is kept.

        Returns:
            Where the time went; `report` gives the same after an error.

        Raises:
            Exception: The first error of any stage, source or sink, once.
        """
        config = self._config
        newest = self.policy == "latest"
        frames: Channel[Frame] = Channel(
            1 if newest else max(config.depth, config.batch),
            newest=newest,
            on_drop=self._timer.drop,
        )
        inferred: Channel[_Inferred] = Channel(1 if newest else config.depth)
        results: Channel[Result] = Channel(1 if newest else config.depth)
        workers = [
            self._worker("read", lambda: self._read(frames), None, frames),
            self._worker("network", lambda: self._infer(frames, inferred), frames, inferred),
            self._worker("label", lambda: self._label(inferred, results), inferred, results),
        ]
        for worker in workers:
            worker.start()
        try:
            try:
                self._write(results)
            finally:
                results.cancel()  # the stages before end one after the other
                for worker in workers:
                    worker.join()
        except BaseException as error:  # noqa: BLE001 - raised below, after the outputs are closed
            self._fail(error)
        for close in (*(sink.close for sink in self._sinks), self._source.close):
            try:
                close()
            except Exception as error:  # noqa: BLE001 - likewise; the others are closed as well
                self._fail(error)
        if self._error is not None:
            raise self._error
        return self.report()

    def report(self) -> LatencyReport:
        """Where the time went so far, and what the numbers belong to."""
        backend = self._segmenter.backend
        facts: dict[str, Any] = {
            "source": self._source.name,
            "bundle": self._segmenter.bundle.manifest.name,
            "backend": backend.name,
            "provider": backend.provider,
            "precision": backend.precision,
            "threads": backend.threads,
            "policy": self.policy,
            "batch": self._config.batch,
            "labels": len(self._segmenter.labels),
            **self._sizes,
            "stopped": self._stop.is_set(),
        }
        return self._timer.report(**facts)

    def _worker(
        self,
        name: str,
        stage: Callable[[], None],
        inbox: Channel[Any] | None,
        outbox: Channel[Any],
    ) -> threading.Thread:
        """A thread that runs a stage and, however it ends, tells its neighbours."""

        def run() -> None:
            try:
                stage()
            except Cancelled:
                pass
            except BaseException as error:  # noqa: BLE001 - raised by `run` in the calling thread
                self._fail(error)
            finally:
                if inbox is not None:
                    inbox.cancel()
                outbox.close()

        return threading.Thread(target=run, name=f"szn-{name}", daemon=True)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error

    def _read(self, outbox: Channel[Frame]) -> None:
        if self._stop.is_set():
            return
        for frame in self._source:
            self._timer.add("decode", frame.decode_ms)
            outbox.put(frame)
            if self._stop.is_set():
                return

    def _infer(self, inbox: Channel[Frame], outbox: Channel[_Inferred]) -> None:
        for frames in _batches(inbox, self._config.batch, self._config.limit):
            images = [frame.image_bgr for frame in frames]
            with self._timer.measure("preprocess", frames=len(frames)):
                prepared = self._segmenter.preprocess(images)
            with self._timer.measure("network", frames=len(frames)):
                grids = self._segmenter.network(prepared)
            if not self._sizes:
                self._sizes = {
                    "frame_hw": list(prepared.layout.frame_hw),
                    "network_hw": list(prepared.layout.padded_hw),
                    "grid_hw": list(grids.embedding.shape[2:]),
                }
            outbox.put(_Inferred(frames=frames, prepared=prepared, grids=grids))

    def _label(self, inbox: Channel[_Inferred], outbox: Channel[Result]) -> None:
        config = self._config
        for batch in inbox:
            images = [frame.image_bgr for frame in batch.frames]
            with self._timer.measure("sei", frames=len(images)):
                segmentations = self._segmenter.label(batch.grids, batch.prepared, images)
            for frame, segmentation in zip(batch.frames, segmentations, strict=True):
                overlay: NDArray[np.uint8] | None = None
                if self._draws:
                    with self._timer.measure("overlay"):
                        overlay = segmentation.overlay(alpha=config.alpha, legend=config.legend)
                outbox.put(Result(frame=frame, segmentation=segmentation, overlay=overlay))

    def _write(self, inbox: Channel[Result]) -> None:
        for result in inbox:
            if self._sinks:
                with self._timer.measure("encode"):
                    for sink in self._sinks:
                        sink.write(result)
            self._timer.finish(result.frame.captured_at_s, time.perf_counter())
            if self._on_result is not None:
                self._on_result(result)


def _batches(frames: Channel[Frame], size: int, limit: int | None) -> Iterator[list[Frame]]:
    """Up to `size` consecutive frames that are equally large, `limit` frames in all."""
    batch: list[Frame] = []
    for count, frame in enumerate(frames, 1):
        if batch and frame.image_bgr.shape != batch[0].image_bgr.shape:
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) == size or count == limit:
            yield batch
            batch = []
        if count == limit:
            return
    if batch:
        yield batch
