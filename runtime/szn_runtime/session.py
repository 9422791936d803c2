"""A run as a terminal shows it: progress, what came out, the report, Ctrl-C."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from szn_runtime._stopping import stopping
from szn_runtime.latency import LatencyReport
from szn_runtime.pipeline import Lane, Pipeline
from szn_runtime.pipeline_config import PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks.base import Result, Sink, cannot_write

__all__ = ["ShareTotals", "run_session"]

_MOST_ROWS = 20


class ShareTotals:
    """Keeps the mean share of every label, for printing."""

    def __init__(self) -> None:
        self._frames = 0
        self._sums: dict[str, float] = {}
        self._seen: dict[str, bool] = {}

    def write(self, result: Result) -> None:
        """Add the shares of a frame."""
        segmentation = result.segmentation
        self._frames += 1
        for row, share in segmentation.present:
            name = segmentation.names[row]
            self._sums[name] = self._sums.get(name, 0.0) + share
            self._seen[name] = bool(segmentation.seen[row])

    def table(self) -> Table:
        """Labels and shares, largest first."""
        frames = f" (mean of {self._frames} frames)" if self._frames > 1 else ""
        table = Table()
        table.add_column("label")
        table.add_column(f"share{frames}", justify="right")
        table.add_column("in training")
        largest = sorted(self._sums.items(), key=lambda item: -item[1])
        for name, total in largest[:_MOST_ROWS]:
            seen = "seen" if self._seen[name] else "unseen"
            table.add_row(escape(name), f"{total / self._frames:.1%}", seen)
        return table


def run_session(
    lanes: Sequence[Lane],
    segmenter: Segmenter,
    *,
    config: PipelineConfig,
    report_file: Path | None = None,
    stop: threading.Event | None = None,
    show_shares: bool = False,
) -> int:
    """Run a pipeline with a progress bar, then print the report.

    Args:
        lanes: Sources, read and closed; their sinks, filled and closed.
        segmenter: Stays open.
        config: How frames flow.
        report_file: Where to write the report as JSON, None for nowhere.
        stop: Set from anywhere to end the run.
        show_shares: Whether to print the labels' shares.

    Returns:
        The exit code: 0, or 130 after Ctrl-C (143 after SIGTERM); what was made is complete.

    Raises:
        Exception: What `Pipeline.run` raises, after the report of what came before was printed.
    """
    console = Console()
    totals = ShareTotals() if show_shares else None
    stop = stop or threading.Event()
    counts = [_fewest(lane.source.frame_count, config.limit) for lane in lanes]
    known = [count for count in counts if count is not None]
    expected = sum(known) if len(known) == len(counts) else None
    name = ", ".join(lane.source.name for lane in lanes)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=expected == 1 or not Console(stderr=True).is_terminal,
    )
    task = progress.add_task(escape(name), total=expected, rate="")

    def advance(result: Result) -> None:
        if totals is not None:
            totals.write(result)
        speed = progress.tasks[0].speed
        progress.update(task, advance=1, rate=f"{speed:.1f} fps" if speed else "")

    pipeline = Pipeline(lanes, segmenter, config=config, on_result=advance, stop=stop)
    failure: BaseException | None = None
    with stopping(stop.set) as interruption:
        try:
            with progress:
                pipeline.run()
        except BaseException as error:
            failure = error
            raise
        finally:
            sinks = [sink for lane in lanes for sink in lane.sinks]
            _conclude(console, pipeline.report(), sinks, totals, report_file, failure)
    if interruption.signal_number is not None:
        console.print("[yellow]stopped; the outputs are complete up to here[/yellow]")
    return interruption.exit_code


def _conclude(
    console: Console,
    report: LatencyReport,
    sinks: Sequence[Sink],
    totals: ShareTotals | None,
    report_file: Path | None,
    failure: BaseException | None,
) -> None:
    """Print and write what is known at the end, without hiding the error that led there."""
    paths = [str(sink.path) for sink in sinks if sink.path is not None] if report.frames else []
    written = list(dict.fromkeys(paths))  # several sources may share a file
    if report.frames:
        if totals is not None:
            console.print(totals.table())
        console.print(report.table())
    if report_file is not None:
        document: dict[str, Any] = {**report.to_json(), "outputs": written}
        if failure is not None:
            document["error"] = str(failure) or type(failure).__name__
        try:
            report_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            written.append(str(report_file))
        except OSError as error:
            if failure is None:
                raise cannot_write(report_file, error) from error
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _fewest(*counts: int | None) -> int | None:
    """The smallest count that is known."""
    return min((count for count in counts if count is not None), default=None)
