"""Frames through the stages, each in threads of its own.

    source -> [decode] -> [preprocess, network, SEI, overlay] x n -> [encode] -> sinks

A bounded channel joins each pair of stages, so that memory does not grow and the slowest stage sets
the pace. A frame stays in one thread, and in its core's cache, from preprocessing to the overlay;
the results are put in order again behind it. Several sources share the network; each has its own
sinks. The last stage runs in the calling thread, where windows and signals belong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from szn_runtime.channel import Cancelled, Channel, Junction
from szn_runtime.errors import UsageError
from szn_runtime.latency import LatencyReport, StageTimer
from szn_runtime.pipeline_config import PipelineConfig
from szn_runtime.segment_stage import Item, Made, SegmentStage
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks.base import Result, Sink
from szn_runtime.sources.base import Frame, Source

__all__ = ["Lane", "Pipeline"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """A source and what takes its results.

    Args:
        source: Read once, and closed at the end; its name is unique in the pipeline.
        sinks: Take every result of the source in turn; closed at the end.
    """

    source: Source
    sinks: Sequence[Sink] = ()


class Pipeline:
    """One run of sources through a segmenter into sinks.

    Args:
        lanes: Sources with their sinks, at least one.
        segmenter: Stays open.
        config: How frames flow; None for the defaults.
        on_result: Called in the calling thread after the sinks took a result.
        stop: Set from anywhere, it does what the method `stop` does.

    Raises:
        UsageError: If there is no lane, two sources have one name, or batches are asked for that
            the newest frames of the sources cannot fill.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        segmenter: Segmenter,
        *,
        config: PipelineConfig | None = None,
        on_result: Callable[[Result], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._lanes, self._segmenter = tuple(lanes), segmenter
        names = [lane.source.name for lane in self._lanes]
        if not names or len(set(names)) < len(names):
            raise UsageError(
                "a pipeline needs sources of different names", got=", ".join(names) or "none"
            )
        self._config = config = config or PipelineConfig()
        self._newest = [config.policy_of(lane.source) == "latest" for lane in self._lanes]
        if all(self._newest) and config.batch > len(self._lanes):
            raise UsageError(
                f"a batch of {config.batch} does not go with the newest frame of "
                f"{', '.join(names)}",
                fix="leave out --batch, or use --policy every",
            )
        # A backend that takes several calls shares the cores with these threads: as many as calls
        # keep them busy, and more would only take turns. One that takes a single call has a device
        # or all cores to itself meanwhile, so a second thread has the next frame ready for it; not
        # where that frame would age.
        requests = segmenter.backend.requests
        self._workers = 2 if requests == 1 and not any(self._newest) else requests
        if config.smooth:
            self._workers = 1  # each frame's grids need those of the frame before
        self._taking = threading.Lock()
        self._taken = [0] * len(self._lanes)
        self._on_result = on_result
        self._timer = StageTimer()
        draws = [any(sink.wants_overlay for sink in lane.sinks) for lane in self._lanes]
        self._stage = SegmentStage(segmenter, config, draws=draws, timer=self._timer)
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._written = [0] * len(self._lanes)
        self._dropped = [0] * len(self._lanes)

    def stop(self) -> None:
        """Read no more frames; those that the network has are finished, those that wait let go.

        For any thread or signal handler.
        """
        self._stop.set()

    def run(self) -> LatencyReport:
        """Run until the sources end, the limit is reached, or `stop` is called.

        When a stage raises, those before it stop, those after it finish what they have, and the
        sinks are closed, so that everything made up to there is kept.

        Returns:
            Where the time went; `report` gives the same after an error.

        Raises:
            Exception: The first error of any stage, source or sink, once.
        """
        config = self._config
        changed = threading.Condition()
        frames: list[Channel[Frame]] = []
        for number, (lane, newest) in enumerate(zip(self._lanes, self._newest, strict=True)):
            most, refill_at = config.frames_ahead(lane.source)
            on_drop = partial(self._drop, number)
            frames.append(
                Channel(most, newest=newest, refill_at=refill_at, on_drop=on_drop, changed=changed)
            )
        junction = Junction(frames, changed)
        # what is under way, in order; a thread takes frames only when it is free for them
        results: Channel[Future[Made]] = Channel(
            1 if any(self._newest) else config.results_ahead + self._workers
        )
        self._alive = self._workers
        workers = [
            *(
                self._worker(f"read-{number}", self._reading(number, outbox), outbox.close)
                for number, outbox in enumerate(frames)
            ),
            *(
                self._worker(
                    f"segment-{number}",
                    lambda: self._segment(junction, results),
                    lambda: self._leave(junction, results),
                )
                for number in range(self._workers)
            ),
        ]
        for worker in workers:
            worker.start()
        try:
            try:
                self._write(results)
            finally:
                results.cancel()
                junction.cancel()
                for worker in workers:
                    worker.join()
        except BaseException as error:  # noqa: BLE001 - raised below, after the outputs are closed
            self._fail(error)
        for lane in self._lanes:
            for close in (*(sink.close for sink in lane.sinks), lane.source.close):
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
        sources = [
            {
                "name": lane.source.name,
                "policy": self._config.policy_of(lane.source),
                "frames": written,
                "dropped": dropped,
            }
            for lane, written, dropped in zip(
                self._lanes, self._written, self._dropped, strict=True
            )
        ]
        facts: dict[str, Any] = {
            "sources": sources,
            "bundle": self._segmenter.bundle.manifest.name,
            "backend": backend.name,
            "provider": backend.provider,
            "device": backend.device,
            "precision": backend.precision,
            "threads": backend.threads,
            "requests": backend.requests,
            "batch": self._config.batch,
            "labels": len(self._segmenter.labels),
            **self._stage.sizes,
            "stopped": self._stop.is_set(),
        }
        return self._timer.report(**facts)

    def _worker(
        self, name: str, stage: Callable[[], None], leave: Callable[[], None]
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
                leave()

        return threading.Thread(target=run, name=f"szn-{name}", daemon=True)

    def _leave(self, inbox: Junction[Frame], outbox: Channel[Future[Made]]) -> None:
        """The last thread that segments ends the channel behind it."""
        with self._lock:
            self._alive -= 1
            last = self._alive == 0
        if last:
            inbox.cancel()
            outbox.close()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error

    def _drop(self, number: int) -> None:
        with self._lock:
            self._dropped[number] += 1
        self._timer.drop()

    def _reading(self, number: int, outbox: Channel[Frame]) -> Callable[[], None]:
        source = self._lanes[number].source

        def read() -> None:
            if self._stop.is_set():
                return
            for frame in source:
                self._timer.add("decode", frame.decode_ms)
                outbox.put(frame)
                if self._stop.is_set():
                    return

        return read

    def _segment(self, inbox: Junction[Frame], outbox: Channel[Future[Made]]) -> None:
        """Take frames, make results of them, and leave them where their turn is."""
        while True:
            future: Future[Made] = Future()
            with self._taking:  # one thread at a time, so that the order is kept
                items = self._take(inbox)
                if items is None:
                    return
                outbox.put(future)
            try:
                future.set_result(self._stage.make(items))
            except BaseException as error:  # noqa: BLE001 - raised where the result is wanted
                future.set_exception(error)
                return

    def _take(self, inbox: Junction[Frame]) -> list[Item] | None:
        """Frames to segment together, None at the end."""
        limit = self._config.limit
        while True:
            if self._stop.is_set():
                inbox.cancel()  # what waits is let go: there may be much of it
            items = inbox.take(self._config.batch)
            if not items:
                return None
            wanted = []
            for number, frame in items:
                if limit is None or self._taken[number] < limit:
                    wanted.append((number, frame))
                    self._taken[number] += 1
                if self._taken[number] == limit:
                    inbox.cancel(number)
            if wanted:
                return wanted

    def _write(self, inbox: Channel[Future[Made]]) -> None:
        for number, result in (each for future in inbox for each in future.result()):
            sinks = self._lanes[number].sinks
            if sinks:
                with self._timer.measure("encode"):
                    for sink in sinks:
                        sink.write(result)
            self._written[number] += 1
            self._timer.finish(result.frame.captured_at_s, time.perf_counter())
            if self._on_result is not None:
                self._on_result(result)
