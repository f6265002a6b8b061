"""Puts what arrives into the order in which it was measured, waiting as little as it can and never beyond a bound.

An item is released once the watermark has passed its time. The watermark trails the present by the *hold*: how far
apart arrivals were out of order lately, so that streams that arrive in order wait for nothing. Disorder beyond the
bound is not waited for: what comes then is released at once and marked late.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

MOST_WAIT_NS = 20_000_000
WINDOW_NS = 10_000_000_000
LATE_SHARE = 0.001
"""The hold lets this share of all items be late rather than delay the others."""

MARGIN = 1.2
REVIEW_NS = 100_000_000

_time = itemgetter(0)


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
    _waiting: list[tuple[int, int, T]] = field(default_factory=list)
    """time, time of arrival, item; in the order of the times unless `_unsorted`, equal times as they came"""
    _unsorted: bool = False
    _released_ns: int = -1
    _arrived_ns: int = -1
    _disorder: deque[tuple[int, int]] = field(default_factory=deque)
    """when, and by how much [ns], an arrival was behind one before it"""
    _counts: deque[tuple[int, int]] = field(default_factory=deque)
    """when, and how many arrived since the last review"""
    _since_review: int = 0
    _reviewed_ns: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, *, time_ns: int, receive_ns: int) -> None:
        """Take an item that was measured at one time and arrived at another, both by the session's clock."""
        self.extend([(min(time_ns, receive_ns), receive_ns, item)])  # nothing arrives before it was measured

    def extend(self, items: Sequence[tuple[int, int, T]]) -> None:
        """Take items in the order in which they arrived.

        Args:
            items: of each when it was measured, when it arrived (not before), and itself.
        """
        if not items:
            return
        times = [item[0] for item in items]
        if times[0] < self._arrived_ns or times != sorted(times):
            self._note_disorder(items)
        self._arrived_ns = max(self._arrived_ns, times[-1])
        self._waiting += items
        self._since_review += len(items)
        newest_ns = items[-1][1]
        if newest_ns - self._reviewed_ns >= REVIEW_NS:
            self._review(newest_ns)

    def _note_disorder(self, items: Sequence[tuple[int, int, T]]) -> None:
        self._unsorted = True
        for time_ns, receive_ns, _ in items:
            behind = self._arrived_ns - time_ns
            if behind <= 0:
                self._arrived_ns = time_ns
            elif behind <= self.most_wait_ns:
                self._disorder.append((receive_ns, behind))

    def take_due(self, now_ns: int) -> tuple[list[T], int]:
        """Everything whose turn has come, in order, and how many of the first of them are late."""
        waiting = self._sorted()
        if not waiting:
            return [], 0
        watermark = now_ns - self.hold_ns
        if self.hold_ns:
            overdue = now_ns - self.most_wait_ns
            watermark = max([watermark, *(time_ns for time_ns, receive_ns, _ in waiting if receive_ns <= overdue)])
        if waiting[-1][0] <= watermark:
            due, self._waiting = waiting, []
        else:
            end = bisect_right(waiting, watermark, key=_time)
            if not end:
                return [], 0
            due = waiting[:end]
            del waiting[:end]
        late = bisect_left(due, self._released_ns, key=_time) if due[0][0] < self._released_ns else 0
        self.late += late
        self._released_ns = max(self._released_ns, due[-1][0])
        return [item for _, _, item in due], late

    def release(self, now_ns: int) -> list[Released[T]]:
        """Everything whose turn has come, each with whether it is late."""
        items, late = self.take_due(now_ns)
        return [Released(item, number < late) for number, item in enumerate(items)]

    def take_all(self) -> tuple[list[T], int]:
        """Everything that still waits, as `take_due`."""
        return self.take_due(max((entry[0] for entry in self._waiting), default=0) + self.hold_ns)

    def due_ns(self) -> int | None:
        """When the next item will have its turn; None where nothing waits."""
        waiting = self._sorted()
        if not waiting:
            return None
        time_ns, receive_ns, _ = waiting[0]
        return min(time_ns + self.hold_ns, receive_ns + self.most_wait_ns)

    def _sorted(self) -> list[tuple[int, int, T]]:
        if self._unsorted:
            self._waiting.sort(key=_time)
            self._unsorted = False
        return self._waiting

    def _review(self, now_ns: int) -> None:
        self._counts.append((now_ns, self._since_review))
        self._since_review, self._reviewed_ns = 0, now_ns
        for record in (self._disorder, self._counts):
            while record and record[0][0] < now_ns - WINDOW_NS:
                record.popleft()
        allowed = int(LATE_SHARE * sum(count for _, count in self._counts))
        behind = sorted((amount for _, amount in self._disorder), reverse=True)
        self.hold_ns = min(self.most_wait_ns, round(MARGIN * behind[allowed])) if len(behind) > allowed else 0
