"""Events: what has arrived, in one order; and the watch over what has not."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from streams.errors import MalformedMessage, UnknownType
from streams.messages import Message
from streams.wire import topic, unpack

MALFORMED, UNKNOWN_TYPE, FORBIDDEN = "malformed", "unknown_type", "forbidden"
"""Why a frame gives no message; the session counts it under this name."""


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """A frame that gives the session no message."""

    reason: str
    topic: str
    kind: str = MALFORMED
    """MALFORMED: it cannot be read. UNKNOWN_TYPE: a later version's. FORBIDDEN: its sender may not say it."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened to a session."""

    index: int
    """Number in the session, from 0."""
    receive_time_ns: int
    """When it arrived, by the session's clock."""
    frame: bytes
    """As it came over the wire."""
    message: Message | Malformed
    """What it says; its source time is by the session's clock."""
    late: bool = False
    """It came after events of a later time had been released."""
    superseded: bool = False
    """Newer ones of its stream were waiting: the session counts it and does not use it."""

    def numbered(self, index: int) -> "Event":
        """The same event with its number in the session."""
        return Event(index, self.receive_time_ns, self.frame, self.message, self.late, self.superseded)

    def marked(self, *, late: bool = False, superseded: bool = False) -> "Event":
        """The same event with marks."""
        return Event(self.index, self.receive_time_ns, self.frame, self.message, late, superseded)


def event_from_frame(
    index: int, receive_time_ns: int, frame: bytes, *, source_time_ns: int | None = None, kind: str | None = None
) -> Event:
    """Decode a frame into an event; never fails.

    Args:
        index: number in the session.
        receive_time_ns: when it arrived.
        frame: the bytes.
        source_time_ns: the source's time by the session's clock, where the source's own clock is off.
        kind: why it is no message, where that was decided before.
    """
    try:
        message = unpack(frame)
    except MalformedMessage as error:
        found = UNKNOWN_TYPE if isinstance(error, UnknownType) else MALFORMED
        return Event(index, receive_time_ns, frame, Malformed(str(error), topic(frame), kind or found))
    if kind is not None:
        return Event(index, receive_time_ns, frame, Malformed("it was refused", topic(frame), kind))
    if source_time_ns is not None and source_time_ns != message.source_time_ns:
        message = msgspec.structs.replace(message, source_time_ns=source_time_ns)
    return Event(index, receive_time_ns, frame, message)


@dataclass(frozen=True)
class Verdict:
    """What a message's sequence number says."""

    lost: int = 0
    """Messages missing before it, that may still come late."""
    duplicate: bool = False
    late: bool = False
    """It fills an earlier gap."""
    restart: bool = False
    """Its publisher began anew."""


IN_ORDER = Verdict()

REMEMBERED = 256
"""Gaps this far back can still be filled; older numbers are taken for a restart."""

LARGEST_GAP = 1_000_000
"""More missing at once than this was never sent: the publisher numbers anew."""


RESTART_NS = 50_000_000
"""A publisher that starts again has been away for longer than this; less is how well its clock is known."""


class _Stream(msgspec.Struct, frozen=True):
    newest: int
    newest_ns: int | None = None
    missing: frozenset[int] = frozenset()
    lost: int = 0
    duplicates: int = 0
    late: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class SequenceWatch:
    """Counts, per stream, what was lost, came twice, came late. A value: `see` returns a new one."""

    streams: Mapping[str, _Stream] = field(default_factory=dict)

    def see(self, stream: str, sequence: int, source_time_ns: int | None = None) -> tuple["SequenceWatch", Verdict]:
        """Take a message's number and, where it is given, its time.

        A number seen before is a duplicate, or the publisher has started again. Times tell these apart: an old
        message sent once more is not newer than what is known. Without times a restart is a 0, or a number far
        below the newest.
        """
        known = self.streams.get(stream)
        if known is None:
            # What came before the first message seen was never subscribed to.
            return self._with(stream, _Stream(newest=sequence, newest_ns=source_time_ns)), IN_ORDER
        time_ns = known.newest_ns if source_time_ns is None else max(source_time_ns, known.newest_ns or 0)
        gap = sequence - known.newest - 1
        if 0 <= gap <= LARGEST_GAP:
            missing = known.missing
            if missing or gap:
                recent = range(max(known.newest + 1, sequence - REMEMBERED), sequence)
                missing = frozenset(n for n in missing if n >= sequence - REMEMBERED) | frozenset(recent)
            updated = _Stream(
                sequence, time_ns, missing, known.lost + gap, known.duplicates, known.late, known.restarts
            )
            return self._with(stream, updated), Verdict(lost=gap) if gap else IN_ORDER
        if sequence in known.missing:
            updated = msgspec.structs.replace(
                known, missing=known.missing - {sequence}, lost=known.lost - 1, late=known.late + 1
            )
            return self._with(stream, updated), Verdict(late=True)
        if source_time_ns is None:
            begins = (sequence == 0 and known.newest > 0) or sequence < known.newest - REMEMBERED
        else:
            begins = sequence != known.newest and source_time_ns > (known.newest_ns or 0) + RESTART_NS
        if begins or gap > LARGEST_GAP:
            updated = msgspec.structs.replace(
                known, newest=sequence, newest_ns=time_ns, missing=frozenset(), restarts=known.restarts + 1
            )
            return self._with(stream, updated), Verdict(restart=True)
        return self._with(stream, msgspec.structs.replace(known, duplicates=known.duplicates + 1)), Verdict(
            duplicate=True
        )

    def _with(self, stream: str, state: _Stream) -> "SequenceWatch":
        return SequenceWatch({**self.streams, stream: state})

    def totals(self) -> dict[str, int]:
        """Counts over all streams: lost, duplicates, late_arrivals, restarts."""
        states = self.streams.values()
        return {
            "lost": sum(state.lost for state in states),
            "duplicates": sum(state.duplicates for state in states),
            "late_arrivals": sum(state.late for state in states),
            "restarts": sum(state.restarts for state in states),
        }
