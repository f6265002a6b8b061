"""Waveforms, Windkessel tuning, viscosity laws and the domain's checks."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.inflow import PortSection
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel, tune_windkessels

MMHG = 133.322


@pytest.mark.parametrize("name", ["peripheral", "carotid", "aorta"])
def test_a_named_waveform_has_its_mean_and_repeats_smoothly(name):
    waveform = PeriodicWaveform.named(name, mean=8e-6, period=0.9)
    times = np.linspace(0, 0.9, 4001)
    values = np.array([waveform.value(time) for time in times])
    assert np.trapezoid(values, times) / 0.9 == pytest.approx(8e-6, rel=1e-5)
    assert waveform.value(0.9 + 0.1) == pytest.approx(waveform.value(0.1))
    slopes = np.array([waveform.derivative(time) for time in times])
    np.testing.assert_allclose(np.gradient(values, times)[5:-5], slopes[5:-5], atol=2e-3 * np.abs(slopes).max())
    assert waveform.scaled(2.0).value(0.3) == pytest.approx(2 * waveform.value(0.3))


@pytest.mark.parametrize(
    ("times", "values", "words"),
    [
        ([0, 0.2, 0.4, 0.8], [1, 2, 3, 4], "not periodic"),
        ([0, 0.4, 0.2, 0.8], [1, 2, 3, 1], "increase"),
        ([0, 0.4, 0.8], [1, 2, 1], "at least 4"),
        ([0, 0.2, 0.4, 0.8], [1, np.nan, 3, 1], "finite"),
    ],
)
def test_a_table_that_is_no_beat_is_refused(times, values, words):
    with pytest.raises(InputError, match=words):
        PeriodicWaveform.from_table(times, values)


def test_an_unknown_waveform_or_a_negative_period_is_refused():
    with pytest.raises(InputError, match="carotid"):
        PeriodicWaveform.named("renal", mean=1e-6, period=1.0)
    with pytest.raises(InputError, match="positive"):
        PeriodicWaveform.named("carotid", mean=1e-6, period=-1.0)


def test_tuned_windkessels_give_the_wanted_pressures():
    """Second implementation: SciPy integrates each outlet to its periodic state."""
    waveform = PeriodicWaveform.named("peripheral", mean=9e-6, period=0.8)
    beds = tune_windkessels(waveform, {"a": 3.6e-3, "b": 3.0e-3}, mean_pressure=93 * MMHG, pulse_pressure=40 * MMHG)
    share = 3.6**3 / (3.6**3 + 3.0**3)
    assert (1 / beds["a"].distal_resistance) / sum(1 / bed.distal_resistance for bed in beds.values()) == pytest.approx(
        share
    )
    for name, part in (("a", share), ("b", 1 - share)):
        bed = beds[name]

        def change(time, capacitor, bed=bed, part=part):
            return (part * waveform.value(time) - capacitor / bed.distal_resistance) / bed.compliance

        start = [90 * MMHG]
        run = solve_ivp(change, (0, 16), start, max_step=0.01, rtol=1e-7, dense_output=True)
        times = np.linspace(15.2, 16.0, 400)
        pressure = run.sol(times)[0] + bed.proximal_resistance * part * np.array([waveform.value(t) for t in times])
        assert pressure.mean() == pytest.approx(93 * MMHG, rel=0.01)
        assert np.ptp(pressure) == pytest.approx(40 * MMHG, rel=0.01)


def test_a_pulse_pressure_that_no_compliance_gives_is_refused():
    waveform = PeriodicWaveform.named("peripheral", mean=9e-6, period=0.8)
    with pytest.raises(InputError, match="pulse pressure"):
        tune_windkessels(waveform, {"a": 3e-3}, mean_pressure=93 * MMHG, pulse_pressure=2000 * MMHG)


@pytest.mark.parametrize("constants", [(-1.0, 1e9, 1e-10), (1e8, 0.0, 1e-10), (1e8, 1e9, -1e-10), (1e8, np.inf, 1e-10)])
def test_a_bed_that_cannot_be_is_refused(constants):
    with pytest.raises(InputError):
        Windkessel(*constants)


def test_blood_thins_between_its_two_limits():
    law = CarreauYasuda()
    assert law.at(np.array([0.0]))[0] == pytest.approx(0.056)
    assert law.at(np.array([1e9]))[0] == pytest.approx(3.45e-3, rel=1e-3)
    # By hand at 100 1/s: 0.00345 + 0.05255 (1 + 331.3^2)^(-0.3216)
    assert law.at(np.array([100.0]))[0] == pytest.approx(0.00345 + 0.05255 * (1 + 331.3**2) ** -0.3216, rel=1e-6)
    with pytest.raises(InputError):
        Newtonian(-1.0)


def test_the_inflow_profile_carries_exactly_one_and_is_a_paraboloid(tube):
    domain = tube(3e-3, 10e-3, 8, 3)
    section = PortSection(domain, LagrangeSpace(domain.points, domain.tetrahedra, 1), domain.inlet)
    profile = section.developed()
    assert profile @ section.load == pytest.approx(1.0, rel=1e-12)
    radius = np.linalg.norm(domain.points[section.nodes, :2], axis=1)
    exact = 2 / (np.pi * 3e-3**2) * (1 - (radius / 3e-3) ** 2)
    assert np.abs(profile - exact).max() < 0.05 * exact.max()
    assert np.abs(profile[np.isin(section.nodes, domain.wall_nodes)]).max() == 0.0


def test_meshes_that_no_flow_can_be_in_are_refused(tube_parts):
    mesh, ports = tube_parts
    points, cells, outer, tags = mesh(3e-3, 10e-3, 2, 2)
    good = ports(3e-3, 10e-3)
    inverted = cells.copy()
    inverted[0] = inverted[0][[1, 0, 2, 3]]
    apart = np.concatenate([cells, cells + len(points)])
    second_inlet = FlowPort("again", "inlet", 2, good[1].center, good[1].normal, 3e-3, good[1].area)
    for arguments, words in (
        ((points, inverted, outer, tags, good), "inverted"),
        ((np.concatenate([points, points + 1]), apart, outer, tags, good), "unconnected"),
        ((points, cells, outer, tags, [good[0], second_inlet]), "one inlet"),
        ((points, cells, outer, np.where(tags == 2, 0, tags), good), "outlet_1"),
    ):
        with pytest.raises(InputError, match=words):
            FlowDomain.build(*arguments)
