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
from szn_runtime.pipeline import Pipeline, PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks.base import Result, Sink, cannot_write
from szn_runtime.sources.base import Source

__all__ = ["ShareTotals", "run_session"]

_MOST_ROWS = 20


class ShareTotals(Sink):
    """Keeps the mean share of every label, for printing."""

    wants_overlay: bool = False
    path: Path | None = None

    def __init__(self) -> None:
        self._frames = 0
        self._sums: dict[str, float] = {}
        self._seen: dict[str, bool] = {}

    def write(self, result: Result) -> None:
        """Add the shares of a frame."""
        label_set = result.segmentation.label_set
        if not self._seen:
            self._seen = dict(zip(label_set.names, label_set.seen.tolist(), strict=True))
        self._frames += 1
        for name, share in result.segmentation.shares.items():
            self._sums[name] = self._sums.get(name, 0.0) + share

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
    source: Source,
    segmenter: Segmenter,
    sinks: Sequence[Sink],
    *,
    config: PipelineConfig,
    report_file: Path | None = None,
    stop: threading.Event | None = None,
    show_shares: bool = False,
) -> int:
    """Run a pipeline with a progress bar, then print the report.

    Args:
        source: Read and closed.
        segmenter: Stays open.
        sinks: Filled and closed.
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
    totals = [ShareTotals()] if show_shares else []
    stop = stop or threading.Event()
    expected = _fewest(source.frame_count, config.limit)
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
    task = progress.add_task(escape(source.name), total=expected, rate="")

    def advance(_: Result) -> None:
        speed = progress.tasks[0].speed
        progress.update(task, advance=1, rate=f"{speed:.1f} fps" if speed else "")

    pipeline = Pipeline(
        source, segmenter, [*sinks, *totals], config=config, on_result=advance, stop=stop
    )
    failure: BaseException | None = None
    with stopping(stop.set) as interruption:
        try:
            with progress:
                pipeline.run()
        except BaseException as error:
            failure = error
            raise
        finally:
            _conclude(console, pipeline.report(), sinks, totals, report_file, failure)
    if interruption.signal_number is not None:
        console.print("[yellow]stopped; the outputs are complete up to here[/yellow]")
    return interruption.exit_code


def _conclude(
    console: Console,
    report: LatencyReport,
    sinks: Sequence[Sink],
    totals: Sequence[ShareTotals],
    report_file: Path | None,
    failure: BaseException | None,
) -> None:
    """Print and write what is known at the end, without hiding the error that led there."""
    written = [str(sink.path) for sink in sinks if sink.path is not None] if report.frames else []
    if report.frames:
        for total in totals:
            console.print(total.table())
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
