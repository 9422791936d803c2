"""How `network.py` times: calls one or several at a time, and rounds of ours and the vendor's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from network_cases import Case
from numpy.typing import NDArray

from szn_runtime.backends import Backend

__all__ = ["Vendor", "timed_calls", "timed_rounds"]

Vendor = Callable[[float], float]
"""Runs for so many seconds and returns milliseconds, per call or per frame as the hint says."""


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


def timed_rounds(
    backend: Backend,
    frames: NDArray[np.float32],
    vendors: dict[str, Vendor],
    rounds: int,
    seconds: float,
    case: Case,
) -> tuple[list[float], dict[str, list[float]]]:
    """Milliseconds of ours and of the vendor's tools, a number each a round.

    Args:
        backend: Ours, open.
        frames: (N, 3, H, W) float32 that it gets.
        vendors: Tools by name, often none.
        rounds: How many.
        seconds: Of each in a round.
        case: That is measured.
    """
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
