"""The intake: what comes from the sockets becomes the session's events, in order, with everything noticed on the way.

Each frame is decoded, its sender's right to say it is checked, its time is brought to the session's clock, and it
waits for its turn. What was noticed (silent streams, clocks, what was refused or dropped) is told to the session in an
`IntakeReport`, which is an event like any other, so that a replay knows it too. Time is handed in: the intake
reads no clock.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

import msgspec

from streams.clocks import StreamClock
from streams.events import FORBIDDEN, Event, Malformed, event_from_frame
from streams.keys import AllowList
from streams.liveness import Liveness
from streams.messages import (
    ENDED,
    MAX_STREAMS,
    OWN_TYPES,
    ClockEstimate,
    FlowSample,
    Heartbeat,
    ImageFrame,
    IntakeReport,
    PressureSamples,
    ToolPose,
    WaveformSamples,
    end_time_ns,
)
from streams.ordering import Orderer
from streams.recorder import CHAIN_CHANNEL, RAW_CHANNEL, STATE_CHANNEL
from streams.roles import allowed_types
from streams.sockets import Frame
from streams.wire import topic

RESERVED = (STATE_CHANNEL, RAW_CHANNEL, CHAIN_CHANNEL)
RESERVED_PREFIX = "session/"

CONTINUOUS = (ToolPose, PressureSamples, FlowSample, WaveformSamples, ImageFrame, Heartbeat)
"""Streams of these have a rhythm, and are missed when they fall silent."""

REPORT_NS = 1_000_000_000
"""The report is said anew this often; at once where a flag changes."""

REPORT_STREAM = "session/intake"

MOST_TOOLS = 64

_NOBODY = "\0"
"""No client's name."""


@dataclass
class Intake:
    """Makes events of frames.

    Attributes:
        allowed: who may say what; None where everyone on this machine may.
        orderer: holds events back until their turn.
        counts: what was noticed: forbidden, ...
        standing_flags: what is said in every report, such as plain text on the network.
    """

    allowed: AllowList | None = None
    orderer: Orderer[Event] = field(default_factory=Orderer)
    counts: Counter[str] = field(default_factory=Counter)
    standing_flags: tuple[str, ...] = ()
    clocks: dict[str, StreamClock] = field(default_factory=dict)
    liveness: Liveness = field(default_factory=Liveness)
    _owners: dict[str, str | None] = field(default_factory=dict)
    _tools: set[str] = field(default_factory=set)
    _accepted: dict[tuple[str, type, str | None], str | None] = field(default_factory=dict)
    """Whose messages of a stream, type and tool were found allowed: the list does not change during a session."""
    _synchronized: set[str] = field(default_factory=set)
    _reported: tuple[int, tuple[str, ...]] | None = None
    _reports: int = 0

    def take(self, frame: Frame, *, superseded: bool = False) -> Event | None:
        """Take a frame. What is no message, or superseded, is returned as it stands; the rest waits for `release`.

        Events get their numbers from the caller, who knows the order.
        """
        received = frame.receive_time_ns
        event = event_from_frame(-1, received, frame.data)
        message = event.message
        if isinstance(message, Malformed):
            return event
        said = (message.stream, type(message), message.tool if isinstance(message, ToolPose) else None)
        if self._accepted.get(said, _NOBODY) != frame.sender:
            forbidden = self._forbidden(event, frame.sender)
            if forbidden is not None:
                return replace(event, message=Malformed(forbidden, topic(frame.data), FORBIDDEN))
            if len(self._accepted) < 4 * MAX_STREAMS:
                self._accepted[said] = frame.sender
        clock = self.clocks.get(message.stream)
        if clock is None:
            clock = self.clocks[message.stream] = StreamClock(trusted=message.stream in self._synchronized)
        if isinstance(message, Heartbeat) and message.synchronized:
            clock.trusted = True
        end = end_time_ns(message)
        corrected_end = clock.see(end, received)
        if isinstance(message, CONTINUOUS):
            self.liveness.see(message.stream, received)
        if isinstance(message, Heartbeat):
            self._heartbeat(message, frame.sender)
        if corrected_end != end:
            corrected = max(0, message.source_time_ns + corrected_end - end)
            event = Event(-1, received, frame.data, msgspec.structs.replace(message, source_time_ns=corrected))
        if superseded:
            return replace(event, superseded=True)
        self.orderer.add(event, time_ns=corrected_end, receive_ns=received)
        return None

    def release(self, now_ns: int) -> list[Event]:
        """The events whose turn has come, in order."""
        return [
            replace(released.item, late=True) if released.late else released.item
            for released in self.orderer.release(now_ns)
        ]

    def flush(self) -> list[Event]:
        """All that still wait, in order."""
        return [replace(done.item, late=True) if done.late else done.item for done in self.orderer.flush()]

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
                self.clocks[stream].trusted = message.synchronized
