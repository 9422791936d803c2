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

import dataclasses
import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from machine import Peaks, write_report
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from szn_runtime.backends import PRECISIONS, Backend, BackendOptions, open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.cache import cache_folder
from szn_runtime.errors import SznError
from szn_runtime.preprocess import plan

Hint = Literal["latency", "throughput"]
Vendor = Callable[[float], float]
"""Runs for so many seconds and returns milliseconds, per call or per frame as the hint says."""

_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_FRAME_HW = (480, 640)
_HINTS: tuple[Hint, ...] = ("latency", "throughput")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a row measures.

    Args:
        model: Its name.
        bundle: That holds it.
        backend: Name of the backend.
        precision: To open it with.
        batch: Frames a call.
        hint: "latency" or "throughput".
        input_hw: Height and width of the network's input in pixels.
        threads: CPU threads in all.
        device: That onnxruntime runs on, "cpu" or "gpu".
    """

    model: str
    bundle: Bundle
    backend: str
    precision: str
    batch: int
    hint: Hint
    input_hw: tuple[int, int]
    threads: int
    device: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes it."""
        on_device = self.backend == "onnxruntime" and self.device == "gpu"
        return on_device or self.backend == "tensorrt"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a call's frames."""
        return (self.batch, 3, *self.input_hw)

    @property
    def onnx_precision(self) -> str:
        """Precision of the ONNX file: OpenVINO computes the fp32 file in all float precisions."""
        exact = self.backend == "openvino" and self.precision != "int8"
        return "fp32" if exact else self.precision


def vgg16_bundle(like: Bundle) -> Bundle:
    """FCN-32s on VGG16 with random weights, exported once and kept in the user's cache (0.5 GB).

    Args:
        like: Whose labels it takes.
    """
    from szn_export.to_onnx import onnx_from_network
    from szn_runtime.bundle_files import LABELS_FILE
    from szn_runtime.bundle_writer import write_bundle
    from szn_runtime.manifest import Artefact

    folder = cache_folder("benchmarks") / "vgg16"
    if folder.exists():
        return Bundle.open(folder)
    import torch

    from szn_train.backbones import create_backbone
    from szn_train.model import SeenmaskZeroShotNetwork
    from szn_train.transforms import preprocess_of

    torch.manual_seed(0)
    backbone = create_backbone("vgg16", weights="none")
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    network = SeenmaskZeroShotNetwork(backbone, like.manifest.dim)
    content, opset = onnx_from_network(network, {"szn.name": "vgg16"})
    manifest = dataclasses.replace(
        like.manifest,
        name="vgg16",
        backbone="vgg16",
        stride=backbone.info.stride,
        node_offset=backbone.info.node_offset,
        preprocess=preprocess_of(backbone.info, max(_FRAME_HW)),
        artefacts=(Artefact(kind="onnx", precision="fp32", file="model.onnx", opset=opset),),
        training={},
        metrics={},
    )
    write_bundle(folder, manifest, {LABELS_FILE: like.read(LABELS_FILE), "model.onnx": content})
    return Bundle.open(folder)


def giga_multiply_adds(model: bytes, input_name: str, shape: Sequence[int]) -> float:
    """1e-9 of the multiplications in the convolutions and matrix products of an ONNX graph.

    Args:
        model: The ONNX file.
        input_name: Of its input.
        shape: That the input has.
    """
    import onnx

    proto = onnx.load_from_string(model)
    graph = proto.graph
    frames = next(value for value in graph.input if value.name == input_name)
    for dimension, size in zip(frames.type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")  # its names of dimensions would stay
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes[value.name] = [each.dim_value for each in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(sizes[node.output[0]]) * math.prod(sizes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            total += math.prod(sizes[node.output[0]]) * sizes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            total += math.prod(sizes[node.output[0]]) * sizes[node.input[0]][0 if turned else 1]
    return 1e-9 * total


def candidates(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Backend and precision of all that is installed and has a file in the bundle."""
    kinds = [(artefact.kind, artefact.precision) for artefact in bundle.manifest.artefacts]
    onnx = [precision for kind, precision in kinds if kind == "onnx"]
    if importlib.util.find_spec("onnxruntime") is not None:
        yield from (("onnxruntime", precision) for precision in onnx)
    if importlib.util.find_spec("openvino") is not None:
        yield from (("openvino", precision) for precision in ("fp32", "bf16", "fp16"))
        if "int8" in onnx:
            yield "openvino", "int8"
    yield from (("tensorrt", precision) for kind, precision in kinds if kind == "tensorrt")


@contextmanager
def temporary_cache() -> Iterator[None]:
    """Let backends keep compiled models in a folder that goes away; VGG16 takes 0.5 GB each."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def timed_calls(call: Callable[[], Any], seconds: float, at_a_time: int = 1) -> list[float]:
    """Milliseconds of the calls of that many seconds, at least one, without the first.

    Args:
        call: To time.
        seconds: To go on for.
        at_a_time: Calls at a time; if more than 1, the result is one number, the elapsed
            milliseconds per call.
    """
    call()  # after a pause memory and cores are cold
    if at_a_time == 1:
        durations: list[float] = []
        end_s = time.perf_counter() + seconds
        while not durations or time.perf_counter() < end_s:
            start_s = time.perf_counter()
            call()
            durations.append(1e3 * (time.perf_counter() - start_s))
        return durations

    def work(end_s: float) -> int:
        count = 0
        while not count or time.perf_counter() < end_s:
            call()
            count += 1
        return count

    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(work, [0.0] * at_a_time))
        start_s = time.perf_counter()
        count = sum(pool.map(work, [start_s + seconds] * at_a_time))
        return [1e3 * (time.perf_counter() - start_s) / count]


def bare_onnxruntime(case: Case, frames: NDArray[np.float32]) -> Vendor:
    """`InferenceSession.run` with the options that our backend sets, the provider's among them."""
    import onnxruntime as ort

    from szn_runtime.backends.onnxrt import provider_chain

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = 1 if case.hint == "throughput" else case.threads
    options.inter_op_num_threads = 1
    provider = "CPUExecutionProvider"
    if case.on_gpu:
        provider = "CUDAExecutionProvider"
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    device = BackendOptions(device="gpu" if case.on_gpu else "cpu")
    providers = provider_chain(provider, device, strict=case.on_gpu)
    session = ort.InferenceSession(
        case.bundle.model_bytes(case.onnx_precision), options, providers=providers
    )
    feed = {case.bundle.manifest.input_name: frames}
    at_a_time = case.threads if case.hint == "throughput" and not case.on_gpu else 1

    def run(seconds: float) -> float:
        durations = timed_calls(lambda: session.run(None, feed), seconds, at_a_time)
        frames_a_unit = case.batch if case.hint == "throughput" else 1
        return statistics.median_low(durations) / frames_a_unit

    return run


def benchmark_app(case: Case, folder: Path, *, pinned: bool = True) -> Vendor:
    """OpenVINO's tool; its median latency, or its throughput as milliseconds per frame.

    Args:
        case: What to run.
        folder: For the model and settings.
        pinned: Whether threads keep to cores, the tool's default.

    Raises:
        FileNotFoundError: If it is not installed.
    """
    found = shutil.which(
        "benchmark_app", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if found is None:
        raise FileNotFoundError("benchmark_app is not installed")
    model, config = folder / f"{case.onnx_precision}.onnx", folder / f"pinned-{pinned}.json"
    if not model.exists():
        model.write_bytes(case.bundle.model_bytes(case.onnx_precision))
    # its -nthreads and -pin exclude its -hint, a file of properties does not
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": case.threads}
    if not pinned:
        properties["ENABLE_CPU_PINNING"] = "NO"
    config.write_text(json.dumps({"CPU": properties}))
    latency = case.hint == "latency"
    command = [
        found, "-m", str(model), "-d", "CPU", "-hint", case.hint, "-load_config", str(config),
        "-infer_precision", _TYPES[case.precision], "-shape", f"[{','.join(map(str, case.shape))}]",
        "-ip", "f32",  # else it makes the input uint8
        "-api", "sync" if latency else "async",
    ]  # fmt: skip
    pattern = r"Median: +([\d.]+) (ms|us)" if latency else r"Throughput: +([\d.]+) (FPS)"

    def run(seconds: float) -> float:
        whole = str(math.ceil(seconds))
        done = subprocess.run([*command, "-t", whole], capture_output=True, text=True, check=False)
        said = re.search(pattern, done.stdout)
        if done.returncode or said is None:
            raise click.ClickException(f"benchmark_app failed: {done.stdout[-500:]}{done.stderr}")
        value, unit = float(said[1]), said[2]
        return {"ms": value, "us": value / 1e3, "FPS": 1e3 / value if value else math.nan}[unit]

    return run


def vendors_of(case: Case, frames: NDArray[np.float32], folder: Path) -> dict[str, Vendor]:
    """The vendor's tools to compare with, the first one as the vendor has it; often none.

    Raises:
        FileNotFoundError: If the tool is not installed.
    """
    if case.backend == "openvino":
        return {
            f"benchmark_app {metadata.version('openvino')}": benchmark_app(case, folder),
            "unpinned": benchmark_app(case, folder, pinned=False),
        }
    if case.backend == "onnxruntime":
        return {"InferenceSession.run": bare_onnxruntime(case, frames)}
    return {}


def measure(case: Case, folder: Path, *, quick: bool) -> dict[str, Any]:
    """One row, all but its share of the peak.

    Raises:
        SznError: If the backend cannot run it.
        FileNotFoundError: If the vendor's tool is not installed.
    """
    device = "gpu" if case.on_gpu else "cpu"
    options = BackendOptions(
        precision=case.precision, threads=case.threads, hint=case.hint, device=device
    )
    frames = np.random.default_rng(0).normal(size=case.shape).astype(np.float32)
    with temporary_cache(), open_backend(case.backend, case.bundle, options) as backend:
        vendors = vendors_of(case, frames, folder)
        if quick:
            vendors.pop("unpinned", None)
        backend.infer(frames)
        start_s = time.perf_counter()
        backend.infer(frames)
        # so that slow networks get a few calls a round as well
        seconds = min(6.0, max(1.0, 5 * (time.perf_counter() - start_s)))
        rounds = 1 if quick else 3
        if case.backend == "onnxruntime" and seconds == 1:
            # without a process to start, more and shorter rounds say more
            seconds, rounds = 0.3, 4 * rounds
        ours, theirs = _rounds(backend, frames, vendors, rounds, seconds, case)
        row = {
            "model": case.model,
            "backend": case.backend,
            "precision": case.precision,
            "batch": case.batch,
            "hint": case.hint,
            "device": backend.device,
            "provider": backend.provider,
            "input_hw": list(case.input_hw),
            "threads": case.threads,
            "at_a_time": backend.requests,
            "ms_per": "frame" if case.hint == "throughput" else "call",
            "ours_ms": statistics.median(ours),
            "vendor": next(iter(vendors), None),
            "vendor_ms": None,
            "ratio": None,
            "ratio_range": None,
        }
    for name, measured in theirs.items():
        ratios = [a / b for a, b in zip(ours, measured, strict=True)]
        values = {"vendor_ms": statistics.median(measured), "ratio": statistics.median(ratios)}
        if name == "unpinned":
            row |= {f"{key}_unpinned": value for key, value in values.items()}
        else:
            row |= values | {"ratio_range": [min(ratios), max(ratios)]}
    return row


def _rounds(
    backend: Backend,
    frames: NDArray[np.float32],
    vendors: dict[str, Vendor],
    rounds: int,
    seconds: float,
    case: Case,
) -> tuple[list[float], dict[str, list[float]]]:
    """Milliseconds of ours and of the vendor's tools, a number each a round."""
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in vendors}
    for number in range(rounds):
        durations = timed_calls(lambda: backend.infer(frames), seconds / 2, backend.requests)
        # in turn in another order, so that what comes last is not always the same
        for name in list(vendors)[:: 1 if number % 2 else -1]:
            theirs[name].append(vendors[name](seconds))
        durations += timed_calls(lambda: backend.infer(frames), seconds / 2, backend.requests)
        if backend.requests > 1:
            middle = statistics.mean(durations)
        else:
            middle = statistics.median_low(durations)  # as benchmark_app has it
        ours.append(middle / case.batch if case.hint == "throughput" else middle)
    return ours, theirs


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
@click.option("--precision", multiple=True, type=click.Choice(PRECISIONS), help="Only these.")
@click.option("--hint", multiple=True, type=click.Choice(_HINTS), help="Only these.")
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
        models.append(("vgg16", vgg16_bundle(bundle), [max(_FRAME_HW)]))
    hints = hint or _HINTS
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
                        _FRAME_HW, long_side=side, multiple=opened.manifest.preprocess.multiple
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
                    _write(json_path, rows, peaks, not_run)
        wanted = not backends or "tensorrt" in backends
        if wanted and not any(case.backend == "tensorrt" for case in cases):
            reason = "no NVIDIA GPU" if shutil.which("nvidia-smi") is None else "no engine in it"
            not_run.append({"model": name, "backend": "tensorrt", "reason": reason})
    _add_shares(rows, peaks)
    for each in hints:
        console.print(_table([row for row in rows if row["hint"] == each], each, threads))
    for computed, peak in peaks.to_json().items():
        console.print(
            f"peak of products in {computed}: {peak['teraflops']:.2f} TFLOPS ({peak['library']})"
        )
    for missing in not_run:
        what = " ".join(value for key, value in missing.items() if key != "reason")
        console.print(f"{what}: not run: {missing['reason']}", markup=False)
    if json_path:
        _write(json_path, rows, peaks, not_run)
    if plot:
        _plot(rows, plot)


def _write(
    path: Path, rows: list[dict[str, Any]], peaks: Peaks, not_run: list[dict[str, str]]
) -> None:
    _add_shares(rows, peaks)
    write_report(path, "network", rows, peaks=peaks.to_json(), not_run=not_run)


def _add_shares(rows: list[dict[str, Any]], peaks: Peaks) -> None:
    """What share of the matrix-product peak each row reaches."""
    for row in rows:
        flops = peaks.flops(row["precision"], on_gpu=row["device"].lower() != "cpu")
        a_frame = row["ours_ms"] / (1 if row["ms_per"] == "frame" else row["batch"])
        done = 2e9 * row["gmacs"] / (1e-3 * a_frame)
        row["peak_share"] = None if flops is None else done / flops


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


def _table(rows: Sequence[dict[str, Any]], hint: str, threads: int) -> Table:
    per = "frame, several calls at a time" if hint == "throughput" else "call"
    table = Table(title=f"{hint}: ms per {per}; {threads} threads")
    for name in (
        "model", "input", "backend", "precision", "batch", "ours", "vendor's tool", "ratio",
        "(range)", "unpinned", "GMAC a frame", "share of peak",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for row in rows:
        compared = row["vendor_ms"] is not None
        share = row["peak_share"]
        table.add_row(
            row["model"],
            "{} x {}".format(*row["input_hw"]),
            row["backend"],
            row["precision"],
            str(row["batch"]),
            f"{row['ours_ms']:.2f}",
            f"{row['vendor_ms']:.2f}" if compared else "not run",
            f"{row['ratio']:.2f}" if compared else "",
            "{:.2f}-{:.2f}".format(*row["ratio_range"]) if compared else "",
            f"{row['ratio_unpinned']:.2f}" if "ratio_unpinned" in row else "",
            f"{row['gmacs']:.2f}",
            f"{100 * share:.0f} %" if share is not None else "",
        )
    return table


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 1 + 0.3 * len(rows)), layout="constrained")
    names = [
        "{model} {1} x {0}, {backend} {precision}, batch {batch}, ms per {ms_per}".format(
            *row["input_hw"], **row
        )
        for row in rows
    ]
    axes.plot([row["ours_ms"] for row in rows], names, "o", label="ours")
    theirs = [row["vendor_ms"] or math.nan for row in rows]
    axes.plot(theirs, names, "|", markersize=14, label="vendor's tool")
    axes.grid(axis="y", alpha=0.3)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
