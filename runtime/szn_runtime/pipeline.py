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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Grids
from szn_runtime.channel import Cancelled, Channel, Junction
from szn_runtime.errors import UsageError
from szn_runtime.latency import LatencyReport, StageTimer
from szn_runtime.segmentation import Segmentation
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks.base import Result, Sink
from szn_runtime.smoothing import GridSmoother
from szn_runtime.sources.base import Frame, Source

__all__ = ["Lane", "Pipeline", "PipelineConfig"]


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How frames flow.

    Args:
        policy: "every": all frames, in order; "latest": the newest frame whenever the network is
            free, the others are dropped and counted; "auto": "latest" for live sources.
        batch: Frames of one network input size that the network takes together: consecutive ones of
            a source, and those of several sources. What a live source has is never kept waiting for
            a full batch.
        limit: Frames of each source after which it ends, None for all.
        alpha: Opacity of the labels' colours, 0 to 1.
        legend: Whether overlays have a legend.
        smooth: Share of the grids that comes from the frames before, 0 to below 1.
        depth: Items that wait between two stages at most.

    Raises:
        UsageError: If a value is out of its range.
    """

    policy: Literal["auto", "every", "latest"] = "auto"
    batch: int = 1
    limit: int | None = None
    alpha: float = 0.5
    legend: bool = True
    smooth: float = 0.0
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
        GridSmoother(self.smooth)  # refuses what is out of range

    def policy_of(self, source: Source) -> str:
        """What is used for a source: "every" or "latest"."""
        if self.policy != "auto":
            return self.policy
        return "latest" if source.live else "every"


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """A source and what takes its results.

    Args:
        source: Read once, and closed at the end; its name is unique in the pipeline.
        sinks: Take every result of the source in turn; closed at the end.
    """

    source: Source
    sinks: Sequence[Sink] = ()


_Item = tuple[int, Frame]  # number of the lane, frame


_Made = list[tuple[int, Result]]  # number of the lane, result


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
        self._draws = [any(sink.wants_overlay for sink in lane.sinks) for lane in self._lanes]
        # A backend that takes several calls shares the cores with these threads: as many as calls
        # keep them busy, and more would only take turns. One that takes a single call has a device
        # or all cores to itself meanwhile, so a second thread has the next frame ready for it; not
        # where that frame would age.
        requests = segmenter.backend.requests
        self._workers = 2 if requests == 1 and not any(self._newest) else requests
        if config.smooth:
            self._workers = 1  # each frame's grids need those of the frame before
        self._calls = threading.Semaphore(segmenter.backend.requests)
        self._taking = threading.Lock()
        self._taken = [0] * len(self._lanes)
        self._on_result = on_result
        self._smooth = GridSmoother(config.smooth) if config.smooth else None
        self._timer = StageTimer()
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._sizes: dict[str, list[int]] = {}
        self._written = [0] * len(self._lanes)
        self._dropped = [0] * len(self._lanes)

    def stop(self) -> None:
        """Read no more frames; those in flight are finished. For any thread or signal handler."""
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
        frames: list[Channel[Frame]] = [
            Channel(
                1 if newest else max(config.depth, config.batch),
                newest=newest,
                on_drop=partial(self._drop, number),
                changed=changed,
            )
            for number, newest in enumerate(self._newest)
        ]
        junction = Junction(frames, changed)
        # what is under way, in order; a thread takes frames only when it is free for them
        results: Channel[Future[_Made]] = Channel(
            1 if any(self._newest) else config.depth + self._workers
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
            **self._sizes,
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

    def _leave(self, inbox: Junction[Frame], outbox: Channel[Future[_Made]]) -> None:
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

    def _segment(self, inbox: Junction[Frame], outbox: Channel[Future[_Made]]) -> None:
        """Take frames, make results of them, and leave them where their turn is."""
        while True:
            future: Future[_Made] = Future()
            with self._taking:  # one thread at a time, so that the order is kept
                items = self._take(inbox)
                if items is None:
                    return
                outbox.put(future)
            try:
                future.set_result(self._make(items))
            except BaseException as error:  # noqa: BLE001 - raised where the result is wanted
                future.set_exception(error)
                return

    def _take(self, inbox: Junction[Frame]) -> list[_Item] | None:
        """Frames to segment together, None at the end."""
        limit = self._config.limit
        while True:
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

    def _by_input_size(self, items: list[_Item]) -> list[list[_Item]]:
        """Split items so that each part has one network input size and no source is reordered."""
        groups: list[tuple[tuple[int, int], list[_Item]]] = []
        last_group: dict[int, int] = {}  # of each lane
        for number, frame in items:
            height, width = frame.image_bgr.shape[:2]
            size = self._segmenter.layout((height, width)).padded_hw
            first = last_group.get(number, 0)
            at = next((i for i in range(first, len(groups)) if groups[i][0] == size), len(groups))
            if at == len(groups):
                groups.append((size, []))
            groups[at][1].append((number, frame))
            last_group[number] = at
        return [group for _, group in groups]

    def _make(self, items: list[_Item]) -> _Made:
        """Results of some frames, in their order."""
        made: dict[tuple[int, int], Result] = {}
        for group in self._by_input_size(items):
            images = [frame.image_bgr for _, frame in group]
            with self._timer.measure("preprocess", frames=len(group)):
                prepared = self._segmenter.preprocess(images)
            with self._calls, self._timer.measure("network", frames=len(group)):
                grids = self._segmenter.network(prepared)
            if not self._sizes:
                self._sizes = {
                    "frame_hw": list(prepared.layouts[0].frame_hw),
                    "network_hw": list(prepared.layouts[0].padded_hw),
                    "grid_hw": list(grids.embedding.shape[2:]),
                }
            with self._timer.measure("sei", frames=len(group)):
                segmentations = self._segmenter.label(
                    self._smoothed(group, grids), prepared.layouts, images
                )
            for (number, frame), segmentation in zip(group, segmentations, strict=True):
                made[number, frame.index] = Result(
                    frame=frame, segmentation=segmentation, overlay=self._draw(number, segmentation)
                )
        return [(number, made[number, frame.index]) for number, frame in items]

    def _draw(self, number: int, segmentation: Segmentation) -> NDArray[np.uint8] | None:
        if not self._draws[number]:
            return None
        with self._timer.measure("overlay"):
            return segmentation.overlay(alpha=self._config.alpha, legend=self._config.legend)

    def _smoothed(self, items: list[_Item], grids: Grids) -> Grids:
        """The grids, mixed with those of the frames before of each source."""
        if self._smooth is None:
            return grids
        pairs = [
            self._smooth(number, embedding, seenmask)
            for (number, _), embedding, seenmask in zip(
                items, grids.embedding, grids.seenmask, strict=True
            )
        ]
        embeddings, seenmasks = zip(*pairs, strict=True)
        return Grids(embedding=np.stack(embeddings), seenmask=np.stack(seenmasks))

    def _write(self, inbox: Channel[Future[_Made]]) -> None:
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
