"""ZeroMQ sockets with every option set that would otherwise lose data silently or hang.

ZeroMQ's defaults drop messages beyond a high-water mark of 1000, never notice a dead peer, accept messages of
any length, and wait forever on closing. Plain text is for this machine alone: other addresses are refused unless asked
for explicitly.
"""

import ipaddress
import time
from urllib.parse import urlparse

import zmq

from streams.errors import InputError
from streams.messages import Message
from streams.wire import MAX_FRAME_BYTES, pack

HIGH_WATER_MARK = 100_000
"""Messages queued per peer: some minutes of everything an operating room sends."""

HEARTBEAT_MS = 500
HEARTBEAT_TIMEOUT_MS = 2000
LINGER_MS = 500
RECONNECT_MS = 50
RECONNECT_MAX_MS = 1000


def _check(endpoint: str, insecure: bool) -> None:
    """Refuse what is no endpoint, or reaches beyond this machine."""
    parts = urlparse(endpoint)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or port is None:
        raise InputError(f'"{endpoint}" is no endpoint; write tcp://ADDRESS:PORT, as in tcp://127.0.0.1:5590.')
    if insecure or parts.hostname == "localhost":
        return
    try:
        local = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        local = False
    if not local:
        raise InputError(
            f"{endpoint} reaches beyond this machine, and its traffic would be plain text that anyone may read and "
            f"forge; "
            "use an address of 127.0.0.1."
        )


def _socket(kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    for option, value in (
        (zmq.SNDHWM, HIGH_WATER_MARK),
        (zmq.RCVHWM, HIGH_WATER_MARK),
        (zmq.MAXMSGSIZE, MAX_FRAME_BYTES),
        (zmq.LINGER, LINGER_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
        (zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS),
        (zmq.RECONNECT_IVL, RECONNECT_MS),
        (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
        (zmq.IPV6, 0),
    ):
        socket.setsockopt(option, value)
    return socket


def _attach(socket: zmq.Socket[bytes], endpoint: str, bind: bool) -> None:
    try:
        if bind:
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            raise InputError(
                f"{endpoint} is in use: another twin is running there; end it, or choose another port."
            ) from error
        raise InputError(f"{endpoint} cannot be used ({error}); choose another address.") from error


class Publisher:
    """Publishes messages as they are; each carries its own stream and number."""

    def __init__(self, endpoint: str, *, bind: bool = False, insecure: bool = False) -> None:
        """Bind or connect.

        Raises:
            InputError: the endpoint is none, is in use, or is beyond this machine and not asked for as ``insecure``.
        """
        _check(endpoint, insecure)
        self._socket = _socket(zmq.PUB)
        _attach(self._socket, endpoint, bind)

    def send(self, message: Message) -> bytes:
        """Publish a message; returns its frame."""
        frame = pack(message)
        self.send_frame(frame)
        return frame

    def send_frame(self, frame: bytes) -> None:
        """Publish bytes as they are."""
        self._socket.send(frame, flags=zmq.NOBLOCK)

    def close(self) -> None:
        """Close, after handing over what is queued (at most 0.5 s)."""
        self._socket.close()


class Subscriber:
    """Receives frames of all streams or of some."""

    def __init__(
        self, endpoint: str, *, bind: bool = True, topics: tuple[str, ...] = ("",), insecure: bool = False
    ) -> None:
        """Bind or connect, and subscribe.

        Raises:
            InputError: as `Publisher`.
        """
        _check(endpoint, insecure)
        self._socket = _socket(zmq.SUB)
        for name in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, name.encode("ascii"))
        _attach(self._socket, endpoint, bind)
        self._last_ns = 0

    def receive(self, timeout_ms: int = 0) -> list[tuple[int, bytes]]:
        """All frames that are there, each with its time of arrival [ns]; waits for the first at most ``timeout_ms``.

        Times never go back, even when the machine's clock is set.
        """
        if not self._socket.poll(timeout_ms, zmq.POLLIN):
            return []
        frames: list[tuple[int, bytes]] = []
        while len(frames) < HIGH_WATER_MARK:
            try:
                frame = self._socket.recv(flags=zmq.NOBLOCK)
            except zmq.Again:
                break
            # Parts beyond the first are none of the protocol's; joined, they fail to decode and are counted.
            while self._socket.getsockopt(zmq.RCVMORE):
                frame += b"\0\0" + self._socket.recv(flags=zmq.NOBLOCK)
            self._last_ns = max(self._last_ns, time.time_ns())
            frames.append((self._last_ns, frame))
        return frames

    def close(self) -> None:
        """Close at once."""
        self._socket.close(linger=0)
