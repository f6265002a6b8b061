"""Sends a recording's device messages to a twin again, as if they were measured now."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streams.errors import InputError
from streams.events import Malformed
from streams.messages import OWN_TYPES
from streams.recording import RecordingScan, StateFrame
from streams.security import ClientSecurity
from streams.sockets import Publisher

CONNECT_S = 0.5
SAY_S = 0.2


@dataclass(frozen=True)
class Played:
    """What was sent."""

    sent: int
    duration_s: float


def play_recording(
    path: Path,
    endpoint: str,
    *,
    speed: float | None = 1.0,
    begin_s: float = 0.0,
    security: ClientSecurity | None = None,
    insecure: bool = False,
    say: Callable[[float], None] | None = None,
) -> Played:
    """Publish what devices said in a recording, each message as long after the last as it came then.

    Source times are moved to now and keep their distance to the times of arrival, so that what was late is late again.
    The twin's own events and states are not sent: it makes its own.

    Args:
        path: the recording.
        endpoint: where the twin listens.
        speed: times real time; None for as fast as possible.
        begin_s: from here on, seconds after the beginning.
        security: keys.
        insecure: plain text beyond this machine is wanted.
        say: called now and then with the time since the beginning [s].

    Raises:
        InputError: the recording or the endpoint cannot be used, or the twin refuses this client.
    """
    publisher = Publisher(endpoint, security=security, insecure=insecure)
    sent, first_ns, anchor_s, said, since = 0, 0, 0.0, 0.0, 0.0
    begun = time.monotonic()
    try:
        time.sleep(CONNECT_S)
        refused = publisher.refused()
        if refused is not None:
            raise InputError(f"The twin at {endpoint} refuses this client: {refused}.")
        for item in RecordingScan(path).entries():
            if isinstance(item, StateFrame) or isinstance(item.message, (Malformed, *OWN_TYPES)):
                continue
            first_ns = first_ns or item.receive_time_ns
            since = (item.receive_time_ns - first_ns) * 1e-9
            if since < begin_s:
                continue
            if not anchor_s:
                anchor_s = time.monotonic() - begin_s / (speed or 1.0)
            if speed is not None:
                wait = anchor_s + since / speed - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
            moved = max(0, item.message.source_time_ns + time.time_ns() - item.receive_time_ns)
            publisher.send(msgspec.structs.replace(item.message, source_time_ns=moved))
            sent += 1
            if say is not None and since - said > SAY_S:
                said = since
                say(since)
    finally:
        publisher.close()
    if not sent:
        raise InputError(f"{path} holds no message of a device after {begin_s:g} s.")
    return Played(sent, time.monotonic() - begun)
