"""The port model's fit to flow runs, against Womersley's impedance and runs by SciPy on the full equations."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.special import jv

from surgical_twin.errors import InputError
from surgical_twin.flow.port_fit import fit_port_model, lagged_flows
from surgical_twin.flow.port_model import simulate

_SPEC = importlib.util.spec_from_file_location("made_tree", Path(__file__).with_name("made_tree.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)
PERIOD = made.PERIOD
Run = made.Run
a_model = made.a_model
some_parameters = made.some_parameters
inflow = made.inflow
reference = made.reference


@pytest.mark.parametrize(("alpha", "inertia"), [(0.4, 4.0 / 3.0), (30.0, 1.0)])
def test_fit_finds_the_impedance_of_a_tube_by_womersley(alpha, inertia):
    """Oscillating flow in a rigid tube: J. R. Womersley, J. Physiol. 127 (1955)."""
    density, viscosity, radius, length = 1060.0, 3.5e-3, 3e-3, 0.08
    w = alpha**2 * viscosity / (density * radius**2)
    area = np.pi * radius**2
    impedance = tube_impedance(w, radius, length, density, viscosity)
    time = np.linspace(0.0, 3.0 * 2.0 * np.pi / w, 601)
    flow = 5e-6 * np.cos(w * time)
    drop = (impedance * 5e-6 * np.exp(1j * w * time)).real
    run = Run(
        ("inlet", "outlet_1"),
        time,
        np.column_stack([flow, flow]),
        np.column_stack([1e4 + drop, np.full(time.shape, 1e4)]),
        period=2.0 * np.pi / w,
    )
    model = fit_port_model([run], ridge=1e-12, memories=0)
    assert model.inertance[0, 0] == pytest.approx(inertia * density * length / area, rel=0.06)
    assert model.inertance[0, 0] == pytest.approx(impedance.imag / w, rel=2e-3)
    assert model.resistance[0, 0] == pytest.approx(impedance.real, rel=2e-2)
    if alpha < 1.0:
        poiseuille = 8.0 * viscosity * length / (np.pi * radius**4)
        assert model.resistance[0, 0] == pytest.approx(poiseuille, rel=0.02)
        assert model.loss[0] * 5e-6 < 1e-3 * poiseuille


def tube_impedance(w, radius, length, density=1060.0, viscosity=3.5e-3):
    area = np.pi * radius**2
    z = 1j**1.5 * radius * np.sqrt(w * density / viscosity)
    return 1j * w * density * length / area / (1.0 - 2.0 * jv(1, z) / (z * jv(0, z)))


def a_tube_run(period, mean, wobble):
    """A pulse of twenty harmonics through a tube of 3 mm radius and 8 cm, exactly by Womersley."""
    n = 800
    x = np.arange(n) / n
    shape = 0.6 + 1.2 * np.exp(-(((x - 0.15) / 0.06) ** 2)) + wobble * np.exp(-(((x - 0.42) / 0.05) ** 2))
    spectrum = np.fft.rfft(shape * mean)
    spectrum[21:] = 0.0
    w = 2.0 * np.pi / period * np.arange(1, 21)
    impedance = np.zeros(len(spectrum), dtype=complex)
    impedance[0] = 8.0 * 3.5e-3 * 0.08 / (np.pi * 3e-3**4)
    impedance[1:21] = tube_impedance(w, 3e-3, 0.08)
    flow, drop = np.fft.irfft(spectrum), np.fft.irfft(spectrum * impedance)
    time = np.arange(3 * n) / n * period
    flow, drop = np.tile(flow, 3), np.tile(drop, 3)
    return Run(
        ("inlet", "outlet_1"),
        time,
        np.column_stack([flow, flow]),
        np.column_stack([1e4 + drop, np.full(time.shape, 1e4)]),
        period=period,
    )


def test_memory_carries_the_boundary_layer_of_a_pulse():
    """Trained on one pulse, right on another of other shape and rate, where R and L alone cannot be."""
    unseen = a_tube_run(0.7, 9e-6, 0.1)
    flow = unseen.port_flow[:, 1:]
    drop = unseen.port_pressure[:, :1] - 1e4
    rates = CubicSpline(unseen.time, flow).derivative()(unseen.time)
    late = unseen.time > unseen.period
    errors = []
    for memories in (0, 1, 2):
        model = fit_port_model([a_tube_run(0.9, 6e-6, 0.35)], memories=memories)
        predicted = model.pressure_drop(flow, rates, lagged_flows(unseen.time, flow, model.time_constants))
        errors.append(np.linalg.norm((predicted - drop)[late]) / np.linalg.norm(drop[late]))
    assert errors[0] > 0.05
    assert errors[1] < 0.02
    assert errors[2] < 0.01


def runs_by_scipy(model, members):
    made = []
    for seed, scale in members:
        p = some_parameters(len(model.outlets), seed=seed)
        t = np.linspace(0.0, 1.6, 401)
        q0 = inflow(0.0, scale)[0] * model.steady_state(p, 1e-5).flow[0] / 1e-5
        flow, bed, inlet = reference(model, p, t, q0, np.full(len(q0), 1e4), scale)
        outlet = bed + p.proximal_resistance * flow
        run = Run(
            ("inlet", *model.outlets),
            t,
            np.column_stack([inflow(t, scale)[0], flow]),
            np.column_stack([inlet, outlet]),
        )
        made.append((run, p, bed))
    return made


@pytest.mark.parametrize("n", [2, 4])
def test_fit_on_some_runs_predicts_another(n):
    model = a_model(n, seed=7)
    made = runs_by_scipy(model, [(3, 1.0), (4, 1.4), (5, 0.7), (6, 1.2)])
    shared = [("outlet_1", "outlet_2")] if n > 2 else []
    fitted = fit_port_model([run for run, _, _ in made[:3]], shared=shared)
    run, p, bed = made[3]
    value, rate = inflow(run.time, 1.2)
    predicted = simulate(fitted, p, run.time, value, rate, flow=run.port_flow[:1, 1:], capacitor_pressure=bed[:1])
    late = run.time > 0.25 * PERIOD  # what the fluid remembers of the time before the start is not known
    flow_off = np.abs(predicted.flow[:, 0] - run.port_flow[:, 1:])[late]
    inlet_off = np.abs(predicted.inlet_pressure[:, 0] - run.port_pressure[:, 0])[late]
    assert (flow_off < 0.01 * np.ptp(run.port_flow[:, 1:], axis=0)).all()
    assert (inlet_off < 0.01 * np.ptp(run.port_pressure[:, 0])).all()


def test_fit_stays_physical_on_noise_and_many_outlets():
    """Twelve outlets, one wave shape: most constants cannot be told apart; bounds must hold all the same."""
    n, rng = 12, np.random.default_rng(3)
    t = np.linspace(0.0, 0.8, 161)
    share = rng.uniform(0.5, 1.5, n)
    share /= share.sum()
    flow = inflow(t)[0][:, None] * share * (1.0 + 0.02 * rng.normal(size=(1, n)))
    flow_in = flow.sum(axis=1)
    drops = 4e8 * share.mean() * flow + 50.0 * rng.normal(size=flow.shape)
    run = Run(
        ("inlet", *(f"o{i}" for i in range(n))),
        t,
        np.column_stack([flow_in, flow]),
        np.column_stack([np.full(t.shape, 1e4), 1e4 - drops]),
    )
    model = fit_port_model([run])
    assert np.linalg.eigvalsh(model.inertance)[0] > 0.0
    assert np.linalg.eigvalsh(model.resistance)[0] >= -1e-9 * np.abs(model.resistance).max()
    assert model.loss.min() >= 0.0
    rates = CubicSpline(t, flow).derivative()(t)
    lagged = lagged_flows(t, flow, model.time_constants)
    assert np.sqrt(np.mean((model.pressure_drop(flow, rates, lagged) - drops) ** 2)) < 60.0


def test_fit_refuses_runs_that_do_not_fit_together():
    model = a_model(2)
    (run, _, _), (other, _, _) = runs_by_scipy(model, [(1, 1.0), (2, 1.1)])
    other.port_names = ("inlet", "left", "right")
    with pytest.raises(InputError, match="different ports"):
        fit_port_model([run, other])
    with pytest.raises(InputError, match="at least one"):
        fit_port_model([])
    with pytest.raises(InputError, match="no outlet"):
        fit_port_model([run], shared=[("outlet_1", "nowhere")])
    run.port_flow[:, 0] *= 1.1
    with pytest.raises(InputError, match="loses"):
        fit_port_model([run])
