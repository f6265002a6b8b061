"""The lumped model from anatomy alone, against formulas and numerics that are not its own."""

import numpy as np
import pytest
from scipy.integrate import solve_bvp
from scipy.special import jv

from meshes.centerline import Branch, Centerline
from surgical_twin.errors import InputError
from surgical_twin.flow.anatomy_model import AnatomyModel, Lesion, annulus_factor, stenosis_element, tube_element
from surgical_twin.flow.port_model import PortParameters, simulate

DENSITY, VISCOSITY = 1060.0, 3.5e-3
BLOOD = {"density": DENSITY, "viscosity": VISCOSITY}


def straight(length_mm=100.0, count=101):
    arc = np.linspace(0.0, length_mm, count)
    points = np.column_stack([np.zeros(count), np.zeros(count), arc])
    return Centerline(
        points=points,
        radius=np.full(count, 3.0),
        branch=np.zeros(count, dtype=np.int64),
        arc_length=arc,
        branches=(Branch(0, np.arange(count), None, "outlet_1"),),
    )


def test_a_straight_tube_has_poiseuilles_resistance():
    model = AnatomyModel.of(straight(), np.full(101, 3.0), [], **BLOOD).port_model()
    assert model.resistance[0, 0] == pytest.approx(8 * VISCOSITY * 0.1 / (np.pi * 3e-3**4), rel=1e-9)


@pytest.mark.parametrize("womersley", [2.0, 4.0, 8.0])
def test_a_beating_tube_comes_near_womersleys_impedance(womersley):
    """Z = i w rho l / A / (1 - 2 J1(a) / (a J0(a))), a = i^(3/2) alpha."""
    radius = 3e-3
    omega = womersley**2 * VISCOSITY / (DENSITY * radius**2)
    model = AnatomyModel.of(straight(), np.full(101, 3.0), [], **BLOOD).port_model()
    argument = 1j**1.5 * womersley
    exact = 1j * omega * DENSITY * 0.1 / (np.pi * radius**2)
    exact /= 1.0 - 2.0 * jv(1, argument) / (argument * jv(0, argument))
    lag = 1j * omega * model.time_constants
    rungs = (model.memory[:, 0, 0] * lag / (1.0 + lag)).sum()
    made = model.resistance[0, 0] + 1j * omega * model.inertance[0, 0] + rungs
    assert abs(made / exact - 1.0) < 0.02


def test_a_stenosis_of_half_the_diameter_has_the_published_drop():
    """Young & Tsai's formula worked by hand for D0 = 6 mm, D1 = 3 mm, L = 12 mm, 5 mL/s."""
    lesion = Lesion(0, 0.02, 12e-3, 6e-3, 3e-3)
    element = stenosis_element(lesion, **BLOOD)
    speed = 5e-6 / (0.25 * np.pi * 6e-3**2)
    effective = 0.83 * 12e-3 + 1.64 * 3e-3
    viscous = 32 * (effective / 6e-3) * (36 / 9) ** 2 * VISCOSITY * speed / 6e-3
    turbulent = 1.52 / 2 * DENSITY * (36 / 9 - 1) ** 2 * speed**2
    assert element.resistance * 5e-6 == pytest.approx(viscous, rel=1e-12)
    assert element.loss * 5e-6**2 == pytest.approx(turbulent, rel=1e-12)


def test_a_stenosis_replaces_the_healthy_vessel_it_lies_in():
    lesion = Lesion(0, 0.04, 12e-3, 6e-3, 3e-3)
    healthy = AnatomyModel.of(straight(), np.full(101, 3.0), [], **BLOOD).port_model()
    radius = np.full(101, 3.0)
    radius[40:53] = 1.5
    diseased = AnatomyModel.of(straight(), radius, [lesion], **BLOOD).port_model()
    more = stenosis_element(lesion, **BLOOD).resistance - tube_element(12e-3, 6e-3, **BLOOD).resistance
    assert diseased.resistance[0, 0] - healthy.resistance[0, 0] == pytest.approx(more, rel=1e-6)
    assert diseased.loss[0] == pytest.approx(stenosis_element(lesion, **BLOOD).loss)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.6, 0.9])
def test_the_annulus_around_a_device_against_the_integrated_equation(ratio):
    """(r u')' = -r G / mu between the rod and the wall, solved numerically, gives the flow."""

    def slope(r, y):
        return np.vstack([y[1] / r, -r])

    solved = solve_bvp(
        slope, lambda a, b: np.array([a[0], b[0]]), np.linspace(ratio, 1.0, 400), np.zeros((2, 400)), tol=1e-9,
        max_nodes=100_000,
    )  # fmt: skip
    r = np.linspace(ratio, 1.0, 20_001)
    flow = np.trapezoid(2 * np.pi * r * solved.sol(r)[0], r)
    assert annulus_factor(ratio) == pytest.approx((np.pi / 8) / flow, rel=1e-4)
    assert annulus_factor(0.0) == 1.0


def test_what_fills_the_lumen_or_closes_it_is_refused():
    with pytest.raises(InputError, match="no room"):
        annulus_factor(0.99)
    with pytest.raises(InputError, match="clamp"):
        stenosis_element(Lesion(0, 0.0, 0.01, 6e-3, 1e-4), **BLOOD)
    with pytest.raises(InputError, match="takes 50 %"):
        Lesion(0, 0.0, 0.01, 6e-3, 3e-3).dilated(0.6)


def test_a_tree_turned_and_moved_is_the_same_tree():
    count = 41
    arc = np.linspace(0.0, 40.0, count)
    trunk = np.column_stack([0 * arc, 0 * arc, arc])
    left = trunk[-1] + np.column_stack([0.6 * arc, 0 * arc, 0.8 * arc])
    right = trunk[-1] + np.column_stack([-0.6 * arc, 0 * arc, 0.8 * arc])
    points = np.concatenate([trunk, left, right])
    branches = (
        Branch(0, np.arange(count), None, None),
        Branch(1, np.arange(count, 2 * count), 0, "outlet_1"),
        Branch(2, np.arange(2 * count, 3 * count), 0, "outlet_2"),
    )
    radius = np.repeat([4.0, 3.0, 2.5], count)

    def model(places):
        centerline = Centerline(places, radius, np.repeat([0, 1, 2], count), np.tile(arc, 3), branches)
        return AnatomyModel.of(centerline, radius, [], angles_deg={1: 36.9, 2: 36.9}, **BLOOD).port_model()

    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    first, second = model(points), model(points @ turn.T + [10.0, -5.0, 3.0])
    np.testing.assert_allclose(first.resistance, second.resistance)
    np.testing.assert_allclose(first.recovery, second.recovery)
    # Trunk shared, branches their own: the off-diagonal is the trunk's.
    assert first.resistance[0, 1] == pytest.approx(8 * VISCOSITY * 0.04 / (np.pi * 4e-3**4), rel=1e-6)


def test_the_model_runs():
    model = AnatomyModel.of(straight(), np.full(101, 3.0), [], **BLOOD).port_model()
    one = np.ones((1, 1))
    parameters = PortParameters(1e8 * one, 1e9 * one, 1e-10 * one, 0 * one)
    run = simulate(model, parameters, np.linspace(0, 1, 201), np.full(201, 5e-6), np.zeros(201))
    drop = run.inlet_pressure[-1, 0] - run.outlet_pressure[-1, 0, 0]
    assert drop == pytest.approx(8 * VISCOSITY * 0.1 / (np.pi * 3e-3**4) * 5e-6, rel=1e-3)
