"""Events: what has arrived, in one order; and the watch over what has not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from streams.errors import MalformedMessage
from streams.messages import Message
from streams.wire import topic, unpack


@dataclass(frozen=True)
class Malformed:
    """A frame that is no message."""

    reason: str
    topic: str


@dataclass(frozen=True)
class Event:
    """One thing that happened to a session."""

    index: int
    """Number in the session, from 0."""
    receive_time_ns: int
    """When it arrived, by the session's clock."""
    frame: bytes
    """As it came over the wire."""
    message: Message | Malformed


def event_from_frame(index: int, receive_time_ns: int, frame: bytes) -> Event:
    """Decode a frame into an event; never fails."""
    try:
        return Event(index, receive_time_ns, frame, unpack(frame))
    except MalformedMessage as error:
        return Event(index, receive_time_ns, frame, Malformed(str(error), topic(frame)))


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


REMEMBERED = 256
"""Gaps this far back can still be filled; older numbers are taken for a restart."""


@dataclass(frozen=True)
class _Stream:
    newest: int
    missing: frozenset[int] = frozenset()
    lost: int = 0
    duplicates: int = 0
    late: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class SequenceWatch:
    """Counts, per stream, what was lost, came twice, came late. A value: `see` returns a new one."""

    streams: Mapping[str, _Stream] = field(default_factory=dict)

    def see(self, stream: str, sequence: int) -> tuple["SequenceWatch", Verdict]:
        """Take a message's number.

        A publisher that starts again begins at 0: a number far below the newest is a restart, not a loss.
        """
        known = self.streams.get(stream)
        if known is None:
            # What came before the first message seen was never subscribed to.
            return self._with(stream, _Stream(newest=sequence)), Verdict()
        if sequence > known.newest:
            gap = sequence - known.newest - 1
            recent = range(max(known.newest + 1, sequence - REMEMBERED), sequence)
            missing = frozenset(n for n in known.missing if n >= sequence - REMEMBERED) | frozenset(recent)
            updated = replace(known, newest=sequence, missing=missing, lost=known.lost + gap)
            return self._with(stream, updated), Verdict(lost=gap)
        if sequence in known.missing:
            updated = replace(known, missing=known.missing - {sequence}, lost=known.lost - 1, late=known.late + 1)
            return self._with(stream, updated), Verdict(late=True)
        if (sequence == 0 and known.newest > 0) or sequence < known.newest - REMEMBERED:
            updated = replace(known, newest=sequence, missing=frozenset(), restarts=known.restarts + 1)
            return self._with(stream, updated), Verdict(restart=True)
        return self._with(stream, replace(known, duplicates=known.duplicates + 1)), Verdict(duplicate=True)

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
