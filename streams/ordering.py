"""Puts what arrives into the order in which it was measured, waiting as little as it can and never beyond a bound.

An item is released once the watermark has passed its time. The watermark trails the present by the *hold*: how far
apart arrivals were out of order lately, so that streams that arrive in order wait for nothing. Disorder beyond the
bound is not waited for: what comes then is released at once and marked late.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_WAIT_NS = 20_000_000
WINDOW_NS = 10_000_000_000
LATE_SHARE = 0.001
"""The hold lets this share of all items be late rather than delay the others."""

MARGIN = 1.2
REVIEW_NS = 100_000_000


class Released[T](NamedTuple):
    """An item in its turn."""

    item: T
    late: bool


@dataclass
class Orderer[T]:
    """Orders items by the time they were measured.

    Attributes:
        most_wait_ns: no item waits longer than this.
        late: how many were released out of order.
        hold_ns: how long items wait at present.
    """

    most_wait_ns: int = MOST_WAIT_NS
    late: int = 0
    hold_ns: int = 0
    _heap: list[tuple[int, int, int, T]] = field(default_factory=list)
    """time, number, time of arrival, item"""
    _number: int = 0
    _released_ns: int = -1
    _arrived_ns: int = -1
    _disorder: deque[tuple[int, int]] = field(default_factory=deque)
    """when, and by how much [ns], an arrival was behind one before it"""
    _counts: deque[tuple[int, int]] = field(default_factory=deque)
    """when, and how many arrived since the last review"""
    _since_review: int = 0
    _reviewed_ns: int = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: T, *, time_ns: int, receive_ns: int) -> None:
        """Take an item that was measured at one time and arrived at another, both by the session's clock."""
        time_ns = min(time_ns, receive_ns)  # nothing arrives before it was measured: such a clock lies
        behind = self._arrived_ns - time_ns
        if 0 < behind <= self.most_wait_ns:
            self._disorder.append((receive_ns, behind))
        self._arrived_ns = max(self._arrived_ns, time_ns)
        self._since_review += 1
        heapq.heappush(self._heap, (time_ns, self._number, receive_ns, item))
        self._number += 1
        if receive_ns - self._reviewed_ns >= REVIEW_NS:
            self._review(receive_ns)

    def release(self, now_ns: int) -> list[Released[T]]:
        """Everything whose turn has come."""
        heap = self._heap
        if not heap:
            return []
        watermark = now_ns - self.hold_ns
        if self.hold_ns:
            overdue = now_ns - self.most_wait_ns
            watermark = max([watermark, *(time_ns for time_ns, _, receive_ns, _ in heap if receive_ns <= overdue)])
        released = []
        while heap and heap[0][0] <= watermark:
            time_ns, _, _, item = heapq.heappop(heap)
            late = time_ns < self._released_ns
            if late:
                self.late += 1
            else:
                self._released_ns = time_ns
            released.append(Released(item, late))
        return released

    def flush(self) -> list[Released[T]]:
        """Everything that still waits, in order."""
        return self.release(max((entry[0] for entry in self._heap), default=0) + self.hold_ns)

    def due_ns(self) -> int | None:
        """When the next item will have its turn; None where nothing waits."""
        if not self._heap:
            return None
        time_ns, _, receive_ns, _ = self._heap[0]
        return min(time_ns + self.hold_ns, receive_ns + self.most_wait_ns)

    def _review(self, now_ns: int) -> None:
        self._counts.append((now_ns, self._since_review))
        self._since_review, self._reviewed_ns = 0, now_ns
        for record in (self._disorder, self._counts):
            while record and record[0][0] < now_ns - WINDOW_NS:
                record.popleft()
        allowed = int(LATE_SHARE * sum(count for _, count in self._counts))
        behind = sorted((amount for _, amount in self._disorder), reverse=True)
        self.hold_ns = min(self.most_wait_ns, round(MARGIN * behind[allowed])) if len(behind) > allowed else 0
