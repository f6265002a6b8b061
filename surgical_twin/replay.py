"""Replay: a recording through the same session code, and the comparison with what was published then."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from streams.messages import TwinState
from streams.recording import Recording, RecordingFile, StateFrame, read_recording
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
    return recording, _model(path, recording.metadata, case_folder)


def open_file(path: Path, case_folder: Path | None) -> tuple[RecordingFile, SessionModel]:
    """As `open_recording`, of a recording that is read while it is replayed."""
    recording = RecordingFile(path)
    return recording, _model(path, recording.metadata, case_folder)


def _model(path: Path, metadata: dict[str, str], case_folder: Path | None) -> SessionModel:
    if case_folder is None and not metadata.get("case"):
        raise InputError(f"{path} does not say which case it was recorded on; name it with --case.")
    folder = case_folder or Path(metadata["case"])
    model = SessionModel.load(Case.open(folder))
    recorded = metadata.get("case_hash")
    if recorded and recorded != model.case_hash:
        raise InputError(
            f"{path} was recorded on another state of the case than {folder} now holds (its hash differs); "
            "name the right one with --case."
        )
    return model


MOST_UNCOMPARED = 10_000
"""States kept until the recorded ones come; a file has these right behind their events, or has none."""


@dataclass
class _Comparison:
    """Holds states that came out against those that were recorded, whichever is there first."""

    active: bool
    first_difference: int | None = None
    first_event: int | None = None
    made: int = 0
    recorded: int = 0
    _made: deque[tuple[int, bytes, int]] = field(default_factory=lambda: deque(maxlen=MOST_UNCOMPARED))
    """number, frame, and the event after which it came"""
    _recorded: deque[StateFrame] = field(default_factory=deque)

    def add_recorded(self, state: StateFrame) -> None:
        self.recorded += 1
        if self.active:
            self._recorded.append(state)
            self._compare()

    def add_made(self, state: TwinState, event: int) -> None:
        if self.active:
            self._made.append((self.made, pack(state), event))
            self._compare()
        self.made += 1

    def end(self) -> None:
        """Nothing more comes; more recorded states than came out are a difference."""
        if self.active and self.first_difference is None and self._recorded:
            self.first_difference = self.made

    def _compare(self) -> None:
        while self._made and self._recorded:
            number, frame, event = self._made[0]
            recorded = self._recorded[0]
            if number <= recorded.number:
                self._made.popleft()
            if number >= recorded.number:
                self._recorded.popleft()
            if number == recorded.number and frame != recorded.frame:
                self.first_difference, self.first_event = number, event
                self.active = False
                self._made.clear()
                self._recorded.clear()


def replay(
    recording: Recording | RecordingFile,
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
    comparable = BEGINS_LATER not in recording.metadata
    comparison = _Comparison(comparable)
    taken = start_ns = 0
    ended_early = False
    for entry in recording.entries():
        if isinstance(entry, StateFrame):
            comparison.add_recorded(entry)
            continue
        start_ns = start_ns or entry.receive_time_ns
        if pace is not None and not pace.wait((entry.receive_time_ns - start_ns) * 1e-9):
            ended_early = True
            break
        state, outputs = session.step(state, entry)
        taken += 1
        for output in outputs:
            # A recording that was cut off may lack the last states; what is there has to agree.
            comparison.add_made(output, entry.index)
            if watch is not None:
                watch(taken, output)
            if pace is not None:
                pace.showed_state()
    if not ended_early:
        comparison.end()
    truncated = recording.notes[0] if recording.truncated and recording.notes else None
    if recording.truncated and truncated is None:
        truncated = "The recording was cut off."
    return ReplayReport(
        events=taken,
        states=comparison.made,
        recorded_states=comparison.recorded,
        first_difference=comparison.first_difference,
        truncated=truncated,
        first_different_event=comparison.first_event,
        changed=recording.chain.fault,
        comparable=comparable,
        ended_early=ended_early,
    )
