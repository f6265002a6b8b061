"""What is compiled for a pose says what the plain formulas say."""

import numpy as np
import pytest

from registration.pose_error import displacement_jacobian
from surgical_twin.case import Case
from surgical_twin.session_model import SessionModel
from surgical_twin.tip_kernel import spread_of_tips
from surgical_twin.warm_up import warm_up


@pytest.fixture(scope="module")
def model(planned):
    return SessionModel.load(Case.open(planned.folder / "case"))


@pytest.fixture(scope="module")
def ensemble(model):
    return warm_up(model).ensemble


def test_members_have_a_tip_where_their_registration_puts_it():
    rng = np.random.default_rng(3)
    errors, offset, factor = rng.normal(size=(50, 18)), rng.normal(0.0, 60.0, 3), rng.normal(size=(6, 6))
    away, middle, covariance = spread_of_tips(errors, offset, factor)
    there = errors[:, :6] @ (displacement_jacobian(offset) @ factor).T
    assert away + middle == pytest.approx(there)
    assert middle == pytest.approx(there.mean(axis=0))
    assert covariance == pytest.approx(np.cov(there.T))


def test_the_pressure_at_a_tip_is_that_of_the_plain_formulas(model, ensemble):
    rng = np.random.default_rng(5)
    tree = model.lumen.tree
    for station in rng.integers(len(tree.points), size=20):
        tip = tree.points[station] + rng.normal(0.0, 0.3, 3)
        away = rng.normal(0.0, 1.0, (len(ensemble.errors), 3))
        mean, variance, here, slope, error = model.pressure_at_tip(ensemble.ports, tip, away)
        place = model.place(tip)
        members = model.pressure_near(place, ensemble.ports, tip, away)
        assert mean == pytest.approx(members.mean(), rel=1e-9)
        assert variance == pytest.approx(members.var(ddof=1), rel=1e-9)
        assert here == pytest.approx(place.pressure(ensemble.ports)[:, 0].var(ddof=1), rel=1e-9)
        assert slope == pytest.approx(np.linalg.norm(place.mean_gradient(ensemble.ports)), rel=1e-6)
        assert error == pytest.approx(model.model_error_mmhg(place, ensemble.ports)[0], rel=1e-9)


def test_a_tip_outside_the_lumen_has_the_pressure_of_the_nearest_place_in_it(model, ensemble):
    tip = model.lumen.tree.points[5] + np.array([60.0, 0.0, 0.0])
    away = np.zeros((len(ensemble.errors), 3))
    mean, variance, here, _, _ = model.pressure_at_tip(ensemble.ports, tip, away)
    place = model.place(tip)
    assert place.outside_mm[0] > 1.0
    assert mean == pytest.approx(place.pressure(ensemble.ports).mean(), abs=1.0)
    assert variance == pytest.approx(here, rel=1e-6)
