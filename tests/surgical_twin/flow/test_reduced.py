"""The trained bundle: honest errors on held-out runs, range of training, files."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from surgical_twin.errors import InputError
from surgical_twin.flow.port_model import PortParameters
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.reduced_file import mesh_hash

PERIOD = 0.8
LENGTH = 0.02


@dataclass(frozen=True)
class Bed:
    proximal_resistance: float
    distal_resistance: float
    compliance: float
    distal_pressure: float = 0.0


@dataclass(frozen=True)
class Run:
    """The fields of a flow run that the reduced model reads."""

    port_names: tuple[str, ...]
    time: np.ndarray
    port_flow: np.ndarray
    port_pressure: np.ndarray
    capacitor_pressure: np.ndarray
    snapshot_time: np.ndarray
    pressure: np.ndarray
    velocity: np.ndarray
    windkessels: dict = field(default_factory=dict)
    period: float = PERIOD


def a_mesh():
    grid = np.stack(np.meshgrid(*[np.linspace(0.0, LENGTH, 6)] * 3, indexing="ij"), axis=-1)
    index = np.arange(216).reshape(6, 6, 6)
    corners = [index[a : a + 5, b : b + 5, c : c + 5].ravel() for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    paths = [(0, 4, 6, 7), (0, 2, 3, 7), (0, 1, 5, 7), (0, 6, 2, 7), (0, 3, 1, 7), (0, 5, 4, 7)]
    cells = np.concatenate([np.stack([corners[i] for i in path], axis=1) for path in paths])
    return grid.reshape(-1, 3), cells.astype(np.int64)


POINTS, CELLS = a_mesh()


def a_run(mean, seed, period=PERIOD):
    """Two outlets; tree of resistances, losses and inertances written out, integrated by scipy."""
    rng = np.random.default_rng(seed)
    beds = {
        name: Bed(1.5e8 * rng.uniform(0.7, 1.4), 1.6e9 * rng.uniform(0.7, 1.4), 6e-10 * rng.uniform(0.7, 1.4))
        for name in ("outlet_1", "outlet_2")
    }
    one, two = beds.values()
    w = 2.0 * np.pi / period

    def inflow(t):
        return mean * (1.0 + 0.8 * np.sin(w * t) + 0.3 * np.cos(2 * w * t + 1.0))

    def inflow_rate(t):
        return mean * w * (0.8 * np.cos(w * t) - 0.6 * np.sin(2 * w * t + 1.0))

    def branches(q1, q2):
        return 6e7 * q1 + 8e12 * q1 * abs(q1), 2e7 * q2 + 1e12 * q2 * abs(q2)

    inertia1, inertia2, trunk = 3e6, 2e6, 1.5e6

    def rate_of_first(t, q1, pc1, pc2):
        q2 = inflow(t) - q1
        drop1, drop2 = branches(q1, q2)
        push = drop2 + pc2 + two.proximal_resistance * q2 - drop1 - pc1 - one.proximal_resistance * q1
        return (push + inertia2 * inflow_rate(t)) / (inertia1 + inertia2)

    def slope(t, y):
        q1, pc1, pc2 = y
        q2 = inflow(t) - q1
        return [
            rate_of_first(t, q1, pc1, pc2),
            (q1 - pc1 / one.distal_resistance) / one.compliance,
            (q2 - pc2 / two.distal_resistance) / two.compliance,
        ]

    t = np.linspace(0.0, 2.0 * period, 401)
    start = [
        0.5 * inflow(0.0),
        0.8 * mean * one.distal_resistance / 2,
        0.8 * mean * two.distal_resistance / 2,
    ]
    y = solve_ivp(slope, (0.0, t[-1]), start, t_eval=t, rtol=1e-9, atol=1e-15).y
    q1, pc1, pc2 = y
    q2 = inflow(t) - q1
    dq1 = np.array([rate_of_first(*v) for v in zip(t, q1, pc1, pc2, strict=True)])
    p1, p2 = pc1 + one.proximal_resistance * q1, pc2 + two.proximal_resistance * q2
    stem = 3e7 * (q1 + q2) + trunk * inflow_rate(t)
    inlet = p1 + branches(q1, q2)[0] + inertia1 * dq1 + stem
    every = slice(0, 401, 8)
    x, y_ = POINTS[:, 0] / LENGTH, POINTS[:, 1] / LENGTH
    share = np.clip(2.0 * x - 1.0, 0.0, 1.0)
    pressure = (
        inlet[every, None]
        - stem[every, None] * np.clip(2.0 * x, 0.0, 1.0)
        - (inlet - stem - p1)[every, None] * share * y_
        - (inlet - stem - p2)[every, None] * share * (1.0 - y_)
    )
    velocity = np.zeros((len(t[every]), len(POINTS), 3))
    velocity[..., 0] = q1[every, None] * 2e4 * y_ + q2[every, None] * 2e4 * (1.0 - y_)
    return Run(
        ("inlet", "outlet_1", "outlet_2"),
        t,
        np.column_stack([inflow(t), q1, q2]),
        np.column_stack([inlet, p1, p2]),
        np.column_stack([pc1, pc2]),
        t[every],
        pressure.astype(np.float32),
        velocity.astype(np.float32),
        beds,
        period,
    )


RUNS = [a_run(8e-6, 1), a_run(1.3e-5, 2, period=0.7), a_run(6e-6, 3, period=0.95)]
UNSEEN = a_run(1e-5, 4, period=0.85)


@pytest.fixture(scope="module")
def model():
    return ReducedModel.train(RUNS, POINTS, CELLS)


def test_follows_an_unseen_run_by_itself(model):
    result = model.evaluate(UNSEEN)
    assert result.port_pressure_rms.shape == (2, 3)
    assert result.port_flow_rms.shape == (2, 2)
    assert result.port_pressure_max.max() < 0.01
    assert result.port_flow_max.max() < 0.01
    assert (result.port_pressure_rms <= result.port_pressure_max).all()
    assert result.drop_error < 0.02
    assert result.decoded_drop_error < 0.01
    assert result.velocity_error < 0.01
    assert result.pressure_error < 0.01


def test_measured_errors_are_the_errors_that_were_put_in(model):
    """A run altered by known amounts must be reported as wrong by just those."""
    before = model.evaluate(UNSEEN)
    shift = np.zeros(len(POINTS), dtype=np.float32)
    shift[7], shift[8] = 300.0, -300.0
    outlet_off = UNSEEN.port_pressure + np.array([0.0, 0.0, 200.0])
    altered = replace(UNSEEN, pressure=UNSEEN.pressure - shift, port_pressure=outlet_off)
    after = model.evaluate(altered)
    moved = after.vertex_bias - before.vertex_bias
    np.testing.assert_allclose(moved[[7, 8]], [300.0, -300.0], atol=0.5)
    np.testing.assert_allclose(np.delete(moved, [7, 8]), 0.0, atol=0.01)
    assert after.vertex_rms[7] == pytest.approx(300.0, rel=0.05)
    assert after.port_pressure_error[2] == pytest.approx(200.0, rel=0.05)
    span = np.ptp(UNSEEN.port_pressure[:, 2][UNSEEN.time >= 0.25 * UNSEEN.period])
    np.testing.assert_allclose(after.port_pressure_rms[:, 2], 200.0 / span, rtol=0.05)
    other_beds = {**UNSEEN.windkessels, "outlet_1": Bed(1.5e8, 4e9, 6e-10)}
    misled = model.evaluate(replace(UNSEEN, windkessels=other_beds))
    assert misled.port_flow_rms.max() > 0.05
    # The fields follow the model's own flows, and only the decoder's own part is blind to that.
    assert misled.snapshot_pressure_rms.max() > 10.0 * before.snapshot_pressure_rms.max()
    assert misled.decoded_drop_error == before.decoded_drop_error


def test_error_statistics_come_from_runs_left_out(model):
    assert len(model.held_out) == len(RUNS)
    assert model.pressure_error_std.shape == (len(POINTS),)
    assert (np.abs(model.pressure_error_bias) <= model.pressure_error_std + 1e-9).all()
    by_hand = []
    for left_out in RUNS:
        others = [run for run in RUNS if run is not left_out]
        by_hand.append(ReducedModel.train(others, POINTS, CELLS, held_out=[left_out]))
    expected = np.sqrt(np.mean([one.pressure_error_std**2 for one in by_hand], axis=0))
    np.testing.assert_allclose(model.pressure_error_std, expected)
    explicit = ReducedModel.train(RUNS, POINTS, CELLS, held_out=[UNSEEN])
    judged = explicit.evaluate(UNSEEN)
    np.testing.assert_allclose(explicit.pressure_error_std, judged.vertex_rms)
    np.testing.assert_allclose(explicit.port_pressure_error, judged.port_pressure_error)
    assert explicit.held_out == (judged.summary(),)
    with pytest.raises(InputError, match="two or more"):
        ReducedModel.train(RUNS[:1], POINTS, CELLS)


def test_says_when_the_state_leaves_what_it_was_trained_on(model):
    p = PortParameters.of(UNSEEN.windkessels, model.ports.outlets)
    usual = model.ports.complete(UNSEEN.port_flow[100:101, 1:], UNSEEN.capacitor_pressure[100:101], 0.0, p)
    assert model.in_range(usual)[0] == 0.0
    largest = max(run.port_flow[run.time >= 0.25 * run.period, 0].max() for run in RUNS)
    smallest = min(run.port_flow[run.time >= 0.25 * run.period, 0].min() for run in RUNS)
    width = largest - smallest
    flow = usual.flow / usual.flow.sum() * (largest + 0.5 * width)
    far = replace(usual, flow=flow)
    assert model.in_range(far)[0] >= 0.49
    backwards = replace(usual, flow=-flow)
    assert model.in_range(backwards)[0] > 0.5


def test_a_saved_model_is_the_same_model(model, tmp_path):
    path = tmp_path / "reduced.npz"
    model.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["reduced.npz"]
    loaded = ReducedModel.load(path, POINTS, CELLS)
    first, second = model.evaluate(UNSEEN), loaded.evaluate(UNSEEN)
    assert first.summary() == second.summary()
    np.testing.assert_array_equal(first.vertex_bias, second.vertex_bias)
    np.testing.assert_array_equal(loaded.pressure_error_std, model.pressure_error_std)
    assert loaded.held_out == model.held_out
    assert loaded.ports.outlets == model.ports.outlets
    # One more rounding, as from a mesh read back in millimeters, is the same mesh.
    ReducedModel.load(path, (POINTS * 1e3) * 1e-3, CELLS)


def test_a_file_that_does_not_fit_is_refused(model, tmp_path):
    path = tmp_path / "reduced.npz"
    with pytest.raises(InputError, match="no reduced model"):
        ReducedModel.load(path, POINTS, CELLS)
    model.save(path)
    moved = POINTS.copy()
    moved[3, 0] += 1e-5
    with pytest.raises(InputError, match="another mesh"):
        ReducedModel.load(path, moved, CELLS)
    with pytest.raises(InputError, match="another mesh"):
        ReducedModel.load(path, POINTS, CELLS[::-1])
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="plan the case again"):
            ReducedModel.load(path, POINTS, CELLS)
    np.savez(path, format="something else")
    with pytest.raises(InputError, match="not a reduced model"):
        ReducedModel.load(path, POINTS, CELLS)
    with pytest.raises(InputError, match="ports"):
        model.evaluate(replace(UNSEEN, port_names=("inlet", "a", "b")))


def test_the_hash_tells_meshes_apart():
    assert mesh_hash(POINTS, CELLS) == mesh_hash(POINTS.copy(), CELLS.astype(np.int32))
    assert mesh_hash(POINTS, CELLS) != mesh_hash(POINTS + 1e-6, CELLS)
    assert mesh_hash(POINTS, CELLS) != mesh_hash(POINTS, CELLS[:-1])


def test_nothing_is_learned_from_the_start_of_a_run():
    spoiled = []
    for run in RUNS:
        early = run.snapshot_time < 0.74 * run.period
        pressure, velocity = run.pressure.copy(), run.velocity.copy()
        pressure[early] += 500.0
        velocity[early] *= -1.0
        spoiled.append(replace(run, pressure=pressure, velocity=velocity))
    clean = ReducedModel.train(RUNS, POINTS, CELLS, held_out=[UNSEEN]).decoder
    other = ReducedModel.train(spoiled, POINTS, CELLS, held_out=[UNSEEN]).decoder
    np.testing.assert_array_equal(clean.pressure_part.modes, other.pressure_part.modes)
    np.testing.assert_array_equal(clean.velocity_part.map, other.velocity_part.map)
