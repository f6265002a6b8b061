"""Security of the twin's sockets: CURVE encryption, and a gatekeeper that asks the allow list about every client.

CURVE alone lets in any client that knows the server's public key; ZeroMQ's authentication protocol (ZAP, RFC 27) asks
a handler in this process before a client is let in. The handler knows three domains, one for each of the twin's
sockets, and each opens to clients of certain roles. What a client may say beyond that is decided message by message, by
the name that the handler gave its connection.

Each `Gatekeeper` has a ZeroMQ context of its own, since a context has one ZAP handler.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from streams.errors import InputError
from streams.keys import KEY_LENGTH, TWIN, AllowList, Client, KeyPair, load_pair, load_public, read_allow_list
from streams.roles import DOMAIN_ROLES

log = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
POLL_MS = 100

SAY_AGAIN_S = 10.0
"""The same refusal is written to the log this often at most; it is counted every time."""

MOST_SAID = 20
"""Refusals written to the log within that time, of whatever kind: who tries many keys does not fill the disk."""

MOST_REMEMBERED = 256


@dataclass(frozen=True)
class Refusal:
    """A client that was not let in."""

    time_ns: int
    domain: str
    address: str
    client: str
    """its name where the list has it, else its public key"""
    reason: str


@dataclass
class ServerSecurity:
    """What a server's socket needs: the twin's keys and the context with the gatekeeper."""

    keys: KeyPair
    gatekeeper: "Gatekeeper"

    def secure(self, socket: zmq.Socket[bytes], domain: str) -> None:
        """Make a socket a CURVE server of a domain, before it is bound."""
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.keys.public)

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The context that the socket has to be made in."""
        return self.gatekeeper.context

    def admit(self, name: str, roles: tuple[str, ...], client: "ClientSecurity") -> None:
        """Let in one more client, until this process ends.

        Args:
            name: what it is called in logs; ``(own)`` is put behind it, which no client of a list can have in its name.
            roles: what it may do.
            client: its key, of `new_client`.
        """
        public = client.keys.public
        self.gatekeeper.allowed.clients[public] = Client(f"{name} (own)", public.decode("ascii"), roles)

    def close(self) -> None:
        """End the gatekeeper; sockets have to be closed before."""
        self.gatekeeper.close()


@dataclass(frozen=True)
class ClientSecurity:
    """What a client's socket needs: its own pair and the twin's public key."""

    keys: KeyPair
    server_public: bytes

    def as_text(self) -> str:
        """For handing it to a process of one's own; whoever reads it can be this client."""
        return b" ".join((self.keys.public, self.keys.secret, self.server_public)).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> "ClientSecurity":
        """What `as_text` gave.

        Raises:
            InputError: it did not.
        """
        parts = text.encode("ascii", "replace").split(b" ")
        if len(parts) != 3 or any(len(part) != KEY_LENGTH for part in parts):
            raise InputError("The key that was handed to this process is none; start it with --keys instead.")
        return cls(KeyPair(parts[0], parts[1]), parts[2])

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket a CURVE client, before it connects."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server_public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.keys.public)


def server_security(folder: Path) -> ServerSecurity:
    """The twin's security from a folder of keys.

    Raises:
        InputError: the twin's key or the allow list cannot be read.
    """
    keys, allowed = load_pair(folder, TWIN), read_allow_list(folder)
    return ServerSecurity(keys, Gatekeeper(allowed))


def client_security(folder: Path, name: str) -> ClientSecurity:
    """A client's security from a folder with its pair and the twin's public key.

    Raises:
        InputError: one of them cannot be read.
    """
    return ClientSecurity(load_pair(folder, name), load_public(folder, TWIN))


def new_client(folder: Path) -> ClientSecurity:
    """A client of the twin whose keys are in a folder, with a new key that is never written down.

    Raises:
        InputError: the twin's key cannot be read.
    """
    return ClientSecurity(KeyPair(*zmq.curve_keypair()), load_pair(folder, TWIN).public)


@dataclass
class Gatekeeper:
    """Answers ZeroMQ's question whether a client may come in.

    Attributes:
        allowed: the list it goes by.
        refused: how many were not let in, by reason.
        recent: the last of them.
        on_refusal: called with each that is written to the log, in the gatekeeper's thread.
    """

    allowed: AllowList
    refused: Counter[str] = field(default_factory=Counter)
    recent: list[Refusal] = field(default_factory=list)
    on_refusal: Callable[[Refusal], None] | None = None

    def __post_init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._said: dict[tuple[str, str, str], float] = {}
        self._stop = threading.Event()
        self._socket = self.context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        # Bound before any server's socket is: a server without a handler would let everyone in.
        self._socket.bind(ZAP_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="gatekeeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the context."""
        self._stop.set()
        self._thread.join(timeout=2.0)
        self.context.destroy(linger=0)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._socket.poll(POLL_MS, zmq.POLLIN):
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except zmq.ZMQError:
            if not self._stop.is_set():
                log.exception("the gatekeeper has ended; no new client is let in")
        finally:
            self._socket.close(linger=0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        if len(request) < 6 or request[0] != ZAP_VERSION:
            number = request[1] if len(request) > 1 else b""
            return [ZAP_VERSION, number, b"400", b"not understood", b"", b""]
        _, number, domain, address, _, mechanism, *credentials = request
        client, reason = self._judge(domain.decode(errors="replace"), mechanism, credentials)
        if reason is None:
            return [ZAP_VERSION, number, b"200", b"OK", client.encode(), b""]
        self._refuse(domain.decode(errors="replace"), address.decode(errors="replace"), client, reason)
        return [ZAP_VERSION, number, b"400", reason.encode(), b"", b""]

    def _judge(self, domain: str, mechanism: bytes, credentials: list[bytes]) -> tuple[str, str | None]:
        if mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != 32:
            return "", "no CURVE key"
        key = z85.encode(credentials[0])
        client = self.allowed.find(key)
        if client is None:
            return key.decode("ascii"), "unknown key"
        if not any(role in client.roles for role in DOMAIN_ROLES.get(domain, ())):
            return client.name, f"no role for {domain}"
        return client.name, None

    def _refuse(self, domain: str, address: str, client: str, reason: str) -> None:
        self.refused[reason] += 1
        refusal = Refusal(time.time_ns(), domain, address, client, reason)
        self.recent = [*self.recent[-20:], refusal]
        known, now = (domain, address, client), time.monotonic()
        if now - self._said.get(known, -SAY_AGAIN_S) < SAY_AGAIN_S:
            return
        recently = sum(now - at < SAY_AGAIN_S for at in self._said.values())
        if len(self._said) >= MOST_REMEMBERED:
            self._said = {key: at for key, at in self._said.items() if now - at < SAY_AGAIN_S}
        if recently >= MOST_SAID:
            return
        self._said[known] = now
        log.warning("%s at %s was refused at the socket for %s: %s", client or "a client", address, domain, reason)
        if self.on_refusal is not None:
            try:
                self.on_refusal(refusal)
            except Exception:
                log.exception("a refusal could not be passed on")
