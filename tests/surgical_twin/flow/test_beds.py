"""Lumped beds against SciPy's integration of their equations, alone and behind a tube."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from surgical_twin.errors import InputError
from surgical_twin.flow.beds import CoronaryBed, GivenPressure, Resistance
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.run import run_flow
from surgical_twin.flow.tuning import periodic_state
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

MMHG = 133.322


def squeeze(period=0.8):
    """Pressure of a contracting ventricle: up to 110 mmHg in systole."""
    return PeriodicWaveform.from_function(
        lambda time: 110 * MMHG * np.where(time < 0.32, np.sin(np.pi * np.minimum(time, 0.32) / 0.32) ** 2, 0.0), period
    )


def coronary():
    return CoronaryBed(
        arterial_resistance=2e9,
        arterial_compliance=2e-12,
        microvascular_resistance=2e9,
        myocardial_compliance=6e-11,
        venous_resistance=1.5e9,
        myocardial_pressure=squeeze(),
        venous_pressure=5 * MMHG,
    )


def test_windkessel_follows_its_equation_to_a_thousandth():
    bed = Windkessel(2e8, 2.2e9, 3e-10, 10 * MMHG)
    flow = PeriodicWaveform.named("peripheral", mean=5e-6, period=0.8)
    circuit, dt = bed.circuit(), 0.0025
    now = before = np.array([12_000.0])
    times, pressures = [], []
    for step in range(1, 641):
        bdf = (1.0, -1.0, 0.0) if step == 1 else (1.5, -2.0, 0.5)
        relation = circuit.affine(tuple(a / dt for a in bdf), now, before, step * dt)
        q = flow.value(step * dt)
        before, now = now, relation.slope * q + relation.known
        times.append(step * dt)
        pressures.append(relation.impedance * q + relation.stored)

    def change(time, capacitor):
        return (flow.value(time) - (capacitor - 10 * MMHG) / 2.2e9) / 3e-10

    exact = solve_ivp(change, (0, times[-1]), [12_000.0], t_eval=times, max_step=0.002, rtol=1e-9)
    expected = exact.y[0] + 2e8 * np.array([flow.value(time) for time in times])
    assert np.abs(np.array(pressures) - expected).max() < 1e-3 * np.ptp(expected)


def test_a_coronary_bed_behind_a_tube_follows_its_equations_and_flows_in_diastole(tube):
    bed = coronary()
    aorta = PeriodicWaveform.from_function(lambda t: MMHG * (95 + 20 * np.sin(2 * np.pi * (t - 0.05) / 0.8)), 0.8)
    run = run_flow(
        tube(1.5e-3, 12e-3, 3, 5),
        inflow={"inlet": GivenPressure(aorta)},
        outlets={"outlet_1": bed},
        duration=1.6,
        time_step=0.005,
    )

    def change(time, stored):
        flow = np.interp(time, run.time, run.port_flow[:, 1])
        first = (flow - (stored[0] - stored[1]) / 2e9) / 2e-12
        squeezing = bed.myocardial_pressure.derivative(time)
        second = squeezing + ((stored[0] - stored[1]) / 2e9 - (stored[1] - 5 * MMHG) / 1.5e9) / 6e-11
        return [first, second]

    # From the second beat on: the first steps, of first order, are not what is compared.
    begin = np.searchsorted(run.time, 0.8)
    start = run.capacitor_pressure[begin, 0]
    flow = run.port_flow[begin:, 1]

    def unknown_second(second):
        ends = solve_ivp(change, (run.time[begin], run.time[-1]), [start, second], max_step=0.002, rtol=1e-8,
                         t_eval=run.time[begin:])  # fmt: skip
        return ends.y[0] - run.capacitor_pressure[begin:, 0]

    # The bed's second stored pressure is not recorded: linear in it, so two runs give the one that fits best.
    zero, one = unknown_second(0.0), unknown_second(1000.0)
    fit = -1000.0 * (zero @ (one - zero)) / ((one - zero) @ (one - zero))
    assert np.abs(unknown_second(fit)).max() < 0.01 * np.ptp(run.capacitor_pressure[begin:, 0])
    assert 0 < fit < 120 * MMHG
    late = run.time[begin:] % 0.8
    systole = flow[(late > 0.05) & (late < 0.2)].mean()
    diastole = flow[(late > 0.4) & (late < 0.7)].mean()
    assert diastole > 1.25 * systole
    np.testing.assert_allclose(run.port_flow[5:, 0], run.port_flow[5:, 1], rtol=1e-6, atol=1e-12)


def test_pressure_and_resistance_meet_ohm_and_poiseuille(tube):
    domain = tube(2e-3, 20e-3, 4, 8)
    solver = NavierStokes(
        domain,
        inflow={"inlet": GivenPressure(100 * MMHG)},
        outlets={"outlet_1": Resistance(2e10, 10 * MMHG)},
        time_step=0.01,
    )
    for _ in range(60):
        solver.step()
    lumen = 8 * 3.5e-3 * 20e-3 / (np.pi * 2e-3**4)
    assert solver.port_flow[0] == pytest.approx(90 * MMHG / (2e10 + lumen), rel=0.01)
    assert solver.port_pressure[1] == pytest.approx(10 * MMHG + 2e10 * solver.port_flow[1], rel=1e-6)


@pytest.mark.parametrize("bed", [Windkessel(2e8, 2.2e9, 3e-10, 10 * MMHG), coronary()])
def test_the_periodic_state_is_where_a_long_integration_ends(bed):
    flow = PeriodicWaveform.named("carotid", mean=2e-6, period=0.8)
    circuit = bed.circuit()
    period = 0.8
    run = solve_ivp(
        lambda time, stored: circuit.rates @ stored + circuit.charge * flow.value(time) + circuit.source(time),
        (0, 12 * period),
        np.full(len(circuit.charge), 8000.0),
        max_step=0.008,
        rtol=1e-6,
    )
    np.testing.assert_allclose(periodic_state(circuit, flow), run.y[:, -1], rtol=2e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Resistance(-1.0),
        lambda: GivenPressure(np.nan),
        lambda: CoronaryBed(1e9, -1e-12, 1e9, 1e-11, 1e9, squeeze()),
        lambda: CoronaryBed(1e9, 1e-12, 0.0, 1e-11, 1e9, squeeze()),
        lambda: GivenFlow(squeeze(), "round"),  # type: ignore[arg-type]
    ],
)
def test_beds_and_profiles_that_cannot_be_are_refused(make):
    with pytest.raises(InputError):
        make()
