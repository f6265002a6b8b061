"""A bridge to OpenIGTLink programs (3D Slicer, PLUS): their tools and sensors to the twin, the twin's state to them.

The twin's state goes out at a steady rate; a peer that does not keep up misses some of it, which is counted, and never
holds up the others. OpenIGTLink has neither encryption nor names: by itself the bridge listens on this machine only.
"""

import errno
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from streams import igtl
from streams.errors import InputError, MalformedMessage
from streams.igtl import Decoder, OutOfStep
from streams.igtl_inward import Inward
from streams.igtl_outward import Surface, outward
from streams.messages import TwinState
from streams.session_clock import now_ns
from streams.sockets import Publisher, Subscriber
from streams.wire import unpack

OUT_HZ = 30.0
SURFACE_HZ = 2.0
RECONNECT_NS = 1_000_000_000
READ_BYTES = 1 << 18
MOST_WAITING = 4_000_000
"""Bytes kept for a peer that does not keep up; what does not fit is not sent to it."""

MOST_PEERS = 16


@dataclass
class _Peer:
    socket: socket.socket
    name: str
    decoder: Decoder = field(default_factory=Decoder)
    waiting: bytearray = field(default_factory=bytearray)


class IgtlBridge:
    """The bridge at work: one thread, any number of peers.

    Attributes:
        counts: peers, messages passed on and not, what peers missed.
    """

    def __init__(
        self,
        *,
        devices: Publisher,
        states: Subscriber | None,
        listen: tuple[str, int] | None = None,
        connect: tuple[str, int] | None = None,
        ras: bool = True,
        surface: Surface | None = None,
    ) -> None:
        """Open the sockets.

        Args:
            devices: to the twin.
            states: from the twin; None where nothing is sent back.
            listen: host and port to wait for peers at.
            connect: host and port of a peer, to which the connection is made again when it is lost.
            ras: positions are sent to peers in RAS.
            surface: for the overlay mesh.

        Raises:
            InputError: the address to listen at cannot be used.
        """
        self.counts: Counter[str] = Counter()
        self._devices, self._states = devices, states
        self._connect, self._surface, self._ras = connect, surface, ras
        self._inward = Inward()
        self._selector = selectors.DefaultSelector()
        self._peers: list[_Peer] = []
        self._stop = threading.Event()
        self._tried_ns = self._sent_ns = self._drawn_ns = 0
        self._server: socket.socket | None = None
        self._newest: TwinState | None = None
        if listen is not None:
            try:
                self._server = socket.create_server(listen, reuse_port=False)
            except OSError as error:
                self._selector.close()
                raise InputError(
                    f"{listen[0]}:{listen[1]} cannot be listened at ({error.strerror}); choose another port."
                ) from error
            self._server.setblocking(False)
            self._selector.register(self._server, selectors.EVENT_READ, None)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.getsockname()[1]) if self._server is not None else 0

    def stop(self) -> None:
        """End `run` from another thread or a signal handler."""
        self._stop.set()

    def run(self, say: Callable[[Counter[str]], None] | None = None) -> Counter[str]:
        """Pass messages on until `stop` is called; returns what was done."""
        told = 0
        try:
            while not self._stop.is_set():
                self._reconnect()
                for key, events in self._selector.select(timeout=0.005):
                    if key.data is None:
                        self._accept()
                    elif events & selectors.EVENT_READ:
                        self._read(key.data)
                    if key.data in self._peers and events & selectors.EVENT_WRITE:
                        self._write(key.data)
                self._send_state()
                if say is not None and now_ns() - told > 500_000_000:
                    told = now_ns()
                    say(self.counts + self._inward.counts)
        finally:
            self.close()
        return self.counts + self._inward.counts

    def close(self) -> None:
        """Close all connections."""
        for peer in list(self._peers):
            self._drop(peer, "")
        if self._server is not None:
            self._server.close()
            self._server = None
        self._selector.close()

    def _reconnect(self) -> None:
        if self._connect is None or self._peers or now_ns() - self._tried_ns < RECONNECT_NS:
            return
        self._tried_ns = now_ns()
        try:
            connection = socket.create_connection(self._connect, timeout=1.0)
        except OSError:
            self.counts["failed to connect"] += 1
            return
        self._add(connection, f"{self._connect[0]}:{self._connect[1]}")

    def _accept(self) -> None:
        assert self._server is not None
        try:
            connection, address = self._server.accept()
        except OSError:
            return
        if len(self._peers) >= MOST_PEERS:
            connection.close()
            self.counts["peers refused: too many"] += 1
            return
        self._add(connection, f"{address[0]}:{address[1]}")

    def _add(self, connection: socket.socket, name: str) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = _Peer(connection, name)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)
        self.counts["peers"] += 1

    def _drop(self, peer: _Peer, why: str) -> None:
        if why:
            self.counts[why] += 1
        for what, count in peer.decoder.bad.items():
            self.counts[f"bad {what}"] += count
        self._peers.remove(peer)
        self._selector.unregister(peer.socket)
        peer.socket.close()

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer, "peers gone")
            return
        received = now_ns()
        try:
            messages = peer.decoder.feed(data)
        except OutOfStep:
            self._drop(peer, "peers that speak something else")
            return
        for message in messages:
            self.counts["received"] += 1
            for made in self._inward.convert(message, received):
                self._devices.send(made)

    def _send_state(self) -> None:
        if self._states is None:
            return
        for _, frame in self._states.receive()[-1:]:
            try:
                state = unpack(frame)
            except MalformedMessage:
                self.counts["unreadable states"] += 1
                continue
            if isinstance(state, TwinState):
                self._newest = state
        now = now_ns()
        if self._newest is None or not self._peers or now - self._sent_ns < 1e9 / OUT_HZ:
            return
        draw = self._surface is not None and now - self._drawn_ns >= 1e9 / SURFACE_HZ
        messages = outward(self._newest, ras=self._ras, surface=self._surface if draw else None)
        self._sent_ns, self._newest = now, None
        self._drawn_ns = now if draw else self._drawn_ns
        data = b"".join(igtl.pack(message) for message in messages)
        self.counts["states sent"] += 1
        for peer in list(self._peers):
            if len(peer.waiting) + len(data) > MOST_WAITING:
                self.counts["states missed by a peer"] += 1
                continue
            peer.waiting += data
            self._write(peer)

    def _write(self, peer: _Peer) -> None:
        try:
            sent = peer.socket.send(peer.waiting)
            del peer.waiting[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            gone = error.errno in (errno.EPIPE, errno.ECONNRESET)
            self._drop(peer, "peers gone" if gone else "peers failed")
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.waiting else 0)
        self._selector.modify(peer.socket, events, peer)
