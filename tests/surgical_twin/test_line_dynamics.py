"""A line's step against SciPy's integration of its equation."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from surgical_twin.assimilation.line_dynamics import LineStep


@pytest.mark.parametrize(("frequency", "damping"), [(18.0, 0.3), (6.0, 0.1), (10.0, 1.0), (1.5, 2.5), (40.0, 5.0)])
def test_a_step_is_exact_for_a_pressure_that_is_linear_within_it(frequency, damping):
    step_s = 0.005
    times = np.arange(81) * step_s
    pressure = 90.0 + 25.0 * np.sin(2 * np.pi * 1.3 * times) + 6.0 * np.sin(2 * np.pi * 7.0 * times)
    omega = 2 * np.pi * frequency

    def change(time, state):
        drive = np.interp(time, times, pressure)
        return [state[1], omega**2 * (drive - state[0]) - 2 * damping * omega * state[1]]

    run = solve_ivp(change, (0, times[-1]), [90.0, 0.0], rtol=1e-10, atol=1e-9, max_step=step_s / 4)
    step = LineStep.of(np.array([frequency, frequency]), np.array([damping, damping]), step_s)
    state = step.through(np.tile([90.0, 0.0], (2, 1)), np.column_stack([pressure, pressure]), step_s)
    np.testing.assert_allclose(state[0], run.y[:, -1], rtol=2e-5, atol=2e-4)
    np.testing.assert_array_equal(state[0], state[1])
