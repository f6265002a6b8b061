"""Recording to MCAP while a session runs.

Everything a session was given is kept in the order it was given: each event under its stream's name, with its number
in the session as MCAP's sequence, the time of arrival as log time and the source's time, by the session's clock, as
publish time. Frames that are no message are kept as they came in the channel ``session/raw``, the twin's states in the
channel ``twin``, and a chain of hashes over all of it in ``session/chain``. Schemas are embedded; chunks carry
checksums.

`RecordingWriter` writes; `Recorder` does it from a thread of its own, so that a slow disk never delays the session, and
closes a chunk at least every 40 ms, so that a killed process loses no more than that and what was on its way.
"""

import json
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec
from mcap.writer import CompressionType, Writer

from streams.errors import InputError
from streams.events import Event, Malformed
from streams.hash_chain import STATES as STATE_CHANNEL
from streams.hash_chain import HashChain, Seal, digest_prefix, entry_digest
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

QUEUE_BYTES = 512_000_000
"""What may wait for a disk that does not keep up; beyond it events are left out instead of filling the memory."""

_encode = msgspec.msgpack.Encoder().encode


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


class RecordingWriter:
    """Writes a recording in the caller's own thread."""

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
        self.chain = HashChain()
        self._states = self._last_time = 0
        self._schemas: dict[str | None, int] = {None: 0}
        self._known_schemas = message_schemas() | {"Seal": msgspec.json.schema(Seal)}
        self._channels: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], int] = {}
        self._prefixes: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], bytes] = {}
        self._writer = Writer(
            self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.LZ4, enable_data_crcs=True
        )
        try:
            self._writer.start(profile=PROFILE, library="surgical-twin")
            self._writer.add_metadata(METADATA, dict(metadata))
            self.flush()
        except OSError as error:
            self._file.close()
            raise InputError(f"{path} cannot be written ({error.strerror}); name another file.") from error

    def add_event(self, event: Event) -> None:
        """Write an event."""
        self.add(_event_entry(event))

    def add_state(self, frame: bytes, time_ns: int) -> None:
        """Write a state of the twin, as the frame that was published."""
        self.add(self.state_entry(frame, time_ns))

    def state_entry(self, frame: bytes, time_ns: int) -> _Entry:
        """What is to be written of the next state."""
        entry = _Entry(STATE_CHANNEL, "TwinState", frame.partition(b"\0")[2], time_ns, time_ns, self._states)
        self._states += 1
        return entry

    def add(self, entry: _Entry) -> None:
        """Write an entry and chain it."""
        key = (entry.channel, entry.schema, entry.marks)
        prefix = self._prefixes.get(key)
        if prefix is None:
            kind = entry_kind(entry.schema, dict(entry.marks))
            prefix = self._prefixes[key] = digest_prefix(entry.channel, kind)
        self.chain.add(
            entry_digest(
                prefix,
                entry.data,
                log_time=entry.log_time,
                publish_time=entry.publish_time,
                sequence=entry.sequence,
            )
        )
        self._last_time = entry.log_time
        self._write(entry)

    def flush(self) -> None:
        """Seal what has come, close its chunk, and hand it to the operating system."""
        self._seal()
        self._writer.flush()
        self._file.flush()

    def close(self, *, left_out: int = 0) -> None:
        """Seal, write the index and the chain's head, and close the file.

        Args:
            left_out: how many entries never came to be written.
        """
        self._seal()
        self._writer.flush()
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
            self._write(_Entry(CHAIN_CHANNEL, "Seal", _encode(seal), at, at, seal.first & 0xFFFFFFFF))

    def _write(self, entry: _Entry) -> None:
        key = (entry.channel, entry.schema, entry.marks)
        channel = self._channels.get(key)
        if channel is None:
            if entry.schema not in self._schemas:
                schema = json.dumps(self._known_schemas[entry.schema or ""]).encode()
                self._schemas[entry.schema] = self._writer.register_schema(entry.schema or "", "jsonschema", schema)
            channel = self._writer.register_channel(
                entry.channel, "msgpack" if entry.schema else "", self._schemas[entry.schema], dict(entry.marks)
            )
            self._channels[key] = channel
        self._writer.add_message(
            channel,
            log_time=entry.log_time,
            data=entry.data,
            publish_time=entry.publish_time,
            sequence=entry.sequence & 0xFFFFFFFF,
        )


class Recorder:
    """Writes a recording from a thread of its own.

    Attributes:
        failure: why the recording is not complete (disk full, say), or None. Never raised into the session.
        left_out: how many events and states are missing from it.
    """

    def __init__(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        """Begin a recording, as `RecordingWriter` does."""
        self.failure: str | None = None
        self.left_out = 0
        self._writer = RecordingWriter(path, metadata=metadata)
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._put_bytes = self._written_bytes = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def head(self) -> str:
        """The head of the hash chain, in hexadecimal; after `close` it is the recording's last."""
        return self._writer.chain.head.hex()

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
        self._put(_event_entry(event))

    def record_state(self, frame: bytes, time_ns: int) -> None:
        """Keep a state of the twin, as the frame that was published."""
        self._put(self._writer.state_entry(frame, time_ns))

    def close(self) -> None:
        """Write what is left and finish the file."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, entry: _Entry) -> None:
        # Each counter is written by one thread only, so no lock is needed.
        size = len(entry.data) + 200
        if self._put_bytes - self._written_bytes + size > QUEUE_BYTES:
            self.left_out += 1
            if self.failure is None:
                self.failure = "the disk did not keep up, and events had to be left out"
            return
        self._put_bytes += size
        self._queue.put(entry)

    def _run(self) -> None:
        ended = False
        try:
            due = time.monotonic() + FLUSH_S
            while True:
                try:
                    entry = self._queue.get(timeout=max(0.0, due - time.monotonic()))
                    if entry is None:
                        ended = True
                        break
                    self._writer.add(entry)
                    self._written_bytes += len(entry.data) + 200
                except queue.Empty:
                    pass
                if time.monotonic() >= due:
                    self._writer.flush()
                    due = time.monotonic() + FLUSH_S
            self._writer.close(left_out=self.left_out)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            self.failure = f"writing failed ({reason or error})"
            self._writer.abandon()
            # Keep taking entries, so that closing does not wait for a thread that has ended.
            while not ended:
                entry = self._queue.get()
                ended = entry is None
                self.left_out += not ended
                self._written_bytes += 0 if entry is None else len(entry.data) + 200
