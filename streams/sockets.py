"""ZeroMQ sockets with every option set that would otherwise lose data silently or hang.

ZeroMQ's defaults drop messages beyond a high-water mark of 1000, never notice a dead peer, accept messages of
any length, and wait forever on closing. Beyond this machine's own addresses a socket needs keys (`streams.security`);
plain text there has to be asked for explicitly. A client that is refused notices nothing by itself: `Monitor` listens
to ZeroMQ's own events of a socket on either side.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from urllib.parse import urlparse

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from streams.compiled import compiled_receive
from streams.errors import InputError
from streams.messages import Message
from streams.roles import DEVICES, STATES
from streams.security import ClientSecurity, ServerSecurity
from streams.session_clock import now_ns
from streams.wire import MAX_FRAME_BYTES, pack

HIGH_WATER_MARK = 100_000
"""Messages queued per peer: some minutes of everything an operating room sends."""

HEARTBEAT_MS = 500
HEARTBEAT_TIMEOUT_MS = 15_000
"""A connection that is silent for this long is given up, and what it held with it: a network that is away for 10 s and
comes back then delivers all of it. That a stream is silent is noticed long before (`streams.liveness`)."""

STAMPED_TOGETHER = 16
"""Frames that are taken from a socket between two looks at the clock, without compiled code: some 10 us."""

LINGER_MS = 500
RECONNECT_MS = 50
RECONNECT_MAX_MS = 1000


_NOBLOCK = int(zmq.NOBLOCK)
"""As a plain integer, which is taken faster than the enumeration's."""

Security = ClientSecurity | ServerSecurity

_CONTEXT_OPTIONS = {
    zmq.SNDHWM: HIGH_WATER_MARK,
    zmq.RCVHWM: HIGH_WATER_MARK,
    zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
    zmq.LINGER: LINGER_MS,
    zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
    zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
    zmq.HEARTBEAT_TTL: HEARTBEAT_TIMEOUT_MS,
    zmq.RECONNECT_IVL: RECONNECT_MS,
    zmq.RECONNECT_IVL_MAX: RECONNECT_MAX_MS,
    zmq.IPV6: 0,
}


def is_local(endpoint: str) -> bool:
    """Whether an endpoint is one of this machine's loopback addresses.

    Raises:
        InputError: it is no endpoint.
    """
    parts = urlparse(endpoint)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or port is None:
        raise InputError(f'"{endpoint}" is no endpoint; write tcp://ADDRESS:PORT, as in tcp://127.0.0.1:5590.')
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return False


def _check(endpoint: str, insecure: bool, security: Security | None) -> None:
    """Refuse what is no endpoint, or would send plain text beyond this machine."""
    if not is_local(endpoint) and security is None and not insecure:
        raise InputError(
            f"{endpoint} reaches beyond this machine, and its traffic would be plain text that anyone may read and "
            f"forge; use an address of 127.0.0.1, give keys with --keys (surgical-twin keys makes them), or allow "
            f"plain text with --insecure."
        )


def open_socket(
    kind: int, endpoint: str, *, insecure: bool, security: Security | None, domain: str
) -> "zmq.Socket[bytes]":
    """A socket with every option set, not yet bound or connected.

    Raises:
        InputError: the endpoint is none, or would send plain text beyond this machine.
    """
    _check(endpoint, insecure, security)
    context = security.context if isinstance(security, ServerSecurity) else zmq.Context.instance()
    socket: zmq.Socket[bytes] = context.socket(kind)
    for option, value in _CONTEXT_OPTIONS.items():
        socket.setsockopt(option, value)
    if isinstance(security, ServerSecurity):
        security.secure(socket, domain)
    elif security is not None:
        security.secure(socket)
    return socket


NOT_LET_IN = "not let in"
"""Reason of a refusal by the gatekeeper, which says the rest."""


@dataclass
class Monitor:
    """Counts what ZeroMQ says about a socket's connections.

    Attributes:
        refused: handshakes that failed: the other side has no key, an unknown one, or no role for this socket.
        connected: handshakes that succeeded.
        lost: connections that ended.
        reasons: of the refusals.
    """

    socket: "zmq.Socket[bytes]"
    refused: int = 0
    connected: int = 0
    lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        events = (
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_DISCONNECTED
        )
        self._events = self.socket.get_monitor_socket(events)

    def look(self) -> None:
        """Take the events that have come; does not wait."""
        while self._events.poll(0):
            event = recv_monitor_message(self._events)
            match event["event"]:
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self.connected += 1
                case zmq.EVENT_DISCONNECTED:
                    self.lost += 1
                case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    self._refuse(f"{NOT_LET_IN} (status {event['value']})")
                case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                    self._refuse("the other side speaks without keys, or with the wrong one of the twin")
                case _:
                    self._refuse("the connection ended during the handshake")

    def without_keys(self) -> Counter[str]:
        """Of a socket with keys: handshakes that failed before the gatekeeper saw a key, by reason."""
        return Counter({reason: count for reason, count in self.reasons.items() if not reason.startswith(NOT_LET_IN)})

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self.reasons[reason] += 1

    def close(self) -> None:
        """Stop listening; before the socket itself is closed."""
        self.socket.disable_monitor()
        self._events.close(linger=0)


def attach(socket: "zmq.Socket[bytes]", endpoint: str, *, bind: bool, monitor: "Monitor") -> None:
    """Bind or connect a monitored socket.

    Raises:
        InputError: the endpoint is in use, or cannot be used; the socket is closed.
    """
    try:
        if bind:
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
    except zmq.ZMQError as error:
        monitor.close()
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            raise InputError(
                f"{endpoint} is in use: another twin is running there; end it, or choose another port."
            ) from error
        raise InputError(f"{endpoint} cannot be used ({error}); choose another address.") from error


class _Monitored:
    """A socket with the watch over its connections.

    Attributes:
        monitor: what became of its connections.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str, *, bind: bool) -> None:
        self._socket = socket
        self.monitor = Monitor(socket)
        attach(socket, endpoint, bind=bind, monitor=self.monitor)

    def refused(self) -> str | None:
        """Why the other side does not let this one in, or None."""
        self.monitor.look()
        if self.monitor.refused and not self.monitor.connected:
            return self.monitor.reasons.most_common(1)[0][0]
        return None


class Publisher(_Monitored):
    """Publishes messages as they are; each carries its own stream and number."""

    def __init__(
        self,
        endpoint: str,
        *,
        bind: bool = False,
        insecure: bool = False,
        security: Security | None = None,
        domain: str = STATES,
        most_waiting: int = HIGH_WATER_MARK,
        keep_last: bool = False,
    ) -> None:
        """Bind or connect.

        Args:
            endpoint: tcp://ADDRESS:PORT.
            bind: wait for subscribers there, instead of connecting to one.
            insecure: plain text beyond this machine is wanted.
            security: keys.
            domain: which of the twin's sockets this is, when it is bound with keys.
            most_waiting: messages kept for a subscriber that does not keep up; it misses what comes beyond.
            keep_last: give a late subscriber the last message at once (see `greet`).

        Raises:
            InputError: the endpoint is none, is in use, or is beyond this machine and not asked for as ``insecure``.
        """
        kind = zmq.XPUB if keep_last else zmq.PUB
        opened = open_socket(kind, endpoint, insecure=insecure, security=security, domain=domain)
        opened.setsockopt(zmq.SNDHWM, most_waiting)
        if keep_last:
            opened.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._keep_last = keep_last
        self._last: bytes | None = None
        super().__init__(opened, endpoint, bind=bind)

    def send(self, message: Message) -> bytes:
        """Publish a message; returns its frame."""
        frame = pack(message)
        self.send_frame(frame)
        return frame

    def send_frame(self, frame: bytes) -> None:
        """Publish bytes as they are."""
        self._socket.send(frame, flags=zmq.NOBLOCK)
        if self._keep_last:
            self._last = frame

    def greet(self) -> int:
        """Send the last message again if someone has subscribed since; returns how many have."""
        greeted = 0
        while self._keep_last and self._socket.poll(0, zmq.POLLIN):
            greeted += self._socket.recv()[:1] == b"\1"
        if greeted and self._last is not None:
            self._socket.send(self._last, flags=zmq.NOBLOCK)
        return greeted

    def close(self) -> None:
        """Close, after handing over what is queued (at most 0.5 s)."""
        self.monitor.close()
        self._socket.close()


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What came, when, and who sent it."""

    receive_time_ns: int
    data: bytes
    sender: str | None
    """the client's name by its key; None without keys"""


_Taken = tuple[Iterable[int], list[bytes], Iterable[str | None], bool]


class Subscriber(_Monitored):
    """Receives frames of all streams or of some."""

    def __init__(
        self,
        endpoint: str,
        *,
        bind: bool = True,
        topics: tuple[str, ...] = ("",),
        insecure: bool = False,
        security: Security | None = None,
        domain: str = DEVICES,
    ) -> None:
        """Bind or connect, and subscribe.

        Raises:
            InputError: as `Publisher`.
        """
        compiled_receive()  # compiled now, where it never was, and not while the first frames wait
        opened = open_socket(zmq.SUB, endpoint, insecure=insecure, security=security, domain=domain)
        self._named = isinstance(security, ServerSecurity)
        for name in topics:
            opened.setsockopt(zmq.SUBSCRIBE, name.encode("ascii"))
        super().__init__(opened, endpoint, bind=bind)

    def receive(self, timeout_ms: int = 0) -> list[tuple[int, bytes]]:
        """All frames that are there, each with its time of arrival [ns]; waits for the first at most ``timeout_ms``.

        Times never go back, even when the machine's clock is set.
        """
        return [(frame.receive_time_ns, frame.data) for frame in self.receive_frames(timeout_ms)]

    def receive_frames(self, timeout_ms: int = 0, most: int = HIGH_WATER_MARK) -> list[Frame]:
        """As `receive`, with the sender of each, and not more than ``most`` at once.

        Each is stamped as it is taken from the socket, while other threads may run; without compiled code a few at a
        time, after they were taken. A stamp is never early. Each part of a message of several parts, which the
        protocol does not have, is a frame of its own and judged like any other.
        """
        frames: list[Frame] = []
        while len(frames) < most:
            stamps, taken, senders, exhausted = self._receive(most - len(frames))
            frames += map(Frame, stamps, taken, senders)
            if exhausted:
                # Asked only where nothing is there: asking costs more than a frame.
                if frames or not timeout_ms or not self._socket.poll(timeout_ms, zmq.POLLIN):
                    break
                timeout_ms = 0
        return frames

    def _receive(self, most: int) -> _Taken:
        """Some of what is there: when it was taken, the bytes, who sent each, and whether this was all."""
        receive = compiled_receive()
        if receive is None:
            return self._receive_singly(min(STAMPED_TOGETHER, most))
        stamps, taken, senders, error = receive(self._socket.underlying, most, self._named)
        if error not in (0, zmq.EAGAIN) and not taken:
            raise zmq.ContextTerminated if error == zmq.ETERM else zmq.ZMQError(error)
        return stamps, taken, senders or repeat(None), error == zmq.EAGAIN

    def _receive_singly(self, most: int) -> _Taken:
        """What `short_way.c` does, where it cannot be compiled."""
        if self._named:
            taken, senders, exhausted = self._receive_named(most)
            return repeat(now_ns()), taken, senders, exhausted
        taken = []
        receive = self._socket.recv
        try:
            for _ in range(most):
                taken.append(receive(_NOBLOCK))
        except zmq.Again:
            return repeat(now_ns()), taken, repeat(None), True
        return repeat(now_ns()), taken, repeat(None), False

    def _receive_named(self, most: int) -> tuple[list[bytes], list[str], bool]:
        taken: list[bytes] = []
        senders: list[str] = []
        try:
            for _ in range(most):
                part = self._socket.recv(_NOBLOCK, copy=False)
                try:
                    sender = str(part.get("User-Id"))
                except zmq.ZMQError:
                    sender = ""
                taken.append(part.bytes)
                senders.append(sender)
        except zmq.Again:
            return taken, senders, True
        return taken, senders, False

    def close(self) -> None:
        """Close at once."""
        self.monitor.close()
        self._socket.close(linger=0)
