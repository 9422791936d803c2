"""The network in every installed backend, next to the vendor's own tool, in one run.

Each row is a model, backend, precision and batch, run by our backend and by the vendor's tool on
the same ONNX file, with the same precision and threads, in turn: ours, theirs, ours again. The
ratio is the median of the rounds' ratios, above 1 where ours is slower.

- OpenVINO: `benchmark_app`, a process of its own. It counts neither input nor output, where ours
  hands over frames, copies the grids out and looks for numbers that are not finite. It pins threads
  to cores, where ours does not, which tells where other programs run: `unpinned` is the ratio to
  the tool told not to.
- onnxruntime: `InferenceSession.run` with the same session and provider options, so that the ratio
  is that of overheads alone: cuDNN's way to choose algorithms and TF32 are as ours has them.
- TensorRT: ours alone, where there are a GPU and engines.

A GPU that happens to be there is not what onnxruntime is compared on, unless --device gpu says so.

Latency rows are milliseconds per call of one batch, one call at a time. Throughput rows are
milliseconds per frame, with as many calls at a time as the backend takes.

`share of peak` is the network's multiplications and additions a second, counted from the ONNX
graph, as a part of what large matrix products reach here in the same precision and run. It can
exceed 1 where a library computes convolutions with fewer multiplications (Winograd).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
from machine import write_report
from measured_bundle import bundle_facts
from network_cases import FRAME_HW, HINTS, Case, Hint, candidates
from network_models import giga_multiply_adds, vgg16_bundle
from network_rows import add_shares, measure
from network_table import table, write_plot
from peaks import Peaks
from rich.console import Console

from szn_runtime.backends import PRECISIONS, BackendOptions
from szn_runtime.backends.base import MIXED_INT8
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import SznError
from szn_runtime.preprocess import plan


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    """Of `1,4`."""
    if value is None:
        return None
    try:
        numbers = [int(part) for part in value.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise click.BadParameter("expected numbers above 0 with commas between, such as 1,4")
    return numbers


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute: szn-mini, batch 1, fewest rounds.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="For szn-mini.")
@click.option("--model", type=click.Choice(["szn-mini", "vgg16", "all"]), default="all")
@click.option("--batches", callback=_numbers, help="Frames a call; by default 1,4.")
@click.option("--backend", "backends", multiple=True, help="Only these.")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", help="Of onnxruntime.")
@click.option(
    "--precision",
    multiple=True,
    type=click.Choice((*PRECISIONS, MIXED_INT8)),
    help="Only these.",
)
@click.option("--hint", multiple=True, type=click.Choice(HINTS), help="Only these.")
@click.option("--threads", type=click.IntRange(1), help="By default one per core.")
@click.option("--size", callback=_numbers, help="Long sides of szn-mini's input, such as 320,640.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (PNG, PDF, SVG).")
def main(
    quick: bool,
    bundle_path: Path | None,
    model: str,
    batches: list[int] | None,
    backends: tuple[str, ...],
    device: str,
    precision: tuple[str, ...],
    hint: tuple[Hint, ...],
    threads: int | None,
    size: list[int] | None,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Measure the network in every installed backend, next to the vendor's own tool."""
    console = Console(width=140)
    bundle = Bundle.open(bundle_path or default_bundle_path())
    threads = BackendOptions(threads=threads).cpu_threads
    models: list[tuple[str, Bundle, list[int]]] = []
    if quick or model != "vgg16":
        sizes = size or [bundle.manifest.preprocess.long_side]
        models.append((bundle.manifest.name, bundle, sizes))
    if model != "szn-mini" and not quick:
        models.append(("vgg16", vgg16_bundle(bundle), [max(FRAME_HW)]))
    bundles = [bundle_facts(opened) for _, opened, _ in models]
    hints = hint or HINTS
    peaks = Peaks(threads)
    rows: list[dict[str, Any]] = []
    not_run: list[dict[str, str]] = []
    for name, opened, sizes in models:
        with tempfile.TemporaryDirectory() as folder:
            cases = [
                Case(
                    model=name, bundle=opened, backend=backend, precision=computed, batch=batch,
                    hint=each, threads=threads, device=device,
                    input_hw=plan(
                        FRAME_HW, long_side=side, multiple=opened.manifest.preprocess.multiple
                    ).padded_hw,
                )
                for side in sizes
                for batch in (batches or ([1] if quick else [1, 4]))
                for each in hints
                for backend, computed in candidates(opened)
                if (not backends or backend in backends)
                and (not precision or computed in precision)
            ]  # fmt: skip
            for case in cases:
                _measure_into(rows, not_run, case, Path(folder), peaks, console, quick=quick)
                if json_path:  # a long run that is stopped keeps what it has
                    _write(json_path, rows, peaks, not_run, bundles)
        wanted = not backends or "tensorrt" in backends
        if wanted and not any(case.backend == "tensorrt" for case in cases):
            reason = "no NVIDIA GPU" if shutil.which("nvidia-smi") is None else "no engine in it"
            not_run.append({"model": name, "backend": "tensorrt", "reason": reason})
    add_shares(rows, peaks)
    for each in hints:
        console.print(table([row for row in rows if row["hint"] == each], each, threads))
    for computed, peak in peaks.to_json().items():
        console.print(
            f"peak of products in {computed}: {peak['teraflops']:.2f} TFLOPS ({peak['library']})"
        )
    for missing in not_run:
        what = " ".join(value for key, value in missing.items() if key != "reason")
        console.print(f"{what}: not run: {missing['reason']}", markup=False)
    if json_path:
        _write(json_path, rows, peaks, not_run, bundles)
    if plot:
        write_plot(rows, plot)


def _write(
    path: Path,
    rows: list[dict[str, Any]],
    peaks: Peaks,
    not_run: list[dict[str, str]],
    bundles: list[dict[str, Any]],
) -> None:
    add_shares(rows, peaks)
    write_report(path, "network", rows, bundles=bundles, peaks=peaks.to_json(), not_run=not_run)


def _measure_into(
    rows: list[dict[str, Any]],
    not_run: list[dict[str, str]],
    case: Case,
    folder: Path,
    peaks: Peaks,
    console: Console,
    *,
    quick: bool,
) -> None:
    """Add a row, or why there is none."""
    with console.status(f"{case.model} {case.backend} {case.precision} {case.hint} {case.batch}"):
        peaks.sample(case.precision, on_gpu=case.on_gpu)
        try:
            row = measure(case, folder, quick=quick)
            peaks.sample(case.precision, on_gpu=case.on_gpu)
        except (SznError, FileNotFoundError) as error:
            not_run.append({
                "model": case.model, "backend": case.backend, "precision": case.precision,
                "reason": str(error),
            })  # fmt: skip
            return
        row["gmacs"] = giga_multiply_adds(
            case.bundle.model_bytes(), case.bundle.manifest.input_name, (1, 3, *case.input_hw)
        )
        rows.append(row)


if __name__ == "__main__":
    main()
