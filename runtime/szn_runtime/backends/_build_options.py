"""How to build an engine, and what of that a library knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from szn_runtime._json import is_int
from szn_runtime.backends._engine import Library
from szn_runtime.errors import UsageError

__all__ = ["BuildOptions", "find_flags", "find_targets"]

_MAX_WORKSPACE_MIB = 1 << 20
_PRECISION_FLAGS = (
    *("FP16", "BF16", "INT8", "FP8", "INT4", "FP4"),
    *("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"),
)
_REFIT_FLAGS = ("REFIT", "REFIT_IDENTICAL", "REFIT_INDIVIDUAL")
# flags that fail, or whose engines the tensorrt backend cannot run, and why
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(_PRECISION_FLAGS, "an engine has the precision of its ONNX file"),
    **dict.fromkeys(_REFIT_FLAGS, "it needs a GPU to build, and weights stay as they are"),
    **dict.fromkeys(
        ("STRIP_PLAN", "WEIGHTLESS"),
        "it needs a GPU to build, and the engine would hold no weights",
    ),
    "VERSION_COMPATIBLE": "TensorRT-RTX cannot do it, and szn runs an engine with the version "
    "that built it",
    "EXCLUDE_LEAN_RUNTIME": "it belongs to VERSION_COMPATIBLE, which does not work either",
    "REQUIRE_USER_ALLOCATION": "szn lets the library allocate an engine's memory",
    "SAFETY_SCOPE": "szn runs the standard library, not the one for certified devices",
}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build an engine.

    Args:
        compute_capabilities: Of the GPUs that a TensorRT-RTX engine is for, such as "8.6"; none
            for those from 8.0 on that it supports. TensorRT builds for the GPU at hand.
        workspace_mib: Most memory that a layer may take for itself, in MiB; None for no limit.
        timing_cache: File that keeps what TensorRT measured for the next build; made if it is
            missing. TensorRT-RTX measures nothing while it builds.
        flags: Names of the library's `BuilderFlag` to set, such as "SPARSE_WEIGHTS". "TF32", which
            the libraries set by themselves, is only set where it is named: it rounds what
            convolutions of fp32 multiply to 10 bits.

    Raises:
        UsageError: If a value is out of its range, two contradict each other, or a flag is one
            that cannot work.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", capability):
                raise UsageError("compute capability", got=capability, expected="such as 8.6")
        for what in ("compute_capabilities", "flags"):
            names = getattr(self, what)
            if len(set(names)) < len(names):
                raise UsageError(f"{what.replace('_', ' ')}: one twice", got=", ".join(names))
        size = self.workspace_mib
        if size is not None and not (is_int(size) and 1 <= size <= _MAX_WORKSPACE_MIB):
            raise UsageError("workspace", got=size, expected=f"1 to {_MAX_WORKSPACE_MIB} MiB")
        for flag in self.flags:
            if flag in _REFUSED:
                raise UsageError(f"the builder flag {flag} cannot be set", fix=_REFUSED[flag])
        if self.compute_capabilities and self.timing_cache is not None:
            raise UsageError(
                "compute capabilities are for TensorRT-RTX, and a timing cache for TensorRT",
                fix="leave one of them out",
            )

    def check_flavour(self, flavour: str) -> None:
        """Refuse what belongs to the other flavour.

        Raises:
            UsageError: If there are compute capabilities for TensorRT, or a timing cache for
                TensorRT-RTX.
        """
        if flavour == "tensorrt" and self.compute_capabilities:
            raise UsageError(
                "TensorRT builds for the GPU of this machine only",
                got=f"compute capability {', '.join(self.compute_capabilities)}",
                fix="choose the flavour rtx, or name no compute capability",
            )
        if flavour == "rtx" and self.timing_cache is not None:
            raise UsageError(
                "TensorRT-RTX measures nothing while it builds",
                got=f"the timing cache {self.timing_cache}",
                fix="choose the flavour tensorrt, or name no timing cache",
            )


def find_flags(library: Library, names: Sequence[str]) -> dict[str, Any]:
    """The library's builder flags of these names.

    Raises:
        UsageError: If it has no such flag.
    """
    known = library.module.BuilderFlag.__members__
    for name in names:
        if name not in known:
            raise UsageError(
                f"{library} has no such builder flag",
                got=name,
                expected=f"one of {', '.join(sorted(set(known) - set(_REFUSED)))}",
            )
    return {name: known[name] for name in names}


def find_targets(library: Library, capabilities: Sequence[str]) -> list[Any]:
    """What TensorRT-RTX calls compute capabilities: SM86 for 8.6.

    Raises:
        UsageError: If it does not build for one of them.
    """
    if not capabilities:
        return []
    found = library.targets
    for capability in capabilities:
        if capability not in found:
            raise UsageError(
                f"{library} does not build for this compute capability",
                got=capability,
                expected=f"one of {', '.join(found)}",
            )
    return [found[capability] for capability in capabilities]
