"""Rows of `preprocess.py`: the variants in turn."""

from __future__ import annotations

import statistics
import time
from typing import Any

import click
import numpy as np
from photo import photo
from preprocess_networks import Network, networks
from preprocess_preparations import OURS, Image, Prepare, preparations

from szn_runtime._cv import cv2
from szn_runtime.bundle import Bundle
from szn_runtime.preprocess import plan

__all__ = ["measure"]


def measure(
    bundle: Bundle,
    frame_hw: tuple[int, int],
    long_side: int,
    *,
    backend: str,
    precision: str,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for each variant, after rounds for that many seconds, three at least.

    Raises:
        LookupError: If this machine lacks the precision.
    """
    preprocess = bundle.manifest.preprocess
    layout = plan(frame_hw, long_side=long_side, multiple=preprocess.multiple)
    if layout.padded_hw != layout.resized_hw:
        raise click.ClickException(f"the bundle pads {layout.resized_hw}; variants do not")
    prepare = preparations(_frame(frame_hw), layout, preprocess)
    opened = networks(bundle, layout.padded_hw, backend, precision)
    names = [name for name in prepare if name in opened]
    grids = {name: opened[name](prepare[name]()) for name in names}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    end_s = time.perf_counter() + seconds
    while len(times[OURS]) < 3 or time.perf_counter() < end_s:
        turn = len(times[OURS]) % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_turn(prepare[name], opened[name]))
    rows = []
    for name in names:
        sums = [sum(both) for both in times[name]]
        ratios = [a / sum(b) for a, b in zip(sums, times[OURS], strict=True)]
        before, inside = zip(*times[name], strict=True)
        rows.append({
            "frame_hw": list(frame_hw),
            "input_hw": list(layout.padded_hw),
            "backend": backend,
            "precision": precision,
            "variant": name,
            "preprocess_ms": statistics.median(before),
            "network_ms": statistics.median(inside),
            "sum_ms": statistics.median(sums),
            "ratio": statistics.median(ratios),
            "difference": max(
                float(np.linalg.norm(x - y) / np.linalg.norm(y))
                for x, y in zip(grids[name], grids[OURS], strict=True)
            ),
        })  # fmt: skip
    return rows


def _frame(size_hw: tuple[int, int]) -> Image:
    """The photo in that size."""
    resized = cv2.resize(photo(), size_hw[::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized, np.uint8)


def _turn(prepare: Prepare, network: Network) -> tuple[float, float]:
    """Median milliseconds before and in the network, of the calls of 60 ms, two at least."""
    network(prepare())  # after another variant, caches are cold
    before: list[float] = []
    inside: list[float] = []
    end_s = time.perf_counter() + 0.06
    while len(before) < 2 or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        frames = prepare()
        middle_s = time.perf_counter()
        network(frames)
        before.append(1e3 * (middle_s - start_s))
        inside.append(1e3 * (time.perf_counter() - middle_s))
    return statistics.median(before), statistics.median(inside)
