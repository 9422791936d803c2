from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_runtime.bundle import Bundle
from szn_runtime.errors import UsageError
from szn_runtime.pipeline import Lane, Pipeline
from szn_runtime.pipeline_config import PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks import Result, VideoSink
from szn_runtime.sources import Frame, VideoSource
from tests.runtime import catalogue
from tests.runtime.clips import decoded, ramp_frame
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


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_every_frame_comes_once_in_order(bundle: Bundle, batch: int) -> None:
    source, sinks = Stub(25), [Collect(), Collect(wants_overlay=True)]
    report = pipeline_of(source, segmenter(bundle), sinks, config=PipelineConfig(batch=batch)).run()
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
        pipeline_of(Stub(9), alone, [sink], config=config).run()
        for result in sink.results:
            expected = alone(ramp_frame(result.frame.index))
            np.testing.assert_array_equal(result.segmentation.labels, expected.labels)
            np.testing.assert_array_equal(result.segmentation.seenmask, expected.seenmask)
            overlay: NDArray[np.uint8] | None = result.overlay
            assert overlay is not None
            np.testing.assert_array_equal(overlay, expected.overlay(alpha=0.3, legend=False))


def test_overlays_are_drawn_for_those_who_want_them_only(bundle: Bundle) -> None:
    sink = Collect()
    report = pipeline_of(Stub(3), segmenter(bundle), [sink]).run()
    assert all(result.overlay is None for result in sink.results)
    assert "overlay" not in report.stages


def test_batches_hold_frames_of_one_size(bundle: Bundle) -> None:
    sink = Collect()
    sizes = Stub(10, size_hw=lambda index: (48, 64) if index < 5 else (64, 40))
    model = segmenter(bundle)
    pipeline_of(sizes, model, [sink], config=PipelineConfig(batch=4)).run()
    assert sink.indices == list(range(10))
    shapes = [result.segmentation.labels.shape for result in sink.results]
    assert shapes == [(48, 64)] * 5 + [(64, 40)] * 5
    assert model.backend.calls == 4  # type: ignore[attr-defined]  # 4 + 1 + 4 + 1 frames


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("live", [False, True])
def test_limit_ends_the_run(bundle: Bundle, batch: int, live: bool) -> None:
    sink, source = Collect(), Stub(1000, live=live)
    config = PipelineConfig(limit=6, batch=batch, policy="every" if batch > 1 else "auto")
    report = pipeline_of(source, segmenter(bundle), [sink], config=config).run()
    assert len(sink.indices) == report.frames == 6
    assert source.read < 1000 or live


def test_report_names_what_it_measured(bundle: Bundle) -> None:
    document = pipeline_of(Stub(2), segmenter(bundle), [Collect()]).run().to_json()
    facts = {
        "sources": [{"name": "stub", "policy": "every", "frames": 2, "dropped": 0}],
        "bundle": "tiny",
        "backend": "fake",
        "provider": "numpy",
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "requests": 1,
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
    pipeline = pipeline_of(source, segmenter(bundle, delay_s=0.02), [sink])
    report = pipeline.run()
    assert report.dropped > 0
    assert report.frames + report.dropped == source.read == 60
    assert sink.indices == sorted(set(sink.indices))
    assert sink.indices[-1] == 59  # the newest one is never the one that gives way


def test_a_live_source_may_be_asked_for_every_frame(bundle: Bundle) -> None:
    sink, source = Collect(), Stub(20, live=True)
    config = PipelineConfig(policy="every")
    report = pipeline_of(source, segmenter(bundle, delay_s=0.002), [sink], config=config).run()
    assert sink.indices == list(range(20))
    assert report.dropped == 0


def test_a_live_source_has_no_batches_of_newest_frames(bundle: Bundle) -> None:
    config = PipelineConfig(batch=2)
    with pytest.raises(UsageError, match="a batch of 2 does not go with the newest frame of stub"):
        pipeline_of(Stub(live=True), segmenter(bundle), config=config)


def test_the_driving_clip(bundle: Bundle, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    source = VideoSource(data_dir / "camvid_val.mp4")
    assert source.frame_rate == 15
    sink = VideoSink(out, frame_rate=Fraction(15), time_base=source.time_base, preset="ultrafast")
    config = PipelineConfig(alpha=0.0, legend=False)
    report = pipeline_of(source, segmenter(bundle), [sink], config=config).run()
    assert report.frames == 101
    shown, original = decoded(out), [f.image_bgr for f in VideoSource(data_dir / "camvid_val.mp4")]
    assert len(shown) == len(original) == 101
    for index in (0, 50, 100):
        assert np.abs(shown[index].astype(int) - original[index]).mean() < 25


def test_results_stay_few_whatever_the_length(bundle: Bundle) -> None:
    in_flight: list[int] = []
    source = Stub(300)

    def look(result: Result) -> None:
        in_flight.append(source.read - result.frame.index)

    config = PipelineConfig(depth=2)
    pipeline_of(source, segmenter(bundle), config=config, on_result=look).run()
    # what channels hold (3 x 2), what stages work on (4), the one that was just written
    assert max(in_flight) <= 11


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("requests", [1, 3])
def test_several_sources_share_the_network_and_nothing_else(
    bundle: Bundle, batch: int, requests: int
) -> None:
    # the second one's frames have another input size, the third one's another frame size only
    sizes = ((48, 64), (64, 40), (24, 32))
    lengths = (12, 5, 20)
    lanes = [
        Lane(source=Stub(n, name=f"s{i}", size_hw=lambda _, hw=hw: hw), sinks=[Collect()])
        for i, (n, hw) in enumerate(zip(lengths, sizes, strict=True))
    ]
    model = segmenter(bundle, requests=requests)
    report = Pipeline(lanes, model, config=PipelineConfig(batch=batch)).run()
    for lane, length, size_hw in zip(lanes, lengths, sizes, strict=True):
        (sink,) = lane.sinks
        assert isinstance(sink, Collect)
        assert sink.indices == list(range(length))
        for made in sink.results:
            assert made.frame.source == lane.source.name
            expected = model(ramp_frame(made.frame.index, size_hw=size_hw))
            np.testing.assert_array_equal(made.segmentation.labels, expected.labels)
    assert report.frames == 37
    assert [(s["name"], s["frames"]) for s in report.facts["sources"]] == [
        ("s0", 12),
        ("s1", 5),
        ("s2", 20),
    ]


def test_frames_of_all_sources_are_batched_together(bundle: Bundle) -> None:
    backend = catalogue.fake_backend()
    lanes = [Lane(source=Stub(8, name=f"s{i}")) for i in range(4)]
    Pipeline(lanes, Segmenter(bundle, backend), config=PipelineConfig(batch=4)).run()
    assert backend.calls == 8


def test_the_limit_is_for_each_source(bundle: Bundle) -> None:
    sinks = [Collect(), Collect()]
    lanes = [
        Lane(source=Stub(1000, name=f"s{i}", live=i == 1), sinks=[sink])
        for i, sink in enumerate(sinks)
    ]
    report = Pipeline(lanes, segmenter(bundle), config=PipelineConfig(limit=3)).run()
    assert sinks[0].indices == [0, 1, 2]
    assert len(sinks[1].results) == 3
    assert report.frames == 6


def test_a_live_source_is_not_kept_waiting_by_a_file(bundle: Bundle) -> None:
    live, file = Stub(30, name="live", live=True, pace_s=0.005), Stub(60, name="file", pace_s=0.005)
    sinks = [Collect(), Collect()]
    lanes = [Lane(source=s, sinks=[c]) for s, c in zip((live, file), sinks, strict=True)]
    Pipeline(lanes, segmenter(bundle), config=PipelineConfig(batch=2)).run()
    assert sinks[1].indices == list(range(60))
    assert sinks[0].indices == sorted(set(sinks[0].indices))
    assert sinks[0].indices[-1] == 29


def test_sources_of_one_name_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="different names: got stub, stub"):
        Pipeline([Lane(source=Stub()), Lane(source=Stub())], segmenter(bundle))
    with pytest.raises(UsageError, match="different names: got none"):
        Pipeline([], segmenter(bundle))


def test_smoothing_is_for_each_source_apart(bundle: Bundle) -> None:
    class Flicker(Stub):
        """Red and blue in turn."""

        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                colour = "red" if frame.index % 2 else "blue"
                yield dataclasses.replace(frame, image_bgr=catalogue.frame(colour))

    sinks = [Collect(), Collect()]
    lanes = [
        Lane(source=source, sinks=[sink])
        for source, sink in zip((Flicker(20, name="f"), Stub(20, name="s")), sinks, strict=True)
    ]
    model = segmenter(bundle)
    Pipeline(lanes, model, config=PipelineConfig(smooth=0.9, batch=2)).run()
    # blue comes first; each red frame moves the grid a tenth of the way, and blue takes it back
    assert {name for made in sinks[0].results[:8] for name in made.segmentation.shares} == {"blue"}
    for made in sinks[1].results:
        difference = made.segmentation.embedding[0, 0, 0]
        level = sum(
            weight * (20 + 5 * n - 127.5) / 127.5
            for n, weight in enumerate(weights_at(made.frame.index, 0.9))
        )
        assert difference == pytest.approx(level, abs=1e-5)


def weights_at(index: int, share: float) -> list[float]:
    """What each frame up to `index` counts for, from E_t = share E_(t-1) + (1 - share) E."""
    return [(1.0 if n == 0 else 1 - share) * share ** (index - n) for n in range(index + 1)]


def test_capture_to_output_does_not_grow(bundle: Bundle) -> None:
    """A camera that delivers three times what the pipeline manages."""
    sink = Collect()
    source = Stub(240, live=True, pace_s=0.004)
    ages: list[float] = []

    def age(result: Result) -> None:
        ages.append(time.perf_counter() - result.frame.captured_at_s)

    report = pipeline_of(source, segmenter(bundle, delay_s=0.012), [sink], on_result=age).run()
    assert report.frames + report.dropped == source.read == 240
    assert report.dropped > 60
    # a queue would make the last frames wait for hundreds of network calls; here at most three
    # frames are under way, so that the median of the end is that of the beginning
    third = len(ages) // 3
    assert np.median(ages[-third:]) < 3 * np.median(ages[:third])
