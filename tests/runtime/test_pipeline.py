from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_runtime.bundle import Bundle
from szn_runtime.errors import UsageError
from szn_runtime.pipeline import Pipeline, PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks import Result, VideoSink
from szn_runtime.sources import VideoSource
from tests.runtime import catalogue
from tests.runtime.clips import decoded, ramp_frame
from tests.runtime.stages import Collect, Stub


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
