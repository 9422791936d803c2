"""Rows of `network.py`: our backend and the vendor's tools in turn, and the share of the peak."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from network_cases import Case
from network_timing import timed_rounds
from network_vendors import vendors_of
from peaks import Peaks

from szn_runtime.backends import BackendOptions, open_backend

__all__ = ["add_shares", "measure"]


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
    with _temporary_cache(), open_backend(case.backend, case.bundle, options) as backend:
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
        ours, theirs = timed_rounds(backend, frames, vendors, rounds, seconds, case)
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


def add_shares(rows: list[dict[str, Any]], peaks: Peaks) -> None:
    """What share of the matrix-product peak each row reaches."""
    for row in rows:
        flops = peaks.flops(row["precision"], on_gpu=row["device"].lower() != "cpu")
        a_frame = row["ours_ms"] / (1 if row["ms_per"] == "frame" else row["batch"])
        done = 2e9 * row["gmacs"] / (1e-3 * a_frame)
        row["peak_share"] = None if flops is None else done / flops


@contextmanager
def _temporary_cache() -> Iterator[None]:
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
