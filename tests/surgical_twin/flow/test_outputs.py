"""What is read off a run, each against a formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.energy import EnergyMeter, energy_gap
from surgical_twin.flow.inflow import PROFILES, GivenFlow, PortVelocity
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.periodicity import beat_change
from surgical_twin.flow.pressure_ratio import pressure_ratios, wave_free_window
from surgical_twin.flow.sections import centerline_sections, cut
from surgical_twin.flow.wall_shear import WallShear, shear_means
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

RADIUS, LENGTH = 3e-3, 20e-3


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-0.6, 0.6),
    st.floats(-0.6, 0.6),
    st.floats(0.35, 0.65),
    st.tuples(*[st.floats(-2, 2)] * 4),
)
def test_a_section_integrates_linear_fields_exactly(tube, tilt_x, tilt_y, place, coefficients):
    """Area, flow and mean pressure of a plane cut through a prism over a polygon, by projection onto its base."""
    domain = tube(RADIUS, LENGTH, 3, 6)
    normal = np.array([tilt_x, tilt_y, 1.0])
    center = np.array([1e-4, -2e-4, place * LENGTH])
    sections = cut(domain, center, normal)
    base = domain.port_load(domain.inlet).sum()
    length = np.linalg.norm(normal)
    assert sections.area[0] == pytest.approx(base * length, rel=1e-9)
    # Whatever plane cuts it, the flow of a constant velocity is that through the base.
    velocity = np.tile([0.3, -0.2, 0.5], (len(domain.points), 1))
    assert sections.flow(velocity)[0] == pytest.approx(base * (velocity[0] @ normal), rel=1e-9)
    slope = np.array(coefficients[:3]) / RADIUS
    field = domain.points @ slope + coefficients[3]
    # A linear field's mean is its value at the section's middle: on the axis, by symmetry of the polygon.
    axis_z = center[2] - (tilt_x * (0 - center[0]) + tilt_y * (0 - center[1]))
    expected = slope @ [0, 0, axis_z] + coefficients[3]
    assert sections.pressure(field)[0] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_sections_do_not_change_under_a_rotation(tube_parts):
    mesh, ports = tube_parts
    points, cells, outer, tags = mesh(RADIUS, LENGTH, 3, 6)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    shift = np.array([0.1, -0.2, 0.05])
    domain = FlowDomain.build(points, cells, outer, tags, ports(RADIUS, LENGTH))
    turned = FlowDomain.build(points @ rotation.T + shift, cells, outer, tags, ports(RADIUS, LENGTH))
    velocity = np.random.default_rng(1).normal(size=points.shape)
    centers = np.array([[0, 0, 0.4 * LENGTH], [1e-3, 0, 0.6 * LENGTH]])
    normals = np.array([[0.2, 0.1, 1.0], [0, -0.3, -1.0]])
    one = cut(domain, centers, normals).flow(velocity)
    other = cut(turned, centers @ rotation.T + shift, normals @ rotation.T).flow(velocity @ rotation.T)
    np.testing.assert_allclose(other, one, rtol=1e-9)


def test_sections_along_the_centerline_keep_off_the_ports(tube):
    domain = tube(RADIUS, LENGTH, 3, 8)
    line = np.column_stack([np.zeros((50, 2)), np.linspace(-1e-3, LENGTH + 1e-3, 50)])
    sections, distance = centerline_sections(domain, line, 1e-3)
    assert distance.min() > 1e-3
    assert len(distance) > 10
    np.testing.assert_allclose(sections.area, sections.area[0], rtol=1e-3)
    with pytest.raises(InputError, match="does not meet"):
        cut(domain, np.array([0, 0, 1.0]), np.array([0, 0, 1.0]))
    with pytest.raises(InputError, match="no length"):
        cut(domain, np.array([0, 0, 0.01]), np.zeros(3))


@pytest.mark.parametrize("order", [1, 2])
def test_wall_shear_of_poiseuille_flow_and_its_energy(tube, order):
    flow, mu = 1e-6, 3.5e-3
    domain = tube(RADIUS, LENGTH, 5, 8) if order == 1 else tube(RADIUS, LENGTH, 4, 5)
    solver = NavierStokes(
        domain,
        inflow=PeriodicWaveform.constant(flow, 0.5),
        outlets={"outlet_1": Windkessel(1e9, 1e10, 1e-12)},
        time_step=0.02,
        order=order,
    )
    for _ in range(40):
        solver.step()
    shear = WallShear(solver)
    stress = shear.stress()
    z = domain.points[shear.nodes, 2]
    inside = (z > 0.25 * LENGTH) & (z < 0.75 * LENGTH)
    exact = 4 * mu * flow / (np.pi * RADIUS**3)
    assert stress[inside, 2].mean() == pytest.approx(exact, rel=0.04)
    assert np.abs(stress[inside, 2] / exact - 1).max() < 0.12
    assert np.abs(stress[inside, :2]).max() < 0.05 * exact
    energy = np.stack([EnergyMeter(solver).measure()] * 2)
    gap, loss = energy_gap(np.array([0.0, 1.0]), energy)
    assert abs(gap) < 0.02
    assert loss == pytest.approx(8 * mu * flow**2 * LENGTH / (np.pi * RADIUS**4), rel=0.12)


def test_shear_means_of_known_histories():
    time = np.linspace(0, 1, 2001)
    steady = np.tile([1.0, 0, 0], (len(time), 1))
    swinging = np.column_stack([np.sin(2 * np.pi * time), *[0 * time] * 2])
    mixed = np.column_stack([0.5 + np.sin(2 * np.pi * time), *[0 * time] * 2])
    means = shear_means(time, np.stack([steady, swinging, mixed], axis=1))
    # int |0.5 + sin| over a period: by hand 2/pi (sqrt(3)/2 + pi/12)
    size = 2 / np.pi * (np.sqrt(3) / 2 + np.pi / 12)
    np.testing.assert_allclose(means.mean_magnitude, [1, 2 / np.pi, size], rtol=1e-5)
    np.testing.assert_allclose(means.oscillation, [0, 0.5, 0.5 * (1 - 0.5 / size)], atol=1e-5)
    np.testing.assert_allclose(means.residence[[0, 2]], [1, 2], rtol=1e-5)
    assert means.residence[1] > 1e6


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_carries_the_flow_on_a_section_of_any_shape(tube_parts, profile, order):
    mesh, ports = tube_parts
    points, cells, outer, tags = mesh(RADIUS, LENGTH, 4, 3)
    squeezed = points * [1.0, 0.6, 1.0] + np.outer(points[:, 0] ** 2 / RADIUS, [0, 0.4, 0])
    domain = FlowDomain.build(squeezed, cells, outer, tags, ports(RADIUS, LENGTH))
    space = LagrangeSpace(domain.points, domain.tetrahedra, order)
    wave = PeriodicWaveform.named("aorta", mean=5e-6, period=0.8)
    shape = PortVelocity(domain, space, domain.inlet, GivenFlow(wave, profile), 3.3e-6)
    solver = NavierStokes(
        domain,
        inflow={"inlet": GivenFlow(wave, profile)},
        outlets={"outlet_1": Windkessel(1e8, 1e9, 1e-10)},
        time_step=0.01,
        order=order,
        ramp=False,
        max_cfl=np.inf,
    )
    for time in (0.013, 0.2, 0.55):
        velocity = np.zeros((len(space), 3))
        velocity[shape.nodes] = shape.at(time)
        net = sum(float((flux @ velocity[:, k]).sum()) for k, flux in enumerate(solver._port_fluxes[0]))
        assert -net == pytest.approx(wave.value(time), rel=1e-9)
    solver.step()
    assert solver.port_flow[0] == pytest.approx(wave.value(0.01), rel=1e-9)
    assert solver.port_flow[1] == pytest.approx(wave.value(0.01), rel=1e-6)


def test_waveforms_by_formula_by_fourier_and_by_file_agree(tmp_path):
    exact = PeriodicWaveform.from_function(lambda t: 2 + np.cos(4 * np.pi * t) - 3 * np.sin(2 * np.pi * t), 1.0)
    fourier = PeriodicWaveform.from_fourier([2, 0, 1], [0, -3, 0], 1.0)
    table = np.linspace(0, 1000, 401)
    values = 2 + np.cos(4 * np.pi * table / 1000) - 3 * np.sin(2 * np.pi * table / 1000)
    path = tmp_path / "flow.csv"
    path.write_text("time,flow\n" + "\n".join(f"{t},{v}" for t, v in zip(table, values, strict=True)))
    read = PeriodicWaveform.from_csv(path, time_unit=1e-3)
    for time in (0.0, 0.111, 0.7, 1.3):
        assert fourier.value(time) == pytest.approx(exact.value(time), abs=1e-4)
        assert read.value(time) == pytest.approx(exact.value(time), abs=1e-4)
    path.write_text("time,flow\n0,1\n0.1,oops\n")
    with pytest.raises(InputError, match="line 3"):
        PeriodicWaveform.from_csv(path)
    with pytest.raises(InputError, match="not periodic"):
        PeriodicWaveform.from_function(lambda t: t, 1.0)
    with pytest.raises(InputError, match="as many cosines"):
        PeriodicWaveform.from_fourier([1, 2], [0], 1.0)


def test_pressure_ratios_of_a_known_beat():
    time = np.linspace(0, 0.8, 401)
    # Systole to 0.3 s, an incisura there, then decay to the foot at the beat's end.
    systole = 80 + 40 * np.sin(np.pi * np.minimum(time, 0.3) / 0.36)
    proximal = np.where(time < 0.3, systole, 80 + 24 * np.exp(-(time - 0.3) / 0.15) - 4.5 * (time - 0.3))
    proximal[-1] = proximal[0]
    begin, end = wave_free_window(time, proximal)
    assert 0.3 < begin < 0.55
    assert 0.7 < end < 0.85
    ratios = pressure_ratios(time, proximal, np.column_stack([proximal, 0.8 * proximal]))
    np.testing.assert_allclose(ratios.ffr, [1, 0.8], rtol=1e-9)
    np.testing.assert_allclose(ratios.ifr, [1, 0.8], rtol=1e-9)
    with pytest.raises(InputError, match="does not pulse"):
        pressure_ratios(time, np.full(401, 90.0), np.ones((401, 1)))


def test_a_slow_drift_is_not_taken_for_periodic():
    """Pressure that settles with a time constant of six beats changes by little from beat to beat, and is far away."""
    in_beat = 20
    steps = np.arange(5 * in_beat + 1)
    pressure = 100.0 - 30 * np.exp(-steps / in_beat / 6.0)
    flow = np.ones((len(steps), 1))
    found = beat_change(flow, pressure[:, None], in_beat)
    far = 30 * np.exp(-5 / 6.0) / 90
    assert 0.5 * far < found < 2.5 * far
    assert beat_change(flow[: 2 * in_beat], pressure[: 2 * in_beat, None], in_beat) == np.inf
    assert beat_change(flow, np.full((len(steps), 1), 5.0), in_beat) == 0.0
