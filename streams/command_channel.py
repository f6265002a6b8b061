"""Commands and questions to the twin: one request, one reply, over ROUTER and DEALER.

A request is one frame with a MessagePack map: `type`, `id` (any string, given back in the reply) and the request's own
fields. A reply is one frame with `id`, `ok`, `reason` (empty where ok) and `result`. Every request gets a reply, also
one that cannot be read. Questions are for whoever may watch; what changes the session needs the role *command*.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import zmq

from streams.errors import InputError
from streams.estimates import Finite, Triple
from streams.messages import MAX_NAME, MAX_TEXT
from streams.roles import COMMAND, COMMANDS
from streams.sockets import Monitor, Security, attach, open_socket

log = logging.getLogger(__name__)

MOST_AT_ONCE = 50
"""Requests that are answered before the twin does something else."""

MAX_REQUEST_BYTES = 65_536

MAX_INTERVENTIONS = 20


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Base of all requests."""

    id: str = ""


class StateNow(_Request, frozen=True, kw_only=True):
    """The twin's last state."""


class StateAt(_Request, frozen=True, kw_only=True):
    """The state at a time: the last one published before it. The twin remembers some seconds."""

    time_ns: int


class Landmarks(_Request, frozen=True, kw_only=True):
    """The fiducials of the case in the image [mm, LPS], and those touched so far [mm, tracker]."""


class Streams(_Request, frozen=True, kw_only=True):
    """What the intake knows of each stream: clock, silence, counts."""


class ClockTime(_Request, frozen=True, kw_only=True):
    """The session's clock; a device can set its own by it, halving the time the answer took."""


class Intervention(msgspec.Struct, frozen=True):
    """Something that would be done."""

    kind: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
    """an option of the command what-if: clamp, stent, device, svr, resistance, inflow, heart-rate, drug, blood-loss"""
    value: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
    """its value, as a person writes it: outlet_1, or +20%"""


class WhatIf(_Request, frozen=True, kw_only=True):
    """What would happen if something were done to the patient as the twin sees him now; takes seconds to answer."""

    interventions: Annotated[tuple[Intervention, ...], msgspec.Meta(min_length=1, max_length=MAX_INTERVENTIONS)]
    hold: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = "auto"
    """what the inlet keeps: flow, pressure, or auto"""


class Register(_Request, frozen=True, kw_only=True):
    """Register the patient by what was found elsewhere; as the message PatientRegistration, with a reply."""

    method: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
    position: Triple
    quaternion: tuple[Finite, Finite, Finite, Finite]
    covariance: Annotated[tuple[Finite, ...], msgspec.Meta(min_length=36, max_length=36)]
    center: Triple = (0.0, 0.0, 0.0)


class AddNote(_Request, frozen=True, kw_only=True):
    """Write a note into the recording."""

    text: str


class EndProcedure(_Request, frozen=True, kw_only=True):
    """End the procedure."""

    reason: str = ""


Request = StateNow | StateAt | Landmarks | Streams | ClockTime | WhatIf | Register | AddNote | EndProcedure
REQUEST_TYPES: tuple[type[_Request], ...] = (
    StateNow,
    StateAt,
    Landmarks,
    Streams,
    ClockTime,
    WhatIf,
    Register,
    AddNote,
    EndProcedure,
)
CHANGING = (Register, AddNote, EndProcedure)
"""Requests that need the role command."""


class Reply(msgspec.Struct, frozen=True):
    """The answer to a request."""

    id: str
    ok: bool
    reason: str = ""
    result: Any = None


class NotAvailable(Exception):
    """The request is understood and cannot be answered; the text says why."""


_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_encoder = msgspec.msgpack.Encoder()


def request_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of each request and of the reply, by name."""
    kinds: tuple[type, ...] = (*REQUEST_TYPES, Reply)
    return {kind.__name__: msgspec.json.schema(kind) for kind in kinds}


@dataclass(frozen=True)
class Caller:
    """Who asked."""

    name: str | None
    """by its key; None without keys"""


@dataclass(frozen=True)
class _Promised:
    """A reply that is still being worked on."""

    route: list[bytes]
    request_id: str
    result: Future[Any]


class CommandServer:
    """The twin's end: answers whatever has come, without waiting.

    Attributes:
        answered: how many requests got a reply.
        refused: how many of these were not fulfilled.
        monitor: what became of its connections.
    """

    def __init__(self, endpoint: str, *, insecure: bool = False, security: Security | None = None) -> None:
        """Bind.

        Raises:
            InputError: the endpoint is none, is in use, or is beyond this machine without keys.
        """
        self.answered = self.refused = 0
        self._promised: list[_Promised] = []
        self._security = security
        self._socket = open_socket(zmq.ROUTER, endpoint, insecure=insecure, security=security, domain=COMMANDS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._socket.setsockopt(zmq.SNDHWM, 1000)
        self._socket.setsockopt(zmq.RCVHWM, 1000)
        self.monitor = Monitor(self._socket)
        attach(self._socket, endpoint, bind=True, monitor=self.monitor)

    def serve(self, answer: Callable[[Request, Caller], Any]) -> None:
        """Answer what has come.

        Args:
            answer: gives a request's result or a future of it, or raises `NotAvailable`, as the future may.
        """
        self._keep_promises()
        for _ in range(MOST_AT_ONCE):
            if not self._socket.poll(0, zmq.POLLIN):
                return
            parts = self._socket.recv_multipart(copy=False)
            # A REQ socket puts an empty frame before its request, a DEALER need not.
            route = [part.bytes for part in parts[:-1]]
            reply = self._reply(parts[-1].bytes if len(parts) > 1 else b"", self._caller(parts[-1]), answer)
            if isinstance(reply.result, Future):
                self._promised.append(_Promised(route, reply.id, reply.result))
            else:
                self._send(route, reply)

    def _keep_promises(self) -> None:
        """Send the replies that have become ready."""
        for promised in [one for one in self._promised if one.result.done()]:
            self._promised.remove(promised)
            try:
                reply = Reply(promised.request_id, True, "", promised.result.result())
            except (NotAvailable, CancelledError, ValueError) as error:
                reply = Reply(promised.request_id, False, str(error))
            except Exception as error:
                log.exception("a question could not be answered")
                reply = Reply(promised.request_id, False, f"it could not be answered ({type(error).__name__})")
            self._send(promised.route, reply)

    def _send(self, route: list[bytes], reply: Reply) -> None:
        self.answered += 1
        self.refused += not reply.ok
        try:
            self._socket.send_multipart([*route, _encoder.encode(reply)], flags=zmq.NOBLOCK)
        except zmq.ZMQError:
            self.refused += reply.ok  # the caller has gone, or does not listen

    def _caller(self, part: "zmq.Frame") -> Caller:
        if self._security is None:
            return Caller(None)
        try:
            return Caller(str(part.get("User-Id")))
        except zmq.ZMQError:
            return Caller("")

    def _reply(self, payload: bytes, caller: Caller, answer: Callable[[Request, Caller], Any]) -> Reply:
        try:
            request = _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Reply("", False, f"the request cannot be read: {error}")
        if isinstance(request, AddNote) and len(request.text) > MAX_TEXT:
            return Reply(request.id, False, f"the text is longer than {MAX_TEXT} characters")
        if isinstance(request, CHANGING) and not self._may_command(caller):
            return Reply(request.id, False, f"{caller.name} does not have the role {COMMAND}")
        try:
            return Reply(request.id, True, "", answer(request, caller))
        except NotAvailable as error:
            return Reply(request.id, False, str(error))

    def _may_command(self, caller: Caller) -> bool:
        gatekeeper = getattr(self._security, "gatekeeper", None)
        if gatekeeper is None:
            return True
        client = gatekeeper.allowed.named(caller.name or "")
        return client is not None and COMMAND in client.roles

    def close(self) -> None:
        """Close at once."""
        self.monitor.close()
        self._socket.close(linger=0)


class CommandClient:
    """The other end: asks, and waits for the answer."""

    def __init__(self, endpoint: str, *, insecure: bool = False, security: Security | None = None) -> None:
        """Connect.

        Raises:
            InputError: the endpoint is none, or is beyond this machine without keys.
        """
        self._endpoint = endpoint
        self._socket = open_socket(zmq.DEALER, endpoint, insecure=insecure, security=security, domain=COMMANDS)
        self.monitor = Monitor(self._socket)
        attach(self._socket, endpoint, bind=False, monitor=self.monitor)
        self._number = 0

    def ask(self, request: Request, *, timeout_s: float = 2.0) -> Reply:
        """The twin's reply.

        Raises:
            InputError: none came in time; the sentence says whether this client was refused.
        """
        self._number += 1
        identified = msgspec.structs.replace(request, id=str(self._number))
        self._socket.send(_encoder.encode(identified))
        deadline = time.monotonic() + timeout_s
        while (remaining := deadline - time.monotonic()) > 0:
            if not self._socket.poll(max(1, round(remaining * 1000)), zmq.POLLIN):
                break
            reply = _reply_decoder.decode(self._socket.recv())
            if reply.id == identified.id or not reply.id:
                return reply
        self.monitor.look()
        if self.monitor.refused:
            why = self.monitor.reasons.most_common(1)[0][0]
            raise InputError(f"{self._endpoint} refused this client: {why}.")
        raise InputError(f"{self._endpoint} did not answer within {timeout_s:g} s; is the twin running there?")

    def close(self) -> None:
        """Close at once."""
        self.monitor.close()
        self._socket.close(linger=0)
