"""The field that a lumped model lays out in the lumen, against closed forms and the lumped model's own ports."""

import numpy as np
import pytest

from meshes.centerline import Branch, Centerline
from surgical_twin.flow.anatomy_field import NearestPlaces, anatomy_decoder, field_coefficients
from surgical_twin.flow.anatomy_model import AnatomyModel, Lesion
from surgical_twin.flow.field_decoder import flow_features
from surgical_twin.flow.port_model import PortParameters, simulate

DENSITY, VISCOSITY = 1060.0, 3.5e-3
BLOOD = {"density": DENSITY, "viscosity": VISCOSITY}
COUNT = 41


def forked():
    """A trunk of 4 mm radius that ends in branches of 3 and 2.5 mm, the first with a stenosis."""
    arc = np.linspace(0.0, 40.0, COUNT)
    trunk = np.column_stack([0 * arc, 0 * arc, arc])
    left = trunk[-1] + np.column_stack([0.6 * arc, 0 * arc, 0.8 * arc])
    right = trunk[-1] + np.column_stack([-0.6 * arc, 0 * arc, 0.8 * arc])
    branches = (
        Branch(0, np.arange(COUNT), None, None),
        Branch(1, np.arange(COUNT, 2 * COUNT), 0, "outlet_1"),
        Branch(2, np.arange(2 * COUNT, 3 * COUNT), 0, "outlet_2"),
    )
    radius = np.repeat([4.0, 3.0, 2.5], COUNT)
    radius[COUNT + 15 : COUNT + 25] = 1.6
    line = Centerline(
        np.concatenate([trunk, left, right]), radius, np.repeat([0, 1, 2], COUNT), np.tile(arc, 3), branches
    )
    lesion = Lesion(1, 15e-3, 9e-3, 6e-3, 3.2e-3)
    return AnatomyModel.of(line, radius, [lesion], angles_deg={1: 36.9, 2: 36.9}, **BLOOD), line, radius


def beating(model, seconds=0.8):
    ports = model.port_model()
    n = len(ports.outlets)
    parameters = PortParameters(
        np.full((1, n), 1e8), np.linspace(1e9, 1.5e9, n)[None], np.full((1, n), 5e-10), np.zeros((1, n))
    )
    time = np.linspace(0.0, seconds, 401)
    omega = 2 * np.pi / seconds
    inflow, rate = 8e-6 * (1 + 0.8 * np.sin(omega * time)), 8e-6 * 0.8 * omega * np.cos(omega * time)
    stepper = ports.stepper(parameters, time[1])
    state = ports.steady_state(parameters, inflow[:1])
    states = [state := stepper.step(state, inflow[i : i + 1], rate[i : i + 1]) for i in range(1, len(time))]
    assert simulate(ports, parameters, time, inflow, rate).flow.shape == (401, 1, n)
    return ports, states[100:]


def test_the_field_ends_in_the_ports_pressure():
    """At the outlets the field is the port model's: exactly but for the squares of flows in shared branches."""
    model, line, radius = forked()
    ports, states = beating(model)
    coefficients = field_coefficients(model, line, radius, len(ports.time_constants))
    features = np.concatenate([flow_features(state) for state in states])
    inlet = np.array([state.inlet_pressure[0] for state in states])
    outlets = np.stack([state.outlet_pressure[0] for state in states])
    field = inlet[:, None] + features @ coefficients.T
    np.testing.assert_allclose(field[:, 0], inlet, rtol=1e-9)
    swing = np.ptp(inlet[:, None] - outlets, axis=0)
    off = field[:, [2 * COUNT - 1, 3 * COUNT - 1]] - outlets
    assert np.abs(off / swing).max() < 0.02


def test_along_a_straight_tube_pressure_falls_as_poiseuille_says():
    arc = np.linspace(0.0, 100.0, 101)
    line = Centerline(
        np.column_stack([0 * arc, 0 * arc, arc]),
        np.full(101, 3.0),
        np.zeros(101, dtype=np.int64),
        arc,
        (Branch(0, np.arange(101), None, "outlet_1"),),
    )
    model = AnatomyModel.of(line, np.full(101, 3.0), [], **BLOOD)
    coefficients = field_coefficients(model, line, np.full(101, 3.0), 3)
    steady = np.array([5e-6, 25e-12, 25e-12, 0, 0, 0, 0])
    np.testing.assert_allclose(
        coefficients @ steady, -8 * VISCOSITY * arc * 1e-3 / (np.pi * 3e-3**4) * 5e-6, rtol=1e-9, atol=1e-9
    )


def test_in_a_throat_pressure_has_turned_into_speed():
    model, line, radius = forked()
    coefficients = field_coefficients(model, line, radius, 3)
    flow = np.array([3e-6, 2e-6])
    features = np.concatenate([flow, flow * flow, flow * 5e-6, np.zeros(2), np.zeros(6)])
    pressure = (coefficients @ features)[COUNT : 2 * COUNT]
    throat, before, behind = pressure[19], pressure[12], pressure[30]
    bernoulli = 0.5 * DENSITY * 3e-6**2 / np.pi**2 * (1.6e-3**-4 - 3e-3**-4)
    assert before - throat > bernoulli
    assert throat < behind < before


def test_the_decoder_says_the_same_at_the_vertices_and_carries_the_flow():
    model, line, radius = forked()
    ports, states = beating(model)
    # Two vertices on the trunk's axis and one in mid-branch; tetrahedra only close the type.
    points = np.array([[0, 0, 10.0], [0, 0, 30.0], [6.0, 0, 48.0], [0.0, 2.0, 20.0]]) * 1e-3
    nearest = NearestPlaces.of(line, points)
    scale = np.sqrt(np.mean([flow_features(state)[0] ** 2 for state in states], axis=0))
    decoder = anatomy_decoder(model, line, radius, (points, np.array([[0, 1, 2, 3]])), nearest, scale)
    coefficients = field_coefficients(model, line, radius, len(ports.time_constants))
    for state in states[::50]:
        expected = state.inlet_pressure[0] + coefficients[[10, 30, COUNT + 10, 20]] @ flow_features(state)[0]
        np.testing.assert_allclose(decoder.pressure(state)[0], expected, atol=0.5)
        speed = decoder.velocity(state)[0]
        peak = 2 * state.flow.sum() / (np.pi * 4e-3**2)
        np.testing.assert_allclose(speed[0], [0, 0, peak], atol=1e-6)
        assert speed[3, 2] == pytest.approx(peak * (1 - 0.25), rel=1e-5)
        np.testing.assert_allclose(speed[2] / np.linalg.norm(speed[2]), [0.6, 0, 0.8], atol=1e-5)
