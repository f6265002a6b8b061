"""A session's compiled code is ready before it begins, and says what the plain formulas say."""

import sys

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from streams.recording import read_recording
from surgical_twin.case import Case
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.warm_up import warm_up


@pytest.fixture(scope="module")
def model(played):
    return SessionModel.load(Case.open(played.folder / "case"))


def compiled():
    """What has been compiled or loaded, by function."""
    return {
        (name, key): len(value.signatures)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("surgical_twin", "registration", "streams")
        for key, value in vars(module).items()
        if isinstance(value, Dispatcher)
    }


def test_nothing_is_compiled_while_a_session_runs(model, played):
    state = warm_up(model)
    assert state.registration is not None
    assert state.beats >= 1
    assert state.counters["assimilated"] > 50
    ready = compiled()
    assert sum(ready.values()) > 10
    session, state = Session(model), SessionState()
    for event in read_recording(played.folder / "procedure.mcap").events:
        state, _ = session.step(state, event)
        session.prepare(state)
    assert state.counters["assimilated"] > 50
    assert compiled() == ready


def test_the_pressure_at_a_tip_is_that_of_the_plain_formulas(model):
    ensemble = warm_up(model).ensemble
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


def test_a_tip_outside_the_lumen_has_the_pressure_of_the_nearest_place_in_it(model):
    ensemble = warm_up(model).ensemble
    tip = model.lumen.tree.points[5] + np.array([60.0, 0.0, 0.0])
    away = np.zeros((len(ensemble.errors), 3))
    mean, variance, here, _, _ = model.pressure_at_tip(ensemble.ports, tip, away)
    place = model.place(tip)
    assert place.outside_mm[0] > 1.0
    assert mean == pytest.approx(place.pressure(ensemble.ports).mean(), abs=1.0)
    assert variance == pytest.approx(here, rel=1e-6)
