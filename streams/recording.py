"""Recording to MCAP, and reading it back, whole or cut off.

Everything a session was given is kept in the order it was given: each event under its stream's name, with its number in
the session as MCAP's sequence, the time of arrival as log time and the source's time as publish time. Frames that
are no message are kept as they came in the channel ``session/raw``. The twin's states are in the channel ``twin``.
A thread writes, so that a slow disk never delays the session; it closes a chunk at least every 50 ms, so that a killed
process loses no more than that. Schemas are embedded and chunks carry checksums.
"""

import json
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mcap.exceptions import McapError
from mcap.records import Channel, Footer, Metadata
from mcap.records import Message as McapMessage
from mcap.stream_reader import CRCValidationError, StreamReader
from mcap.writer import Writer

from streams.errors import InputError
from streams.events import Event, Malformed, event_from_frame
from streams.messages import message_schemas

STATE_CHANNEL = "twin"
RAW_CHANNEL = "session/raw"
METADATA = "session"
FLUSH_S = 0.05
PROFILE = "surgical-twin"

_QUEUE_LIMIT = 500_000
"""Events waiting for a disk that does not keep up; beyond it the recording fails instead of the memory."""


@dataclass(frozen=True)
class _Entry:
    channel: str
    schema: str | None
    data: bytes
    log_time: int
    publish_time: int
    sequence: int


class Recorder:
    """Writes a recording from a thread of its own.

    Attributes:
        failure: why the recording is not complete (disk full, say), or None. Never raised into the session.
    """

    def __init__(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        """Begin a recording.

        Args:
            path: a new file.
            metadata: what the session ran on: software, case, its hash.

        Raises:
            InputError: the file exists or cannot be made.
        """
        self.failure: str | None = None
        self._states = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("xb")
        except FileExistsError as error:
            raise InputError(f"{path} exists, and a recording is never written over; name another file.") from error
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); name another file.") from error
        self._writer = Writer(self._file, chunk_size=256 * 1024)
        self._writer.start(profile=PROFILE, library="surgical-twin")
        self._writer.add_metadata(METADATA, dict(metadata))
        self._schemas: dict[str | None, int] = {None: 0}
        self._known_schemas = message_schemas()
        self._channels: dict[tuple[str, str | None], int] = {}
        self._queue: queue.Queue[_Entry | None] = queue.Queue(_QUEUE_LIMIT)
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def record_event(self, event: Event) -> None:
        """Keep an event; returns at once."""
        message = event.message
        if isinstance(message, Malformed) or message.stream in (STATE_CHANNEL, RAW_CHANNEL):
            entry = _Entry(RAW_CHANNEL, None, event.frame, event.receive_time_ns, event.receive_time_ns, event.index)
        else:
            payload = event.frame.partition(b"\0")[2]
            entry = _Entry(
                message.stream,
                type(message).__name__,
                payload,
                event.receive_time_ns,
                message.source_time_ns,
                event.index,
            )
        self._put(entry)

    def record_state(self, frame: bytes, time_ns: int) -> None:
        """Keep a state of the twin, as the frame that was published."""
        payload = frame.partition(b"\0")[2]
        self._put(_Entry(STATE_CHANNEL, "TwinState", payload, time_ns, time_ns, self._states))
        self._states += 1

    def close(self) -> None:
        """Write what is left and finish the file."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, entry: _Entry) -> None:
        if self.failure is not None:
            return
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self.failure = "the disk did not keep up, and events had to be dropped"

    def _write(self) -> None:
        try:
            flushed = time.monotonic()
            while True:
                try:
                    entry = self._queue.get(timeout=FLUSH_S)
                    if entry is None:
                        break
                    self._add(entry)
                except queue.Empty:
                    pass
                if time.monotonic() - flushed >= FLUSH_S:
                    self._writer.flush()
                    self._file.flush()
                    flushed = time.monotonic()
            self._writer.finish()
            self._file.close()
        except OSError as error:
            self.failure = f"writing failed ({error.strerror or error})"
            # Keep taking entries, so that closing does not wait for a thread that has ended.
            while self._queue.get() is not None:
                pass

    def _add(self, entry: _Entry) -> None:
        key = (entry.channel, entry.schema)
        if key not in self._channels:
            if entry.schema not in self._schemas:
                schema = json.dumps(self._known_schemas[entry.schema or ""]).encode()
                self._schemas[entry.schema] = self._writer.register_schema(entry.schema or "", "jsonschema", schema)
            encoding = "msgpack" if entry.schema else ""
            self._channels[key] = self._writer.register_channel(entry.channel, encoding, self._schemas[entry.schema])
        self._writer.add_message(
            self._channels[key],
            log_time=entry.log_time,
            data=entry.data,
            publish_time=entry.publish_time,
            sequence=entry.sequence,
        )


@dataclass(frozen=True)
class Recording:
    """What was read from a recording."""

    metadata: dict[str, str]
    events: list[Event]
    """in the order of the session"""
    states: list[bytes]
    """frames of the published twin states"""
    truncated: bool
    notes: tuple[str, ...] = field(default=())
    """what was wrong with the file, one sentence each"""


def read_recording(path: Path) -> Recording:
    """Read a recording; of one that was cut off or damaged, everything before the damage.

    Raises:
        InputError: there is no such file, or it is no recording of a session.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, stream)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def _read(path: Path, stream: BinaryIO) -> Recording:
    metadata: dict[str, str] = {}
    channels: dict[int, Channel] = {}
    events: dict[int, Event] = {}
    states: list[bytes] = []
    closed, damage = False, ""
    try:
        for record in StreamReader(stream, validate_crcs=True).records:
            if isinstance(record, Metadata) and record.name == METADATA:
                metadata = dict(record.metadata)
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, McapMessage):
                _take(record, channels[record.channel_id].topic, events, states)
            elif isinstance(record, Footer):
                closed = True
    except CRCValidationError as error:
        damage = f"a checksum does not fit ({error})"
    except Exception as error:  # at a cut the reader raises whatever its parser trips over
        if isinstance(error, McapError) and not events and not metadata:
            raise InputError(f"{path} is no MCAP recording ({error}); give a file that live --record wrote.") from error
        damage = f"the file breaks off ({type(error).__name__})"
    if not metadata and not events:
        raise InputError(f"{path} holds no recorded session; give a file that live --record wrote.")
    ordered = [events[index] for index in sorted(events)]
    notes = []
    if not closed or damage:
        span = (ordered[-1].receive_time_ns - ordered[0].receive_time_ns) * 1e-9 if ordered else 0.0
        notes.append(
            f"{damage or 'it was never closed'}; {len(ordered)} events over {span:.1f} s and {len(states)} twin "
            f"states were "
            "saved."
        )
    missing = (ordered[-1].index + 1 - len(ordered)) if ordered else 0
    if missing:
        notes.append(f"{missing} events are missing from it.")
    return Recording(metadata, ordered, states, truncated=bool(notes), notes=tuple(notes))


def _take(record: McapMessage, channel: str, events: dict[int, Event], states: list[bytes]) -> None:
    if channel == STATE_CHANNEL:
        states.append(channel.encode() + b"\0" + record.data)
        return
    frame = record.data if channel == RAW_CHANNEL else channel.encode() + b"\0" + record.data
    events[record.sequence] = event_from_frame(record.sequence, record.log_time, frame)
