"""`szn-run`: segment images, videos, cameras and streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from szn_runtime._command import Command

if TYPE_CHECKING:
    import threading

    from szn_runtime.outputs import Outputs
    from szn_runtime.pipeline_config import PipelineConfig
    from szn_runtime.sources import Source

__all__ = ["main"]

_PATH = click.Path(path_type=Path)
_POSITIVE = click.IntRange(min=1)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option(
    "--camera",
    "cameras",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Camera number, 0 first; may be given several times.",
)
@click.option("--demo", is_flag=True, help="Run on two sample photos, into -o (demo-output).")
@click.option(
    "--rebuild-engines", is_flag=True, help="Build the bundle's TensorRT engines for this machine."
)
@click.option(
    "--flavour",
    type=click.Choice(["tensorrt", "rtx"]),
    help="With --rebuild-engines: TensorRT or TensorRT-RTX, instead of what an engine has.",
)
@click.option("--bench", is_flag=True, help="Synthetic frames, then INPUT; only the reports.")
@click.option(
    "-o",
    "--output",
    type=_PATH,
    help="Overlays: .mp4 or .mkv video, .png for one image, or a folder for PNG files.",
)
@click.option("--masks", type=_PATH, metavar="DIR", help="Palette PNG masks, index = label.")
@click.option("--confidence", type=_PATH, metavar="DIR", help="Grey PNGs, 255 = cosine 1.")
@click.option("--json", "records", type=_PATH, metavar="FILE", help="Class shares as JSON lines.")
@click.option(
    "--top-k", type=_POSITIVE, default=None, metavar="K", help="With --json: K words a region."
)
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
@click.option(
    "--seenmask/--no-seenmask",
    "use_seenmask",
    default=True,
    help="Without: the most similar of all labels.",
)
@click.option(
    "--unknown-below",
    type=click.FloatRange(-1, 1),
    metavar="COSINE",
    help='Pixels less similar to their label are "unknown".',
)
@click.option(
    "--smooth",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    metavar="A",
    help="Share of the frames before in each, 0 to below 1.",
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto (the fastest, measured once), onnxruntime, openvino or tensorrt.",
)
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="fp32, fp16, bf16, int8 or int8-bf16; auto: a floating-point one.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, gpu, gpu:1 or tensorrt.")
@click.option("--threads", type=_POSITIVE, metavar="N", help="CPU threads; one per core if none.")
@click.option(
    "--hint",
    type=click.Choice(["auto", "latency", "throughput"]),
    default="auto",
    help="One frame at a time, or several; auto: several where every frame of a file counts.",
)
@click.option("--allow-fallback", is_flag=True, help="Another device will do; it is reported.")
@click.option("--batch", type=_POSITIVE, metavar="N", help="Frames per network call.")
@click.option(
    "--policy",
    type=click.Choice(["auto", "every", "latest"]),
    default="auto",
    help="All frames, or always the newest one; auto: the newest one of live sources.",
)
@click.option("--limit", type=_POSITIVE, metavar="N", help="Stop each input after N frames.")
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
    szn-run left.mp4 right.mp4 --camera 0 -o "labelled/{name}.mp4"
    """  # noqa: D301 - click's mark for lines to keep
    ctx.exit(_run(**options))


def _run(
    *,
    inputs: tuple[str, ...],
    cameras: tuple[int, ...],
    demo: bool,
    bench: bool,
    rebuild_engines: bool,
    flavour: str | None,
    output: Path | None,
    masks: Path | None,
    confidence: Path | None,
    records: Path | None,
    top_k: int | None,
    report: Path | None,
    show: bool,
    policy: Any,
    batch: int | None,
    limit: int | None,
    rate: str | None,
    alpha: float,
    legend: bool,
    smooth: float,
    bundle: Path | None,
    size: int | None,
    hint: Any,
    **model: Any,
) -> int:
    """What the command does; returns its exit code."""
    from szn_runtime.errors import UsageError

    given = len(inputs) + len(cameras)
    if rebuild_engines:
        if given or demo or bench or bundle is None:
            raise UsageError(
                "--rebuild-engines goes with --bundle alone", fix="give the bundle's folder"
            )
        return _rebuild(bundle, flavour, str(model["device"]))
    if flavour is not None:
        raise UsageError("--flavour is of engines to build", fix="add --rebuild-engines")
    if (given > 0) + demo > 1 or not (given or demo or bench):
        raise UsageError("give INPUT, --camera or --demo", fix="see szn-run --help")

    # what takes long to import comes after what is quickly refused
    import threading
    from contextlib import ExitStack

    from szn_runtime.demo import DemoSource
    from szn_runtime.loading import load
    from szn_runtime.outputs import Outputs
    from szn_runtime.pipeline_config import PipelineConfig

    if demo and not bench:
        folder = Path("demo-output") if output is None else output
        if folder.suffix and not folder.is_dir():
            raise UsageError("--demo writes several files", got=f"-o {folder}", expected="a folder")
        output, report = folder / "overlay.mp4", report or folder / "report.json"
    outputs = Outputs(
        overlay=output,
        masks=masks,
        confidence=confidence,
        records=records,
        top_k=top_k or 0,
        report=report,
        show=show,
    )
    if bench and outputs.any:
        raise UsageError("--bench writes no outputs", fix="leave out -o, --json, --show and others")
    stop = threading.Event()
    with ExitStack() as stack:
        sources = [
            stack.enter_context(source)
            for source in _sources(inputs, cameras, demo, bench, rate, limit)
        ]
        config = PipelineConfig(
            policy=policy,
            batch=batch or (1 if bench else len(sources)),
            limit=limit,
            alpha=alpha,
            legend=legend,
            smooth=smooth,
        )
        every = all(config.policy_of(source) == "every" for source in sources)
        alone = len(sources) == 1 and sources[0].frame_count == 1
        if hint == "auto":
            hint = "throughput" if every and not alone else "latency"
        segmenter = stack.enter_context(
            load(
                bundle,
                long_side=size,
                hint=hint,
                batch=config.batch,
                frame_hw=sources[-1].frame_hw,
                announce=lambda line: click.echo(line, err=True),
                **model,
            )
        )
        if bench:
            return _bench(sources, segmenter, config, outputs, stop)
        shares = demo or alone or not outputs.any
        sheet = folder / "contact-sheet.png" if isinstance(sources[0], DemoSource) else None
        return _segment(sources, segmenter, config, outputs, stop, shares, sheet)


def _rebuild(path: Path, flavour: str | None, device: str) -> int:
    """Build engines anew; returns the exit code."""
    from szn_runtime.backends import BackendOptions
    from szn_runtime.bundle import Bundle
    from szn_runtime.engines import rebuild_engines

    index = BackendOptions(device=device).device_index
    bundle = rebuild_engines(
        Bundle.open(path),
        flavour=flavour,
        device_index=index,
        progress=lambda line: click.echo(line, err=True),
    )
    for artefact in bundle.manifest.artefacts:
        if artefact.kind == "tensorrt":
            click.echo(f"rebuilt {artefact.file} with version {artefact.facts['version']}")
    return 0


def _segment(
    sources: list[Source],
    segmenter: Any,
    config: PipelineConfig,
    outputs: Outputs,
    stop: threading.Event,
    show_shares: bool,
    sheet: Path | None,
) -> int:
    """One run of all sources into the outputs."""
    from szn_runtime.demo import ATTRIBUTION, ContactSheet, DemoSource
    from szn_runtime.outputs import open_lanes
    from szn_runtime.pipeline import Lane
    from szn_runtime.session import run_session

    lanes = open_lanes(outputs, sources, on_quit=stop.set)
    source = sources[0]
    if sheet is not None and isinstance(source, DemoSource):
        contact = ContactSheet(sheet, source.middles, caption=ATTRIBUTION)
        lanes = [Lane(source=source, sinks=[*lanes[0].sinks, contact])]
    return run_session(
        lanes,
        segmenter,
        config=config,
        report_file=outputs.report,
        stop=stop,
        show_shares=show_shares,
    )


def _bench(
    sources: list[Source],
    segmenter: Any,
    config: PipelineConfig,
    outputs: Outputs,
    stop: threading.Event,
) -> int:
    """Each source alone, without outputs; the file of the report is that of the last one."""
    from szn_runtime.pipeline import Lane
    from szn_runtime.session import run_session

    code = 0
    for source in sources:
        if source.frame_hw is not None:
            segmenter.warm_up(source.frame_hw, batch=config.batch)
        click.echo(f"\n{source.name}:")
        report = outputs.report if source is sources[-1] else None
        code = run_session(
            [Lane(source=source)], segmenter, config=config, report_file=report, stop=stop
        )
        if code or stop.is_set():
            break
    return code


def _sources(
    inputs: tuple[str, ...],
    cameras: tuple[int, ...],
    demo: bool,
    bench: bool,
    rate: str | None,
    limit: int | None,
) -> Any:
    """Open what the options name, one after the other."""
    import importlib.util

    from szn_runtime.demo import DemoSource
    from szn_runtime.sources import SyntheticSource, open_source

    frame_rate = _frame_rate(rate)
    if bench:
        yield SyntheticSource(frame_count=limit or 300)
        if not (inputs or cameras or demo):
            demo = importlib.util.find_spec("sklearn") is not None
            if not demo:
                click.echo("no real frames: give INPUT, or install szn[demo]", err=True)
    for location in (*inputs, *(f"camera:{number}" for number in cameras)):
        yield open_source(location, frame_rate=frame_rate)
    if demo:
        yield DemoSource(frame_count=limit or 100)


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
