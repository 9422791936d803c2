"""The vendors' own tools on the file, precision and threads of a case."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
from network_cases import Case
from network_timing import Vendor, timed_calls
from numpy.typing import NDArray

from szn_runtime.backends import BackendOptions
from szn_runtime.backends.base import MIXED_INT8

__all__ = ["bare_onnxruntime", "benchmark_app", "vendors_of"]

_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32", MIXED_INT8: "bf16"}


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
