"""What happens to messages between a simulated device and the twin: delay, loss, repetition, and a clock that is off.

Three kinds of dropout are told apart, since an estimator that takes one for another is biased (D. Rubin, "Inference and
missing data", Biometrika 63, 1976): at random; depending on what can be seen (a tool behind a hand); depending on the
very value that goes missing (a transducer that gives up above its range).
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from streams.devices import Device, Due
from streams.messages import Message


@dataclass(frozen=True)
class Dropouts:
    """When a device says nothing for a while."""

    every_s: float = math.inf
    """mean time between two of them, at random"""
    last_s: float = 0.5
    """mean time that one lasts"""
    unseen: Callable[[float], bool] | None = None
    """whether, at a time [s], what it measures cannot be seen"""
    by_value: Callable[[Message], float] | None = None
    """probability that a message goes missing, by what it says"""


@dataclass(frozen=True)
class LinkErrors:
    """What a link does to messages."""

    latency_s: float = 0.0
    """least delay"""
    jitter_s: float = 0.0
    """mean of the delay beyond that, exponentially distributed: what it reorders, arrives out of order"""
    loss: float = 0.0
    """share of messages lost"""
    duplication: float = 0.0
    """share of messages that come twice"""
    clock_offset_s: float = 0.0
    """the source's clock minus the true time, at the beginning"""
    clock_drift_ppm: float = 0.0
    """how much faster than true the source's clock runs, in millionths"""
    dropouts: Dropouts = Dropouts()


@dataclass
class Link:
    """A device behind a link. What is lost has a number of its own that never comes.

    Attributes:
        counts: lost, dropped, repeated: what the link did, for scoring.
    """

    device: Device
    errors: LinkErrors
    generator: np.random.Generator
    counts: dict[str, int] = field(default_factory=lambda: {"lost": 0, "dropped": 0, "repeated": 0})

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """The device's messages as they leave the link, in the order in which they do."""
        errors, generator = self.errors, self.generator
        waiting: list[tuple[float, int, Due]] = []
        gap_begin, gap_end = self._next_gap(0.0)
        for number, due in enumerate(self.device.messages(epoch_ns)):
            while waiting and waiting[0][0] <= due.time_s:
                yield heapq.heappop(waiting)[2]
            while due.time_s >= gap_end:
                gap_begin, gap_end = self._next_gap(gap_end)
            # Drawn whether used or not, so that one setting does not change what another one draws.
            lost, repeated, by_value = generator.random(3)
            delays = errors.latency_s + generator.exponential(size=2) * errors.jitter_s
            dropped = gap_begin <= due.time_s < gap_end
            dropouts = errors.dropouts
            dropped = dropped or (dropouts.unseen is not None and dropouts.unseen(due.time_s))
            dropped = dropped or (dropouts.by_value is not None and by_value < dropouts.by_value(due.message))
            self.counts["dropped"] += dropped
            self.counts["lost"] += not dropped and lost < errors.loss
            withheld = due.withheld or dropped or lost < errors.loss
            message = self._stamped(due.message, epoch_ns)
            leaves = due.time_s if withheld else due.time_s + float(delays[0])
            heapq.heappush(waiting, (leaves, 2 * number, Due(leaves, message, withheld)))
            if not withheld and repeated < errors.duplication:
                self.counts["repeated"] += 1
                again = due.time_s + float(max(delays))
                heapq.heappush(waiting, (again, 2 * number + 1, Due(again, message)))
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _stamped(self, message: Message, epoch_ns: int) -> Message:
        errors = self.errors
        if errors.clock_offset_s == 0.0 and errors.clock_drift_ppm == 0.0:
            return message
        since = message.source_time_ns - epoch_ns
        shown = message.source_time_ns + round(errors.clock_offset_s * 1e9 + since * errors.clock_drift_ppm * 1e-6)
        return msgspec.structs.replace(message, source_time_ns=max(0, shown))

    def _next_gap(self, after_s: float) -> tuple[float, float]:
        every, last = self.errors.dropouts.every_s, self.errors.dropouts.last_s
        if not math.isfinite(every):
            return math.inf, math.inf
        begin = after_s + float(self.generator.exponential()) * every
        return begin, begin + float(self.generator.exponential()) * last
