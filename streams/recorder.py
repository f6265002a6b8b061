"""Recording to MCAP while a session runs.

Everything a session was given is kept in the order it was given: each event under its stream's name, with its number
in the session as MCAP's sequence, the time of arrival as log time and the source's time, by the session's clock, as
publish time. Frames that are no message are kept as they came in the channel ``session/raw``, the twin's states in the
channel ``twin``, and a chain of hashes over all of it in ``session/chain``. Schemas are embedded; chunks carry
checksums.

`RecordingWriter` writes; `Recorder` does it from a thread of its own, so that a slow disk never delays the session, and
closes a chunk at least every 40 ms, so that a killed process loses no more than that and what was on its way. The
session only hands over what it has: everything else is done in that thread.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec

from streams.errors import InputError
from streams.events import Event, Malformed
from streams.hash_chain import STATES as STATE_CHANNEL
from streams.hash_chain import HashChain, Seal, digest_prefix, entry_digest
from streams.mcap_writer import McapTables, McapWriter
from streams.messages import message_schemas

RAW_CHANNEL = "session/raw"
CHAIN_CHANNEL = "session/chain"
METADATA = "session"
END_METADATA = "end"
LEFT_OUT = "left_out"
PROFILE = "surgical-twin"
LATE, SUPERSEDED, KIND = "late", "superseded", "kind"
"""Marks of an event, as metadata of its channel."""

FLUSH_S = 0.04
CHUNK_BYTES = 1_000_000
SEALED_BYTES = 500_000
"""A chunk that has become longer is sealed and closed, so that a file that is cut off is vouched for up to there."""

QUEUE_BYTES = 512_000_000
"""What may wait for a disk that does not keep up; beyond it events are left out instead of filling the memory."""

ENTRY_BYTES = 200
"""What an entry takes besides its data."""

_encode = msgspec.msgpack.Encoder().encode

_Item = Event | tuple[bytes, int]
"""An event, or the frame and the time of a state."""


class _Entry(NamedTuple):
    channel: str
    schema: str | None
    data: bytes
    log_time: int
    publish_time: int
    sequence: int
    marks: tuple[tuple[str, str], ...] = ()


def entry_kind(schema: str | None, marks: Mapping[str, str]) -> str:
    """What the chain's digest says about an entry besides its data."""
    return (schema or "") + "".join(f";{name}={value}" for name, value in sorted(marks.items()))


def _event_entry(event: Event) -> _Entry:
    message = event.message
    if isinstance(message, Malformed):
        received = event.receive_time_ns
        return _Entry(RAW_CHANNEL, None, event.frame, received, received, event.index, ((KIND, message.kind),))
    marks: tuple[tuple[str, str], ...] = ((LATE, "true"),) if event.late else ()
    if event.superseded:
        marks += ((SUPERSEDED, "true"),)
    payload = event.frame[len(message.stream) + 1 :]
    return _Entry(
        message.stream,
        type(message).__name__,
        payload,
        event.receive_time_ns,
        message.source_time_ns,
        event.index,
        marks,
    )


class RecordingMark(msgspec.Struct, frozen=True):
    """A place in a recording behind which another process can go on with it."""

    offset: int
    """the file's length there; a chunk ends there"""
    head: bytes
    """of the chain of hashes there"""
    entries: int
    """events and states up to there"""
    states: int
    """of them states"""
    last_time: int
    tables: McapTables


class RecordingWriter:
    """Writes a recording in the caller's own thread.

    Attributes:
        mark: where the last flush ended.
    """

    mark: RecordingMark

    def __init__(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        """Begin a recording.

        Args:
            path: a new file.
            metadata: what the session ran on: software, case, its hash.

        Raises:
            InputError: the file exists or cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("xb")
        except FileExistsError as error:
            raise InputError(f"{path} exists, and a recording is never written over; name another file.") from error
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); name another file.") from error
        try:
            writer = McapWriter(self._file, chunk_bytes=CHUNK_BYTES, profile=PROFILE, library="surgical-twin")
            self._begin(writer, HashChain(), states=0, last_time=0)
            self._writer.add_metadata(METADATA, dict(metadata))
            self.flush()
        except OSError as error:
            self._file.close()
            raise InputError(f"{path} cannot be written ({error.strerror}); name another file.") from error

    @classmethod
    def resumed(cls, file: BinaryIO, mark: RecordingMark, chain: HashChain) -> "RecordingWriter":
        """Go on with a recording whose writer was cut off.

        Args:
            file: to be read and written, at its end, which is the mark's.
            mark: its end.
            chain: of all it holds.
        """
        made = object.__new__(cls)
        made._file = file
        writer = McapWriter.resumed(file, chunk_bytes=CHUNK_BYTES, offset=mark.offset, tables=mark.tables)
        made._begin(writer, chain, states=mark.states, last_time=mark.last_time)
        names: dict[int, str | None] = {0: None}
        names.update({number: name for number, (name, _, _) in enumerate(mark.tables.schemas, start=1)})
        made._schemas = {name: number for number, name in names.items()}
        for number, (topic, _, schema, metadata) in enumerate(mark.tables.channels, start=1):
            marks = tuple(metadata.items())
            prefix = digest_prefix(topic, entry_kind(names[schema], metadata))
            made._channels[topic, names[schema], marks] = number, prefix
        made.flush()
        return made

    def _begin(self, writer: McapWriter, chain: HashChain, *, states: int, last_time: int) -> None:
        self._writer, self.chain = writer, chain
        self._states, self._last_time = states, last_time
        self._schemas: dict[str | None, int] = {None: 0}
        self._known_schemas = message_schemas() | {"Seal": msgspec.json.schema(Seal)}
        self._channels: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], tuple[int, bytes]] = {}
        """by name, schema and marks: number, and what the digests of its entries have in common"""
        self._tables = writer.tables()

    def add_event(self, event: Event) -> None:
        """Write an event."""
        self.add(_event_entry(event))

    def add_state(self, frame: bytes, time_ns: int) -> None:
        """Write a state of the twin, as the frame that was published."""
        self.add(_Entry(STATE_CHANNEL, "TwinState", frame.partition(b"\0")[2], time_ns, time_ns, self._states))
        self._states += 1

    def add(self, entry: _Entry) -> None:
        """Write an entry and chain it."""
        name, schema, data, log_time, publish_time, sequence, marks = entry
        number, prefix = self._channels.get((name, schema, marks)) or self._channel(name, schema, marks)
        digest = entry_digest(prefix, data, log_time=log_time, publish_time=publish_time, sequence=sequence)
        self.chain.add(digest)
        self._last_time = log_time
        self._writer.add_message(
            number, log_time=log_time, publish_time=publish_time, sequence=sequence & 0xFFFFFFFF, data=data
        )
        if self._writer.open_bytes > SEALED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Seal what has come, close its chunk, and hand it to the operating system."""
        self._seal()
        self._writer.flush()
        if len(self._channels) != len(self._tables.channels):
            self._tables = self._writer.tables()
        chain = self.chain
        self.mark = RecordingMark(
            self._writer.offset, chain.head, chain.length, self._states, self._last_time, self._tables
        )

    def close(self, *, left_out: int = 0) -> None:
        """Seal, write the index and the chain's head, and close the file.

        Args:
            left_out: how many entries never came to be written.
        """
        self.flush()
        self._writer.add_metadata(
            END_METADATA,
            {"entries": str(self.chain.length), "head": self.chain.head.hex(), LEFT_OUT: str(left_out)},
        )
        self._writer.finish()
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        try:
            self._file.close()
        except OSError:
            # Its buffer does not fit on the disk either; closing the raw file lets go of it.
            self._file.raw.close()  # type: ignore[attr-defined]

    def __enter__(self) -> "RecordingWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _seal(self) -> None:
        seal = self.chain.seal()
        if seal is not None:
            at = self._last_time
            number, _ = self._channels.get((CHAIN_CHANNEL, "Seal", ())) or self._channel(CHAIN_CHANNEL, "Seal", ())
            sequence = seal.first & 0xFFFFFFFF
            self._writer.add_message(number, log_time=at, publish_time=at, sequence=sequence, data=_encode(seal))

    def _channel(self, name: str, schema: str | None, marks: tuple[tuple[str, str], ...]) -> tuple[int, bytes]:
        """A new channel's number and the prefix of its entries' digests."""
        if schema not in self._schemas:
            content = json.dumps(self._known_schemas[schema or ""]).encode()
            self._schemas[schema] = self._writer.register_schema(schema or "", "jsonschema", content)
        number = self._writer.register_channel(name, "msgpack" if schema else "", self._schemas[schema], dict(marks))
        known = self._channels[name, schema, marks] = number, digest_prefix(name, entry_kind(schema, dict(marks)))
        return known


class Recorder:
    """Writes a recording from a thread of its own.

    Attributes:
        failure: why the recording is not complete (disk full, say), or None. Never raised into the session.
        left_out: how many events and states are missing from it.
    """

    def __init__(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        """Begin a recording, as `RecordingWriter` does."""
        self._begin(RecordingWriter(path, metadata=metadata))

    @classmethod
    def going_on(cls, writer: RecordingWriter) -> "Recorder":
        """Go on with a recording that was begun elsewhere."""
        made = object.__new__(cls)
        made._begin(writer)
        return made

    def _begin(self, writer: RecordingWriter) -> None:
        self.failure: str | None = None
        self.left_out = 0
        self._writer = writer
        self._finish = True
        self._waiting: deque[_Item] = deque()
        self._ended = threading.Event()
        self._put_bytes = self._written_bytes = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def head(self) -> str:
        """The head of the hash chain, in hexadecimal; after `close` it is the recording's last."""
        return self._writer.chain.head.hex()

    @property
    def mark(self) -> RecordingMark:
        """The last place behind which another process could go on."""
        return self._writer.mark

    @property
    def entries(self) -> int:
        """How many events and states have been written."""
        return self._writer.chain.length

    @property
    def waiting_bytes(self) -> int:
        """What is still to be written."""
        return self._put_bytes - self._written_bytes

    def record_event(self, event: Event) -> None:
        """Keep an event; returns at once."""
        self._put(event, len(event.frame))

    def record_state(self, frame: bytes, time_ns: int) -> None:
        """Keep a state of the twin, as the frame that was published."""
        self._put((frame, time_ns), len(frame))

    def close(self, *, finish: bool = True) -> None:
        """Write what is left, and finish the file.

        Args:
            finish: false where another process will go on with it.
        """
        self._finish = finish
        self._ended.set()
        self._thread.join()

    def _put(self, item: _Item, size: int) -> None:
        # Each counter is written by one thread only, so no lock is needed.
        size += ENTRY_BYTES
        if self._put_bytes - self._written_bytes + size > QUEUE_BYTES:
            self.left_out += 1
            if self.failure is None:
                self.failure = "the disk did not keep up, and events had to be left out"
            return
        self._put_bytes += size
        self._waiting.append(item)

    def _run(self) -> None:
        try:
            ended = False
            while not ended:
                ended = self._ended.wait(FLUSH_S)
                self._write_waiting()
            if self._finish:
                self._writer.close(left_out=self.left_out)
            else:
                self._writer.abandon()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            self.failure = f"writing failed ({reason or error})"
            self._writer.abandon()
            # What comes from here on is let go, so that the memory does not fill.
            ended = False
            while not ended:
                ended = self._ended.wait(FLUSH_S)
                while self._waiting:
                    self._taken()
                    self.left_out += 1

    def _write_waiting(self) -> None:
        """Write what waits, in chunks that are closed before too much time has passed."""
        due = time.monotonic() + FLUSH_S
        while self._waiting:
            item = self._taken()
            if isinstance(item, Event):
                self._writer.add_event(item)
            else:
                self._writer.add_state(*item)
            if time.monotonic() >= due:
                self._writer.flush()
                due = time.monotonic() + FLUSH_S
        self._writer.flush()

    def _taken(self) -> _Item:
        """The next item, which waits no more."""
        item = self._waiting.popleft()
        self._written_bytes += ENTRY_BYTES + len(item.frame if isinstance(item, Event) else item[0])
        return item
