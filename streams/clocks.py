"""How a stream's clock stands to the session's, from one-way times: the filter of least delay.

A message measured at source time s arrives at r = s + offset(s) + delay, delay >= 0. The least of r - s over a while is
the offset plus the least delay, and the line under all points (s, r - s) with the smallest area between is offset and
drift: the edge of the lower convex hull over the mean of the times (S. Moon, P. Skelly, D. Towsley, "Estimation and
removal of clock skew from network delay measurements", INFOCOM 1999).

What one-way times cannot tell is a constant delay from an offset: a device whose clock is right but whose data take
30 ms is taken for one whose clock is 30 ms slow. Sources known to be synchronized (PTP, NTP) say so in their heartbeat,
and nothing is added to their times. Up to `TOLERANCE_NS` nothing is added to any: a local network explains as much.

A clock that is set during the procedure shows as a lasting, consistent step and begins the estimate anew; a single
lying time, or a burst after the network was away, does not.
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

TOLERANCE_NS = 2_000_000
BUCKET_NS = 1_000_000_000
MOST_BUCKETS = 60
FIT_BUCKETS = 8
"""A drift is estimated from this many seconds on."""

RECENT_BUCKETS = 5
WARM_UP = 20
"""Until so many messages have come the median is taken, which one lying time does not move."""

EARLY_NS = 50_000_000
LATE_NS = 500_000_000
"""Farther off than this is strange: no message is early by itself, and few are half a second late."""

STEP_SPREAD_NS = 50_000_000
EARLY_LASTS_NS = 200_000_000
LATE_LASTS_NS = 2_000_000_000
STEP_MESSAGES = 3
"""Strange times that agree with one another for so long, in so many messages, are a clock that was set. Late ones may
as well be a sender that is held up, so they have to last longer."""


@dataclass
class _Run:
    """Strange times one after another that agree with one another."""

    begin_ns: int
    lowest: int
    highest: int
    differences: list[int]
    """the first of them"""


@dataclass(slots=True)
class StreamClock:
    """The clock of one stream.

    Most messages of most streams change nothing: their clock is right within the tolerance, and they come no faster
    than others did. `least_ns`, `most_ns` and `until_ns` say for which this holds, so that one who sees many can leave
    `see` out: of a message that arrives before `until_ns`, and `least_ns` to `most_ns` after its source time, that time
    stands.

    Attributes:
        trusted: the source is synchronized: its times are taken as they are.
        offset_ns: added to the source's time to give the session's.
        drift_ppm: how fast the offset grows.
        steps: how often the source's clock was set.
    """

    trusted: bool = False
    steps: int = 0
    raw_offset_ns: int = 0
    """least delay plus offset, before anything is tolerated"""
    drift_ppm: float = 0.0
    least_ns: int = 0
    most_ns: int = -1
    until_ns: int = 0
    _count: int = 0
    _first: list[int] = field(default_factory=list)
    _buckets: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MOST_BUCKETS))
    _bucket: tuple[int, int, int] | None = None
    """begin, source time of the least delay, least delay"""
    _line: tuple[int, float, float] | None = None
    """source time, offset there, slope"""
    _recent_least: int | None = None
    """of the last buckets that are complete"""
    _strange: _Run | None = None

    @property
    def offset_ns(self) -> int:
        """What is added to the source's time."""
        if self.trusted:
            return 0
        if self.raw_offset_ns < 0:
            return self.raw_offset_ns
        return max(0, self.raw_offset_ns - TOLERANCE_NS)

    def trust(self, trusted: bool) -> None:
        """Take the source's times as they are, or no more."""
        if trusted != self.trusted:
            self.trusted, self.until_ns = trusted, 0

    def see(self, source_ns: int, receive_ns: int) -> int:
        """Take a message's times; returns its source time by the session's clock."""
        difference = receive_ns - source_ns
        if self._count >= WARM_UP and not self._plausible(difference):
            if self._stepped(receive_ns, difference):
                self._restart()
            else:
                self.until_ns = 0  # what comes next is to be compared with this one
                return self._session_time(source_ns, receive_ns)
        else:
            self._strange = None
        self._count += 1
        if self._count <= WARM_UP:
            self._first.append(difference)
            self.raw_offset_ns = round(median(self._first))
        self._add(source_ns, receive_ns, difference)
        if self._line is not None:
            at, value, slope = self._line
            self.raw_offset_ns = round(value + slope * (source_ns - at))
        elif self._count > WARM_UP:
            least = self._recent_least
            if self._bucket is not None and (least is None or self._bucket[2] < least):
                least = self._bucket[2]
            self.raw_offset_ns = difference if least is None else least
        self._narrow(source_ns)
        return self._session_time(source_ns, receive_ns)

    def _narrow(self, source_ns: int) -> None:
        """Say which messages of this bucket's rest will change nothing."""
        self.until_ns = 0
        if self._count <= WARM_UP or self._bucket is None:
            return
        begin, _, least = self._bucket
        later = self.raw_offset_ns
        if self._line is not None:
            later += round(self._line[2] * BUCKET_NS)
        if self.trusted or (0 <= self.raw_offset_ns <= TOLERANCE_NS and 0 <= later <= TOLERANCE_NS):
            self.least_ns = max(0, least, self.raw_offset_ns - EARLY_NS)
            self.most_ns = self.raw_offset_ns + LATE_NS
            self.until_ns = begin + BUCKET_NS

    def _session_time(self, source_ns: int, receive_ns: int) -> int:
        """Nothing is measured after it has arrived; of a trusted clock that is the session's to judge."""
        time_ns = source_ns + self.offset_ns
        return time_ns if self.trusted else min(time_ns, receive_ns)

    def _plausible(self, difference: int) -> bool:
        return -EARLY_NS <= difference - self.raw_offset_ns <= LATE_NS

    def _stepped(self, receive_ns: int, difference: int) -> bool:
        """Whether strange times have agreed with one another for long enough, this one included.

        Only what agrees with the newest counts: a burst after a silence catches up, and so does not agree.
        """
        run = self._strange
        if run is None or max(run.highest, difference) - min(run.lowest, difference) > STEP_SPREAD_NS:
            self._strange = _Run(receive_ns, difference, difference, [difference])
            return False
        run.lowest, run.highest = min(run.lowest, difference), max(run.highest, difference)
        if len(run.differences) < WARM_UP:
            run.differences.append(difference)
        lasts = LATE_LASTS_NS if difference > self.raw_offset_ns else EARLY_LASTS_NS
        return len(run.differences) >= STEP_MESSAGES and receive_ns - run.begin_ns >= lasts

    def _restart(self) -> None:
        self.steps += 1
        self._count = 0
        self._first = [] if self._strange is None else self._strange.differences
        self._strange = None
        self._buckets.clear()
        self._bucket, self._line, self._recent_least, self.drift_ppm = None, None, None, 0.0

    def _add(self, source_ns: int, receive_ns: int, difference: int) -> None:
        bucket = self._bucket
        if bucket is None:
            self._bucket = (receive_ns, source_ns, difference)
        elif receive_ns - bucket[0] >= BUCKET_NS:
            self._buckets.append((bucket[1], bucket[2]))
            self._recent_least = min(least for _, least in list(self._buckets)[-RECENT_BUCKETS:])
            self._bucket = (receive_ns, source_ns, difference)
            self._fit()
        elif difference < bucket[2]:
            self._bucket = (bucket[0], source_ns, difference)

    def _fit(self) -> None:
        if len(self._buckets) < FIT_BUCKETS:
            return
        points = sorted(set(self._buckets))
        hull: list[tuple[int, int]] = []
        for point in points:
            while len(hull) >= 2 and _turn(hull[-2], hull[-1], point) <= 0:
                hull.pop()
            hull.append(point)
        middle = sum(time for time, _ in points) / len(points)
        for (left_time, left), (right_time, right) in pairwise(hull):
            if right_time >= middle and right_time > left_time:
                slope = (right - left) / (right_time - left_time)
                self._line = (left_time, float(left), slope)
                self.drift_ppm = slope * 1e6
                return


def _turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
