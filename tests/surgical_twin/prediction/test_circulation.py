"""Periodic states against SciPy's integration of the same network, and what holding flow or pressure means."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from surgical_twin.errors import InputError
from surgical_twin.flow.port_model import PortModel, PortParameters
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.prediction.circulation import Circulation, held, periodic_beat


def tree():
    return PortModel(
        outlets=("a", "b"),
        resistance=np.array([[2e7, 5e6], [5e6, 3e7]]),
        inertance=np.array([[4e5, 1e5], [1e5, 6e5]]),
        segments=np.eye(2),
        loss=np.array([1e12, 0.0]),
        junction_loss=np.zeros(2),
        recovery=np.zeros(2),
        memory=np.zeros((0, 2, 2)),
        time_constants=np.zeros(0),
    )


def circulation(members=1):
    beds = PortParameters(
        proximal_resistance=np.tile([2e8, 3e8], (members, 1)),
        distal_resistance=np.tile([1.8e9, 3e9], (members, 1)),
        compliance=np.tile([2e-10, 1.2e-10], (members, 1)),
        distal_pressure=np.zeros((members, 2)),
    )
    waveform = PeriodicWaveform.named("peripheral", mean=9e-6, period=0.8)
    return Circulation(tree(), beds, waveform, np.ones(members))


def test_the_periodic_beat_is_that_of_scipys_integration():
    """The network as equations for the free flow and both capacitors, 30 beats at a tight tolerance."""
    made = circulation()
    model, bed, waveform = made.model, made.parameters, made.waveform
    resistance, inertance = model.resistance, model.inertance

    def drops(flow):
        return resistance @ flow + model.loss * flow * np.abs(flow)

    def slope(time, state):
        first, capacitor = state[0], state[1:]
        flow = np.array([first, waveform.value(time) - first])
        outlet = capacitor + bed.proximal_resistance[0] * flow
        # P_in - L dQ/dt - drops = P_i for both outlets, with dQ_b/dt = dQ_in/dt - dQ_a/dt.
        rate = waveform.derivative(time)
        left = inertance[0] - inertance[1]
        right = (drops(flow) + outlet)[1] - (drops(flow) + outlet)[0]
        acceleration = (right - left[1] * rate) / (left[0] - left[1])
        change = (flow - capacitor / bed.distal_resistance[0]) / bed.compliance[0]
        return [acceleration, *change]

    times = np.linspace(29 * 0.8, 30 * 0.8, 161)
    solved = solve_ivp(slope, (0, 24.0), [5e-6, 1e4, 1e4], t_eval=times, rtol=1e-8, atol=1e-12, method="LSODA").y
    beat = periodic_beat(made)
    flow = np.array([waveform.value(time) for time in times]) - solved[0]
    outlet_b = solved[2] + bed.proximal_resistance[0, 1] * flow
    assert beat.flow[:, 0, 0] == pytest.approx(solved[0][1:], abs=0.003 * np.ptp(solved[0]))
    assert beat.outlet_pressure[:, 0, 1] == pytest.approx(outlet_b[1:], abs=0.003 * np.ptp(outlet_b))


def test_holding_the_pressure_lets_the_inflow_answer_and_holding_the_flow_does_not():
    made = circulation(3)
    before = periodic_beat(made)

    harder = replace(
        made, parameters=replace(made.parameters, distal_resistance=1.5 * made.parameters.distal_resistance)
    )
    _, same_flow = held(harder, "flow", before)
    lower, same_pressure = held(harder, "pressure", before)
    assert same_flow.mean_flow.sum(axis=1) == pytest.approx(before.mean_flow.sum(axis=1), rel=1e-6)
    assert (same_flow.mean_inlet_pressure > 1.3 * before.mean_inlet_pressure).all()
    assert same_pressure.mean_inlet_pressure == pytest.approx(before.mean_inlet_pressure, rel=1e-3)
    assert (lower.scale < 0.75).all()


def test_another_period_keeps_the_mean_flow():
    made = circulation()
    faster = made.with_period(0.5)
    assert faster.waveform.period == pytest.approx(0.5)
    assert faster.waveform.mean == pytest.approx(made.waveform.mean, rel=1e-3)


def test_a_bed_that_never_fills_is_said():
    made = circulation()

    endless = replace(made, parameters=replace(made.parameters, compliance=made.parameters.compliance * 1e4))
    # Beginning from an empty bed: from its steady state it would be settled at once.
    full = periodic_beat(made).last
    empty = replace(full, capacitor_pressure=0 * full.capacitor_pressure)
    with pytest.raises(InputError, match="settled"):
        periodic_beat(endless, empty)
