"""Recording what devices send, without a twin: the intake and the recorder alone."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from streams.events import Event, event_from_frame
from streams.inbox import Inbox
from streams.intake import Intake
from streams.messages import Tick
from streams.recorder import Recorder
from streams.security import ServerSecurity
from streams.session_clock import now_ns
from streams.sockets import Subscriber
from streams.wire import pack

log = logging.getLogger(__name__)

TAKEN_TOGETHER = 64
"""Frames taken from the socket at once: more of them would have left the processor's cache before they are decoded."""

TICK_S = 0.1
SAY_S = 0.5


@dataclass(frozen=True)
class RecordReport:
    """What was recorded."""

    events: int
    bytes: int
    head: str
    failure: str | None
    counts: dict[str, int]


class Receiver:
    """A thread that takes frames from a subscriber as they come, stamps them, and puts them into an inbox."""

    def __init__(self, subscriber: Subscriber, inbox: Inbox) -> None:
        self._subscriber, self._inbox = subscriber, inbox
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was received before is in the inbox when this returns."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                frames = self._subscriber.receive_frames(timeout_ms=50, most=TAKEN_TOGETHER)
            except zmq.ZMQError:
                # The streams fall silent, and the state says so; the session goes on.
                log.exception("nothing more can be received")
                return
            if frames:
                self._inbox.put(frames)


def record_devices(
    path: Path,
    endpoint: str,
    *,
    should_stop: Callable[[], bool],
    duration_s: float | None = None,
    insecure: bool = False,
    security: ServerSecurity | None = None,
    say: Callable[[int, int], None] | None = None,
) -> RecordReport:
    """Listen at an endpoint and record everything, until told to stop.

    Raises:
        InputError: the endpoint cannot be bound, or the file cannot be made.
    """
    subscriber = Subscriber(endpoint, bind=True, insecure=insecure, security=security)
    try:
        recorder = Recorder(path, metadata={"kind": "devices only"})
    except BaseException:
        subscriber.close()
        raise
    inbox = Inbox()
    intake = Intake(allowed=security.gatekeeper.allowed if security is not None else None)
    receiver = Receiver(subscriber, inbox)
    index = size = 0

    def keep(event: Event) -> None:
        nonlocal index, size
        recorder.record_event(event.numbered(index))
        index += 1
        size += len(event.frame)

    def take_all(wait_s: float) -> None:
        for event in intake.take_all(inbox.take(wait_s)):
            keep(event)

    begin = said = time.monotonic()
    receiver.start()
    tick = 0
    try:
        while not should_stop() and (duration_s is None or time.monotonic() - begin < duration_s):
            take_all(TICK_S)
            now = now_ns()
            for event in intake.release(now):
                keep(event)
            flags = ("recording_failed",) if recorder.failure is not None else ()
            report = intake.report(now, flags=flags, counts=inbox.counts)
            if report is not None:
                keep(event_from_frame(index, now, pack(report)))
                keep(
                    event_from_frame(index, now, pack(Tick(stream="session/clock", sequence=tick, source_time_ns=now)))
                )
                tick += 1
            if say is not None and time.monotonic() - said > SAY_S:
                said = time.monotonic()
                say(index, size)
    finally:
        receiver.stop()
        take_all(0.0)
        for event in intake.flush():
            keep(event)
        subscriber.close()
        recorder.close()
    counts = dict(intake.counts + inbox.counts)
    return RecordReport(index, size, recorder.head, recorder.failure, counts)
