"""The twin as a page that draws itself: in any browser in 3D, in a headset over WebXR.

The model is sent once; what changes (the tool, a value at every vertex, the numbers) follows in binary over a
websocket, as `viewer.ar_model` packs it. A client that is slow gets the newest state, not those in between. A page
that hears nothing for a second shows nothing as trusted any more. A headset sends the fiducials that its wearer touches
or points at, and gets back where the model lies then (`viewer.ar_registration`).

Beyond this machine the page is served over TLS only, and to those alone who know its address with the token in it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from viewer.alerts import MISFIT, SILENT, AlertBoard
from viewer.ar_model import ArModel
from viewer.ar_registration import lay_over, read_observations
from viewer.errors import InputError
from viewer.feed import STALE_AFTER_S
from viewer.web import is_loopback, require_free

if TYPE_CHECKING:
    from streams.messages import TwinState

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
STATES_PER_S = 30.0
MOST_MESSAGE = 65_536
"""Bytes of what a page says: 50 fiducials with their rays."""


@dataclass(frozen=True)
class Certificate:
    """Files of a TLS certificate and its key, PEM."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server.

        Raises:
            InputError: they cannot be read or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"the certificate {self.certificate} with the key {self.key} cannot be used ({error}); give PEM files "
                "that belong together."
            ) from None
        return context


class ArServer:
    """Sends the model and the states to every page that is open.

    Args:
        model: what is shown.
        next_state: the newest state not returned before, or None; must not block.
        token: what a request must carry as ``?token=``; None asks for none.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        model: ArModel,
        next_state: Callable[[], TwinState | None],
        *,
        token: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.token = model, token
        self.board = AlertBoard()
        self._next_state, self._clock = next_state, clock
        self._newest: bytes | None = None
        self._number = 0
        self._changed = asyncio.Condition()
        self._heard = clock()
        self._problem = False

    def application(self) -> web.Application:
        """For aiohttp's runner."""
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/", self._index)
        application.router.add_get("/model.bin", self._model)
        application.router.add_get("/stream", self._stream)
        for name in ("page.js", "detail.js", "renderer.js", "geometry.js", "registration.js"):
            application.router.add_get(f"/{name}", self._file)
        application.cleanup_ctx.append(self._pump)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        # The scripts hold nothing of the patient and are asked for without the address's token.
        secret = not request.path.endswith(".js")
        if self.token is not None and secret:
            given = request.query.get("token", "")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise web.HTTPForbidden(text="This page is opened by its whole address, with the token in it.")
        # A page of another origin must not read the patient's stream through the user's browser.
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != request.host:
            raise web.HTTPForbidden(text="asked for by a page of another origin")
        reply: web.StreamResponse = await handler(request)
        if not reply.prepared:
            reply.headers["Cache-Control"] = "no-store"
            reply.headers["Referrer-Policy"] = "no-referrer"
            reply.headers["X-Content-Type-Options"] = "nosniff"
        return reply

    async def _index(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / request.path.rpartition("/")[2])

    async def _model(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self.model.binary, content_type="application/octet-stream")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=MOST_MESSAGE)
        await socket.prepare(request)
        sender = asyncio.create_task(self._send(socket))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    answer = self._obey(message.data)
                    if answer is not None:
                        await socket.send_str(json.dumps(answer))
        finally:
            sender.cancel()
        return socket

    async def _send(self, socket: web.WebSocketResponse) -> None:
        # A page opened while the twin is silent must not take an old state for a new one.
        sent = self._number if self._clock() - self._heard > STALE_AFTER_S else 0
        try:
            while not socket.closed:
                async with self._changed:
                    while self._number == sent or self._newest is None:
                        await self._changed.wait()
                    sent, newest = self._number, self._newest
                # Waits for a slow client; states that come meanwhile are skipped.
                await socket.send_bytes(newest)
        except (ConnectionError, asyncio.CancelledError):
            return

    def _obey(self, text: str) -> dict[str, Any] | None:
        """Do what a page asks for; what it is answered, if anything."""
        try:
            wish = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(wish, dict):
            return None
        if wish.get("do") == "acknowledge":
            self.board.acknowledge()
        if wish.get("do") != "register":
            return None
        # Where this headset sees the patient is its own: it is told to no other page, and not to the twin.
        try:
            overlay = lay_over(self.model.anchors_m, read_observations(wish.get("fiducials")))
        except InputError as error:
            return {"registration": {"ok": False, "words": str(error)}}
        return {"registration": overlay.as_plain()}

    async def _pump(self, _: web.Application) -> Any:
        task = asyncio.create_task(self._poll())
        yield
        task.cancel()

    async def _poll(self) -> None:
        while True:
            state = self._next_state()
            if state is not None:
                self._heard = self._clock()
                try:
                    newest = self.model.message(state, self.board)
                    self._problem = False
                except InputError as error:
                    if not self._problem:
                        log.error("%s", error)
                    self._problem = True
                    self.board.take((MISFIT,), self._clock())
                    newest = None
                if newest is not None:
                    async with self._changed:
                        self._newest, self._number = newest, self._number + 1
                        self._changed.notify_all()
            elif self._clock() - self._heard > STALE_AFTER_S:
                self.board.take((SILENT,), self._clock())
            await asyncio.sleep(1.0 / STATES_PER_S)


def serve_ar(
    model: ArModel,
    next_state: Callable[[], TwinState | None],
    host: str = "127.0.0.1",
    port: int = 8081,
    *,
    tls: Certificate | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until interrupted.

    Args:
        model: what is shown.
        next_state: the newest state or None; must not block.
        host: address to listen on; one beyond this machine needs `tls`.
        port: TCP port.
        tls: certificate; browsers offer WebXR beyond this machine to TLS pages only.
        on_ready: called with the page's address once it is served.

    Raises:
        InputError: the port is in use, or the host is beyond this machine and there is no certificate.
    """
    if tls is None and not is_loopback(host):
        raise InputError(
            f"{host} is beyond this machine, and the page shows a patient: give --tls-certificate and --tls-key, or "
            "listen on 127.0.0.1."
        )
    require_free(host, port)
    context = None if tls is None else tls.context()
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    address = f"{'http' if context is None else 'https'}://{host}:{port}/{'' if token is None else f'?token={token}'}"

    async def ready(_: web.Application) -> None:
        if on_ready is not None:
            asyncio.get_running_loop().call_later(0.05, on_ready, address)

    async def build() -> web.Application:
        application = ArServer(model, next_state, token=token).application()
        application.on_startup.append(ready)
        return application

    web.run_app(build(), host=host, port=port, ssl_context=context, print=lambda *_: None, access_log=None)
