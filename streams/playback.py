"""Publishes messages when they are due."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streams.devices import Due
from streams.sockets import Publisher

PROGRESS_S = 0.2


@dataclass(frozen=True)
class PlayReport:
    """What was played."""

    sent: int
    withheld: int


def play(
    messages: Iterable[Due],
    publisher: Publisher,
    *,
    epoch_ns: int,
    on_progress: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> PlayReport:
    """Publish each message when the clock reaches its time after ``epoch_ns``.

    Args:
        messages: in the order of their times.
        publisher: where to.
        epoch_ns: when the procedure begins, by this machine's clock.
        on_progress: called now and then with the time since the beginning [s].
        should_stop: asked before each message.
    """
    # One offset between the clocks, taken once: setting the machine's clock meanwhile moves nothing.
    begin = time.monotonic() + (epoch_ns - time.time_ns()) * 1e-9
    sent = withheld = 0
    told = 0.0
    for due in messages:
        if should_stop is not None and should_stop():
            break
        wait = begin + due.time_s - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        if due.withheld:
            withheld += 1
        else:
            publisher.send(due.message)
            sent += 1
        if on_progress is not None and due.time_s - told > PROGRESS_S:
            told = due.time_s
            on_progress(told)
    return PlayReport(sent, withheld)
