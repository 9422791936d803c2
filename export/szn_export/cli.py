"""`szn-export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from szn_runtime._command import Command, require_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from szn_export.report import Row

__all__ = ["main"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
_PHOTOS = click.Path(exists=True, file_okay=False, path_type=Path)
_POSITIVE = click.IntRange(min=1)


@click.command("szn-export", cls=Command, context_settings={"max_content_width": 100})
@click.argument("run_folder", metavar="[RUN]", required=False, type=_FOLDER)
@click.option(
    "-o", "--output", type=_FOLDER, help="Bundle folder to write; an older bundle is replaced."
)
@click.option("--name", help="Name of the model.  [default: the run folder's]")
@click.option(
    "--precision",
    "precisions",
    default="fp32",
    show_default=True,
    metavar="LIST",
    help="Of fp32, fp16 and int8; fp32 is always made.",
)
@click.option("--openvino", is_flag=True, help="Also write OpenVINO's own format.")
@click.option("--openvino-fp16", is_flag=True, help="Store its weights in FP16.")
@click.option(
    "--openvino-pixels", is_flag=True, help="One more that takes uint8 BGR frames, for others."
)
@click.option("--trt", is_flag=True, help="Also build TensorRT engines.")
@click.option(
    "--trt-flavour",
    type=click.Choice(["auto", "tensorrt", "rtx"]),
    default="auto",
    show_default=True,
    help="auto: TensorRT where it and a GPU are there, else TensorRT-RTX.",
)
@click.option(
    "--batch",
    default="1,1,4",
    show_default=True,
    metavar="MIN,OPT,MAX",
    help="Frames at a time that engines take.",
)
@click.option(
    "--size",
    metavar="H,W|H..H,W..W",
    help="Network input that engines are fastest for, or ranges.  [default: up to the bundle's]",
)
@click.option("--sm", metavar="LIST", help="Compute capabilities for TensorRT-RTX: 86,89,120.")
@click.option("--workspace", type=_POSITIVE, metavar="MIB", help="Most memory a layer may take.")
@click.option(
    "--timing-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that keeps TensorRT's measurements for the next build.",
)
@click.option("--trt-flags", metavar="LIST", help="Builder flags by name.")
@click.option("--calibration", type=_PHOTOS, help="Photos for INT8.  [default: training split]")
@click.option("--calibration-images", type=_POSITIVE, default=100, show_default=True)
@click.option("--split", is_flag=True, help="Also write trunk and heads as files of their own.")
@click.option("--with-sei", is_flag=True, help="Also write a graph that gives labels.")
@click.option("--triton", type=_FOLDER, metavar="DIR", help="Also write a Triton repository.")
@click.option(
    "--triton-backends",
    default="onnxruntime",
    show_default=True,
    metavar="LIST",
    help="Of onnxruntime, openvino and tensorrt; the ensemble joins the first.",
)
@click.option("--triton-batch", type=_POSITIVE, default=8, show_default=True)
@click.option(
    "--vocabulary-size",
    type=click.IntRange(min=0),
    default=20_000,
    show_default=True,
    help="Most frequent words to include, so that labels can be named at run time.",
)
@click.option("--images", type=_PHOTOS, help="Photos for the gate.  [default: validation split]")
@click.option(
    "--gate-images",
    type=_POSITIVE,
    default=50,
    show_default=True,
    help="Number of images that the gate compares.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="[PRECISION=]PERCENT",
    help="Pixels whose label or seenmask may differ from PyTorch: 0.02, or int8=5. "
    "[default: fp32 0.01, fp16 and bf16 0.5, int8 4 and 1.5 points of mIoU]",
)
@click.option(
    "--model-card",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Markdown file to include.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be made.")
@click.option(
    "--verify",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Repeat the gate for a bundle on this machine; with RUN against PyTorch.",
)
@click.option("--quiet", is_flag=True, help="Print the result only.")
def main(
    run_folder: Path | None,
    output: Path | None,
    budgets: tuple[str, ...],
    verify: Path | None,
    images: Path | None,
    gate_images: int,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Export a finished run as a bundle for szn-run.

    Every artefact that can run here is compared with PyTorch on real images at several sizes and
    batches. Past its budget it is not written and the exit code is 3.

    \b
    szn-export runs/mini -o bundles/mini
    szn-export runs/mini -o bundles/mini --trt --openvino --precision fp32,fp16,int8
    szn-export --verify bundles/mini --images photos
    """  # noqa: D301 - click's mark for lines to keep
    from szn_runtime.errors import UsageError

    for module in ("torch", "onnx", "onnxruntime"):
        require_extra(module, "export")
    from szn_train.progress import Progress

    progress = Progress(quiet=quiet)
    if verify is not None:
        if output is not None:
            raise UsageError("--verify writes nothing", fix="leave out -o")
        from szn_export.verify import verify_bundle

        rows = verify_bundle(
            verify,
            run_folder,
            images=images,
            count=gate_images,
            budgets=_budgets(budgets),
            progress=progress,
        )
        _print_rows(rows)
        failed = [row.artefact for row in rows if row.refuses]
        _end(failed, "are past their budgets")
        return
    if run_folder is None:
        raise UsageError("no run is given", fix="give RUN, or --verify BUNDLE")
    if output is None and not dry_run:
        raise UsageError("no bundle folder is given", fix="add -o FOLDER")

    from szn_export.config import ExportConfig

    config = ExportConfig(
        precisions=_names(options.pop("precisions")),
        tensorrt=_tensorrt(options),
        triton_backends=_names(options.pop("triton_backends")),
        images=images,
        gate_images=gate_images,
        budgets=_budgets(budgets),
        **options,
    )
    if dry_run or output is None:
        for line in config.plan():
            click.echo(line)
        return
    from szn_export.export import export
    from szn_train.run import open_run

    result = export(open_run(run_folder), output, config, progress=progress)
    _print_rows(result.rows)
    size = sum(facts["bytes"] for facts in result.manifest.files.values())
    click.echo(f"{output}: {len(result.manifest.files)} files, {size / 1e6:.1f} MB")
    if result.flips_picture is not None:
        click.echo(f"{result.flips_picture}: where labels flip most")
    _end(list(result.refused), "are past their budgets and were not written")


def _end(refused: Sequence[str], what: str) -> None:
    """Raise for artefacts that did not pass."""
    from szn_runtime.errors import GateError

    if refused:
        raise GateError(
            f"{', '.join(dict.fromkeys(refused))} {what}", fix="see the table above for by how much"
        )


def _print_rows(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="gate")
    for name in ("artefact", "runs in", "label flips", "seenmask flips", "budget", "verdict"):
        table.add_column(name)
    for row in rows:
        c = row.comparison
        flips = ("", "") if c is None else (f"{c.label_flips:.4f} %", f"{c.seenmask_flips:.4f} %")
        table.add_row(
            row.artefact, row.runner, *flips, f"{row.budget.label_flips:g} %", row.verdict
        )
    Console(width=120).print(table)
    for line in _reasons(rows):
        click.echo(line)


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why artefacts were not measured, a line for each reason."""
    artefacts: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.comparison is None and row.problem is not None:
            artefacts.setdefault((row.verdict, row.problem), []).append(row.artefact)
    return [
        f"{', '.join(dict.fromkeys(names))}: {verdict}: {problem}"
        for (verdict, problem), names in artefacts.items()
    ]


def _names(text: str | None) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _budgets(texts: tuple[str, ...]) -> Any:
    """Budgets per precision; a percentage alone is that of fp32."""
    from dataclasses import replace

    from szn_export.gate import DEFAULT_BUDGETS
    from szn_runtime.errors import UsageError

    budgets = dict(DEFAULT_BUDGETS)
    for text in texts:
        precision, _, percent = text.rpartition("=")
        precision = precision or "fp32"
        try:
            value = float(percent)
        except ValueError:
            value = -1.0
        if precision not in budgets or value < 0:
            raise UsageError(
                "--budget cannot be read", got=text, expected="0.02 or int8=5, in percent"
            )
        budgets[precision] = replace(budgets[precision], label_flips=value, seenmask_flips=value)
    return budgets


def _tensorrt(options: dict[str, Any]) -> Any:
    """Take the options for engines out of all others."""
    from szn_runtime.errors import UsageError

    wanted = options.pop("trt")
    flavour, batch, size, sm = (
        options.pop(name) for name in ("trt_flavour", "batch", "size", "sm")
    )
    workspace, cache, flags = (
        options.pop(name) for name in ("workspace", "timing_cache", "trt_flags")
    )
    if not wanted:
        if any(value is not None for value in (size, sm, workspace, cache, flags)):
            raise UsageError("options of engines without engines", fix="add --trt")
        return None
    from szn_export.to_tensorrt import TensorRTConfig

    heights, widths = (None, None) if size is None else _sizes(size)
    return TensorRTConfig(
        flavour=flavour,
        batch=_three(batch, "--batch", "1,1,4"),
        heights=heights,
        widths=widths,
        compute_capabilities=tuple(_capability(each) for each in _names(sm)),
        workspace_mib=workspace,
        timing_cache=cache,
        flags=_names(flags),
    )


def _three(text: str, option: str, example: str) -> tuple[int, int, int]:
    from szn_runtime.errors import UsageError

    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"{option} cannot be read", got=text, expected=example)
    low, usual, high = (int(part) for part in parts)
    return low, usual, high


def _sizes(text: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """`240,320` or `160..320,160..320`: least, usual (the greatest) and greatest of each side."""
    from szn_runtime.errors import UsageError

    sides: list[tuple[int, int, int]] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("..")
        high = high or low
        if not (low.isdecimal() and high.isdecimal()):
            sides = []
            break
        sides.append((int(low), int(high), int(high)))
    if len(sides) != 2:
        raise UsageError("--size cannot be read", got=text, expected="240,320 or 160..320,160..320")
    return sides[0], sides[1]


def _capability(text: str) -> str:
    """`86` and `8.6` are the same, `120` is 12.0."""
    return text if "." in text or len(text) < 2 else f"{text[:-1]}.{text[-1]}"
