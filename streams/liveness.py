"""Which streams have fallen silent: each has its own rhythm, and a watch of its own."""

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

SHORTEST_NS = 100_000_000
INTERVALS = 3.5
"""A stream is silent when nothing has come for this many of its usual intervals, and for 0.1 s at least."""

FEWEST = 5
LONGEST_INTERVAL_NS = 2_000_000_000
"""What comes more rarely than this has no rhythm to miss."""

REMEMBERED = 16
"""Intervals by which a stream is judged."""


@dataclass(slots=True)
class Pulse:
    """When the last messages of a stream came."""

    times_ns: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED + 1))
    """of arrival; to be appended to"""
    _judged_ns: int = -1
    _limit_ns: int | None = None

    def silent(self, now_ns: int) -> bool:
        """Whether it should have said something by now."""
        times = self.times_ns
        if len(times) <= FEWEST or now_ns - times[-1] <= SHORTEST_NS:
            return False
        if self._judged_ns != times[-1]:
            # Judged when it matters: a stream that goes on costs nothing.
            usual = median(later - earlier for earlier, later in pairwise(times))
            self._judged_ns = times[-1]
            self._limit_ns = None if usual > LONGEST_INTERVAL_NS else max(SHORTEST_NS, round(INTERVALS * usual))
        return self._limit_ns is not None and now_ns - times[-1] > self._limit_ns


@dataclass
class Liveness:
    """Learns how often each stream comes, and says which are missing."""

    _pulses: dict[str, Pulse] = field(default_factory=dict)

    def forget(self, stream: str) -> None:
        """A stream has ended: it is not missed any more."""
        if stream in self._pulses:
            self._pulses[stream].times_ns.clear()

    def pulse(self, stream: str) -> Pulse:
        """The watch over a stream."""
        known = self._pulses.get(stream)
        if known is None:
            known = self._pulses[stream] = Pulse()
        return known

    def see(self, stream: str, receive_ns: int) -> None:
        """A message of a stream has come."""
        self.pulse(stream).times_ns.append(receive_ns)

    def silent(self, now_ns: int) -> tuple[str, ...]:
        """The streams that should have said something by now, by name."""
        return tuple(sorted(stream for stream, pulse in self._pulses.items() if pulse.silent(now_ns)))
