"""Replay: a recording through the same session code, and the comparison with what was published then."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streams.messages import TwinState
from streams.recording import Recording, read_recording
from streams.wire import pack
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState


@dataclass(frozen=True)
class ReplayReport:
    """How a replay compares with the recorded procedure."""

    events: int
    states: int
    recorded_states: int
    first_difference: int | None
    """Number of the first twin state that differs, or None."""
    truncated: str | None
    """What was saved of a recording that was cut off; None for a whole one."""

    @property
    def identical(self) -> bool:
        """Whether every recorded state came out again, byte for byte."""
        return self.first_difference is None


def open_recording(path: Path, case_folder: Path | None) -> tuple[Recording, SessionModel]:
    """Read a recording and the case it was made on.

    Raises:
        InputError: either cannot be read, or the case is not the recording's.
    """
    recording = read_recording(path)
    folder = case_folder or Path(recording.metadata.get("case", ""))
    if case_folder is None and not recording.metadata.get("case"):
        raise InputError(f"{path} does not say which case it was recorded on; name it with --case.")
    model = SessionModel.load(Case.open(folder))
    recorded = recording.metadata.get("case_hash")
    if recorded and recorded != model.case_hash:
        raise InputError(
            f"{path} was recorded on another state of the case than {folder} now holds (its hash differs); "
            "name the right one with --case."
        )
    return recording, model


def replay(
    recording: Recording, model: SessionModel, watch: Callable[[int, TwinState], None] | None = None
) -> ReplayReport:
    """Fold the recorded events again.

    Args:
        recording: what was recorded.
        model: the case it was recorded on.
        watch: called with each state and the number of events taken so far.
    """
    session, state = Session(model), SessionState()
    states = 0
    first_difference: int | None = None
    for number, event in enumerate(recording.events, start=1):
        state, outputs = session.step(state, event)
        for output in outputs:
            # A recording that was cut off may lack the last states; what is there has to agree.
            if first_difference is None and states < len(recording.states) and pack(output) != recording.states[states]:
                first_difference = states
            states += 1
            if watch is not None:
                watch(number, output)
    if first_difference is None and states < len(recording.states):
        first_difference = states
    truncated = recording.notes[0] if recording.truncated and recording.notes else None
    if recording.truncated and truncated is None:
        truncated = "The recording was cut off."
    return ReplayReport(
        events=len(recording.events),
        states=states,
        recorded_states=len(recording.states),
        first_difference=first_difference,
        truncated=truncated,
    )
