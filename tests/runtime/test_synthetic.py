from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from szn_runtime.errors import UsageError
from szn_runtime.sources import SyntheticSource


def test_frames_move_and_repeat() -> None:
    source = SyntheticSource(frame_count=20, size_hw=(30, 40))
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    assert {frame.image_bgr.shape for frame in frames} == {(30, 40, 3)}
    assert not np.array_equal(frames[0].image_bgr, frames[1].image_bgr)
    assert frames[0].image_bgr is frames[8].image_bgr
    assert frames[0].image_bgr.std() > 50
    assert not frames[0].image_bgr.flags.writeable
    assert (source.live, source.frame_count, source.frame_hw) == (False, 20, (30, 40))
    assert frames[3].source == source.name == "synthetic-40x30"


def test_a_rate_makes_it_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    source = SyntheticSource(frame_count=5, size_hw=(4, 4), rate=Fraction(50))
    assert source.live
    times = []
    for frame in source:
        times.append(frame.captured_at_s)
        now[0] += 0.03 if frame.index == 1 else 0.0  # the reader is late once
    assert [round(b - a, 6) for a, b in pairwise(times)] == [0.02, 0.03, 0.01, 0.02]


@pytest.mark.parametrize("values", [{"frame_count": 0}, {"size_hw": (0, 4)}, {"rate": Fraction(0)}])
def test_numbers_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="synthetic frames are out of range"):
        SyntheticSource(**values)  # type: ignore[arg-type]
