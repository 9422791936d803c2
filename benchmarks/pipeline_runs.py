"""What `pipeline.py` times of ours: the bare network, with decoding beside it, and `szn-run`."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Backend
from szn_runtime.channel import Channel
from szn_runtime.pipeline import Lane, Pipeline
from szn_runtime.pipeline_config import PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks import Result, Sink, VideoSink
from szn_runtime.sources import Frame, Source, VideoSource

__all__ = ["Looped", "decoded_fps", "network_fps", "pipeline_fps", "prepared_tensors"]


class Looped(Source):
    """A clip several times over, decoded each time."""

    live = False

    def __init__(self, path: Path, times: int) -> None:
        self._path, self._times = path, times
        with VideoSource(path) as first:
            self.name, self.frame_hw = first.name, first.frame_hw
            self.frame_rate, self.time_base = first.frame_rate, first.time_base
            self.frame_count = None
            self.paths = (path,)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for _ in range(self._times):
            with VideoSource(self._path) as source:
                for frame in source:
                    yield dataclasses.replace(frame, index=index, timestamp_s=None)
                    index += 1


def network_fps(backend: Backend, tensors: list[NDArray[np.float32]], calls: int) -> float:
    """Frames per second of the network alone, with as many calls at a time as it takes."""
    with ThreadPoolExecutor(backend.requests) as pool:
        start_s = time.perf_counter()
        waiting = [pool.submit(backend.infer, tensors[i % len(tensors)]) for i in range(calls)]
        for call in waiting:
            call.result()
        return calls / (time.perf_counter() - start_s)


def decoded_fps(
    clip: Path,
    segmenter: Segmenter,
    tensors: list[NDArray[np.float32]],
    times: int,
    output: Path | None,
) -> float:
    """Frames per second of the network with the clip's decoding, and with encoding, beside it."""
    source, backend = Looped(clip, times), segmenter.backend
    any_result = segmenter(np.zeros((*(source.frame_hw or (480, 640)), 3), np.uint8))
    sink = None
    if output is not None:
        sink = VideoSink(output, frame_rate=source.frame_rate or Fraction(25))
    most, refill_at = PipelineConfig().frames_ahead(source)  # decoded in bursts, as the pipeline's
    frames: Channel[Frame] = Channel(most, refill_at=refill_at)

    def read() -> None:
        for decoded in source:
            frames.put(decoded)
        frames.close()

    free = threading.Semaphore(backend.requests + 1)
    waiting: list[Future[Any]] = []
    start_s = time.perf_counter()
    with (
        ThreadPoolExecutor(backend.requests) as pool,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
    ):
        reading = reader.submit(read)
        for frame in frames:
            free.acquire()
            call = pool.submit(backend.infer, tensors[frame.index % len(tensors)])
            call.add_done_callback(lambda _: free.release())
            waiting.append(call)
            if sink is not None:
                result = Result(frame=frame, segmentation=any_result, overlay=frame.image_bgr)
                waiting.append(writer.submit(sink.write, result))
        for call in (reading, *waiting):
            call.result()
    if sink is not None:
        sink.close()
    return (frame.index + 1) / (time.perf_counter() - start_s)


def pipeline_fps(clip: Path, segmenter: Segmenter, times: int, output: Path | None) -> float:
    """Frames per second of the whole, opening the clip and closing the video included."""
    source = Looped(clip, times)
    sinks: list[Sink] = []
    if output is not None:
        sinks.append(VideoSink(output, frame_rate=source.frame_rate or Fraction(25)))
    start_s = time.perf_counter()
    report = Pipeline([Lane(source=source, sinks=sinks)], segmenter).run()
    return report.frames / (time.perf_counter() - start_s)


def prepared_tensors(clip: Path, segmenter: Segmenter) -> list[NDArray[np.float32]]:
    """Network inputs of the clip's first frames."""
    tensors = []
    with VideoSource(clip) as source:
        for frame in source:
            tensors.append(segmenter.preprocess([frame.image_bgr]).tensor.copy())
            if len(tensors) == 16:
                break
    return tensors
