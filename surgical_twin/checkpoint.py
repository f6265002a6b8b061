"""What a live session needs to go on in another process: its state, and the place in its recording.

A checkpoint is written beside the recording (``FILE.mcap.checkpoint``) or, without one, into the case
(``live.checkpoint``), and removed when the session ends in good order. The session is a fold over its events, so the
state at the checkpoint and the events recorded after it give the state at the end of the recording, to the bit.
"""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from streams.events import Event, Malformed
from streams.messages import Tick
from streams.recorder import RecordingMark, RecordingWriter
from streams.recording import StateFrame
from streams.resuming import resume_recording
from streams.wire import pack
from surgical_twin import __version__
from surgical_twin.errors import InputError
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.state_codec import decode_value, encode_value

log = logging.getLogger(__name__)

CLOCK_STREAM = "session/clock"
START_STREAM = "session/start"
COMMAND_STREAM = "session/command"

SUFFIX = ".checkpoint"
IN_CASE = "live.checkpoint"


def checkpoint_path(record: Path | None, case: Path) -> Path:
    """Where a session keeps its checkpoint."""
    return case / IN_CASE if record is None else record.with_name(record.name + SUFFIX)


@dataclass(frozen=True)
class Checkpoint:
    """A session at one moment."""

    software: str
    case_hash: str
    state: SessionState
    index: int
    """of the next event"""
    tick: int
    """number of the next tick of the clock"""
    said: int
    """how many commands became events"""
    time_ns: int
    """when this was, by the session's clock"""
    mark: RecordingMark | None
    """a place in the recording before the next event; None where nothing is recorded"""


@dataclass(frozen=True)
class Resumed:
    """A session as it was when its process ended."""

    checkpoint: Checkpoint
    """at the end of what was recorded"""
    writer: RecordingWriter | None
    states: tuple[tuple[int, bytes], ...]
    """time and frame of the last states"""


def shared_with(model: SessionModel) -> dict[str, object]:
    """What a session's state refers to and the case holds."""
    return {"decoder": model.reduced.decoder}


def read_checkpoint(path: Path, model: SessionModel) -> Checkpoint:
    """Read a session's checkpoint.

    Args:
        path: the file.
        model: the case.

    Raises:
        InputError: there is none, or it is of another case or version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): there is no session to go on with; start one without --resume."
        ) from error
    found = decode_value(data, shared_with(model))
    if not isinstance(found, Checkpoint):
        raise InputError(f"{path} is no session's checkpoint.")
    if found.software != __version__:
        raise InputError(f"{path} is of version {found.software}, this is {__version__}; start a new session.")
    if found.case_hash != model.case_hash:
        raise InputError(f"{path} is of a session on another state of the case; start a new session.")
    return found


def resume(session: Session, checkpoint: Checkpoint, record: Path | None) -> Resumed:
    """Bring a session to the end of what was recorded of it.

    States that were published but are not in the file, or never were published, are added to it: a replay makes them.

    Raises:
        InputError: the recording cannot be gone on with.
    """
    if record is None or checkpoint.mark is None:
        return Resumed(checkpoint, None, ())
    writer, tail = resume_recording(record, checkpoint.mark)
    state, index, tick, said = checkpoint.state, checkpoint.index, checkpoint.tick, checkpoint.said
    recorded = checkpoint.mark.states + sum(isinstance(item, StateFrame) for item in tail)
    events = sorted(
        (item for item in tail if isinstance(item, Event) and item.index >= index), key=lambda one: one.index
    )
    shown: list[tuple[int, bytes]] = []
    last_ns = checkpoint.time_ns
    for event in events:
        number = state.published
        state, outputs = session.step(state, event)
        index, last_ns = event.index + 1, event.receive_time_ns
        tick, said = _counted(event, tick, said)
        for output in outputs:
            frame = pack(output)
            shown.append((output.source_time_ns, frame))
            if number >= recorded:
                writer.add_state(frame, output.source_time_ns)
            number += 1
    writer.flush()
    at_end = Checkpoint(checkpoint.software, checkpoint.case_hash, state, index, tick, said, last_ns, writer.mark)
    return Resumed(at_end, writer, tuple(shown))


def _counted(event: Event, tick: int, said: int) -> tuple[int, int]:
    """The numbers of the next tick and the next command after an event."""
    message = event.message
    if isinstance(message, Tick):
        return message.sequence + 1, said
    if not isinstance(message, Malformed) and message.stream == COMMAND_STREAM:
        return tick, message.sequence + 1
    return tick, said


class CheckpointKeeper:
    """Writes the newest checkpoint from a thread of its own, so that a slow disk never delays the session."""

    def __init__(self, path: Path, model: SessionModel) -> None:
        """Begin.

        Args:
            path: the file; an older one is written over.
            model: the case.
        """
        self.path = path
        self._shared = shared_with(model)
        self._newest: Checkpoint | None = None
        self._due = threading.Condition()
        self._ended = self._failed = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def keep(self, checkpoint: Checkpoint) -> None:
        """Have a checkpoint written; one that still waits is dropped for it. Returns at once."""
        with self._due:
            self._newest = checkpoint
            self._due.notify()

    def close(self, *, remove: bool) -> None:
        """Write no more.

        Args:
            remove: the session has ended in good order, and nothing is left to go on with.
        """
        with self._due:
            self._ended = True
            self._due.notify()
        self._thread.join()
        if remove:
            self.path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            with self._due:
                while self._newest is None and not self._ended:
                    self._due.wait()
                checkpoint, self._newest = self._newest, None
                if self._ended or checkpoint is None:
                    return
            self.write(checkpoint)

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint now; where that fails, it is logged."""
        try:
            part = self.path.with_name(f".{self.path.name}.part")
            part.write_bytes(encode_value(checkpoint, self._shared))
            part.replace(self.path)
            self._failed = False
        except (OSError, TypeError) as error:
            if not self._failed:
                log.warning("%s cannot be written (%s): a restart would have nothing to go on with", self.path, error)
            self._failed = True
