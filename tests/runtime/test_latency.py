from __future__ import annotations

import io
import json
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from szn_runtime.errors import InputError
from szn_runtime.latency import StageTimer


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
def test_stats_are_those_of_numpy(durations_ms: list[float]) -> None:
    timer = StageTimer()
    for duration_ms in durations_ms:
        timer.add("network", duration_ms)
    stats = timer.report().stages["network"]
    assert stats.count == len(durations_ms)
    assert stats.mean_ms == pytest.approx(np.mean(durations_ms))
    assert stats.max_ms == max(durations_ms)
    for share in (50, 90, 95, 99):
        expected = np.percentile(durations_ms, share)
        assert getattr(stats, f"p{share}_ms") == pytest.approx(expected)


def test_a_batch_is_shared_by_its_frames() -> None:
    timer = StageTimer()
    timer.add("network", 12.0, frames=4)
    stats = timer.report().stages["network"]
    assert (stats.count, stats.mean_ms, stats.max_ms) == (4, 3.0, 3.0)


def test_long_runs_keep_a_bounded_sample() -> None:
    timer = StageTimer(kept_samples=500)
    for value in range(20_000):
        timer.add("decode", float(value))
    stats = timer.report().stages["decode"]
    assert stats.count == 20_000
    assert stats.mean_ms == pytest.approx(9999.5)
    assert stats.max_ms == 19_999.0
    # the standard error of a median of 500 uniform samples is 447
    assert 8200 < stats.p50_ms < 11_800


def test_unknown_stage_is_refused() -> None:
    with pytest.raises(InputError, match="no stage 'resize': expected one of decode, preprocess"):
        StageTimer().add("resize", 1.0)


def test_a_block_that_raises_is_not_recorded() -> None:
    timer = StageTimer()
    with pytest.raises(RuntimeError), timer.measure("sei"):
        raise RuntimeError
    with timer.measure("overlay"):
        pass
    report = timer.report()
    assert set(report.stages) == {"overlay"}
    assert report.stages["overlay"].max_ms >= 0


def test_throughput_is_from_the_first_capture_to_the_last_output() -> None:
    timer = StageTimer()
    timer.finish(10.0, 10.5)
    timer.finish(10.25, 12.0)
    timer.drop()
    timer.drop(3)
    report = timer.report(backend="fake", precision="fp32")
    assert report.frames == timer.frames == 2
    assert report.dropped == 4
    assert report.wall_s == 2.0
    assert report.frames_per_second == 1.0
    assert report.stages["capture_to_output"].max_ms == pytest.approx(1750)


def test_json_holds_numbers_and_facts() -> None:
    timer = StageTimer()
    timer.add("sei", 1.23456)
    timer.finish(0.0, 0.5)
    document = json.loads(json.dumps(timer.report(backend="fake", grid_hw=[3, 4]).to_json()))
    assert document["stages_ms"]["sei"] == {
        "count": 1,
        "mean": 1.235,
        "p50": 1.235,
        "p90": 1.235,
        "p95": 1.235,
        "p99": 1.235,
        "max": 1.235,
    }
    assert document["frames_per_second"] == 2.0
    assert document["backend"] == "fake"
    assert document["grid_hw"] == [3, 4]


def test_an_empty_run_has_a_report() -> None:
    report = StageTimer().report()
    assert (report.frames, report.wall_s, report.frames_per_second) == (0, 0.0, 0.0)
    assert report.to_json()["stages_ms"] == {}


def test_table_names_stages_and_throughput() -> None:
    timer = StageTimer()
    timer.add("network", 20.0)
    timer.finish(0.0, 0.5)
    timer.drop()
    out = io.StringIO()
    Console(file=out, width=100).print(timer.report(backend="fake", precision="fp32").table())
    text = out.getvalue()
    assert "1 frames, 2.0 frames per second, 1 dropped, fake, fp32" in text
    assert "capture to output" in text
    assert "20.00" in text


def test_threads_may_add_at_once() -> None:
    timer = StageTimer()

    def work() -> None:
        for _ in range(1000):
            timer.add("encode", 1.0)
            timer.drop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = timer.report()
    assert report.stages["encode"].count == report.dropped == 4000
