"""Long runs: does a camera's latency grow, does memory?

    python benchmarks/soak.py                 # a camera for 5 minutes, then 20,000 frames
    python benchmarks/soak.py --quick

Camera: frames at 60 a second into a pipeline whose network takes 50 ms a call. Frames that nobody
waited for must be dropped and counted, and the time from capture to output must not grow.

Memory: 20,000 frames of a file, as fast as they go, through the real network, SEI, overlay and
video encoder; resident memory along the way.
"""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import write_report
from measured_bundle import bundle_facts
from rich.console import Console
from rich.table import Table

from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.backends.fake import FakeBackend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.latency import LatencyReport
from szn_runtime.pipeline import Lane, Pipeline
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks import Result, VideoSink
from szn_runtime.sources import SyntheticSource

_CAMERA_FPS, _CALL_S = 60, 0.05


def camera(bundle: Bundle, seconds: float, windows: int) -> tuple[list[dict[str, Any]], bool]:
    """Capture to output in each of some windows of time, and whether the counts add up."""
    manifest = bundle.manifest
    backend = FakeBackend(dim=manifest.dim, stride=manifest.stride, delay_s=_CALL_S)
    source = SyntheticSource(
        frame_count=int(seconds * _CAMERA_FPS), size_hw=(360, 480), rate=Fraction(_CAMERA_FPS)
    )
    ages: list[tuple[float, float]] = []

    def age(result: Result) -> None:
        now_s = time.perf_counter()
        ages.append((now_s, 1e3 * (now_s - result.frame.captured_at_s)))

    with Segmenter(bundle, backend) as segmenter:
        segmenter.warm_up((360, 480))
        report = Pipeline([Lane(source=source)], segmenter, on_result=age).run()
    rows = []
    start_s = ages[0][0]
    for number in range(windows):
        low, high = (start_s + seconds * part / windows for part in (number, number + 1))
        inside = [ms for at_s, ms in ages if low <= at_s < high]
        p50, p99 = np.percentile(inside, (50, 99))
        rows.append(
            {
                "from_s": round(low - start_s),
                "frames": len(inside),
                "p50_ms": float(p50),
                "p99_ms": float(p99),
                "max_ms": max(inside),
            }
        )
    return rows, _adds_up(report, int(seconds * _CAMERA_FPS))


def _adds_up(report: LatencyReport, delivered: int) -> bool:
    return report.frames + report.dropped == delivered


def memory(bundle: Bundle, frames: int, windows: int) -> list[dict[str, Any]]:
    """Resident memory while many frames go through."""
    source = SyntheticSource(frame_count=frames, size_hw=(360, 480))
    rows: list[dict[str, Any]] = []
    done = 0
    start_s = time.perf_counter()

    def look(_: Result) -> None:
        nonlocal done
        done += 1
        if done % (frames // windows) == 0:
            rows.append(
                {
                    "frames": done,
                    "resident_mib": _resident_mib(),
                    "threads": threading.active_count(),
                    "frames_per_second": done / (time.perf_counter() - start_s),
                }
            )

    backend = open_backend("onnxruntime", bundle, BackendOptions(hint="throughput"))
    with tempfile.TemporaryDirectory() as folder, Segmenter(bundle, backend) as segmenter:
        segmenter.warm_up((360, 480))
        sink = VideoSink(Path(folder) / "out.mp4", frame_rate=Fraction(30))
        Pipeline([Lane(source=source, sinks=[sink])], segmenter, on_result=look).run()
    return rows


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / (1 << 20)


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute: 20 s of camera, 400 frames.")
@click.option("--part", type=click.Choice(["all", "camera", "memory"]), default="all")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows.")
def main(quick: bool, part: str, json_path: Path | None) -> None:
    """Run a camera and many frames for long, and print latency and memory along the way."""
    console = Console(width=140)
    bundle = Bundle.open(default_bundle_path())
    seconds, frames, windows = (20.0, 400, 4) if quick else (300.0, 20_000, 10)
    rows: list[dict[str, Any]] = []
    adds_up: bool | None = None
    if part != "memory":
        camera_rows, adds_up = camera(bundle, seconds, windows)
        _print(console, f"camera, {_CAMERA_FPS} frames a second, capture to output", camera_rows)
        console.print(f"written and dropped frames add up to those delivered: {adds_up}")
        rows += [{"part": "camera"} | row for row in camera_rows]
    if part != "camera":
        memory_rows = memory(bundle, frames, windows)
        _print(console, "memory, 480 x 360, overlay and H.264", memory_rows)
        rows += [{"part": "memory"} | row for row in memory_rows]
    if json_path:
        write_report(json_path, "soak", rows, bundle=bundle_facts(bundle), counts_add_up=adds_up)


def _print(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.1f}" if isinstance(v, float) else f"{v:,}" for v in row.values()))
    console.print(table)


if __name__ == "__main__":
    main()
