"""Which streams have fallen silent: each has its own rhythm, and a watch of its own."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

SHORTEST_NS = 100_000_000
INTERVALS = 3.5
"""A stream is silent when nothing has come for this many of its usual intervals, and for 0.1 s at least."""

FEWEST = 5
LONGEST_INTERVAL_NS = 2_000_000_000
"""What comes more rarely than this has no rhythm to miss."""

REMEMBERED = 16
LEARN_EVERY = 16


@dataclass
class _Pulse:
    last_ns: int
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    count: int = 0
    limit_ns: int | None = None


@dataclass
class Liveness:
    """Learns how often each stream comes, and says which are missing."""

    _pulses: dict[str, _Pulse] = field(default_factory=dict)

    def forget(self, stream: str) -> None:
        """A stream has ended: it is not missed any more."""
        self._pulses.pop(stream, None)

    def see(self, stream: str, receive_ns: int) -> None:
        """A message of a stream has come."""
        pulse = self._pulses.get(stream)
        if pulse is None:
            self._pulses[stream] = _Pulse(receive_ns)
            return
        pulse.intervals.append(max(0, receive_ns - pulse.last_ns))
        pulse.last_ns = receive_ns
        pulse.count += 1
        if pulse.count >= FEWEST and (pulse.limit_ns is None or pulse.count % LEARN_EVERY == 0):
            usual = median(pulse.intervals)
            slow = usual > LONGEST_INTERVAL_NS
            pulse.limit_ns = None if slow else max(SHORTEST_NS, round(INTERVALS * usual))

    def silent(self, now_ns: int) -> tuple[str, ...]:
        """The streams that should have said something by now, by name."""
        return tuple(
            sorted(
                stream
                for stream, pulse in self._pulses.items()
                if pulse.limit_ns is not None and now_ns - pulse.last_ns > pulse.limit_ns
            )
        )
