"""`szn-run`: segment images, videos, cameras and streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from szn_runtime._command import Command

__all__ = ["main"]

_PATH = click.Path(path_type=Path)
_POSITIVE = click.IntRange(min=1)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("input", required=False, metavar="[INPUT]")
@click.option("--camera", type=click.IntRange(min=0), metavar="N", help="Camera number, 0 first.")
@click.option("--demo", is_flag=True, help="Run on two sample photos, into -o (demo-output).")
@click.option(
    "-o",
    "--output",
    type=_PATH,
    help="Overlays: .mp4 or .mkv video, .png for one image, or a folder for PNG files.",
)
@click.option("--masks", type=_PATH, metavar="DIR", help="Palette PNG masks, index = label.")
@click.option("--json", "records", type=_PATH, metavar="FILE", help="Class shares as JSON lines.")
@click.option("--report", type=_PATH, metavar="FILE", help="Latency report as JSON.")
@click.option("--show", is_flag=True, help="Show overlays in a window; q ends.")
@click.option(
    "--bundle", type=_PATH, metavar="PATH", help="Model folder or .zip; szn-mini if none."
)
@click.option("--labels", metavar="NAMES|FILE", help='"cow, sheep, grass" or a file, one a line.')
@click.option("--vocabulary", type=_PATH, metavar="FILE", help="Word vectors to look labels up in.")
@click.option("--size", type=_POSITIVE, metavar="PIXELS", help="Long side the network works at.")
@click.option(
    "--seen-bias",
    type=float,
    default=0.0,
    metavar="X",
    help="Above 0: more pixels are taken for labels seen in training.",
)
@click.option("--backend", default="onnxruntime", show_default=True, help="What runs the network.")
@click.option("--precision", default="fp32", show_default=True, help="Of the network's file.")
@click.option("--threads", type=_POSITIVE, metavar="N", help="CPU threads; one per core if none.")
@click.option("--batch", type=_POSITIVE, default=1, metavar="N", help="Frames per network call.")
@click.option(
    "--policy",
    type=click.Choice(["auto", "every", "latest"]),
    default="auto",
    help="All frames, or always the newest one; auto: the newest one of live sources.",
)
@click.option("--limit", type=_POSITIVE, metavar="N", help="Stop after N frames.")
@click.option("--rate", metavar="FPS", help="Frames per second of images, 5 or 30000/1001.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, help="Opacity of the labels.")
@click.option("--legend/--no-legend", default=True, help="Names and shares on overlays.")
@click.version_option(package_name="szn")
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Segment INPUT: an image, a folder or glob of images, a video, or an RTSP or HTTP URL.

    \b
    szn-run photo.jpg -o labelled.png
    szn-run clip.mp4 -o labelled.mp4 --labels "road, car, tree, building, sky"
    szn-run --camera 0 --show
    """  # noqa: D301 - click's mark for lines to keep
    ctx.exit(_run(**options))


def _run(
    *,
    input: str | None,  # noqa: A002 - the name that the help shows
    camera: int | None,
    demo: bool,
    output: Path | None,
    masks: Path | None,
    records: Path | None,
    report: Path | None,
    show: bool,
    policy: Any,
    batch: int,
    limit: int | None,
    rate: str | None,
    alpha: float,
    legend: bool,
    bundle: Path | None,
    size: int | None,
    **model: Any,
) -> int:
    """What the command does; returns its exit code."""
    from szn_runtime.errors import UsageError

    if (input is not None) + (camera is not None) + demo != 1:
        raise UsageError("give one of INPUT, --camera and --demo", fix="see szn-run --help")

    # what takes long to import comes after what is quickly refused
    import threading

    from szn_runtime.demo import ATTRIBUTION, ContactSheet, DemoSource
    from szn_runtime.loading import load
    from szn_runtime.outputs import Outputs, open_sinks
    from szn_runtime.pipeline import PipelineConfig
    from szn_runtime.session import run_session

    config = PipelineConfig(policy=policy, batch=batch, limit=limit, alpha=alpha, legend=legend)
    if demo:
        folder = Path("demo-output") if output is None else output
        if folder.suffix and not folder.is_dir():
            raise UsageError("--demo writes several files", got=f"-o {folder}", expected="a folder")
        output, report = folder / "overlay.mp4", report or folder / "report.json"
        sheet = folder / "contact-sheet.png"
    outputs = Outputs(overlay=output, masks=masks, records=records, report=report, show=show)
    stop = threading.Event()
    with _source(input, camera, rate, limit) as source:
        sinks = open_sinks(outputs, source, on_quit=stop.set)
        if isinstance(source, DemoSource):
            sinks.append(ContactSheet(sheet, source.middles, caption=ATTRIBUTION))
        with load(bundle, long_side=size, **model) as segmenter:
            return run_session(
                source,
                segmenter,
                sinks,
                config=config,
                report_file=report,
                stop=stop,
                show_shares=demo or source.frame_count == 1 or not outputs.any,
            )


def _source(input: str | None, camera: int | None, rate: str | None, limit: int | None) -> Any:  # noqa: A002
    """Open what the options name: an input, a camera or, without either, the demo's clip."""
    from szn_runtime.demo import DemoSource
    from szn_runtime.sources import open_source

    if input is None and camera is None:
        return DemoSource(frame_count=limit or 100)
    location = f"camera:{camera}" if input is None else input
    return open_source(location, frame_rate=_frame_rate(rate))


def _frame_rate(text: str | None) -> Any:
    """Read frames per second as an exact fraction; 5 for images without one."""
    from fractions import Fraction

    from szn_runtime.errors import UsageError

    try:
        rate = Fraction(5 if text is None else text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError("--rate is no frame rate", got=text, expected="25, 29.97 or 30000/1001")
    return rate
