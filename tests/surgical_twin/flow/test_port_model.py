"""The port model against a second implementation (SciPy on the full equations) and closed forms."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from surgical_twin.errors import InputError
from surgical_twin.flow import port_stepper
from surgical_twin.flow.port_kernel import advance
from surgical_twin.flow.port_lanes import best_advance
from surgical_twin.flow.port_model import PortModel, PortParameters, PortState, simulate

_SPEC = importlib.util.spec_from_file_location("made_tree", Path(__file__).with_name("made_tree.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)
Bed = made.Bed
a_model = made.a_model
some_parameters = made.some_parameters
inflow = made.inflow
tree_drop_without_inertia = made.tree_drop_without_inertia
reference = made.reference


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_converges_with_third_order_to_scipy_on_the_full_equations(n):
    model, p = a_model(n, seed=n), some_parameters(n)
    end = 0.4
    # Started uneven on purpose, but with the flow that conservation asks for.
    q0 = inflow(0.0)[0] * (1.0 + 0.5 * np.linspace(-1, 1, n) if n > 1 else np.ones(1)) / n
    pc0 = np.linspace(9e3, 1.1e4, n)
    coarse = np.linspace(0.0, end, 41)
    flow, bed, inlet = reference(model, p, coarse, q0, pc0)
    errors = []
    for per in (1, 2, 4):
        t = np.linspace(0.0, end, 40 * per + 1)
        value, rate = inflow(t)
        run = simulate(model, p, t, value, rate, flow=q0[None], capacitor_pressure=pc0[None])
        errors.append(
            [
                np.abs(run.flow[::per, 0] - flow).max() / np.abs(flow).max(),
                np.abs(run.capacitor_pressure[::per, 0] - bed).max() / np.abs(bed).max(),
                np.abs(run.inlet_pressure[::per, 0] - inlet).max() / np.abs(inlet).max(),
            ]
        )
    errors = np.array(errors)
    assert (errors[-1] < 2e-4).all()
    columns = slice(1, None) if n == 1 else slice(None)  # a single outlet's flow is the inflow itself
    orders = np.log2(errors[:-1, columns] / errors[1:, columns])
    assert (orders[-1] > 2.6).all(), orders
    if n == 1:
        np.testing.assert_allclose(run.flow[:, 0, 0], value, rtol=1e-14)


def test_windkessel_charges_as_its_closed_form():
    model = a_model(1)
    p = PortParameters(*(np.array([[v]]) for v in (1e8, 1.3e9, 8e-10, 400.0)))
    q, time = 7e-6, np.linspace(0.0, 3.0, 1501)
    run = simulate(
        model,
        p,
        time,
        np.full(time.shape, q),
        np.zeros(time.shape),
        flow=np.array([[q]]),
        capacitor_pressure=np.array([[400.0]]),
    )
    expected = 400.0 + 1.3e9 * q * (1.0 - np.exp(-time / (1.3e9 * 8e-10)))
    np.testing.assert_allclose(run.capacitor_pressure[:, 0, 0], expected, rtol=1e-8)
    np.testing.assert_allclose(run.outlet_pressure[:, 0, 0], expected + 1e8 * q, rtol=1e-8)
    lost = model.loss[0] + model.junction_loss[0] + model.recovery[0]
    drop = model.resistance[0, 0] * q + lost * q**2
    np.testing.assert_allclose(run.inlet_pressure[:, 0] - run.outlet_pressure[:, 0, 0], drop, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    log_step=st.floats(-6.0, 4.0),
    log_scale=st.floats(-4.0, 4.0),
    jump=st.floats(-1e-3, 1e-3),
)
@example(n=4, seed=0, log_step=0.0, log_scale=1.0, jump=0.000400193476876866)
def test_two_solutions_approach_each_other_at_any_step(n, seed, log_step, log_scale, jump):
    """Contraction in the energy norm, which holds for the equations and so must for the method."""
    rng = np.random.default_rng(seed)
    model = a_model(n, seed, loss=10.0**log_scale)
    one = some_parameters(n, seed=seed)
    factors = 10.0 ** rng.uniform(-3.0, 3.0, (3, n))
    p = PortParameters(
        *(
            np.repeat(a, 2, axis=0)
            for a in (
                one.proximal_resistance * factors[0],
                one.distal_resistance * factors[1],
                one.compliance * factors[2],
                one.distal_pressure,
            )
        )
    )
    start = rng.normal(size=(2, n)) * 1e-4
    start[1] += (start[0].sum() - start[1].sum()) / n
    past = rng.normal(size=(2, 2, n)) * 1e-4
    state = model.complete(start, rng.normal(size=(2, n)) * 2e4, 0.0, p, past)
    stepper = model.stepper(p, 10.0**log_step)

    def energy(s):
        d, c = s.flow[0] - s.flow[1], s.capacitor_pressure[0] - s.capacitor_pressure[1]
        past = s.lagged_flow[0] - s.lagged_flow[1]
        stored = sum(tau * x @ m @ x for tau, m, x in zip(model.time_constants, model.memory, past, strict=True))
        return float(d @ model.inertance @ d + (p.compliance[0] * c * c).sum() + stored)

    before = energy(state)
    for value in (jump, -jump, 0.0, 1e-5):
        state = stepper.step(state, value, 0.0)
        after = energy(state)
        assert np.isfinite(state.inlet_pressure).all()
        assert after <= before * (1.0 + 1e-6) + 1e-22
        before = after


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 10_000), log_step=st.floats(-5.0, 2.0))
def test_no_volume_is_lost(n, seed, log_step):
    model, p = a_model(n, seed), some_parameters(n, members=3, seed=seed)
    rng = np.random.default_rng(seed)
    stepper = model.stepper(p, 10.0**log_step)
    state = model.complete(rng.normal(size=(3, n)) * 1e-5, rng.uniform(0, 2e4, (3, n)), 0.0, p)
    for _ in range(5):
        value, rate = rng.normal(size=3) * 1e-5, rng.normal(size=3) * 1e-4
        state = stepper.step(state, value, rate)
        size = np.abs(state.flow).sum(axis=1)
        assert (np.abs(state.flow.sum(axis=1) - value) <= 1e-12 * size).all()
        slack = np.abs(state.flow_derivative).sum(axis=1) + np.abs(rate)
        assert (np.abs(state.flow_derivative.sum(axis=1) - rate) <= 1e-9 * slack).all()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_an_ensemble_equals_its_members_one_by_one(n):
    model, p = a_model(n), some_parameters(n, members=7)
    t = np.linspace(0.0, 0.8, 161)
    value, rate = inflow(t)
    scales = np.linspace(0.5, 1.5, 7)
    together = simulate(model, p, t, value[:, None] * scales, rate[:, None] * scales)
    for i in range(7):
        alone = PortParameters(
            *(a[i : i + 1] for a in (p.proximal_resistance, p.distal_resistance, p.compliance, p.distal_pressure))
        )
        single = simulate(model, alone, t, value * scales[i], rate * scales[i])
        np.testing.assert_allclose(together.flow[:, i], single.flow[:, 0], rtol=1e-9, atol=1e-16)
        np.testing.assert_allclose(together.inlet_pressure[:, i], single.inlet_pressure[:, 0], rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_factor_on_the_drop_is_a_tree_with_such_losses(n):
    """The same tree with resistance and losses multiplied, inertance and memory left, gives the same flow."""
    model, p = a_model(n), some_parameters(n)
    t = np.linspace(0.0, 0.8, 161)
    value, rate = inflow(t)
    for factor in (0.7, 1.0, 1.4):
        tighter = replace(
            model,
            resistance=factor * model.resistance,
            loss=factor * model.loss,
            junction_loss=factor * model.junction_loss,
            recovery=factor * model.recovery,
        )
        made = simulate(model, replace(p, drop_factor=np.array([factor])), t, value, rate)
        meant = simulate(tighter, p, t, value, rate)
        np.testing.assert_allclose(made.flow, meant.flow, rtol=1e-7, atol=1e-13)
        np.testing.assert_allclose(made.inlet_pressure, meant.inlet_pressure, rtol=1e-7)
    with pytest.raises(InputError, match="drop factor"):
        replace(p, drop_factor=np.array([0.0]))


def test_steady_state_satisfies_the_steady_equations():
    model, p = a_model(3), some_parameters(3, members=2)
    state = model.steady_state(p, np.array([8e-6, 2e-5]))
    for i in range(2):
        q = state.flow[i]
        outlet = (p.proximal_resistance[i] + p.distal_resistance[i]) * q + p.distal_pressure[i]
        np.testing.assert_allclose(state.outlet_pressure[i], outlet, rtol=1e-7)
        inlet = outlet + tree_drop_without_inertia(model, q)
        np.testing.assert_allclose(inlet, state.inlet_pressure[i], rtol=1e-7)


def test_still_blood_stays_still_and_a_closed_outlet_carries_nothing():
    model = a_model(2)
    p = PortParameters(np.full((1, 2), 1e8), np.array([[1e9, 1e18]]), np.array([[1e-9, 0.0]]), np.zeros((1, 2)))
    state = model.complete(np.zeros((1, 2)), np.zeros((1, 2)), 0.0, p)
    stepper = model.stepper(p, 2e-3)
    for _ in range(10):
        state = stepper.step(state, 0.0, 0.0)
    assert not state.flow.any()
    assert not state.inlet_pressure.any()
    for _ in range(3000):
        state = stepper.step(state, 1e-5, 0.0)
    assert abs(state.flow[0, 1]) < 1e-8 * 1e-5
    assert state.flow[0, 0] == pytest.approx(1e-5, rel=1e-8)


def test_a_jump_of_the_inflow_splits_as_inertia_wants():
    """Impulsive start: L dQ = 1 dP, so that the flows jump along L^-1 1, with no spike in the difference."""
    model, p = a_model(3), some_parameters(3)
    state = model.complete(np.zeros((1, 3)), np.zeros((1, 3)), 0.0, p)
    state = model.stepper(p, 1e-9).step(state, 1e-5, 0.0)
    wanted = np.linalg.solve(model.inertance, np.ones(3))
    np.testing.assert_allclose(state.flow[0], 1e-5 * wanted / wanted.sum(), rtol=1e-5)
    np.testing.assert_allclose(model.inertial_share, wanted / wanted.sum())


def test_what_no_vessel_bed_has_is_refused():
    good = some_parameters(2)
    for name, value, word in [
        ("proximal_resistance", -1.0, "zero or positive"),
        ("distal_resistance", 0.0, "positive"),
        ("compliance", -1e-12, "zero or positive"),
        ("distal_pressure", np.nan, "finite"),
        ("distal_resistance", np.inf, "finite"),
    ]:
        arrays = {k: None if v is None else v.copy() for k, v in vars(good).items()}
        arrays[name][0, 1] = value
        with pytest.raises(InputError, match=f"{name}.*{word}"):
            PortParameters(**arrays)
    with pytest.raises(InputError, match="2 outlets"):
        a_model(2).stepper(some_parameters(3), 1e-3)
    with pytest.raises(InputError, match="time step"):
        a_model(2).stepper(good, 0.0)
    with pytest.raises(InputError, match="No Windkessel"):
        PortParameters.of({"outlet_1": Bed(1.0, 1.0, 1.0)}, ["outlet_1", "outlet_2"])
    parts = dict(a_model(2).__dict__)
    parts.pop("elimination", None)
    for name, factor, word in [
        ("resistance", -1.0, "passive"),
        ("inertance", -1.0, "positive definite"),
        ("loss", -1.0, "negative"),
        ("memory", -1.0, "feed energy"),
        ("time_constants", -1.0, "positive"),
    ]:
        with pytest.raises(InputError, match=word):
            PortModel(**{**parts, name: factor * parts[name]})


@pytest.mark.parametrize("n", [1, 2, 5])
def test_many_steps_at_once_are_the_steps_one_by_one_to_the_bit(n):
    model, p = a_model(n, seed=n), some_parameters(n, members=4)
    scale = np.linspace(0.7, 1.3, 4)
    stepper = model.stepper(p, 4e-3)
    times = np.arange(1, 120) * 4e-3
    value, rate = inflow(times)
    first = model.steady_state(p, scale * inflow(0.0)[0])
    one = first
    for v, r in zip(value, rate, strict=True):
        one = stepper.step(one, scale * v, scale * r)
    together = stepper.advance(first, np.outer(value, scale), np.outer(rate, scale))
    every = stepper.states(first, np.outer(value, scale), np.outer(rate, scale))
    assert len(every) == len(times)
    for name in ("flow", "capacitor_pressure", "lagged_flow", "flow_derivative", "inlet_pressure", "outlet_pressure"):
        assert np.array_equal(getattr(one, name), getattr(together, name)), name
        assert np.array_equal(getattr(one, name), getattr(every[-1], name)), name


@pytest.mark.parametrize("n", [1, 2, 8])
def test_lanes_say_what_one_member_after_another_says_and_do_not_know_their_neighbours(n, monkeypatch):
    """The compiled vectors against the other implementation; six members fill one block and half of another."""
    model, p = a_model(n, seed=5), some_parameters(n, members=6)
    lanes = best_advance()
    if lanes is advance:
        pytest.skip("there is no C compiler, so nothing is compiled to lanes")
    scale = np.linspace(0.5, 2.0, 6)
    value, rate = inflow(np.arange(1, 80) * 5e-3)
    first = model.steady_state(p, scale * inflow(0.0)[0])
    ends, rates = np.outer(value, scale), np.outer(rate, scale)
    together = model.stepper(p, 5e-3).trajectory(first, ends, rates)
    monkeypatch.setattr(port_stepper, "best_advance", lambda: advance)
    singly = model.stepper(p, 5e-3).trajectory(first, ends, rates)
    for one, other in zip(together, singly, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-10 * np.abs(other).max())
    monkeypatch.setattr(port_stepper, "best_advance", lambda: lanes)
    alone = PortParameters(*(getattr(p, name)[4:5] for name in ("proximal_resistance", "distal_resistance",
                                                                "compliance", "distal_pressure")))  # fmt: skip
    start = PortState(*(getattr(first, name)[4:5] for name in PortState.__dataclass_fields__))
    own = model.stepper(alone, 5e-3).trajectory(start, ends[:, 4:5], rates[:, 4:5])
    for one, other in zip(own, together, strict=True):
        assert np.array_equal(one[:, 0], other[:, 4])
