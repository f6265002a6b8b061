"""Flow's past against an integrator of another kind; wall shear against the exact one of a shear flow."""

from itertools import permutations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from streams.messages import Estimate
from surgical_twin.display_fields import FlowMemory, _shear_modes


class State:
    def __init__(self, time_s, flows):
        self.model_time_ns = round(time_s * 1e9)
        self.port_flow_ml_s = {name: Estimate(q, q, q) for name, q in flows.items()}


def flow(t):
    return np.array([10.0 + 6.0 * np.sin(7.0 * t), 5.0 + 2.0 * np.cos(11.0 * t)])


def test_the_flows_past_is_what_an_integrator_finds():
    tau = np.array([0.05, 0.4])
    memory = FlowMemory(("a", "b"), tau)
    for t in np.arange(0.0, 2.0, 0.01):
        assert memory.add(State(t, dict(zip("ab", flow(t), strict=True))))
    end = 1.99

    def change(t, y):
        return ((flow(t) - y.reshape(2, 2)) / tau[:, None]).ravel()

    exact = solve_ivp(change, (0.0, end), np.tile(flow(0.0), 2), rtol=1e-9, atol=1e-9).y[:, -1].reshape(2, 2)
    np.testing.assert_allclose(memory.ports.lagged_flow[0] * 1e6, exact, rtol=2e-3)
    rate = np.array([42.0 * np.cos(7.0 * end), -22.0 * np.sin(11.0 * end)])
    # The rate is a mean over some hundredths of a second: it lags by about 0.025 s.
    np.testing.assert_allclose(memory.ports.flow_derivative[0] * 1e6, rate, atol=9.0)
    assert not memory.add(State(2.0, {"a": 1.0}))


def test_wall_shear_of_a_linear_flow_is_exact():
    """u = g z in x between two plates: the shear rate on a plate is g, and zero where the flow slips along y."""
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1e-3
    # Six tetrahedra a cube, one for each order of going along the axes.
    corner = [9 * i + 3 * j + k for i in range(2) for j in range(2) for k in range(2)]
    paths = [np.cumsum([0, *order]) for order in permutations((9, 3, 1))]
    cells = np.array([first + path for first in corner for path in paths])
    floor = np.array([np.delete(c, i) for c in cells for i in range(4)])
    floor = floor[(grid[floor, 2] == 0.0).all(axis=1)]
    modes = np.zeros((len(grid), 3, 2), dtype=np.float32)
    modes[:, 0, 0] = 250.0 * grid[:, 2]
    modes[:, 2, 1] = 80.0 * grid[:, 2]  # along the normal: no shear
    used, corners = np.unique(floor, return_inverse=True)
    found = _shear_modes(grid, cells, floor, corners.reshape(-1, 3), len(used), modes)
    np.testing.assert_allclose(np.abs(found[:, 0, 0]), 250.0, rtol=1e-4)
    np.testing.assert_allclose(found[:, 1:, 0], 0.0, atol=1e-2)
    np.testing.assert_allclose(found[:, :, 1], 0.0, atol=1e-2)
    assert found.shape == (9, 3, 2)
    assert pytest.approx(250.0, rel=1e-4) == np.linalg.norm(found[:, :, 0], axis=1).mean()
