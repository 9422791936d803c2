"""Rows of `sei.py`: ours on the grid and the methods per pixel in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sei_cases import Case
from sei_methods import Map, dense, in_graph

from szn_runtime.backends import Grids
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.sei import segment_grid, warm_up

__all__ = ["ONNX_BYTES", "measure"]

ONNX_BYTES = 2 << 30
"""Of scores at every pixel; where there are more the method in onnxruntime is not run."""

_DENSE_LABELS = 20_000  # more take the dense method minutes a frame
_OURS = 5  # calls a turn: one is shorter than the noise


def measure(case: Case, grids: Grids, labels: LabelSet) -> dict[str, Any]:
    """One row of the report; None where a method was not run.

    Args:
        case: What is measured.
        grids: Of one frame, at the nodes of the case.
        labels: As many as the case says.
    """
    geometry = GridGeometry.square(case.stride, (case.stride - 1) / 2)
    methods: dict[str, Callable[[], Map]] = {
        "ours": lambda: segment_grid(
            grids.embedding[0], grids.seenmask[0], labels, geometry=geometry, size_hw=case.size_hw
        )[0]
    }
    pixels = grids.embedding.shape[2] * grids.embedding.shape[3] * case.stride**2
    if 4 * case.labels * pixels <= ONNX_BYTES:
        methods["onnx"] = in_graph(grids, labels, case.stride, case.size_hw)
    if case.labels <= _DENSE_LABELS:
        methods["dense"] = dense(grids, labels, geometry, case.size_hw)
    warm_up(labels.dim, count=len(labels))
    times: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, Map] = {}
    equal = {"ours": 1.0, "onnx": 1.0}
    for _ in range(case.turns):
        for name, work in methods.items():
            taken = []
            for _ in range(_OURS if name == "ours" else 1):
                milliseconds, found[name] = _timed(work)
                taken.append(milliseconds)
            times[name].append(float(np.median(taken)))
        for name in equal.keys() & found.keys():
            if "dense" in found:
                equal[name] = min(equal[name], float((found[name] == found["dense"]).mean()))

    def middle(name: str) -> float | None:
        return float(np.median(times[name])) if name in times else None

    def ratio(name: str) -> float | None:
        if name not in times:
            return None
        turns = zip(times[name], times["ours"], strict=True)
        return float(np.median([theirs / ours for theirs, ours in turns]))

    return {
        "labels": case.labels,
        "seenmask": case.seenmask,
        "size_hw": list(case.size_hw),
        "stride": case.stride,
        "turns": case.turns,
        "ours_ms": middle("ours"),
        "dense_ms": middle("dense"),
        "ratio": ratio("dense"),
        "onnx_ms": middle("onnx"),
        "onnx_ratio": ratio("onnx"),
        "equal_share": equal["ours"] if "dense" in found else None,
        "onnx_equal_share": equal["onnx"] if {"dense", "onnx"} <= found.keys() else None,
    }


def _timed(work: Callable[[], Map]) -> tuple[float, Map]:
    """Milliseconds and result of one call."""
    start = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - start), result
