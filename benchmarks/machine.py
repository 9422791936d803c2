"""What all benchmarks write: facts of the machine, and the file that a run goes to."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from szn_runtime.backends.base import usable_cores

__all__ = ["machine_facts", "write_report"]

_LIBRARIES = (
    "szn", "numpy", "numba", "opencv-python", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "torch",
)  # fmt: skip
# what decides which kernels a library picks for a network
_ABILITIES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "asimd")


def machine_facts() -> dict[str, Any]:
    """What a benchmark's numbers belong to.

    Returns:
        `cpu`, `cpu_abilities`, `cores` that this process may use, `memory_gib`, `system`, `python`,
        `libraries` (name to version, of those that are installed), and, as a measure of how quiet
        the machine was, `load_average` over the last minute; None where the system does not say.
    """
    cpu = _cpu_lines()
    abilities = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_abilities": [name for name in _ABILITIES if name in abilities],
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": _versions(),
        "load_average": _load_average(),
    }


def write_report(
    path: Path, benchmark: str, rows: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """Write a run as JSON: `benchmark`, `date`, `machine`, what else is given, and `rows` last.

    Args:
        path: Of the file; its folder is made if it is missing.
        benchmark: Name of the script.
        rows: What was measured.
        more: Further keys, such as the peak that the rows are compared with.
    """
    document = {
        "benchmark": benchmark,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": machine_facts(),
        **more,
        "rows": [dict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _cpu_lines() -> dict[str, str]:
    """The first entries of their names in the kernel's list of processors; {} without one."""
    lines: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            name, separator, value = line.partition(":")
            if separator:
                lines.setdefault(name.strip(), value.strip())
    return lines


def _memory_gib() -> float | None:
    """Main memory; None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _load_average() -> float | None:
    """Threads that wanted to run, over the last minute; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _versions() -> dict[str, str]:
    """Installed libraries that the numbers depend on."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
