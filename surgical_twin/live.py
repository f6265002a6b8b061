"""The live twin: devices in, twin states out, everything recorded; all thinking is the session's.

A thread reads the socket and stamps each frame as it arrives, so that a busy session shows up as latency and
not as a late stamp. The loop turns frames and its own clock's ticks into numbered events, hands each to the
recorder, and then to the session. Nothing raises out of it: a bad frame is an event like any other.
"""

import gc
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streams.events import Event, event_from_frame
from streams.messages import Message, SessionStart, Tick, TwinState
from streams.recording import Recorder
from streams.sockets import Publisher, Subscriber
from streams.wire import pack
from surgical_twin import __version__
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState

TICK_NS = 10_000_000
"""Period of the published states: 100 Hz."""

CLOCK_STREAM = "session/clock"
START_STREAM = "session/start"

AFTER_END_NS = 300_000_000
"""How long the loop goes on after the procedure's end was announced."""


@dataclass(frozen=True)
class Endpoints:
    """Where the twin listens for devices and where it publishes its states."""

    devices: str = "tcp://127.0.0.1:5590"
    states: str = "tcp://127.0.0.1:5591"


@dataclass
class LiveReport:
    """What a live session did."""

    events: int = 0
    states: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    latency_ns: list[int] = field(default_factory=list)
    """Per device message: from its arrival at the socket to the first published state that had taken it."""
    step_ns: list[int] = field(default_factory=list)
    """Per event: time in the session."""
    recording_failure: str | None = None

    def latency_ms(self, percentile: float) -> float | None:
        """A percentile of the latency, or None where no message came."""
        if not self.latency_ns:
            return None
        return float(np.percentile(self.latency_ns, percentile)) / 1e6

    def summary(self) -> dict[str, Any]:
        """The report in plain numbers."""
        steps = np.array(self.step_ns or [0]) / 1e6
        return {
            "events": self.events,
            "states": self.states,
            "latency_median_ms": self.latency_ms(50),
            "latency_p99_ms": self.latency_ms(99),
            "latency_max_ms": self.latency_ms(100),
            "session_step_median_ms": float(np.median(steps)),
            "session_step_p99_ms": float(np.percentile(steps, 99)),
            "counters": self.counters,
        }


class LiveLoop:
    """One live session on a case."""

    def __init__(self, model: SessionModel, *, seed: int, endpoints: Endpoints, record: Path | None, case: str) -> None:
        """Bind the sockets and open the recording.

        Raises:
            InputError: a port is in use, or the recording cannot be written.
        """
        self.session = Session(model)
        self.seed = seed
        self.report = LiveReport()
        self._subscriber = Subscriber(endpoints.devices, bind=True)
        try:
            self._publisher = Publisher(endpoints.states, bind=True)
            try:
                metadata = {"software": __version__, "case": case, "case_hash": model.case_hash, "seed": str(seed)}
                self._recorder = None if record is None else Recorder(record, metadata=metadata)
            except BaseException:
                self._publisher.close()
                raise
        except BaseException:
            self._subscriber.close()
            raise
        self._frames: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._state = SessionState()
        self._index = 0
        self._waiting: list[int] = []

    def stop(self) -> None:
        """End the loop from another thread or a signal handler."""
        self._stop.set()

    def run(self, watch: Callable[[TwinState], None] | None = None) -> LiveReport:
        """Run until the procedure ends or `stop` is called.

        Args:
            watch: called with every tenth published state, for a display on the terminal.
        """
        receiver = threading.Thread(target=self._receive, name="receiver", daemon=True)
        # The loop computes in short bursts; without this the receiving thread would wait for the interpreter
        # up to 5 ms before it could stamp a frame.
        sys.setswitchinterval(0.0005)
        try:
            self._take_own(
                SessionStart(
                    stream=START_STREAM,
                    sequence=0,
                    source_time_ns=time.time_ns(),
                    case_hash=self.session.model.case_hash,
                    seed=self.seed,
                    settings={},
                )
            )
            # What exists now lives as long as the session: collecting it again and again would only stall it.
            gc.collect()
            gc.freeze()
            receiver.start()
            self._loop(watch)
        finally:
            self._stop.set()
            if receiver.ident is not None:
                receiver.join(timeout=2.0)
            self._drain()
            self._close()
            gc.unfreeze()
        return self.report

    def _receive(self) -> None:
        while not self._stop.is_set():
            for item in self._subscriber.receive(timeout_ms=50):
                self._frames.put(item)

    def _loop(self, watch: Callable[[TwinState], None] | None) -> None:
        tick, next_tick = 0, time.monotonic_ns()
        ended_ns: int | None = None
        while not self._stop.is_set():
            wait_s = (next_tick - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                with suppress(queue.Empty):
                    self._take_frame(*self._frames.get(timeout=wait_s))
                continue
            # All that has arrived goes before the tick, so that a state is never older than it must be.
            self._drain()
            now = time.time_ns()
            states = self._take_own(Tick(stream=CLOCK_STREAM, sequence=tick, source_time_ns=now), receive_time_ns=now)
            for state in states:
                if watch is not None and tick % 10 == 0:
                    watch(state)
            tick += 1
            # After a stall the clock goes on from now: ticks are not made up for.
            next_tick = max(next_tick + TICK_NS, time.monotonic_ns() - TICK_NS)
            if self._state.ended:
                ended_ns = ended_ns or now
                if now - ended_ns > AFTER_END_NS:
                    return

    def _drain(self) -> None:
        while True:
            try:
                self._take_frame(*self._frames.get_nowait())
            except queue.Empty:
                return

    def _take_frame(self, receive_time_ns: int, frame: bytes) -> None:
        self._take(event_from_frame(self._index, receive_time_ns, frame))
        self._waiting.append(receive_time_ns)

    def _take_own(self, message: Message, receive_time_ns: int | None = None) -> tuple[TwinState, ...]:
        received = message.source_time_ns if receive_time_ns is None else receive_time_ns
        return self._take(event_from_frame(self._index, received, pack(message)))

    def _take(self, event: Event) -> tuple[TwinState, ...]:
        """Record an event, fold it, publish and record what comes of it."""
        self._index += 1
        self.report.events += 1
        if self._recorder is not None:
            self._recorder.record_event(event)
        begin = time.perf_counter_ns()
        self._state, states = self.session.step(self._state, event)
        self.report.step_ns.append(time.perf_counter_ns() - begin)
        for state in states:
            frame = self._publisher.send(state)
            published = time.time_ns()
            self.report.latency_ns += [published - received for received in self._waiting]
            self._waiting.clear()
            self.report.states += 1
            if self._recorder is not None:
                self._recorder.record_state(frame, state.source_time_ns)
        return states

    def _close(self) -> None:
        self.report.counters = {**self._state.counters, **self._state.watch.totals()}
        self._subscriber.close()
        self._publisher.close()
        if self._recorder is not None:
            self._recorder.close()
            self.report.recording_failure = self._recorder.failure
