"""What a recording holds, stream by stream."""

from dataclasses import dataclass, field
from pathlib import Path

from streams.events import Event, Malformed, SequenceWatch
from streams.messages import IntakeReport, SessionStart
from streams.recording import RecordingScan, StateFrame

LONG_GAP = 5.0
"""A silence of this many usual intervals is a gap."""


@dataclass
class StreamSummary:
    """One stream of a recording."""

    kind: str
    messages: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    """of arrival"""
    lost: int = 0
    duplicates: int = 0
    restarts: int = 0
    late: int = 0
    superseded: int = 0
    longest_gap_s: float = 0.0
    """longest time between two arrivals"""

    @property
    def rate_hz(self) -> float | None:
        """Messages per second, on average."""
        span = (self.last_ns - self.first_ns) * 1e-9
        return (self.messages - 1) / span if span > 0 and self.messages > 1 else None


@dataclass
class RecordingSummary:
    """What a recording holds."""

    path: Path
    metadata: dict[str, str]
    streams: dict[str, StreamSummary] = field(default_factory=dict)
    events: int = 0
    states: int = 0
    not_messages: dict[str, int] = field(default_factory=dict)
    """frames without a message, by why"""
    first_ns: int = 0
    last_ns: int = 0
    seed: int | None = None
    flags: set[str] = field(default_factory=set)
    """everything that forbade trust, according to the intake"""
    closed: bool = False
    damage: str = ""
    chain: str = ""
    """how the chain of hashes stands, in a sentence"""
    intact: bool = False
    """the chain is whole and the file was closed"""

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return (self.last_ns - self.first_ns) * 1e-9


def summarize(path: Path) -> RecordingSummary:
    """Go through a recording once.

    Raises:
        InputError: there is no such file, or it is no recording.
    """
    scan = RecordingScan(path)
    summary = RecordingSummary(path, {})
    watch = SequenceWatch()
    for item in scan.entries():
        if isinstance(item, StateFrame):
            summary.states += 1
            continue
        summary.events += 1
        summary.first_ns = summary.first_ns or item.receive_time_ns
        summary.last_ns = max(summary.last_ns, item.receive_time_ns)
        message = item.message
        if isinstance(message, Malformed):
            summary.not_messages[message.kind] = summary.not_messages.get(message.kind, 0) + 1
            continue
        if isinstance(message, SessionStart) and summary.seed is None:
            summary.seed = message.seed
        if isinstance(message, IntakeReport):
            summary.flags.update(message.flags)
        watch, _ = watch.see(message.stream, message.sequence, min(message.source_time_ns, item.receive_time_ns))
        _count(summary.streams.setdefault(message.stream, StreamSummary(type(message).__name__)), item)
    for name, seen in watch.streams.items():
        stream = summary.streams[name]
        stream.lost, stream.duplicates, stream.restarts = seen.lost, seen.duplicates, seen.restarts
    summary.metadata, summary.closed, summary.damage = scan.metadata, scan.closed, scan.damage
    summary.chain, summary.intact = chain_sentence(scan), False
    summary.intact = scan.chained and scan.chain.fault is None and scan.closed and not scan.damage
    return summary


def _count(stream: StreamSummary, event: Event) -> None:
    if stream.messages:
        stream.longest_gap_s = max(stream.longest_gap_s, (event.receive_time_ns - stream.last_ns) * 1e-9)
    else:
        stream.first_ns = event.receive_time_ns
    stream.messages += 1
    stream.bytes += len(event.frame)
    stream.last_ns = event.receive_time_ns
    stream.late += event.late
    stream.superseded += event.superseded


def chain_sentence(scan: RecordingScan) -> str:
    """How a recording's chain of hashes stands."""
    if not scan.chained:
        return "it has no chain of hashes: whether it is as it was recorded cannot be told"
    if scan.chain.fault is not None:
        return f"it is not as it was recorded: {scan.chain.fault}"
    open_end = f"; {scan.chain.unsealed} after the last seal" if scan.chain.unsealed else ""
    return f"{scan.chain.sealed} entries are as they were recorded{open_end}; head {scan.chain.head.hex()[:16]}"
