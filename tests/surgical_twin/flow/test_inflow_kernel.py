"""The members' inflow: SciPy's spline, and sums of cosines written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgical_twin.flow.inflow_kernel import PlannedInflow, inflow_of_members
from surgical_twin.flow.waveform import PeriodicWaveform

WAVEFORM = PeriodicWaveform.named("carotid", mean=6e-6, period=0.9)
PLANNED = PlannedInflow(WAVEFORM.spline.x, np.ascontiguousarray(WAVEFORM.spline.c), WAVEFORM.mean)


def written_out(phase, scale, shape):
    sums = sum(
        shape[:, 2 * k, None] * np.cos(2 * np.pi * (k + 1) * phase)
        + shape[:, 2 * k + 1, None] * np.sin(2 * np.pi * (k + 1) * phase)
        for k in range(shape.shape[1] // 2)
    )
    return (scale[:, None] * (WAVEFORM.spline((phase % 1.0) * WAVEFORM.period) + WAVEFORM.mean * sums)).T


@given(
    phase=st.lists(st.floats(-3.0, 40.0), min_size=1, max_size=6), harmonics=st.integers(0, 5), seed=st.integers(0, 99)
)
def test_inflow_is_the_planned_one_with_the_members_own_waves(phase, harmonics, seed):
    rng = np.random.default_rng(seed)
    scale, shape = rng.uniform(0.5, 2.0, 7), rng.normal(0.0, 0.1, (7, 2 * harmonics))
    value, _ = inflow_of_members(PLANNED, np.array(phase), 0.7, scale, shape)
    assert value == pytest.approx(written_out(np.array(phase), scale, shape), rel=1e-9, abs=1e-12)


def test_its_rate_is_its_change_in_the_beats_own_time():
    rng = np.random.default_rng(1)
    scale, shape, period = rng.uniform(0.5, 2.0, 5), rng.normal(0.0, 0.1, (5, 10)), 0.7
    # None of the phases lies within a step of a knot: at a twentieth of a beat.
    phase, step = np.linspace(0.013, 0.963, 20), 1e-5
    ends = [written_out(phase + sign * step, scale, shape) for sign in (-1, 1)]
    _, rate = inflow_of_members(PLANNED, phase, period, scale, shape)
    assert rate == pytest.approx((ends[1] - ends[0]) / (2 * step * period), rel=1e-5, abs=1e-8)
