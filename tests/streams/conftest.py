"""What tests of the streams share: real recordings, and other programs' files as the twin takes them."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from streams import compiled, sockets
from streams.importing import write_recording
from streams.recording import read_recording
from surgical_twin.replay import replay

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def real():
    """A real recording by its path in the shared data."""

    def find(name):
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not in ../shared/data")
        return path

    return find


@pytest.fixture(params=["compiled", "in python"])
def way(request, monkeypatch):
    """How frames are taken from a socket."""
    if request.param == "in python":
        monkeypatch.setattr(sockets, "compiled_receive", lambda: None)
    elif compiled.compiled_receive() is None:
        pytest.skip("there is no C compiler, or there are no headers of Python")
    return request.param


@pytest.fixture
def imported(tmp_path):
    """Writes what readers gave as a recording and reads it back."""

    def write(sources, findings):
        done = write_recording(sources, findings, tmp_path / "imported.mcap", origin="test")
        recording = read_recording(tmp_path / "imported.mcap")
        assert recording.chain.fault is None
        assert not recording.truncated
        return done, recording

    return write


@pytest.fixture
def twin_states():
    """What the twin makes of a recording, on a case without a flow model."""

    def states_of(recording):
        model = SimpleNamespace(case_hash="", fiducials={}, waveform=SimpleNamespace(period=0.8), port_names=("inlet",),
                                lumen=None, reduced=SimpleNamespace(estimated=False, decoder=None),
                                filter=SimpleNamespace(initial=lambda seed, period: None))  # fmt: skip
        states = []
        replay(recording, model, lambda number, state: states.append(state))
        return states

    return states_of
