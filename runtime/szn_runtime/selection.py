"""Which backend runs a network fastest here: measured once, then remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from szn_runtime._json import dump
from szn_runtime.backends import Backend, BackendOptions, open_backend
from szn_runtime.backends.base import INT8_FILE
from szn_runtime.cache import cache_folder
from szn_runtime.errors import BackendError, BundleError, MissingDependencyError

if TYPE_CHECKING:
    from szn_runtime.bundle import Bundle

__all__ = ["Choice", "Measured", "choose_backend"]

# A less exact precision, or a library that is not the first, has to be worth it.
_WORTH = 0.9
# Past its budget of labels a precision still is as good if it costs at most so many points of mIoU.
_MIOU_LOST = 0.5
_FLIPS = 2.0  # percent
_FLOATS = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16", "fp16"), "tensorrt": ()}
_LIBRARIES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "szn",
    "tensorrt",
    "tensorrt-rtx",
    "tensorrt-rtx-cu13-bindings",
    "tensorrt-rtx-cu13-libs",
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One candidate.

    Args:
        backend: Its name.
        precision: That it ran with.
        frame_ms: Median milliseconds per frame; None if it was not measured.
        problem: Why it cannot run here, or should not, if so.
        avoided: Whether it could run, but differs too much from PyTorch.
    """

    backend: str
    precision: str
    frame_ms: float | None = None
    problem: str | None = None
    avoided: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to run the network with, and why.

    Args:
        backend: Its name.
        precision: What to open it with.
        candidates: All that were looked at.
        input_shape: (N, 3, H, W) that was measured.
        remembered: Whether it comes from an earlier measurement.
    """

    backend: str
    precision: str
    candidates: tuple[Measured, ...]
    input_shape: tuple[int, int, int, int]
    remembered: bool = False

    def summary(self) -> str:
        """One line for people."""
        chosen = f"backend {self.backend} {self.precision}"
        timed = {(c.backend, c.precision): c.frame_ms for c in self.candidates if c.frame_ms}
        avoided = "".join(
            f"; not {c.backend} {c.precision}: {c.problem}" for c in self.candidates if c.avoided
        )
        if not timed:
            return f"{chosen}: the only one that can run here{avoided}"
        own = timed.pop((self.backend, self.precision))
        others = ", ".join(f"{b} {p} {ms:.1f}" for (b, p), ms in timed.items())
        n, _, height, width = self.input_shape
        batch = f", batches of {n}" if n > 1 else ""
        lossy = "" if self.precision == "fp32" else "; --precision fp32 is exact"
        when = "measured earlier" if self.remembered else "measured now"
        return (
            f"{chosen}: {own:.1f} ms a frame of {width} x {height}{batch} ({others}; {when})"
            f"{lossy}{avoided}"
        )


def choose_backend(
    bundle: Bundle,
    options: BackendOptions,
    *,
    input_shape: tuple[int, int, int, int],
    budget_s: float = 2.0,
    folder: Path | None = None,
) -> Choice:
    """Find the fastest of the installed backends, among the floating-point precisions.

    INT8 takes part only if the options ask for it. A precision that the export gate found to be
    past its budget of changed labels takes part only if the gate had masks and the mIoU that it
    loses is at most half a point. Where one candidate is left nothing is measured.
    The verdict is kept in the user's cache and holds for this machine, bundle, input shape, options
    and these library versions.

    Args:
        bundle: The model.
        options: Device, threads and hint for all; a precision other than "auto" is for all too.
        input_shape: (N, 3, H, W) of the batches to come.
        budget_s: Seconds to measure for, shared by the candidates.
        folder: For verdicts; None for the user's cache.

    Raises:
        MissingDependencyError: If no backend that can run the model is installed.
        BundleError: If INT8 is asked for and the bundle has no such file.
        BackendError: If none can run the model.
    """
    facts = _facts(bundle, options, input_shape)
    digest = hashlib.sha256(dump(facts).encode()).hexdigest()
    path = (folder or cache_folder("selection")) / f"{digest[:32]}.json"
    remembered = _recall(path, facts)
    if remembered is not None:
        return remembered
    refused = _refused(bundle, options)
    known = {(each.backend, each.precision) for each in refused}
    candidates = [each for each in _candidates(bundle, options) if each not in known]
    if not candidates:
        if options.precision in INT8_FILE:
            # says that there is no such file, if that is why
            bundle.artefact(precision="int8")
        wanted = "" if options.precision == "auto" else f" in {options.precision}"
        raise MissingDependencyError(
            f"no backend that can run the model{wanted} is installed",
            fix='pip install "szn[cpu]", "szn[openvino]" or "szn[gpu]"',
        )
    if len(candidates) == 1:
        backend, precision = candidates[0]
        return Choice(
            backend=backend,
            precision=precision,
            candidates=(Measured(backend=backend, precision=precision), *refused),
            input_shape=input_shape,
        )
    measured = _measure_all(bundle, options, candidates, input_shape, budget_s / len(candidates))
    best: Measured | None = None
    for candidate in measured:
        if candidate.frame_ms is not None and (
            best is None or candidate.frame_ms < _WORTH * (best.frame_ms or 0)
        ):
            best = candidate
    if best is None:
        problems = "; ".join(f"{c.backend} {c.precision}: {c.problem}" for c in measured)
        raise BackendError("no backend can run the model", got=problems)
    choice = Choice(
        backend=best.backend,
        precision=best.precision,
        candidates=(*measured, *refused),
        input_shape=input_shape,
    )
    _remember(path, facts, choice)
    return choice


def _candidates(bundle: Bundle, options: BackendOptions) -> Iterator[tuple[str, str]]:
    """Backend and precision of what is installed and has a file in the bundle, exact ones first."""
    kinds = {(a.kind, a.precision) for a in bundle.manifest.artefacts}
    wanted = options.precision
    for backend, floats in _FLOATS.items():
        if backend == "tensorrt":
            engines = [p for kind, p in sorted(kinds) if kind == "tensorrt"]
            usable = [p for p in engines if p == wanted or (wanted == "auto" and p != "int8")]
            if options.device_kind == "cpu":
                usable = []
        elif importlib.util.find_spec(backend) is None:
            continue
        elif wanted == "auto":
            usable = [p for p in floats if ("onnx", "fp32") in kinds]
        else:
            in_file = "int8" if wanted in INT8_FILE else "fp32"
            source = wanted if backend == "onnxruntime" else in_file
            usable = [wanted] if ("onnx", source) in kinds else []
        for precision in usable:
            yield backend, precision


def _refused(bundle: Bundle, options: BackendOptions) -> list[Measured]:
    """What the export gate found to differ too much from PyTorch, unless it is asked for."""
    if options.precision != "auto":
        return []
    found = []
    facts: dict[str, Any] = {}
    for artefact in bundle.manifest.artefacts:
        if (artefact.kind, artefact.precision) == ("onnx", "fp32"):
            facts = artefact.facts.get("gate", {})
    for backend, precision in _candidates(bundle, options):
        verdict = facts.get(f"{backend} {precision}", {})
        if verdict.get("within_budget") is False and not _as_good(verdict):
            flips = f"{verdict.get('label_flips', 0):.2f} % of the labels differ"
            problem = f"past its budget at export ({flips})"
            found.append(
                Measured(backend=backend, precision=precision, problem=problem, avoided=True)
            )
    return found


def _as_good(verdict: dict[str, Any]) -> bool:
    """Whether what differs was measured, on images with masks, to be no worse.

    Past so many flips a label map is another one, whatever its score.
    """
    lost = verdict.get("miou_lost")
    return lost is not None and lost <= _MIOU_LOST and verdict.get("label_flips", 100) <= _FLIPS


def _measure_all(
    bundle: Bundle,
    options: BackendOptions,
    candidates: Sequence[tuple[str, str]],
    input_shape: tuple[int, int, int, int],
    budget_s: float,
) -> list[Measured]:
    """Each candidate in turn, alone in memory."""
    frames = np.random.default_rng(0).normal(size=input_shape).astype(np.float32)
    measured = []
    best_ms: float | None = None
    for backend, precision in candidates:
        chosen = dataclasses.replace(options, precision=precision)
        try:
            with open_backend(backend, bundle, chosen) as opened:
                frame_ms = _time(opened, frames, budget_s, best_ms)
        except (BackendError, BundleError, MissingDependencyError) as error:
            measured.append(Measured(backend=backend, precision=precision, problem=str(error)))
            continue
        best_ms = frame_ms if best_ms is None else min(best_ms, frame_ms)
        measured.append(Measured(backend=backend, precision=precision, frame_ms=frame_ms))
    return measured


def _time(backend: Backend, frames: Any, budget_s: float, best_ms: float | None) -> float:
    """Milliseconds per frame, with as many calls at a time as the backend takes."""
    backend.infer(frames)
    backend.infer(frames)  # the first calls set up memory
    rounds: list[float] = []
    with ThreadPoolExecutor(backend.requests) as pool:
        end_s = time.perf_counter() + budget_s
        while len(rounds) < 3 or time.perf_counter() < end_s:
            start_s = time.perf_counter()
            for call in [pool.submit(backend.infer, frames) for _ in range(2 * backend.requests)]:
                call.result()
            elapsed_ms = 1e3 * (time.perf_counter() - start_s)
            rounds.append(elapsed_ms / (2 * backend.requests * len(frames)))
            if best_ms is not None and min(rounds) > 2 * best_ms:
                break  # hopeless: more rounds would only take time
    return float(np.median(rounds))


def _facts(
    bundle: Bundle, options: BackendOptions, input_shape: tuple[int, int, int, int]
) -> dict[str, Any]:
    """What a verdict depends on."""
    versions = {}
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return {
        "machine": [platform.machine(), _processor(), _gpus(), options.cpu_threads],
        "bundle": bundle.manifest.checksum,
        "input_shape": list(input_shape),
        "options": dataclasses.asdict(options),
        "versions": versions,
    }


def _processor() -> str:
    """The processor's name and abilities, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    first = [line for line in lines if line.startswith(("model name", "flags", "Features"))][:2]
    return hashlib.sha256("\n".join(first).encode()).hexdigest()[:16]


def _gpus() -> list[str]:
    """Names of NVIDIA's GPUs, as their driver for Linux lists them."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            names += [line for line in lines if line.startswith("Model")]
    return names


def _recall(path: Path, facts: dict[str, Any]) -> Choice | None:
    """An earlier verdict; None if there is none or its file is not what `_remember` writes."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["facts"] != facts:
            return None
        return Choice(
            backend=document["backend"],
            precision=document["precision"],
            candidates=tuple(Measured(**each) for each in document["candidates"]),
            input_shape=tuple(facts["input_shape"]),
            remembered=True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, facts: dict[str, Any], choice: Choice) -> None:
    """Keep a verdict; where the cache cannot be written the next run measures again."""
    document = {
        "facts": facts,
        "backend": choice.backend,
        "precision": choice.precision,
        "candidates": [dataclasses.asdict(each) for each in choice.candidates],
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(dump(document, indent=2))
        Path(temporary).replace(path)  # whole or not at all
