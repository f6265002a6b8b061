"""The live twin: devices in, twin states out, everything recorded; all thinking is the session's.

A thread reads the socket and stamps each frame as it arrives, so that a busy session shows up as latency and
not as a late stamp. The loop puts frames into the order in which they were measured (`streams.intake`), numbers them
and its own clock's ticks as events, hands each to the recorder, and then to the session. Nothing raises out of
it: a bad frame is an event like any other.
"""

import gc
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.audit import AuditWriter
from streams.command_channel import Caller, CommandServer, Request
from streams.estimates import StageTimes
from streams.events import Event, event_from_frame
from streams.inbox import Inbox
from streams.intake import Intake
from streams.messages import (
    FlowSample,
    Message,
    Note,
    PatientRegistration,
    PressureSamples,
    ProcedureEnd,
    SessionStart,
    Tick,
    ToolPose,
    TwinState,
)
from streams.recorder import Recorder
from streams.refusals import RefusalWatch
from streams.roles import STATES
from streams.security import Refusal, ServerSecurity
from streams.session_clock import now_ns
from streams.sockets import Publisher, Subscriber, is_local
from streams.standalone import Receiver
from streams.wire import pack
from surgical_twin import __version__
from surgical_twin.checkpoint import (
    CLOCK_STREAM,
    COMMAND_STREAM,
    START_STREAM,
    Checkpoint,
    CheckpointKeeper,
    Resumed,
    checkpoint_path,
    read_checkpoint,
    resume,
)
from surgical_twin.live_answers import AnswerDesk
from surgical_twin.live_report import LiveReport
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.tick_rates import POSE_TICK_NS, TICK_NS

log = logging.getLogger(__name__)

AUDIT_LOG = "audit.jsonl"
"""In the case's folder."""

AFTER_END_NS = 300_000_000
"""How long the loop goes on after the procedure's end was announced."""

STATES_WAITING = 500
"""States kept for a viewer that does not keep up: 5 s. Each is complete in itself, so what it misses is no harm."""

CHECKPOINT_NS = 1_000_000_000
"""Time between two checkpoints; what was recorded after the last is folded again when a session goes on."""

RESTARTED_NS = 3_000_000_000
"""For so long a session that went on in another process says so."""


@dataclass(frozen=True)
class Endpoints:
    """Where the twin listens for devices, where it publishes its states, and where it takes commands."""

    devices: str = "tcp://127.0.0.1:5590"
    states: str = "tcp://127.0.0.1:5591"
    commands: str | None = None
    """None where it takes none"""


class LiveLoop:
    """One live session on a case."""

    def __init__(
        self,
        model: SessionModel,
        *,
        seed: int,
        endpoints: Endpoints,
        record: Path | None,
        case: str,
        security: ServerSecurity | None = None,
        insecure: bool = False,
        audit_log: Path | None = None,
        go_on: bool = False,
        registration: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind the sockets and open the recording.

        Args:
            model: the case.
            seed: draws the filter's ensemble.
            endpoints: where to listen and publish.
            record: a new file, or None.
            case: the case's folder, for the recording.
            security: keys; None for plain text.
            insecure: plain text beyond this machine is wanted.
            audit_log: where to say what was done.
            registration: fields of the `PatientRegistration` that a new session begins with.
            go_on: with the session whose process ended before it did, from its checkpoint and its recording.

        Raises:
            InputError: a port is in use, the recording cannot be written, or there is no session to go on with.
        """
        self.session = Session(model)
        self.seed = seed
        self._registration = registration
        self.report = LiveReport()
        used = [endpoints.devices, endpoints.states, *([endpoints.commands] if endpoints.commands else [])]
        plain = security is None and not all(is_local(endpoint) for endpoint in used)
        if plain and insecure:
            log.warning("plain text beyond this machine, as asked for: anyone on the network may read and forge it")
        self._intake = Intake(
            allowed=None if security is None else security.gatekeeper.allowed,
            standing_flags=("insecure_plain_text",) if plain else (),
            at_once=(ToolPose,),
        )
        self._inbox = Inbox()
        opened: list[Any] = []
        try:
            self._subscriber = Subscriber(endpoints.devices, bind=True, insecure=insecure, security=security)
            opened.append(self._subscriber)
            self._publisher = Publisher(
                endpoints.states,
                bind=True,
                insecure=insecure,
                security=security,
                domain=STATES,
                most_waiting=STATES_WAITING,
                keep_last=True,
            )
            opened.append(self._publisher)
            self._commands = (
                None
                if endpoints.commands is None
                else CommandServer(endpoints.commands, insecure=insecure, security=security)
            )
            if self._commands is not None:
                opened.append(self._commands)
            resumed = self._resumed(record, Path(case)) if go_on else None
            metadata = {"software": __version__, "case": case, "case_hash": model.case_hash, "seed": str(seed)}
            if resumed is not None and resumed.writer is not None:
                self._recorder: Recorder | None = Recorder.going_on(resumed.writer)
            else:
                self._recorder = None if record is None else Recorder(record, metadata=metadata)
        except BaseException:
            for item in opened:
                item.close()
            raise
        self._checkpoints = CheckpointKeeper(checkpoint_path(record, Path(case)), model)
        self._checkpoint_due_ns = 0
        self._restarted_ns: int | None = None
        self._audit_log = None if audit_log is None else AuditWriter(audit_log)
        self._receiver = Receiver(self._subscriber, self._inbox)
        monitors = [self._subscriber.monitor, self._publisher.monitor]
        if self._commands is not None:
            monitors.append(self._commands.monitor)
        self._refusals = RefusalWatch(monitors, security, self._audit)
        if security is not None:
            security.gatekeeper.on_refusal = self._refused
        self._stopped = False
        begun = None if resumed is None else resumed.checkpoint
        self._begun_before = begun is not None
        self._state = SessionState() if begun is None else begun.state
        self._index, self._tick, self._said = (0, 0, 0) if begun is None else (begun.index, begun.tick, begun.said)
        self._urgent: deque[Event] = deque()
        """Poses, and what is no message: they go before all others."""
        self._ready: deque[Event] = deque()
        """Events whose turn has come and that the session has not taken yet."""
        self._moved = False
        """Whether a pose has come since the last published state."""
        self._longest_wait_ns = self._longest_step_ns = self._publish_ns = 0
        """What the next state says of its stages."""
        self._earliest = 0
        """When the next state may be published, by the monotonic clock."""
        self._waiting: list[tuple[int, bool]] = []
        """Of each device message since the last state: when it arrived, and whether it is a pose."""
        states = () if resumed is None else resumed.states
        self._desk = AnswerDesk(Path(case), model, self._intake, states, self._command)
        self._silent_ns = 0 if begun is None else now_ns() - begun.time_ns
        self._audit(
            "live session begun" if begun is None else "live session gone on with",
            case_hash=model.case_hash,
            seed=seed,
            recording=str(record) if record else None,
            devices=endpoints.devices,
            secured="CURVE" if security is not None else "plain text",
        )

    def _resumed(self, record: Path | None, case: Path) -> Resumed:
        path = checkpoint_path(record, case)
        return resume(self.session, read_checkpoint(path, self.session.model), record)

    def stop(self) -> None:
        """End the loop from another thread or a signal handler."""
        self._stopped = True

    def run(
        self,
        watch: Callable[[TwinState], None] | None = None,
        alive: Callable[[], None] | None = None,
        over: Callable[[], None] | None = None,
    ) -> LiveReport:
        """Run until the procedure ends or `stop` is called.

        Args:
            watch: called with every tenth published state, for a display on the terminal.
            alive: called at least with every tick, to show a watchdog that the loop goes round.
            over: called when it goes round no more, before what is left is written.
        """
        in_order = False
        # The loop computes in short bursts; without this the receiving thread would wait for the interpreter
        # up to 5 ms before it could stamp a frame.
        sys.setswitchinterval(0.0005)
        try:
            # What exists now lives as long as the session: collecting it again and again would only stall it. It takes
            # a while, and so comes before the session begins.
            gc.collect()
            gc.freeze()
            self._begin()
            self._receiver.start()
            self._loop(watch, alive)
            in_order = True
            if over is not None:
                over()
        finally:
            self._receiver.stop()
            if in_order:
                self._receive(0.0)
                for event in (*self._urgent, *self._ready, *self._intake.flush()):
                    self._take_device(event)
                self._urgent.clear()
                self._ready.clear()
            self._close(in_order=in_order)
            gc.unfreeze()
        return self.report

    def _begin(self) -> None:
        """The first event: of a new session its start, of one that goes on how long nothing was heard of it."""
        now = now_ns()
        if not self._begun_before:
            start = SessionStart(
                stream=START_STREAM,
                sequence=0,
                source_time_ns=now,
                case_hash=self.session.model.case_hash,
                seed=self.seed,
                settings={},
            )
            self._take_own(start)
            if self._registration is not None:
                self._command(PatientRegistration, Caller(None), **self._registration)
            # From here on there is something to go on with.
            self._checkpoints.write(self._checkpoint(now))
            return
        self._restarted_ns = now
        text = f"the session goes on in a new process, {self._silent_ns / 1e9:.2f} s after its last event"
        log.warning(text)
        self._take_own(
            Note(stream=COMMAND_STREAM, sequence=self._said, source_time_ns=now, source="watchdog", text=text)
        )
        self._said += 1

    def _loop(self, watch: Callable[[TwinState], None] | None, alive: Callable[[], None] | None) -> None:
        self._report(now_ns())  # so that the first state says all that forbids trust
        next_tick = self._earliest = time.monotonic_ns()
        ended_ns: int | None = None
        while not self._stopped:
            if self._moved:
                next_tick = min(next_tick, max(self._earliest, time.monotonic_ns()))
            wait_ns = next_tick - time.monotonic_ns()
            if wait_ns > 0:
                due = self._intake.orderer.due_ns()
                if due is not None:
                    wait_ns = min(wait_ns, max(due - now_ns(), 0))
                self._receive(0.0 if self._ready or self._urgent else wait_ns / 1e9)
                self._release(now_ns())
                self._take_ready(next_tick)
                if not self._ready and not self._urgent and not self._moved:
                    self.session.prepare(self._state)
                continue
            # All that has arrived goes before the tick, so that a state is never older than it must be. Yet a tick
            # waits for a period at most: a session that cannot keep up says so instead of falling silent. One that is
            # due to a pose waits for nothing but other poses.
            self._receive(0.0)
            self._release(now_ns())
            if self._moved:
                self._take_urgent()
            else:
                self._take_ready(time.monotonic_ns() + TICK_NS)
            now = now_ns()
            lag = max(0, now - self._ready[0].receive_time_ns) if self._ready else 0
            self._moved = False
            stages = StageTimes(self._longest_wait_ns, self._longest_step_ns, self._publish_ns)
            self._longest_wait_ns = self._longest_step_ns = 0
            states = self._take_own(
                Tick(stream=CLOCK_STREAM, sequence=self._tick, source_time_ns=now, lag_ns=lag, stages=stages),
                receive_time_ns=now,
            )
            # The state that a pose asked for goes first: what was noticed is in the next, and a question may take its
            # time.
            self._report(now)
            self._publisher.greet()
            if self._commands is not None:
                self._commands.serve(self._answer)
            for state in states:
                if watch is not None and self._tick % 10 == 0:
                    watch(state)
            self._tick += 1
            if alive is not None:
                alive()
            if now >= self._checkpoint_due_ns:
                self._checkpoints.keep(self._checkpoint(now))
            # After a stall the clock goes on from now: ticks are not made up for.
            self._earliest = time.monotonic_ns() + POSE_TICK_NS
            next_tick = max(next_tick + TICK_NS, time.monotonic_ns() - TICK_NS)
            if self._state.ended:
                ended_ns = ended_ns or now
                if now - ended_ns > AFTER_END_NS:
                    return

    def _checkpoint(self, now_ns: int) -> Checkpoint:
        self._checkpoint_due_ns = now_ns + CHECKPOINT_NS
        return Checkpoint(
            __version__,
            self.session.model.case_hash,
            self._state,
            self._index,
            self._tick,
            self._said,
            now_ns,
            mark=None if self._recorder is None else self._recorder.mark,
        )

    def _receive(self, wait_s: float) -> None:
        """Take what waits in the inbox, waiting for the first at most this long."""
        self._urgent.extend(self._intake.take_all(self._inbox.take(wait_s)))

    def _release(self, now_ns: int) -> None:
        self._ready.extend(self._intake.release(now_ns))

    def _take_ready(self, until_ns: int) -> None:
        """Fold the events whose turn has come, one at least, until there are none or a time of the monotonic clock.

        Poses that come meanwhile go first, and are published before the rest is folded: they never wait for the filter,
        but for the one observation that it has in hand.
        """
        self._take_urgent()
        while self._ready:
            if self._moved and time.monotonic_ns() >= self._earliest:
                return
            self._take_device(self._ready.popleft())
            if time.monotonic_ns() >= until_ns:
                return
            self._receive(0.0)
            self._take_urgent()

    def _take_urgent(self) -> None:
        while self._urgent:
            event = self._urgent.popleft()
            self._moved = self._moved or type(event.message) is ToolPose
            self._take_device(event)

    def _report(self, now_ns: int) -> None:
        """Tell the session what the intake has noticed."""
        flags: tuple[str, ...] = ()
        if self._recorder is not None and self._recorder.failure is not None:
            flags += ("recording_failed",)
        if self._restarted_ns is not None and now_ns - self._restarted_ns < RESTARTED_NS:
            flags += ("restarted",)
        counts = Counter(self._inbox.counts)
        counts["refused_clients"] = self._refusals.count()
        report = self._intake.report(now_ns, flags=flags, counts=counts)
        if report is not None:
            self._take_own(report, receive_time_ns=now_ns)

    def _take_device(self, event: Event) -> None:
        self._longest_wait_ns = max(self._longest_wait_ns, now_ns() - event.receive_time_ns)
        self._take(event.numbered(self._index))
        kind = type(event.message)
        self._waiting.append((event.receive_time_ns, kind is ToolPose))
        if kind is PressureSamples or kind is FlowSample:
            self.report.observation.add(now_ns() - event.receive_time_ns)

    def _take_own(self, message: Message, receive_time_ns: int | None = None) -> tuple[TwinState, ...]:
        received = message.source_time_ns if receive_time_ns is None else receive_time_ns
        frame = pack(message)
        if isinstance(message, Tick):  # of whole numbers, which a pose waits for: it need not be taken apart again
            return self._take(Event(self._index, received, frame, message))
        return self._take(event_from_frame(self._index, received, frame))

    def _take(self, event: Event) -> tuple[TwinState, ...]:
        """Record an event, fold it, publish and record what comes of it."""
        self._index += 1
        self.report.events += 1
        if self._recorder is not None:
            self._recorder.record_event(event)
        begin = time.perf_counter_ns()
        self._state, states = self.session.step(self._state, event)
        spent = time.perf_counter_ns() - begin
        self.report.step.add(spent)
        self._longest_step_ns = max(self._longest_step_ns, spent)
        for state in states:
            sending = now_ns()
            frame = self._publisher.send(state)
            published = now_ns()
            self.report.publish.add(published - sending)
            self._publish_ns = published - sending
            for received, moves in self._waiting:
                self.report.latency.add(published - received)
                if moves:
                    self.report.pose.add(published - received)
            self._waiting.clear()
            self.report.states += 1
            self._desk.remember(state.source_time_ns, frame)
            if self._recorder is not None:
                self._recorder.record_state(frame, state.source_time_ns)
        return states

    def _answer(self, request: Request, caller: Caller) -> Any:
        return self._desk.answer(request, caller, self._state)

    def _command(self, kind: type[Note | PatientRegistration | ProcedureEnd], caller: Caller, **fields: Any) -> None:
        message = kind(stream=COMMAND_STREAM, sequence=self._said, source_time_ns=now_ns(), **fields)
        self._said += 1
        self._take_own(message)
        self._audit(kind.__name__, who=caller.name or None, **fields)

    def _refused(self, refusal: Refusal) -> None:
        self._audit(
            "client refused", client=refusal.client, address=refusal.address, domain=refusal.domain, why=refusal.reason
        )

    def _audit(self, what: str, **details: Any) -> None:
        if self._audit_log is not None:
            self._audit_log.note(what, **details)

    def _close(self, *, in_order: bool) -> None:
        intake = self._state.intake
        self.report.counters = {
            **self._state.counters,
            **self._state.watch.totals(),
            **(intake.counters if intake is not None else {}),
        }
        self.report.refused_clients = self._refusals.close()
        self._desk.close()
        self._subscriber.close()
        self._publisher.close()
        if self._commands is not None:
            self._commands.close()
        self._checkpoints.close(remove=in_order)
        if self._recorder is not None:
            self._recorder.close(finish=in_order)
            self.report.recording_failure = self._recorder.failure
            self.report.recording_head = self._recorder.head
        self._audit(
            "live session ended" if in_order else "live session broken off",
            events=self.report.events,
            states=self.report.states,
            recording_head=self.report.recording_head,
            recording_failure=self.report.recording_failure,
        )
        if self._audit_log is not None:
            self._audit_log.close()
