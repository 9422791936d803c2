from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.sinks.timeline import Timeline

NTSC = Fraction(30000, 1001)


def placed(timeline: Timeline, times_s: list[float | None]) -> list[Fraction]:
    return [timeline.place(time_s) * timeline.time_base for time_s in times_s]


def test_frames_without_timestamps_follow_at_the_exact_rate() -> None:
    assert placed(Timeline(NTSC), [None] * 3) == [0, 1 / NTSC, 2 / NTSC]


@given(
    st.sampled_from([Fraction(25), Fraction(15), NTSC, Fraction(24000, 1001), Fraction(50)]),
    st.sampled_from([Fraction(1, 1000), Fraction(1, 90_000), Fraction(1, 15360)]),
    st.integers(0, 10**6),
)
def test_rounded_timestamps_of_a_constant_rate_become_exact(
    rate: Fraction, clock: Fraction, start: int
) -> None:
    rounded = [float(round((start + n) / rate / clock) * clock) for n in range(40)]
    assert placed(Timeline(rate, clock), list(rounded)) == [n / rate for n in range(40)]


def test_a_variable_rate_is_kept() -> None:
    times_s = [3.0, 3.1, 3.15, 3.5]
    assert placed(Timeline(Fraction(25), Fraction(1, 1000)), list(times_s)) == [
        0,
        Fraction(1, 10),
        Fraction(3, 20),
        Fraction(1, 2),
    ]


@given(
    st.lists(st.floats(-10, 1e5), min_size=1, max_size=30),
    st.sampled_from([Fraction(1, 1000), Fraction(1, 10**6), Fraction(1, 10**9), Fraction(7, 999)]),
)
def test_ticks_rise_and_fit_containers_whatever_comes(
    times_s: list[float], clock: Fraction
) -> None:
    timeline = Timeline(NTSC, clock)
    ticks = [timeline.place(time_s) for time_s in times_s]
    assert ticks == sorted(set(ticks))
    assert ticks[0] == 0
    assert timeline.time_base.numerator == 1
    assert timeline.time_base.denominator <= 1 << 31
