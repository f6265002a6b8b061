"""Plays a simulated procedure: waits until the twin listens, then publishes what the devices measure."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from streams.devices import merge
from streams.messages import ENDED, Heartbeat, ProcedureEnd, TwinState
from streams.playback import play
from streams.roles import SIMULATOR
from streams.security import ClientSecurity
from streams.sockets import Publisher, Subscriber
from streams.wire import unpack
from surgical_twin.errors import InputError
from surgical_twin.simulate import SimulatedProcedure

ANNOUNCE_STREAM = "simulator/heartbeat"
ANNOUNCE_S = 0.1


@dataclass(frozen=True)
class PlaybackReport:
    """What was played."""

    sent: int
    withheld: int
    """Messages that the simulated devices lost on purpose."""
    duration_s: float


def play_procedure(
    procedure: SimulatedProcedure,
    devices_endpoint: str,
    states_endpoint: str,
    *,
    wait_s: float,
    say: Callable[[float], None],
    security: ClientSecurity | None = None,
    insecure: bool = False,
) -> PlaybackReport:
    """Publish a procedure to a running twin in real time.

    A publisher's first messages are lost while its connection is being made, so nothing is played before the twin's own
    states show that it has heard this publisher.

    Raises:
        InputError: no twin answered in time.
    """
    devices = procedure.devices()  # some take a while to make, and time runs once the twin listens
    publisher = Publisher(devices_endpoint, bind=False, security=security, insecure=insecure)
    try:
        listener = Subscriber(states_endpoint, bind=False, topics=("twin",), security=security, insecure=insecure)
        try:
            announced = _wait_for_twin(publisher, listener, states_endpoint, wait_s)
        finally:
            listener.close()
        epoch_ns = time.time_ns() + 100_000_000
        procedure.record(epoch_ns)
        messages = merge(devices, epoch_ns=epoch_ns)
        begin = time.monotonic()
        duration = procedure.motion.duration
        report = play(
            messages, publisher, epoch_ns=epoch_ns, on_progress=lambda time_s: say(min(1.0, time_s / duration))
        )
        publisher.send(
            ProcedureEnd(
                stream="simulator/procedure", sequence=0, source_time_ns=time.time_ns(), reason="the procedure is over"
            )
        )
        return PlaybackReport(
            sent=report.sent + announced + 1, withheld=report.withheld, duration_s=time.monotonic() - begin
        )
    finally:
        publisher.close()


def _wait_for_twin(publisher: Publisher, listener: Subscriber, endpoint: str, wait_s: float) -> int:
    """Announce ourselves until the twin's state names our stream; returns how often we did."""
    deadline = time.monotonic() + wait_s
    sequence = 0

    def announce(status: str) -> None:
        now = time.time_ns()
        publisher.send(
            Heartbeat(stream=ANNOUNCE_STREAM, sequence=sequence, source_time_ns=now, device=SIMULATOR, status=status)
        )

    while time.monotonic() < deadline:
        announce("ready")
        sequence += 1
        time.sleep(ANNOUNCE_S)
        for _, frame in listener.receive()[-1:]:
            state = unpack(frame)
            if isinstance(state, TwinState) and ANNOUNCE_STREAM in state.age_ns:
                announce(ENDED)  # from here on the devices speak for themselves
                return sequence + 1
        refused = publisher.refused() or listener.refused()
        if refused is not None:
            raise InputError(
                f"The twin at {endpoint} refuses the simulator: {refused}; give --keys a folder with the key of "
                f"a client named {SIMULATOR} that may publish and watch."
            )
    raise InputError(
        f"No twin answered on {endpoint} within {wait_s:g} s; start surgical-twin live on the case first, or in "
        f"another terminal."
    )
