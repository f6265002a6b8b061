"""Replay: a recording through the same session code, and the comparison with what was published then."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streams.messages import TwinState
from streams.recording import Recording, read_recording
from streams.rewriting import BEGINS_LATER
from streams.sockets import Publisher
from streams.wire import pack
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.pace import Pace
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
    first_different_event: int | None = None
    """Number of the event after which that state was published."""
    changed: str | None = None
    """The first event or state of the file that is not as it was recorded, in words."""
    comparable: bool = True
    """False where the recording's beginning was cut off, so that its states cannot be computed again."""
    ended_early: bool = False
    """A person ended the replay."""

    @property
    def identical(self) -> bool:
        """Whether every recorded state came out again, byte for byte."""
        return self.first_difference is None


REPLAY_FLAG = "replay"


class ReplayPublisher:
    """Publishes replayed states for a viewer; each says that it is no live one.

    It binds its own address and refuses one in use: a replay never fights a live twin.
    """

    def __init__(self, endpoint: str) -> None:
        """Bind.

        Raises:
            InputError: the address is none, is in use, or is beyond this machine.
        """
        self._publisher = Publisher(endpoint, bind=True)

    def publish(self, state: TwinState) -> None:
        """Publish a state, flagged."""
        self._publisher.send(msgspec.structs.replace(state, flags=(*state.flags, REPLAY_FLAG)))

    def close(self) -> None:
        """Let go of the address."""
        self._publisher.close()


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
    recording: Recording,
    model: SessionModel,
    watch: Callable[[int, TwinState], None] | None = None,
    pace: Pace | None = None,
) -> ReplayReport:
    """Fold the recorded events again.

    Args:
        recording: what was recorded.
        model: the case it was recorded on.
        watch: called with each state and the number of events taken so far.
        pace: holds events back until they are due; as fast as possible where it is None.
    """
    session, state = Session(model), SessionState()
    states = taken = 0
    first_difference: int | None = None
    first_event: int | None = None
    comparable = BEGINS_LATER not in recording.metadata
    start_ns = recording.events[0].receive_time_ns if recording.events else 0
    for number, event in enumerate(recording.events, start=1):
        if pace is not None and not pace.wait((event.receive_time_ns - start_ns) * 1e-9):
            break
        state, outputs = session.step(state, event)
        taken = number
        for output in outputs:
            # A recording that was cut off may lack the last states; what is there has to agree.
            recorded = recording.states[states] if states < len(recording.states) else None
            if comparable and first_difference is None and recorded is not None and pack(output) != recorded:
                first_difference, first_event = states, event.index
            states += 1
            if watch is not None:
                watch(number, output)
            if pace is not None:
                pace.showed_state()
    ended_early = taken < len(recording.events)
    if comparable and not ended_early and first_difference is None and states < len(recording.states):
        first_difference = states
    truncated = recording.notes[0] if recording.truncated and recording.notes else None
    if recording.truncated and truncated is None:
        truncated = "The recording was cut off."
    return ReplayReport(
        events=taken,
        states=states,
        recorded_states=len(recording.states),
        first_difference=first_difference,
        truncated=truncated,
        first_different_event=first_event,
        changed=recording.chain.fault,
        comparable=comparable,
        ended_early=ended_early,
    )
