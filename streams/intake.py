"""The intake: what comes from the sockets becomes the session's events, in order, with everything noticed on the way.

Each frame is decoded, its sender's right to say it is checked, its time is brought to the session's clock, and it
waits for its turn. What was noticed (silent streams, clocks, what was refused or dropped) is told to the session in an
`IntakeReport`, which is an event like any other, so that a replay knows it too. Time is handed in: the intake
reads no clock.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import dist

import msgspec

from streams.clocks import StreamClock
from streams.compiled import short_way
from streams.events import FORBIDDEN, Event, Malformed, event_from_frame
from streams.keys import AllowList
from streams.liveness import Liveness
from streams.messages import (
    ENDED,
    LARGEST_NORM,
    LEAST_NORM,
    LONGEST_PERIOD_NS,
    MAX_STREAMS,
    NO_TURN,
    OWN_TYPES,
    ClockEstimate,
    FlowSample,
    Heartbeat,
    ImageFrame,
    IntakeReport,
    Message,
    PressureSamples,
    ToolPose,
    WaveformSamples,
    decode_by_type,
    end_time_ns,
)
from streams.ordering import Orderer
from streams.recorder import CHAIN_CHANNEL, RAW_CHANNEL, STATE_CHANNEL
from streams.roles import allowed_types
from streams.sockets import Frame
from streams.wire import topic

log = logging.getLogger(__name__)

RESERVED = (STATE_CHANNEL, RAW_CHANNEL, CHAIN_CHANNEL)
RESERVED_PREFIX = "session/"

CONTINUOUS = (ToolPose, PressureSamples, FlowSample, WaveformSamples, ImageFrame, Heartbeat)
"""Streams of these have a rhythm, and are missed when they fall silent."""

REPORT_NS = 1_000_000_000
"""The report is said anew this often; at once where a flag changes."""

REPORT_STREAM = "session/intake"

MOST_TOOLS = 64

NEWEST_OF: Mapping[type, int] = {ToolPose: 64, ImageFrame: 2}
"""How many of these may wait; older ones are superseded. Everything else is kept."""

SHORT = 4096
"""Longer frames are not copied to be taken apart."""

WITHOUT_PAUSE = 256
"""Frames taken by compiled code at once, while which no other thread runs: half a millisecond."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_NOBODY = "\0"
"""No client's name."""

Turn = tuple[int, int, Event]
"""When an event was measured, when it arrived, and the event."""


def _ignore(receive_time_ns: int) -> None:
    """For streams that have no rhythm."""


@dataclass(slots=True)
class _Source:
    """What is looked up once for each message of a stream."""

    stream: str
    kind: type
    """of its last message"""
    sender: str | None
    tool: str | None
    like: Message
    """a message of it, whose names are those of nearly all that follow"""
    clock: StreamClock
    beat: Callable[[int], None]
    """takes the time of arrival"""
    waiting: int = 0
    """messages among those that were taken together"""


@cache
def _compiled_take() -> Callable[..., None] | None:
    """Takes frames as `Intake._take_quickly`, where that can be had."""
    module = short_way()
    if module is None:
        return None
    try:
        module.prepare(
            Frame,
            Event,
            _Source,
            StreamClock,
            PressureSamples,
            ToolPose,
            decode_by_type,
            UNREADABLE,
            SHORT,
            LEAST_NORM,
            LARGEST_NORM,
            LONGEST_PERIOD_NS,
        )
    except TypeError as error:
        log.info("frames are taken without compiled code, which is slower: %s", error)
        return None
    take: Callable[..., None] = module.take
    return take


@dataclass
class Intake:
    """Makes events of frames.

    Attributes:
        allowed: who may say what; None where everyone on this machine may.
        orderer: holds events back until their turn.
        counts: what was noticed: forbidden, ...
        standing_flags: what is said in every report, such as plain text on the network.
        at_once: types whose messages wait for no other stream's: what is shown rather than reckoned with.
    """

    allowed: AllowList | None = None
    orderer: Orderer[Event] = field(default_factory=Orderer)
    counts: Counter[str] = field(default_factory=Counter)
    standing_flags: tuple[str, ...] = ()
    at_once: tuple[type, ...] = ()
    clocks: dict[str, StreamClock] = field(default_factory=dict)
    liveness: Liveness = field(default_factory=Liveness)
    _owners: dict[str, str | None] = field(default_factory=dict)
    _tools: set[str] = field(default_factory=set)
    _accepted: dict[tuple[str, type, str | None], str | None] = field(default_factory=dict)
    """Whose messages of a stream, type and tool were found allowed: the list does not change during a session."""
    _sources: dict[str, _Source] = field(default_factory=dict)
    _quick: dict[bytes, _Source] = field(default_factory=dict)
    """those whose messages may take the short way, by the name that frames begin with"""
    _synchronized: set[str] = field(default_factory=set)
    _reported: tuple[int, tuple[str, ...]] | None = None
    _reports: int = 0

    def take_all(self, frames: Sequence[Frame]) -> list[Event]:
        """Take frames in the order in which they came.

        What is no message is returned as it stands, and so is what is superseded: of poses and images the newest count
        (`NEWEST_OF`) and older ones that waited with them do not. After these come messages of the types that wait for
        no other stream (`at_once`). The rest waits for `release`. Events get their numbers from the caller, who knows
        the order.

        Nearly all messages are one more of a known stream, from its own sender, with nothing to notice: these take a
        short way here, and all others that of `_admit`, which gives the same for every message.
        """
        at_once: list[Event] = []
        turns: list[Turn] = []
        crowded = len(frames) > min(NEWEST_OF.values())
        if crowded:
            for source in self._sources.values():
                source.waiting = 0
        take = _compiled_take()
        if take is None:
            self._take_quickly(frames, at_once, turns)
        else:
            for begin in range(0, len(frames), WITHOUT_PAUSE):
                end = begin + WITHOUT_PAUSE
                take(frames, begin, end, self._quick, at_once, turns, self._take_slowly, self._timed)
        if crowded:
            turns = self._supersede(turns, at_once)
        if self.at_once:
            at_once += [event for _, _, event in turns if type(event.message) in self.at_once]
            turns = [turn for turn in turns if type(turn[2].message) not in self.at_once]
        self.orderer.extend(turns)
        return at_once

    def take(self, frame: Frame) -> Event | None:
        """Take a single frame, as `take_all`; the event if it is returned as it stands."""
        stands = self.take_all((frame,))
        return stands[0] if stands else None

    def _take_quickly(self, frames: Sequence[Frame], at_once: list[Event], turns: list[Turn]) -> None:
        """What `short_way.c` does, where it cannot be compiled."""
        quick = self._quick
        for frame in frames:
            data, received = frame.data, frame.receive_time_ns
            if len(data) > SHORT:
                self._take_slowly(frame, at_once, turns)
                continue
            name, _, payload = data.partition(b"\0")
            known = quick.get(name)
            if known is None or known.sender != frame.sender:
                self._take_slowly(frame, at_once, turns)
                continue
            try:
                message = decode_by_type(payload)
            except UNREADABLE:
                self._take_slowly(frame, at_once, turns)
                continue
            time_ns = message.source_time_ns
            if type(message) is PressureSamples:
                sound = known.kind is PressureSamples
                time_ns += message.sample_period_ns * (len(message.values_mmhg) - 1)
            elif type(message) is ToolPose:
                turn = message.quaternion
                sound = message.tool == known.tool and LEAST_NORM < dist(turn, NO_TURN) < LARGEST_NORM
            else:
                sound = False
            if not sound or message.stream != known.stream:
                self._take_slowly(frame, at_once, turns)
                continue
            clock = known.clock
            if clock.least_ns <= received - time_ns <= clock.most_ns and received < clock.until_ns:
                event = Event(-1, received, data, message)
            else:
                event, time_ns = self._timed(message, clock, time_ns, frame)
            known.beat(received)
            known.waiting += 1
            turns.append((time_ns, received, event))

    def _take_slowly(self, frame: Frame, at_once: list[Event], turns: list[Turn]) -> None:
        event, time_ns = self._admit(frame)
        if time_ns is None:
            at_once.append(event)
        else:
            turns.append((time_ns, frame.receive_time_ns, event))

    def _admit(self, frame: Frame) -> tuple[Event, int | None]:
        """The event of a frame, and when it was measured by the session's clock; None where it is no message."""
        received = frame.receive_time_ns
        event = event_from_frame(-1, received, frame.data)
        message = event.message
        if isinstance(message, Malformed):
            return event, None
        tool = message.tool if isinstance(message, ToolPose) else None
        said = (message.stream, type(message), tool)
        if self._accepted.get(said, _NOBODY) != frame.sender:
            forbidden = self._forbidden(event, frame.sender)
            if forbidden is not None:
                return Event(-1, received, frame.data, Malformed(forbidden, topic(frame.data), FORBIDDEN)), None
            if len(self._accepted) < 4 * MAX_STREAMS:
                self._accepted[said] = frame.sender
        clock = self.clocks.get(message.stream)
        if clock is None:
            clock = self.clocks[message.stream] = StreamClock(trusted=message.stream in self._synchronized)
        if isinstance(message, Heartbeat) and message.synchronized:
            clock.trust(True)
        event, time_ns = self._timed(message, clock, end_time_ns(message), frame)
        if isinstance(message, CONTINUOUS):
            self.liveness.see(message.stream, received)
        if isinstance(message, Heartbeat):
            self._heartbeat(message, frame.sender)
        source = self._sources.get(message.stream)
        if source is None or (source.kind, source.sender, source.tool) != (type(message), frame.sender, tool):
            source = self._know(message, frame.sender, tool, clock)
        source.waiting += 1
        return event, time_ns

    def _timed(self, message: Message, clock: StreamClock, end_ns: int, frame: Frame) -> tuple[Event, int]:
        """The event of a message by the session's clock, and when it was complete by it."""
        received = frame.receive_time_ns
        corrected_ns = clock.see(end_ns, received)
        if corrected_ns != end_ns:
            source_ns = max(0, message.source_time_ns + corrected_ns - end_ns)
            message = msgspec.structs.replace(message, source_time_ns=source_ns)
        # Nothing arrives before it was measured: such a clock lies.
        return Event(-1, received, frame.data, message), min(corrected_ns, received)

    def _know(self, message: Message, sender: str | None, tool: str | None, clock: StreamClock) -> "_Source":
        """What there is to know of the stream of an accepted message."""
        kind, stream = type(message), message.stream
        beat = self.liveness.pulse(stream).times_ns.append if isinstance(message, CONTINUOUS) else _ignore
        source = self._sources[stream] = _Source(stream, kind, sender, tool, message, clock, beat)
        if kind in (ToolPose, PressureSamples):
            self._quick[stream.encode("ascii")] = source
        else:
            self._quick.pop(stream.encode("ascii"), None)
        return source

    def _supersede(self, turns: list[Turn], at_once: list[Event]) -> list[Turn]:
        """The turns without those that newer ones of their stream make useless, which stand as they are."""
        surplus = {
            source.stream: source.waiting - NEWEST_OF[source.kind]
            for source in self._sources.values()
            if source.kind in NEWEST_OF and source.waiting > NEWEST_OF[source.kind]
        }
        if not surplus:
            return turns
        left = []
        for turn in turns:
            event = turn[2]
            stream = event.message.stream if type(event.message) in NEWEST_OF else ""  # type: ignore[union-attr]
            if surplus.get(stream, 0) > 0:
                surplus[stream] -= 1
                at_once.append(event.marked(superseded=True))
            else:
                left.append(turn)
        return left

    def release(self, now_ns: int) -> list[Event]:
        """The events whose turn has come, in order."""
        return self._marked(*self.orderer.take_due(now_ns))

    def flush(self) -> list[Event]:
        """All that still wait, in order."""
        return self._marked(*self.orderer.take_all())

    @staticmethod
    def _marked(events: list[Event], late: int) -> list[Event]:
        events[:late] = [event.marked(late=True) for event in events[:late]]
        return events

    def report(
        self, now_ns: int, *, flags: tuple[str, ...] = (), counts: Counter[str] | None = None
    ) -> IntakeReport | None:
        """What there is to tell the session, where something changed or a second has passed.

        Args:
            now_ns: the session's clock.
            flags: what else forbids trust.
            counts: what else was counted.
        """
        silent = tuple(f"silent:{stream}" for stream in self.liveness.silent(now_ns))
        said = (*self.standing_flags, *flags, *silent)
        if self._reported is not None and self._reported[1] == said and now_ns - self._reported[0] < REPORT_NS:
            return None
        self._reported = (now_ns, said)
        self._reports += 1
        counters = self.counts + (counts or Counter())
        counters["late_events"] = self.orderer.late
        counters["clock_steps"] = sum(clock.steps for clock in self.clocks.values())
        return IntakeReport(
            stream=REPORT_STREAM,
            sequence=self._reports - 1,
            source_time_ns=now_ns,
            flags=said,
            counters={name: count for name, count in sorted(counters.items()) if count},
            clocks={
                stream: ClockEstimate(clock.raw_offset_ns, round(clock.drift_ppm, 3), clock.trusted)
                for stream, clock in sorted(self.clocks.items())
            },
        )

    def _forbidden(self, event: Event, sender: str | None) -> str | None:
        """Why a message's sender may not say it, or None."""
        message = event.message
        assert not isinstance(message, Malformed)
        stream = message.stream
        if isinstance(message, OWN_TYPES) or stream in RESERVED or stream.startswith(RESERVED_PREFIX):
            return "only the twin itself says this"
        if self.allowed is not None:
            client = self.allowed.named(sender or "")
            if client is None:
                return f"{sender} is not on the allow list"
            if type(message) not in allowed_types(client.roles):
                return f"{client.name} may not publish {type(message).__name__}"
        owner = self._owners.get(stream, sender)
        if owner != sender:
            return f"the stream {stream} is {owner}'s"
        if stream not in self._owners:
            if len(self._owners) >= MAX_STREAMS:
                return f"there are {MAX_STREAMS} streams already"
            self._owners[stream] = sender
        if isinstance(message, ToolPose) and message.tool not in self._tools:
            if len(self._tools) >= MOST_TOOLS:
                return f"there are {MOST_TOOLS} tools already"
            self._tools.add(message.tool)
        return None

    def _heartbeat(self, message: Heartbeat, sender: str | None) -> None:
        named = {name for name in (message.stream, *message.streams) if self._owners.get(name, sender) == sender}
        if message.synchronized:
            self._synchronized |= named
        else:
            self._synchronized -= named
        if len(self._synchronized) > 4 * MAX_STREAMS:
            self._synchronized.clear()
        if message.status == ENDED:
            for stream in named:
                self.liveness.forget(stream)
        for stream in named:
            if stream in self.clocks:
                self.clocks[stream].trust(message.synchronized)
