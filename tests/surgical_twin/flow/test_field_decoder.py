"""The field decoder on fields written by hand, judged on flows it has not seen."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from surgical_twin.errors import InputError
from surgical_twin.flow.field_decoder import DecoderSettings, fit_field_decoder

PERIOD = 0.8
SIDE = np.array([0.02, 0.01, 0.01])


@dataclass
class Run:
    """The fields of a flow run that the decoder reads."""

    port_names: tuple[str, ...]
    time: np.ndarray
    port_flow: np.ndarray
    port_pressure: np.ndarray
    snapshot_time: np.ndarray
    pressure: np.ndarray
    velocity: np.ndarray
    period: float = PERIOD


@dataclass
class State:
    flow: np.ndarray
    flow_derivative: np.ndarray
    inlet_pressure: np.ndarray
    factor: float = 1.0

    @property
    def lagged_flow(self):
        return np.zeros((len(self.flow), 0, self.flow.shape[1]))

    @property
    def drop_factor(self):
        return np.full(len(self.flow), self.factor)


def box(shape=(10, 6, 6)):
    """A box of cubes, each cut into six tetrahedra along its diagonal."""
    axes = [np.linspace(0.0, length, n + 1) for length, n in zip(SIDE, shape, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    index = np.arange(grid[..., 0].size).reshape(grid.shape[:3])
    cells = []
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)):
        corner = np.zeros(3, dtype=int)
        path = []
        for axis in (*order, None):
            slices = tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))
            path.append(index[slices].ravel())
            if axis is not None:
                corner[axis] = 1
        cells.append(np.stack(path, axis=1))
    return grid.reshape(-1, 3), np.concatenate(cells).astype(np.int64)


POINTS, CELLS = box()


def wave(t, flows):
    w = 2.0 * np.pi / PERIOD
    mean, swing, phase = flows
    value = mean + swing * np.sin(w * t[:, None] + phase) + 0.3 * swing * np.cos(2 * w * t[:, None])
    rate = swing * w * np.cos(w * t[:, None] + phase) - 0.6 * swing * w * np.sin(2 * w * t[:, None])
    return value, rate


def hand_made_pressure(points, q, dq, inlet, losses=1.0):
    """Poiseuille's slope, Bernoulli's square in a narrowing, and inertia, each in its own shape."""
    x, y = points[:, 0] / SIDE[0], points[:, 1] / SIDE[1]
    total, first = q.sum(axis=1), q[:, 0]
    viscous = -np.outer(total, 4e7 * x) - np.outer(first, 2e7 * x * y)
    narrow = np.exp(-(((x - 0.5) / 0.3) ** 2))
    convective = -np.outer(total * np.abs(total), 4e12 * narrow)
    convective -= np.outer(first * np.abs(total), 2e12 * x**2)
    inertial = -np.outer(dq.sum(axis=1), 3e6 * x) - np.outer(dq[:, 1], 1e6 * x * (1.0 - y))
    return inlet[:, None] + losses * (viscous + convective) + inertial


def hand_made_velocity(points, q):
    y, z = points[:, 1] / SIDE[1], points[:, 2] / SIDE[2]
    profile = y * (1 - y) * z * (1 - z)
    out = np.zeros((len(q), len(points), 3))
    out[..., 0] = np.outer(q.sum(axis=1), 3e5 * profile)
    out[..., 1] = np.outer(q[:, 0] * np.abs(q[:, 0]), 5e9 * profile * points[:, 0] / SIDE[0])
    return out


def a_run(mean, swing, phase, noise=0.0, seed=0, points=POINTS):
    flows = np.array(mean) * 1e-6, np.array(swing) * 1e-6, np.array(phase)
    t = np.linspace(0.0, 1.6, 321)
    when = np.linspace(0.0, 1.6, 49)
    q, _ = wave(t, flows)
    qs, dqs = wave(when, flows)
    inlet = 1e4 + 2e3 * np.sin(2 * np.pi * t / PERIOD)
    inlets = 1e4 + 2e3 * np.sin(2 * np.pi * when / PERIOD)
    pressure = hand_made_pressure(points, qs, dqs, inlets)
    velocity = hand_made_velocity(points, qs)
    rng = np.random.default_rng(seed)
    pressure = pressure + noise * np.std(pressure - inlets[:, None]) * rng.normal(size=pressure.shape)
    run = Run(
        ("inlet", "outlet_1", "outlet_2"),
        t,
        np.column_stack([q.sum(axis=1), q]),
        np.column_stack([inlet, inlet - 100.0, inlet - 120.0]),
        when,
        pressure.astype(np.float32),
        velocity.astype(np.float32),
    )
    return run, State(qs, dqs, inlets)


TRAINING = [
    a_run([6, 4], [5, 3], [0.2, 0.9])[0],
    a_run([8, 5], [4, 5], [0.5, 0.3])[0],
    a_run([5, 6], [6, 4], [1.2, 0.1])[0],
]
HELD_OUT = a_run([7, 5], [5, 4], [0.8, 0.6])


@pytest.fixture(scope="module")
def decoder():
    return fit_field_decoder(TRAINING, POINTS, CELLS)


def test_other_losses_leave_inertia_as_it_is(decoder):
    _, state = HELD_OUT
    expected = hand_made_pressure(POINTS, state.flow, state.flow_derivative, state.inlet_pressure, losses=1.4)
    error = decoder.pressure(replace(state, factor=1.4)) - expected
    assert np.linalg.norm(error) < 5e-3 * np.linalg.norm(expected - state.inlet_pressure[:, None])


def test_predicts_fields_of_flows_it_has_not_seen(decoder):
    run, state = HELD_OUT
    drop = run.pressure - state.inlet_pressure[:, None]
    error = decoder.pressure(state) - run.pressure
    assert np.linalg.norm(error) < 5e-3 * np.linalg.norm(drop)
    assert np.linalg.norm(decoder.velocity(state) - run.velocity) < 5e-3 * np.linalg.norm(run.velocity)
    # The field does not follow from the inflow alone: exchanging the outlets must show.
    exchanged = State(state.flow[:, ::-1], state.flow_derivative[:, ::-1], state.inlet_pressure)
    assert np.linalg.norm(decoder.pressure(exchanged) - run.pressure) > 0.05 * np.linalg.norm(drop)


def test_display_modes_and_coefficients_give_the_pressure(decoder):
    _, state = HELD_OUT
    coefficients = decoder.coefficients(state)
    vertices = np.array([0, 5, 77, len(POINTS) - 1])
    modes = decoder.display_modes(vertices)
    assert modes.dtype == np.float32
    assert (modes[:, 0] == 1.0).all()
    assert np.abs(decoder.display_modes(np.arange(len(POINTS)))).max() <= 1.0
    np.testing.assert_array_equal(coefficients[:, 0], state.inlet_pressure)
    np.testing.assert_allclose(coefficients @ modes.T, decoder.pressure(state, vertices), rtol=1e-6)
    by_position = decoder.display_modes(POINTS[vertices])
    np.testing.assert_allclose(by_position, modes, atol=1e-6)


def test_reads_pressure_and_gradient_at_a_point(decoder):
    _, state = HELD_OUT
    inner = np.random.default_rng(4).uniform(0.2, 0.8, size=(25, 3)) * SIDE
    operator = decoder.point_operator(inner)
    assert not operator.distance.any()
    coefficients = decoder.coefficients(state)
    truth = hand_made_pressure(inner, state.flow, state.flow_derivative, state.inlet_pressure)
    drop = truth - state.inlet_pressure[:, None]
    # What is left is the interpolation between nodes of a narrowing three cells wide.
    assert np.linalg.norm(operator.pressure(coefficients) - truth) < 0.02 * np.linalg.norm(drop)
    step = 1e-5
    slopes = np.stack(
        [
            hand_made_pressure(inner + move, state.flow, state.flow_derivative, state.inlet_pressure)
            - hand_made_pressure(inner - move, state.flow, state.flow_derivative, state.inlet_pressure)
            for move in step * np.eye(3)
        ],
        axis=-1,
    ) / (2 * step)
    gradient = operator.gradient(coefficients)
    assert gradient.shape == (len(state.flow), 25, 3)
    assert np.linalg.norm(gradient - slopes) < 0.1 * np.linalg.norm(slopes)


def test_gradient_of_a_linear_field_is_exact_and_no_step_at_a_face(decoder):
    """Recovery reproduces linear fields everywhere, at the wall as well."""
    slope = np.array([3.0, -2.0, 5.0])
    linear = (POINTS @ slope).astype(np.float32)[:, None, None]
    changed = replace(decoder, pressure_part=replace(decoder.pressure_part, modes=linear))
    anywhere = np.random.default_rng(5).uniform(0.0, 1.0, size=(40, 3)) * SIDE
    operator = changed.point_operator(anywhere)
    np.testing.assert_allclose(operator.mode_gradients[:, :, 1], np.tile(slope, (40, 1)), rtol=1e-4)
    np.testing.assert_allclose(operator.mode_gradients[:, :, 0], 0.0, atol=1e-6)
    # Along a line through many faces the gradient of the decoder changes little by little.
    line = np.linspace([0.1, 0.2, 0.3], [0.9, 0.7, 0.6], 2001) * SIDE
    gradient = decoder.point_operator(line).mode_gradients[:, 0, 1:]
    steps = np.abs(np.diff(gradient, axis=0)).max(axis=0)
    assert (steps < 0.02 * np.ptp(gradient, axis=0) + 1e-9).all()


def test_outside_the_lumen_it_reads_the_nearest_point_and_says_how_far(decoder):
    _, state = HELD_OUT
    inside = np.array([[0.0, 0.004, 0.005], [0.01, 0.01, 0.004]])
    away = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    operator = decoder.point_operator(inside + 0.003 * away)
    np.testing.assert_allclose(operator.distance, 0.003, rtol=1e-9)
    here = decoder.point_operator(inside)
    coefficients = decoder.coefficients(state)
    np.testing.assert_allclose(operator.pressure(coefficients), here.pressure(coefficients), rtol=1e-9)


def test_noise_is_averaged_out_rather_than_learned():
    noisy = [
        a_run([6, 4], [5, 3], [0.2, 0.9], noise=0.05, seed=1)[0],
        a_run([8, 5], [4, 5], [0.5, 0.3], noise=0.05, seed=2)[0],
        a_run([5, 6], [6, 4], [1.2, 0.1], noise=0.05, seed=3)[0],
    ]
    decoder = fit_field_decoder(noisy, POINTS, CELLS)
    run, state = HELD_OUT
    drop = run.pressure - state.inlet_pressure[:, None]
    error = np.linalg.norm(decoder.pressure(state) - run.pressure) / np.linalg.norm(drop)
    assert error < 0.025
    assert decoder.pressure_part.modes.shape[2] < 10


def test_says_what_is_missing():
    run = TRAINING[0]
    with pytest.raises(InputError, match="nodes and the mesh"):
        fit_field_decoder([run], POINTS[:-1], CELLS[:1])
    thin = slice(None, None, 4)
    few = replace(run, snapshot_time=run.snapshot_time[thin], pressure=run.pressure[thin], velocity=run.velocity[thin])
    with pytest.raises(InputError, match="too few"):
        fit_field_decoder([few], POINTS, CELLS)
    early = slice(0, 16)
    short = replace(
        run, snapshot_time=run.snapshot_time[early], pressure=run.pressure[early], velocity=run.velocity[early]
    )
    with pytest.raises(InputError, match="run it for longer"):
        fit_field_decoder([short], POINTS, CELLS)
    still = replace(run, velocity=np.zeros_like(run.velocity))
    with pytest.raises(InputError, match="no field"):
        fit_field_decoder([still], POINTS, CELLS, settings=DecoderSettings())
