from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError, SinkError, SourceError, UsageError
from szn_runtime.pipeline import Pipeline, PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks import Result, Sink, VideoSink
from szn_runtime.sources import Frame, Source, VideoSource
from tests.runtime import catalogue
from tests.runtime.clips import decoded, ramp_frame, write_clip


class Stub(Source):
    """Ramp frames; fails after some of them, or delivers them at its own pace."""

    time_base: Fraction | None = None
    frame_rate: Fraction | None = Fraction(25)
    paths: tuple[Path, ...] = ()
    name = "stub"

    def __init__(
        self,
        frames: int = 10,
        *,
        live: bool = False,
        pace_s: float = 0.0,
        fail_at: int | None = None,
        size_hw: Callable[[int], tuple[int, int]] = lambda _: (48, 64),
    ) -> None:
        self.frame_count: int | None = frames
        self.live = live
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
                name=f"stub_{index:06d}",
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


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_every_frame_comes_once_in_order(bundle: Bundle, batch: int) -> None:
    source, sinks = Stub(25), [Collect(), Collect(wants_overlay=True)]
    report = Pipeline(source, segmenter(bundle), sinks, config=PipelineConfig(batch=batch)).run()
    for sink in sinks:
        assert sink.indices == list(range(25))
        assert sink.closed == 1
        assert sink.threads == {threading.main_thread()}
    assert source.closed == 1
    assert (report.frames, report.dropped) == (25, 0)
    stages = ["decode", "preprocess", "network", "sei", "overlay", "encode", "capture_to_output"]
    assert list(report.stages) == stages
    assert {stats.count for stats in report.stages.values()} == {25}


@pytest.mark.parametrize("batch", [1, 4])
def test_results_are_those_of_the_segmenter(bundle: Bundle, batch: int) -> None:
    sink = Collect(wants_overlay=True)
    with segmenter(bundle) as alone:
        config = PipelineConfig(batch=batch, alpha=0.3, legend=False)
        Pipeline(Stub(9), alone, [sink], config=config).run()
        for result in sink.results:
            expected = alone(ramp_frame(result.frame.index))
            np.testing.assert_array_equal(result.segmentation.labels, expected.labels)
            np.testing.assert_array_equal(result.segmentation.seenmask, expected.seenmask)
            overlay: NDArray[np.uint8] | None = result.overlay
            assert overlay is not None
            np.testing.assert_array_equal(overlay, expected.overlay(alpha=0.3, legend=False))


def test_overlays_are_drawn_for_those_who_want_them_only(bundle: Bundle) -> None:
    sink = Collect()
    report = Pipeline(Stub(3), segmenter(bundle), [sink]).run()
    assert all(result.overlay is None for result in sink.results)
    assert "overlay" not in report.stages


def test_batches_hold_frames_of_one_size(bundle: Bundle) -> None:
    sink = Collect()
    sizes = Stub(10, size_hw=lambda index: (48, 64) if index < 5 else (64, 40))
    model = segmenter(bundle)
    Pipeline(sizes, model, [sink], config=PipelineConfig(batch=4)).run()
    assert sink.indices == list(range(10))
    shapes = [result.segmentation.labels.shape for result in sink.results]
    assert shapes == [(48, 64)] * 5 + [(64, 40)] * 5
    assert model.backend.calls == 4  # type: ignore[attr-defined]  # 4 + 1 + 4 + 1 frames


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("live", [False, True])
def test_limit_ends_the_run(bundle: Bundle, batch: int, live: bool) -> None:
    sink, source = Collect(), Stub(1000, live=live)
    config = PipelineConfig(limit=6, batch=batch, policy="every" if batch > 1 else "auto")
    report = Pipeline(source, segmenter(bundle), [sink], config=config).run()
    assert len(sink.indices) == report.frames == 6
    assert source.read < 1000 or live


def test_report_names_what_it_measured(bundle: Bundle) -> None:
    document = Pipeline(Stub(2), segmenter(bundle), [Collect()]).run().to_json()
    facts = {
        "source": "stub",
        "bundle": "tiny",
        "backend": "fake",
        "provider": "numpy",
        "precision": "fp32",
        "threads": 1,
        "policy": "every",
        "batch": 1,
        "labels": 6,
        "frame_hw": [48, 64],
        "network_hw": [48, 64],
        "grid_hw": [6, 8],
        "stopped": False,
    }
    assert {key: document[key] for key in facts} == facts


def test_live_sources_drop_stale_frames_and_count_them(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(60, live=True, pace_s=0.002)
    pipeline = Pipeline(source, segmenter(bundle, delay_s=0.02), [sink])
    assert pipeline.policy == "latest"
    report = pipeline.run()
    assert report.dropped > 0
    assert report.frames + report.dropped == source.read == 60
    assert sink.indices == sorted(set(sink.indices))
    assert sink.indices[-1] == 59  # the newest one is never the one that gives way


def test_a_live_source_may_be_asked_for_every_frame(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(20, live=True)
    config = PipelineConfig(policy="every")
    report = Pipeline(source, segmenter(bundle, delay_s=0.002), [sink], config=config).run()
    assert sink.indices == list(range(20))
    assert report.dropped == 0


def test_a_live_source_has_no_batches_of_newest_frames(bundle: Bundle) -> None:
    config = PipelineConfig(batch=2)
    with pytest.raises(UsageError, match="a batch of 2 does not go with the newest frame of stub"):
        Pipeline(Stub(live=True), segmenter(bundle), config=config)


def test_source_that_fails(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(20, fail_at=7)
    pipeline = Pipeline(source, segmenter(bundle), [sink])
    with pytest.raises(SourceError, match="the stub fails"):
        pipeline.run()
    assert sink.indices == list(range(7))
    assert (sink.closed, source.closed) == (1, 1)
    assert pipeline.report().frames == 7


def test_network_that_fails(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(500)
    pipeline = Pipeline(source, segmenter(bundle, fail_at=5), [sink])
    with pytest.raises(BackendError, match="the fake backend failed: got call 5"):
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
    pipeline = Pipeline(source, Failing(bundle, catalogue.fake_backend()), [sink])
    with pytest.raises(ArithmeticError, match="labels fail"):
        pipeline.run()
    assert sink.indices == list(range(4))
    assert (sink.closed, source.closed) == (1, 1)
    assert source.read < 500


def test_sink_that_fails(bundle: Bundle) -> None:
    good, bad, source = Collect(), Collect(fail_at=3), Stub(500)
    pipeline = Pipeline(source, segmenter(bundle), [good, bad])
    with pytest.raises(SinkError, match="the sink fails"):
        pipeline.run()
    assert good.indices == list(range(4))
    assert (good.closed, bad.closed, source.closed) == (1, 1, 1)
    assert source.read < 500
    assert pipeline.report().frames == 3


def test_sink_that_fails_when_closed_lets_the_others_close(bundle: Bundle) -> None:
    bad, good = Collect(fail_closing=True), Collect()
    with pytest.raises(SinkError, match="closing fails"):
        Pipeline(Stub(2), segmenter(bundle), [bad, good]).run()
    assert good.closed == 1


def test_the_first_error_is_the_one_that_is_raised(bundle: Bundle) -> None:
    sinks = [Collect(fail_closing=True)]
    with pytest.raises(SourceError, match="the stub fails"):
        Pipeline(Stub(9, fail_at=2), segmenter(bundle), sinks).run()


def test_stopping_finishes_the_frames_in_flight(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(10_000)
    pipeline: Pipeline

    def stop_at_three(result: Result) -> None:
        if result.frame.index == 3:
            pipeline.stop()

    pipeline = Pipeline(source, segmenter(bundle), [sink], on_result=stop_at_three)
    report = pipeline.run()
    assert source.read < 10_000
    assert sink.indices == list(range(source.read))
    assert sink.closed == 1
    assert report.to_json()["stopped"] is True


def test_a_run_that_is_stopped_before_it_starts_reads_nothing(bundle: Bundle) -> None:
    source, stop = Stub(5), threading.Event()
    stop.set()
    report = Pipeline(source, segmenter(bundle), stop=stop).run()
    assert (source.read, report.frames) == (0, 0)


def test_interrupts_in_the_calling_thread_close_everything(bundle: Bundle) -> None:
    def interrupt(_: Result) -> None:
        raise KeyboardInterrupt

    sink, source = Collect(), Stub(500)
    pipeline = Pipeline(source, segmenter(bundle), [sink], on_result=interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    assert (sink.indices, sink.closed, source.closed) == ([0], 1, 1)


def test_frames_before_damage_are_in_the_video(bundle: Bundle, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=30, noise=True)
    path.write_bytes(path.read_bytes()[:-20_000])
    sink = VideoSink(tmp_path / "out.mp4", frame_rate=Fraction(25))
    pipeline = Pipeline(VideoSource(path), segmenter(bundle), [sink])
    with pytest.raises(SourceError, match="damaged or cut off"):
        pipeline.run()
    assert 3 <= pipeline.report().frames < 30
    assert len(decoded(tmp_path / "out.mp4")) == pipeline.report().frames


def test_the_driving_clip(bundle: Bundle, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    source = VideoSource(data_dir / "camvid_val.mp4")
    assert source.frame_rate == 15
    sink = VideoSink(out, frame_rate=Fraction(15), time_base=source.time_base, preset="ultrafast")
    config = PipelineConfig(alpha=0.0, legend=False)
    report = Pipeline(source, segmenter(bundle), [sink], config=config).run()
    assert report.frames == 101
    shown, original = decoded(out), [f.image_bgr for f in VideoSource(data_dir / "camvid_val.mp4")]
    assert len(shown) == len(original) == 101
    for index in (0, 50, 100):
        assert np.abs(shown[index].astype(int) - original[index]).mean() < 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is out of range: got 0"),
        ({"limit": 0}, "limit is out of range: got 0"),
        ({"alpha": 2.0}, r"alpha is out of range: got 2\.0"),
        ({"policy": "newest"}, "unknown policy: got newest, expected auto, every or latest"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PipelineConfig(**options)


def test_results_stay_few_whatever_the_length(bundle: Bundle) -> None:
    in_flight: list[int] = []
    source = Stub(300)

    def look(result: Result) -> None:
        in_flight.append(source.read - result.frame.index)

    config = PipelineConfig(depth=2)
    Pipeline(source, segmenter(bundle), config=config, on_result=look).run()
    # what channels hold (3 x 2), what stages work on (4), the one that was just written
    assert max(in_flight) <= 11
