"""The 3D solver against exact solutions, SciPy, and itself interrupted."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import jv

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.navier_stokes import FlowDiverged, NavierStokes
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.run import FlowRun, run_flow
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

DENSITY, VISCOSITY = 1060.0, 3.5e-3
RADIUS, LENGTH = 3e-3, 20e-3


def constant(flow, period=0.5):
    return PeriodicWaveform.from_table(np.linspace(0, period, 6), np.full(6, flow))


def bed(flow, compliance=1e-11):
    resistance = 12_000.0 / flow
    return {"outlet_1": Windkessel(0.1 * resistance, 0.9 * resistance, compliance)}


def steady(domain, flow, rheology=None, steps=50):
    solver = NavierStokes(domain, inflow=constant(flow), outlets=bed(flow), time_step=0.02, rheology=rheology)
    for _ in range(steps):
        solver.step()
    return solver


def middle_gradient(solver):
    """Pressure gradient [Pa/m] over the middle half, away from both ends."""
    z = solver.domain.points[:, 2]
    inside = (z > 0.25 * LENGTH) & (z < 0.75 * LENGTH)
    return -np.polyfit(z[inside], solver.pressure[inside], 1)[0]


def test_poiseuille_flow_is_met_to_second_order(tube):
    flow = 3e-6
    exact = 8 * VISCOSITY * flow / (np.pi * RADIUS**4)
    error = []
    for rings, layers in ((3, 8), (6, 16)):
        solver = steady(tube(RADIUS, LENGTH, rings, layers), flow)
        # The mesh's section is a polygon: its area, and so its resistance, converge to second order as well.
        error.append(abs(middle_gradient(solver) / exact - 1))
    assert error[1] < 0.05
    assert np.log2(error[0] / error[1]) > 1.4


def test_the_time_step_does_not_change_a_steady_flow(tube_parts):
    """A stenosis of two thirds of the area: its drop with steps fifty times shorter, begun from the steady state."""
    mesh, ports = tube_parts
    points, cells, triangles, tags = mesh(RADIUS, LENGTH, 4, 20)
    points[:, :2] *= 1 - 0.42 * np.exp(-(((points[:, 2] - 8e-3) / 3e-3) ** 2))[:, None]
    domain = FlowDomain.build(points, cells, triangles, tags, ports(RADIUS, LENGTH))
    flow = 8e-6
    long = NavierStokes(domain, inflow=constant(flow), outlets=bed(flow), time_step=0.01)
    for _ in range(70):
        long.step()
    short = NavierStokes(domain, inflow=constant(flow), outlets=bed(flow), time_step=0.0002, ramp=False)
    short.start(long.velocity, long.velocity, long.pressure)
    for _ in range(120):
        short.step()
    drops = [solver.port_pressure[0] - solver.port_pressure[1] for solver in (long, short)]
    assert drops[0] > 100.0
    assert drops[1] == pytest.approx(drops[0], rel=0.005)


def test_flow_in_equals_flow_out_to_rounding(tube):
    solver = steady(tube(), 5e-6, steps=20)
    assert solver.mass_error < 1e-9
    assert solver.port_flow[1] == pytest.approx(5e-6, rel=1e-9)


def test_womersley_flow_has_the_exact_profile(tube):
    """Oscillating part of pulsatile flow in a tube (Womersley, J. Physiol. 127 (1955) 553)."""
    alpha = 4.0
    omega = alpha**2 * VISCOSITY / DENSITY / RADIUS**2
    period = 2 * np.pi / omega
    # Slow, so that the profile given at the inlet has become the pulsatile one long before the middle.
    mean, amplitude = 2e-7, 1e-7
    times = np.linspace(0, period, 65)
    waveform = PeriodicWaveform.from_table(times, mean + amplitude * np.cos(omega * times))
    domain = tube(RADIUS, LENGTH, 6, 14)
    solver = NavierStokes(
        domain,
        inflow=waveform,
        outlets=bed(mean),
        time_step=period / 80,
        density=DENSITY,
        rheology=Newtonian(VISCOSITY),
    )
    center = np.argmin(np.linalg.norm(domain.points - [0, 0, 0.6 * LENGTH], axis=1))
    recorded = []
    for step in range(2 * 80 + 80):
        solver.step()
        if step >= 2 * 80:
            recorded.append((solver.time, solver.velocity[center, 2]))
    time, velocity = np.array(recorded).T
    numeric = 2 * np.mean(velocity * np.exp(-1j * omega * time))
    beta = 1j**1.5 * alpha
    area = np.pi * RADIUS**2
    exact = amplitude / area * (1 - 1 / jv(0, beta)) / (1 - 2 * jv(1, beta) / (beta * jv(0, beta)))
    assert abs(numeric - exact) / abs(exact) < 0.06


def test_the_outlet_follows_the_windkessels_own_equation(tube):
    """Second implementation: SciPy integrates the same Windkessel on the flow that the solver let through."""
    waveform = PeriodicWaveform.named("peripheral", mean=5e-6, period=0.8)
    outlets = {"outlet_1": Windkessel(2e8, 2.2e9, 3e-10)}
    run = run_flow(tube(), inflow=waveform, outlets=outlets, duration=1.2, time_step=0.005)

    def change(time, capacitor):
        return (np.interp(time, run.time, run.port_flow[:, 1]) - capacitor / 2.2e9) / 3e-10

    exact = solve_ivp(change, (0, run.time[-1]), run.capacitor_pressure[0], t_eval=run.time, max_step=0.002, rtol=1e-8)
    pressure = exact.y[0] + 2e8 * run.port_flow[:, 1]
    pulse = np.ptp(pressure[50:])
    assert np.abs(run.port_pressure[50:, 1] - pressure[50:]).max() < 0.005 * pulse


def test_a_stiff_outlet_sets_no_limit_on_the_time_step(tube):
    """An explicitly coupled outlet is unstable here: Rp dt / (rho L / A) is some 400."""
    outlets = {"outlet_1": Windkessel(2e11, 1e9, 1e-12)}
    solver = NavierStokes(tube(), inflow=constant(2e-6), outlets=outlets, time_step=0.02)
    for _ in range(30):
        solver.step()
    assert solver.port_flow[1] == pytest.approx(2e-6, rel=1e-8)
    assert solver.port_pressure[1] == pytest.approx(2e-6 * (2e11 + 1e9), rel=0.02)


def test_strong_backflow_through_the_outlet_stays_bounded(tube):
    times = np.linspace(0, 0.6, 61)
    waveform = PeriodicWaveform.from_table(times, 4e-6 + 14e-6 * np.cos(2 * np.pi * times / 0.6))
    solver = NavierStokes(tube(), inflow=waveform, outlets=bed(4e-6, 1e-10), time_step=0.005)
    fastest = 0.0
    for _ in range(180):
        solver.step()
        fastest = max(fastest, float(np.abs(solver.velocity).max()))
    assert solver.port_flow.min() > -20e-6
    assert fastest < 4 * 18e-6 / (np.pi * RADIUS**2)


def test_shear_thinning_blood_meets_the_radial_equation(tube):
    """Second implementation: the fully developed profile of the same law by SciPy's boundary value solver."""
    law, flow = CarreauYasuda(), 1.5e-6
    solver = steady(tube(RADIUS, LENGTH, 6, 16), flow, rheology=law, steps=70)
    gradient = middle_gradient(solver)

    def rate_of(stress):
        low, high = np.zeros_like(stress), np.full_like(stress, 1e5)
        for _ in range(80):
            middle = 0.5 * (low + high)
            too_much = law.at(middle) * middle > stress
            low, high = np.where(too_much, low, middle), np.where(too_much, middle, high)
        return low

    radius = np.linspace(0, RADIUS, 400)

    def carried(slope):
        rate = rate_of(0.5 * slope * radius)
        return np.pi * np.trapezoid(radius**2 * rate, radius)

    low, high = 1.0, 1e4
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if carried(middle) < flow else (low, middle)
    assert gradient == pytest.approx(low, rel=0.06)
    assert low > 1.1 * 8 * law.high_shear_viscosity * flow / (np.pi * RADIUS**4)


def test_fields_come_in_the_order_of_the_points(tube_parts):
    mesh, ports = tube_parts
    points, cells, outer, tags = mesh(RADIUS, LENGTH, 3, 6)
    order = np.random.default_rng(0).permutation(len(points))
    place = np.argsort(order)
    shuffled = FlowDomain.build(points[order], place[cells], place[outer], tags, ports(RADIUS, LENGTH))
    straight = FlowDomain.build(points, cells, outer, tags, ports(RADIUS, LENGTH))
    one, other = steady(straight, 3e-6, steps=8), steady(shuffled, 3e-6, steps=8)
    np.testing.assert_allclose(other.velocity, one.velocity[order], atol=1e-6)
    np.testing.assert_allclose(other.pressure, one.pressure[order], rtol=1e-6)


def test_a_run_interrupted_and_resumed_gives_the_same_result(tube, tmp_path):
    conditions = {"inflow": constant(3e-6), "outlets": bed(3e-6), "duration": 0.4, "time_step": 0.005}
    domain = tube(RADIUS, LENGTH, 3, 6)
    through = run_flow(domain, **conditions)
    checkpoint = tmp_path / "checkpoint.npz"

    class Stop(Exception):
        pass

    def stop(share):
        if share > 0.8:
            raise Stop

    with pytest.raises(Stop):
        run_flow(domain, **conditions, checkpoint=checkpoint, progress=stop)
    assert checkpoint.exists()
    resumed = run_flow(domain, **conditions, checkpoint=checkpoint)
    np.testing.assert_array_equal(resumed.port_pressure, through.port_pressure)
    np.testing.assert_array_equal(resumed.velocity, through.velocity)
    assert not checkpoint.exists()
    resumed.save(tmp_path / "run.npz")
    loaded = FlowRun.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(loaded.pressure, resumed.pressure)
    assert loaded.windkessels == resumed.windkessels


def test_a_run_that_blows_up_says_when_and_where(tube):
    solver = NavierStokes(tube(RADIUS, LENGTH, 3, 6), inflow=constant(3e-6), outlets=bed(3e-6), time_step=0.01)
    solver.step()
    solver.velocity[40] = 1e6
    with pytest.raises(FlowDiverged, match=r"step 2 at .* mm"):
        solver.step()


def test_a_damaged_run_or_checkpoint_is_refused(tube, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"bad\.npz"):
        FlowRun.load(tmp_path / "bad.npz")
    with pytest.raises(InputError, match="cannot be resumed"):
        run_flow(tube(RADIUS, LENGTH, 3, 6), inflow=constant(3e-6), outlets=bed(3e-6), duration=0.1, time_step=0.05,
                 checkpoint=tmp_path / "bad.npz")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outlets": {}}, "outlet_1"),
        ({"outlets": {"elsewhere": Windkessel(1e8, 1e9, 1e-10)}}, "elsewhere"),
        ({"time_step": 0.0}, "positive"),
        ({"density": -1.0}, "positive"),
    ],
)
def test_conditions_that_cannot_be_are_refused(tube, change, words):
    conditions = {"inflow": constant(3e-6), "outlets": bed(3e-6), "time_step": 0.01, **change}
    with pytest.raises(InputError, match=words):
        NavierStokes(tube(RADIUS, LENGTH, 3, 6), **conditions)
