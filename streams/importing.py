"""Recordings from other programs' files: through the same intake as live data, with what was wrong in them named.

A reader gives arrivals: messages with the time they came. They are merged by that time, go through the intake (clocks,
order, late ones) and are written as a recording that replays like any other.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from streams.errors import InputError
from streams.events import Event, event_from_frame
from streams.intake import Intake
from streams.messages import (
    ImageFrame,
    Message,
    PressureSamples,
    SessionStart,
    Tick,
    WaveformSamples,
    end_time_ns,
    fault,
)
from streams.recorder import RecordingWriter
from streams.sockets import Frame
from streams.wire import pack

EPOCH_NS = 946_684_800_000_000_000
"""2000-01-01: where times without a date begin."""

TICK_NS = 100_000_000
"""The session's clock in an imported recording: ten states a second."""

BATCH = 25
"""Samples in one message at most."""

LONG_GAP = 5.0
"""A gap of this many usual intervals is told of."""


@dataclass(frozen=True)
class Arrival:
    """A message and when it came."""

    receive_ns: int
    message: Message


@dataclass
class Findings:
    """What a reader found, besides the messages.

    Attributes:
        counts: what was wrong, in words, with how often.
        notes: what else there is to know, one sentence each.
    """

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """All of it, one sentence each."""
        return [f"{count} {what}." for what, count in sorted(self.counts.items()) if count] + self.notes


@dataclass(frozen=True)
class Imported:
    """What was written."""

    events: int
    streams: dict[str, int]
    """messages of each"""
    duration_s: float
    findings: list[str]
    head: str


@dataclass
class Batcher:
    """Puts samples of a regular rhythm into messages, breaking at gaps, at what is no number, and where time goes back.

    Attributes:
        period_ns: of one sample.
    """

    period_ns: float
    _times: list[float] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)

    def add(self, time_ns: float, value: float) -> tuple[int, tuple[float, ...]] | None:
        """Take a sample; gives the first one's time and the values of a batch that has ended, if one has."""
        done = None
        if self._values:
            expected = self._times[0] + len(self._values) * self.period_ns
            if len(self._values) >= BATCH or abs(time_ns - expected) > 0.6 * self.period_ns:
                done = self.finish()
        self._times.append(time_ns)
        self._values.append(value)
        return done

    def finish(self) -> tuple[int, tuple[float, ...]] | None:
        """The batch so far."""
        if not self._values:
            return None
        done = round(self._times[0]), tuple(self._values)
        self._times, self._values = [], []
        return done


def _checked(arrivals: Iterable[Arrival], findings: Findings) -> Iterator[Arrival]:
    """Only messages that the protocol allows, in the order they came: a file's time never goes back on arrival."""
    last = 0
    for arrival in arrivals:
        reason = fault(arrival.message)
        if reason is not None:
            findings.counts[f"messages left out ({reason})"] += 1
            continue
        last = max(last, arrival.receive_ns)
        yield Arrival(last, arrival.message)


def write_recording(
    sources: list[Iterable[Arrival]], findings: Findings, target: Path, *, origin: str, seed: int = 0
) -> Imported:
    """Write arrivals as a recording.

    Args:
        sources: each in the order its messages came.
        findings: what the readers find; complete once the sources are exhausted.
        target: a new MCAP file.
        origin: where it is from, for the recording's metadata.
        seed: of the session that replays it.

    Raises:
        InputError: the target exists or cannot be written, or there is nothing to write.
    """
    if target.exists():
        raise InputError(f"{target} exists, and a recording is never written over; name another file.")
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    intake = Intake()
    counts: Counter[str] = Counter()
    late: Counter[str] = Counter()
    longest: dict[str, tuple[int, int, int]] = {}
    index = ticks = first_ns = last_ns = 0
    try:
        with RecordingWriter(temporary, metadata={"imported_from": origin, "seed": str(seed)}) as writer:

            def keep(event: Event) -> None:
                nonlocal index
                writer.add_event(event.numbered(index))
                index += 1

            def own(message: Message, at_ns: int) -> None:
                keep(event_from_frame(index, at_ns, pack(message)))

            def release(now_ns: int) -> None:
                for event in intake.release(now_ns) if now_ns else intake.flush():
                    late[event.message.stream] += event.late  # type: ignore[union-attr]
                    keep(event)

            merged = heapq.merge(*(_checked(source, findings) for source in sources), key=lambda item: item.receive_ns)
            for arrival in merged:
                if not first_ns:
                    first_ns = next_tick = arrival.receive_ns
                    start = SessionStart(
                        stream="session/start",
                        sequence=0,
                        source_time_ns=first_ns,
                        case_hash="",
                        seed=seed,
                        settings={},
                    )
                    own(start, first_ns)
                while next_tick <= arrival.receive_ns:
                    release(next_tick)
                    own(Tick(stream="session/clock", sequence=ticks, source_time_ns=next_tick), next_tick)
                    ticks += 1
                    next_tick += TICK_NS
                    # Through a silence of hours the clock need not tick.
                    if arrival.receive_ns - next_tick > 100 * TICK_NS:
                        next_tick = arrival.receive_ns - arrival.receive_ns % TICK_NS
                message = arrival.message
                _watch_gap(longest, message, arrival.receive_ns)
                counts[message.stream] += 1
                last_ns = arrival.receive_ns
                release(arrival.receive_ns)
                event = intake.take(Frame(arrival.receive_ns, pack(message), None))
                if event is not None:
                    keep(event)
            if not counts:
                raise InputError(f"{origin} holds nothing that can be imported; {' '.join(findings.sentences())}")
            release(0)
            own(Tick(stream="session/clock", sequence=ticks, source_time_ns=last_ns + TICK_NS), last_ns + TICK_NS)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); name another file.") from error
    finally:
        temporary.unlink(missing_ok=True)
    sentences = findings.sentences()
    for stream, count in sorted(late.items()):
        if count:
            sentences.append(f"{stream}: {count} messages are older than what came before them.")
    for stream, (gaps, gap_ns, _) in sorted(longest.items()):
        if gaps:
            sentences.append(f"{stream}: {gaps} gaps, the longest {gap_ns * 1e-9:.2f} s.")
    return Imported(index, dict(counts), (last_ns - first_ns) * 1e-9, sentences, writer.chain.head.hex())


def _watch_gap(longest: dict[str, tuple[int, int, int]], message: Message, receive_ns: int) -> None:
    """Count the silences within a regular stream: of samples, from the last of one batch to the first of the next."""
    if not isinstance(message, PressureSamples | WaveformSamples) and not isinstance(message, ImageFrame):
        return
    end = end_time_ns(message)
    known = longest.get(message.stream)
    if known is None:
        longest[message.stream] = (0, 0, end)
        return
    gaps, gap_ns, last = known
    silence = message.source_time_ns - last
    limit = LONG_GAP * (message.sample_period_ns if not isinstance(message, ImageFrame) else 200_000_000)
    if silence > limit:
        gaps, gap_ns = gaps + 1, max(gap_ns, silence)
    longest[message.stream] = (gaps, gap_ns, max(last, end))
