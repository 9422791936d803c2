from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError, SinkError, SourceError
from szn_runtime.pipeline import Pipeline
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks import Result, VideoSink
from szn_runtime.sources import VideoSource
from tests.runtime import catalogue
from tests.runtime.clips import decoded, ramp_frame, write_clip
from tests.runtime.stages import Collect, Stub, pipeline_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(catalogue.tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def segmenter(bundle: Bundle, **backend: Any) -> Segmenter:
    return Segmenter(bundle, catalogue.fake_backend(**backend))


def test_source_that_fails(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(20, fail_at=7)
    pipeline = pipeline_of(source, segmenter(bundle), [sink])
    with pytest.raises(SourceError, match="the stub fails"):
        pipeline.run()
    assert sink.indices == list(range(7))
    assert (sink.closed, source.closed) == (1, 1)
    assert pipeline.report().frames == 7


def test_network_that_fails(bundle: Bundle) -> None:
    class Failing(Segmenter):
        def network(self, prepared: Any) -> Any:
            if abs(prepared.tensor[0, 0, 0, 0] * 127.5 + 127.5 - 45) < 1:  # the sixth frame
                raise BackendError("the network fails")
            return super().network(prepared)

    sink, source = Collect(), Stub(500)
    pipeline = pipeline_of(source, Failing(bundle, catalogue.fake_backend()), [sink])
    with pytest.raises(BackendError, match="the network fails"):
        pipeline.run()
    assert sink.indices == list(range(5))
    assert (sink.closed, source.closed) == (1, 1)
    assert source.read < 500


def test_label_stage_that_fails(bundle: Bundle) -> None:
    class Failing(Segmenter):
        def label(self, grids: Any, prepared: Any, frames: Any) -> Any:
            if frames[0][0, 0, 0] == ramp_frame(4)[0, 0, 0]:
                raise ArithmeticError("labels fail")
            return super().label(grids, prepared, frames)

    sink, source = Collect(), Stub(500)
    pipeline = pipeline_of(source, Failing(bundle, catalogue.fake_backend()), [sink])
    with pytest.raises(ArithmeticError, match="labels fail"):
        pipeline.run()
    assert sink.indices == list(range(4))
    assert (sink.closed, source.closed) == (1, 1)
    assert source.read < 500


def test_sink_that_fails(bundle: Bundle) -> None:
    good, bad, source = Collect(), Collect(fail_at=3), Stub(500)
    pipeline = pipeline_of(source, segmenter(bundle), [good, bad])
    with pytest.raises(SinkError, match="the sink fails"):
        pipeline.run()
    assert good.indices == list(range(4))
    assert (good.closed, bad.closed, source.closed) == (1, 1, 1)
    assert source.read < 500
    assert pipeline.report().frames == 3


def test_sink_that_fails_when_closed_lets_the_others_close(bundle: Bundle) -> None:
    bad, good = Collect(fail_closing=True), Collect()
    with pytest.raises(SinkError, match="closing fails"):
        pipeline_of(Stub(2), segmenter(bundle), [bad, good]).run()
    assert good.closed == 1


def test_the_first_error_is_the_one_that_is_raised(bundle: Bundle) -> None:
    sinks = [Collect(fail_closing=True)]
    with pytest.raises(SourceError, match="the stub fails"):
        pipeline_of(Stub(9, fail_at=2), segmenter(bundle), sinks).run()


def test_stopping_finishes_the_frames_in_flight(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(10_000)
    pipeline: Pipeline

    def stop_at_three(result: Result) -> None:
        if result.frame.index == 3:
            pipeline.stop()

    model = segmenter(bundle, delay_s=0.01)  # so that frames wait for it
    pipeline = pipeline_of(source, model, [sink], on_result=stop_at_three)
    report = pipeline.run()
    assert source.read < 10_000
    assert sink.indices == list(range(report.frames))
    # what was under way is finished (3 + 2 results and the last one); of the frames that waited,
    # at least two at a time, none
    assert 4 <= report.frames <= 10
    assert source.read > report.frames
    assert sink.closed == 1
    assert report.to_json()["stopped"] is True


def test_a_run_that_is_stopped_before_it_starts_reads_nothing(bundle: Bundle) -> None:
    source, stop = Stub(5), threading.Event()
    stop.set()
    report = pipeline_of(source, segmenter(bundle), stop=stop).run()
    assert (source.read, report.frames) == (0, 0)


def test_interrupts_in_the_calling_thread_close_everything(bundle: Bundle) -> None:
    def interrupt(_: Result) -> None:
        raise KeyboardInterrupt

    sink, source = Collect(), Stub(500)
    pipeline = pipeline_of(source, segmenter(bundle), [sink], on_result=interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    assert (sink.indices, sink.closed, source.closed) == ([0], 1, 1)


def test_frames_before_damage_are_in_the_video(bundle: Bundle, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=30, noise=True)
    path.write_bytes(path.read_bytes()[:-20_000])
    sink = VideoSink(tmp_path / "out.mp4", frame_rate=Fraction(25))
    pipeline = pipeline_of(VideoSource(path), segmenter(bundle), [sink])
    with pytest.raises(SourceError, match="damaged or cut off"):
        pipeline.run()
    assert 3 <= pipeline.report().frames < 30
    assert len(decoded(tmp_path / "out.mp4")) == pipeline.report().frames
