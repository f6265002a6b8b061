"""Reading a recording back, whole, cut off or damaged, and checking that it is as it was written.

The reader goes through the file from its beginning and needs no index, so a file that was never closed gives all that
reached it. Checksums of chunks tell damage, the chain of hashes tells changes (`streams.hash_chain`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
from mcap.exceptions import McapError
from mcap.records import Channel, Footer, Metadata, Schema
from mcap.stream_reader import CRCValidationError

from streams.errors import InputError
from streams.events import Event, event_from_frame
from streams.hash_chain import ChainCheck, Seal, digest_prefix, entry_digest
from streams.mcap_reader import Stored, opened_records
from streams.messages import decode_by_type, doubtful
from streams.recorder import (
    CHAIN_CHANNEL,
    END_METADATA,
    KIND,
    LATE,
    LEFT_OUT,
    METADATA,
    RAW_CHANNEL,
    STATE_CHANNEL,
    SUPERSEDED,
    entry_kind,
)

_seal_decoder = msgspec.msgpack.Decoder(Seal)


@dataclass(frozen=True)
class StateFrame:
    """A state of the twin as it was published."""

    number: int
    time_ns: int
    frame: bytes


@dataclass
class RecordingScan:
    """One pass through a recording; what it found besides the entries is known when it has ended.

    Attributes:
        metadata: what the session ran on.
        closed: whether the recording was finished.
        damage: where the file cannot be read any further, in words; empty where it can.
        chain: how far the entries are as they were written.
        chained: whether the file has a chain at all.
        head: the chain's head as it was written on closing.
        left_out: entries that never came to be written: the disk did not keep up.
    """

    path: Path
    metadata: dict[str, str] = field(default_factory=dict)
    closed: bool = False
    damage: str = ""
    chain: ChainCheck = field(default_factory=ChainCheck)
    chained: bool = False
    head: str | None = None
    left_out: int = 0
    _stream: BinaryIO | None = None

    @property
    def position(self) -> int:
        """How far the file has been read while `entries` is gone through, in bytes."""
        return 0 if self._stream is None else self._stream.tell()

    def entries(self) -> Iterator[Event | StateFrame]:
        """All events and states in the order they were written.

        Raises:
            InputError: there is no such file, or it is no recording of a session.
        """
        try:
            with self.path.open("rb") as stream:
                self._stream = stream
                yield from self._entries(stream)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}); check the path.") from error
        finally:
            self._stream = None

    def _entries(self, stream: BinaryIO) -> Iterator[Event | StateFrame]:
        channels: dict[int, EntryChannel] = {}
        schemas: dict[int, str] = {}
        found = False
        reader = opened_records(stream)
        while True:
            try:
                record = next(reader)
                item = self._item(record, channels[record[0]]) if isinstance(record, tuple) else None
            except StopIteration:
                break
            except CRCValidationError as error:
                self.damage = f"a checksum does not fit ({error})"
                break
            except Exception as error:  # at a cut the reader raises whatever its parser trips over
                if isinstance(error, McapError) and not found and not self.metadata:
                    raise InputError(
                        f"{self.path} is no MCAP recording ({str(error) or 'it is too short'}); "
                        "give a file that live --record wrote."
                    ) from error
                self.damage = f"the file breaks off ({type(error).__name__})"
                break
            if item is not None:
                found = True
                yield item
            elif isinstance(record, Metadata):
                if record.name == METADATA:
                    self.metadata = dict(record.metadata)
                elif record.name == END_METADATA:
                    self.head = record.metadata.get("head")
                    self.left_out = int(record.metadata.get(LEFT_OUT, "0"))
            elif isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel):
                channels[record.id] = EntryChannel.of(record.topic, schemas.get(record.schema_id), record.metadata)
            elif isinstance(record, Footer):
                self.closed = True
        if self.chain.fault is None and self.chained and self.closed and not self.damage:
            if self.chain.unsealed:
                self.chain.fault = f"{self.chain.unsealed} entries after the last seal were added afterwards"
                self.chain.fault_entry = self.chain.sealed
            elif self.head is not None and self.head != self.chain.head.hex():
                self.chain.fault = "the chain does not end as it did on closing: its end has been taken out"
                self.chain.fault_entry = self.chain.sealed
        if not self.metadata and not found:
            raise InputError(f"{self.path} holds no recorded session; give a file that live --record wrote.")

    def _item(self, record: Stored, channel: "EntryChannel") -> Event | StateFrame | None:
        if channel.topic == CHAIN_CHANNEL:
            self.chained = True
            self.chain.take(_seal_decoder.decode(record[4]))
            return None
        self.chain.add(channel.digest(record), channel.topic, record[1])
        return channel.entry(record)


@dataclass(frozen=True, slots=True)
class EntryChannel:
    """What is to be known of a channel for each of its messages."""

    topic: str
    head: bytes
    """what its frames begin with"""
    prefix: bytes
    """what the digests of its entries have in common"""
    plain: bool
    """holds messages of one stream"""
    late: bool
    superseded: bool
    reason: str | None
    """why its frames are no messages"""

    @classmethod
    def of(cls, topic: str, schema: str | None, metadata: Mapping[str, str]) -> "EntryChannel":
        """A channel as the file describes it."""
        return cls(
            topic=topic,
            head=topic.encode() + b"\0",
            prefix=digest_prefix(topic, entry_kind(schema, metadata)),
            plain=topic.isascii() and topic not in (CHAIN_CHANNEL, STATE_CHANNEL, RAW_CHANNEL),
            late=LATE in metadata,
            superseded=SUPERSEDED in metadata,
            reason=metadata.get(KIND) or None,
        )

    def digest(self, record: Stored) -> bytes:
        """Of an event or a state."""
        _, sequence, log_time, publish_time, data = record
        return entry_digest(self.prefix, data, log_time=log_time, publish_time=publish_time, sequence=sequence)

    def entry(self, record: Stored) -> Event | StateFrame:
        """The event or state that a message of the file is."""
        _, sequence, log_time, publish_time, data = record
        if self.plain:
            try:
                message = decode_by_type(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # judged below, by what is said in words
            else:
                if message.stream == self.topic and not doubtful(message):
                    if message.source_time_ns != publish_time:
                        message = msgspec.structs.replace(message, source_time_ns=publish_time)
                    return Event(sequence, log_time, self.head + data, message, self.late, self.superseded)
        elif self.topic == STATE_CHANNEL:
            return StateFrame(sequence, log_time, self.head + data)
        elif self.topic == RAW_CHANNEL:
            return event_from_frame(sequence, log_time, data, kind=self.reason)
        event = event_from_frame(sequence, log_time, self.head + data, source_time_ns=publish_time)
        return event.marked(late=self.late, superseded=self.superseded)


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
    chain: ChainCheck = field(default_factory=ChainCheck)
    head: str | None = None
    """the last head of the chain of hashes, where the recording was closed"""
    chained: bool = False

    def entries(self) -> Iterator[Event | StateFrame]:
        """All states, and then all events."""
        for number, frame in enumerate(self.states):
            yield StateFrame(number, 0, frame)
        yield from self.events


class RecordingFile:
    """A recording that is read while it is gone through, so that hours of images need no memory.

    Attributes:
        path: the file.
        metadata: what the session ran on.
        notes: what was wrong with the file, one sentence each; known, as all below, when `entries` has ended.
    """

    def __init__(self, path: Path) -> None:
        """Look at a recording's beginning.

        Raises:
            InputError: there is no such file, or it is no recording of a session.
        """
        self.path = path
        self.notes: tuple[str, ...] = ()
        beginning = RecordingScan(path)
        entries = beginning.entries()
        next(entries, None)
        entries.close()  # type: ignore[attr-defined]
        self.metadata = beginning.metadata
        self._size = max(1, path.stat().st_size)
        self._scan = RecordingScan(path)

    @property
    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return self._scan.position / self._size

    @property
    def truncated(self) -> bool:
        """Whether anything was wrong with the file."""
        return bool(self.notes)

    @property
    def chain(self) -> ChainCheck:
        """How far the entries are as they were written."""
        return self._scan.chain

    @property
    def chained(self) -> bool:
        """Whether the file has a chain of hashes at all."""
        return self._scan.chained

    def entries(self) -> Iterator[Event | StateFrame]:
        """All events and states in the order they were written."""
        self._scan = scan = RecordingScan(self.path)
        events = states = first_ns = last_ns = 0
        newest = -1
        for item in scan.entries():
            if isinstance(item, StateFrame):
                states += 1
            else:
                events += 1
                first_ns = first_ns or item.receive_time_ns
                last_ns, newest = item.receive_time_ns, max(newest, item.index)
            yield item
        self.notes = _notes(scan, events, (last_ns - first_ns) * 1e-9, states, newest + 1 - events)


def _notes(scan: RecordingScan, events: int, span_s: float, states: int, missing: int) -> tuple[str, ...]:
    """What was wrong with a file that has been gone through, one sentence each."""
    notes = []
    if not scan.closed or scan.damage:
        notes.append(
            f"{scan.damage or 'it was never closed'}; {events} events over {span_s:.1f} s and {states} twin states "
            f"were saved."
        )
    if missing > 0:
        notes.append(f"{missing} events are missing from it.")
    if scan.left_out:
        notes.append(f"{scan.left_out} events and states were left out: the disk did not keep up.")
    return tuple(notes)


def read_recording(path: Path) -> Recording:
    """Read a recording; of one that was cut off or damaged, everything before the damage.

    Raises:
        InputError: there is no such file, or it is no recording of a session.
    """
    scan = RecordingScan(path)
    events: dict[int, Event] = {}
    states: list[bytes] = []
    for item in scan.entries():
        if isinstance(item, StateFrame):
            states.append(item.frame)
        else:
            events[item.index] = item
    ordered = [events[index] for index in sorted(events)]
    span_s = (ordered[-1].receive_time_ns - ordered[0].receive_time_ns) * 1e-9 if ordered else 0.0
    missing = (ordered[-1].index + 1 - len(ordered)) if ordered else 0
    notes = _notes(scan, len(ordered), span_s, len(states), missing)
    return Recording(
        scan.metadata,
        ordered,
        states,
        truncated=bool(notes),
        notes=notes,
        chain=scan.chain,
        head=scan.head,
        chained=scan.chained,
    )
