"""The heart's phase from R-waves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgical_twin.assimilation.beat import Beat

SECOND = 1_000_000_000


def test_period_follows_a_changed_rate_within_a_few_beats():
    beat, time = Beat(0, SECOND), 0
    for _ in range(12):
        time += round(0.7 * SECOND)
        beat = beat.next(time)
    assert beat.period_ns == pytest.approx(0.7 * SECOND, rel=0.02)
    assert beat.phase(time + beat.period_ns // 4) == pytest.approx(0.25, abs=1e-6)


def test_a_missed_r_wave_does_not_halve_the_rate():
    beat = Beat(0, SECOND).next(2 * SECOND)
    assert beat.period_ns == SECOND
    assert beat.start_ns == 2 * SECOND


def test_a_doubled_r_wave_does_not_double_it():
    assert Beat(0, SECOND).next(SECOND // 10).period_ns == SECOND


@given(st.lists(st.integers(-3 * SECOND, 100 * SECOND), max_size=30))
def test_no_sequence_of_triggers_gives_a_period_no_heart_has(times):
    beat = Beat(0, SECOND)
    for time in times:
        beat = beat.next(time)
        assert 0.25 * SECOND <= beat.period_ns <= 2.5 * SECOND
