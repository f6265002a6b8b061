"""A session's compiled code is ready before it begins."""

import sys

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
