"""The twin as a page that draws itself: in any browser in 3D, in a headset over WebXR.

The model is sent once; what changes (the tool, a value at every vertex, the numbers) follows in binary over a
websocket. One message, little-endian::

    u32 magic "STW1"   u32 sequence   f64 time [s]   u32 bits (1 trusted, 2 tip known)   u32 vertices n   u32 bytes m
    f32[3] tip [m]     f32[9] axes of its 95 % ellipsoid [m], by rows     f32[3] tip pressure, lower, upper [mmHg]
    f32[2] distance to the wall and its deviation [mm]     f32 distance to the target [mm]     f32 0
    u16[n] value along the color scale, 0 to 65535
    u8[m] JSON {"alerts": [[priority, words, seen]], "rows": [[name, words]]}

NaN stands for what is not known. A client that is slow gets the newest state, not those in between. A page that hears
nothing for a second shows nothing as trusted any more.

Beyond this machine the page is served over TLS only, and to those alone who know its address with the token in it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import WSMsgType, web
from numpy.typing import NDArray

from viewer import colors
from viewer.actors import ellipsoid_axes, pressure_modes, typical_radius
from viewer.alerts import MISFIT, SILENT, AlertBoard, doubts
from viewer.decimation import within_budget
from viewer.errors import InputError
from viewer.feed import STALE_AFTER_S
from viewer.gltf import GLTF_FROM_LPS, Structure, geometry
from viewer.guidance import Guidance, Guide
from viewer.lettering import format_age, format_estimate
from viewer.quantities import PRESSURE
from viewer.web import is_loopback, require_free

if TYPE_CHECKING:
    import pyvista as pv

    from streams.messages import TwinState

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
HEAD = struct.Struct("<IIdIII19f")
MAGIC = 0x31575453
STATES_PER_S = 30.0
_NAN = float("nan")


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


class ArModel:
    """The vessel and its surroundings as the page draws them, and a state as it is sent.

    Args:
        lumen: display surface with pressure modes, mm LPS.
        anatomy: drawn see-through around it.
        guide: for distances; none are told without it.
        limits: fixed ends of the color scale in mmHg.
        triangles: at most so many are sent.
    """

    def __init__(
        self,
        lumen: pv.PolyData,
        *,
        anatomy: pv.PolyData | None = None,
        guide: Guide | None = None,
        limits: tuple[float, float] = (60.0, 140.0),
        triangles: int = 50_000,
    ) -> None:
        self._limits = colors.check_limits(limits)
        modes = pressure_modes(lumen)
        self._guide = guide
        # Each mode is a value at the vertices: decimation carries them over as it carries a cycle's phases.
        cycle = modes.T if modes.shape[1] > 1 else np.vstack([modes.T, modes.T])
        wanted = [Structure("lumen", lumen, scalars=np.zeros(lumen.n_points), cycle=cycle)]
        if anatomy is not None and anatomy.n_points:
            wanted.append(Structure("anatomy", anatomy, opacity=0.16))
        kept = within_budget(wanted, triangles)
        self._modes = np.ascontiguousarray(np.asarray(kept[0].cycle)[: modes.shape[1]].T, dtype=np.float32)
        self._center = np.asarray(lumen.center, dtype=float)
        self._radius_m = 0.5e-3 * float(np.linalg.norm(np.ptp(np.asarray(lumen.points), axis=0)))
        self._tool_m = 1e-3 * float(np.clip(0.28 * typical_radius(lumen, None), 0.4, 2.5))
        self.binary = self._pack(kept)

    @property
    def vertices(self) -> int:
        """Of the vessel as sent."""
        return len(self._modes)

    def _pack(self, structures: list[Structure]) -> bytes:
        parts, heads = [], []
        for one in structures:
            points, normals, triangles = geometry(one, self._center)
            heads.append(
                {
                    "name": one.name,
                    "vertices": len(points),
                    "triangles": len(triangles),
                    "opacity": one.opacity,
                    "color": [channel / 255.0 for channel in colors.rgb(one.color)],
                }
            )
            parts += [points.astype("<f4"), normals.astype("<f4"), triangles.astype("<u4")]
        head = json.dumps(
            {
                "structures": heads,
                "limits": self._limits,
                "title": PRESSURE.title,
                "unit": PRESSURE.unit,
                "radius": self._radius_m,
                "tool": self._tool_m,
            }
        ).encode()
        filled = struct.pack("<I", len(head)) + head
        filled += b"\0" * (-len(filled) % 4)
        return filled + b"".join(part.tobytes() for part in parts) + PRESSURE.table(256).tobytes()

    def message(self, state: TwinState, board: AlertBoard) -> bytes:
        """A state as it is sent.

        Raises:
            InputError: a state of another case.
        """
        count = len(state.field_coefficients)
        if count not in (0, self._modes.shape[1]):
            raise InputError(
                f"the state holds {count} field coefficients but the display surface has {self._modes.shape[1]} "
                "pressure modes; they are not of the same case."
            )
        values = np.zeros(0, dtype="<u2")
        if count:
            pressure = self._modes @ np.array(state.field_coefficients, dtype=np.float32)
            values = quantized(pressure, self._limits)
        known = False
        tip, axes = np.full(3, _NAN), np.full((3, 3), _NAN)
        if state.tip is not None and state.tip_valid and state.tip_covariance is not None:
            known = True
            turn = GLTF_FROM_LPS[:3, :3]
            tip = turn @ (np.array(state.tip) - self._center)
            axes = turn @ ellipsoid_axes(state.tip_covariance)
        guidance = None if self._guide is None else self._guide.look(state)
        estimate = state.tip_pressure_mmhg
        conditions = (*state.flags, *(() if guidance is None else guidance.conditions))
        board.take(conditions, state.source_time_ns * 1e-9)
        words = json.dumps(
            {
                "alerts": [[int(a.priority), a.words, a.acknowledged] for a in board.alerts],
                "rows": _rows(state, guidance),
            }
        ).encode()
        trusted = not doubts(state.flags) and count > 0
        head = HEAD.pack(
            MAGIC,
            state.sequence & 0xFFFFFFFF,
            state.source_time_ns * 1e-9,
            int(trusted) | 2 * int(known),
            len(values),
            len(words),
            *tip,
            *axes.ravel(),
            *((_NAN,) * 3 if estimate is None else (estimate.value, estimate.lower, estimate.upper)),
            *((_NAN,) * 2 if guidance is None else (guidance.wall_mm, guidance.wall_std_mm)),
            _NAN if guidance is None or guidance.target_mm is None else guidance.target_mm,
            0.0,
        )
        return head + values.tobytes() + words


def quantized(values: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.uint16]:
    """Values along a color scale as 16-bit numbers: off by at most 1/131070 of the scale; NaN is its low end."""
    low, high = limits
    share = (values - np.float32(low)) * np.float32(65535.0 / (high - low))
    np.nan_to_num(share, copy=False)
    return np.asarray(np.rint(np.clip(share, 0.0, 65535.0, out=share), out=share), dtype="<u2")


def _rows(state: TwinState, guidance: Guidance | None) -> list[list[str]]:
    """What stands beside the picture: name and words."""
    rows = []
    if guidance is not None:
        side = "" if guidance.wall_mm >= 0.0 else " OUTSIDE"
        rows.append(["Wall", f"{abs(guidance.wall_mm):.1f} ± {1.96 * guidance.wall_std_mm:.1f} mm{side}"])
        if guidance.target_mm is not None:
            rows.append(["Target", f"{guidance.target_mm:.1f} mm"])
    rows.append(["Registration", "none" if not state.registered else f"TRE {state.tre or _NAN:.2f} mm"])
    for port, flow in list(state.port_flow_ml_s.items())[:3]:
        rows.append([f"{port.replace('_', ' ')} mL/s", f"{' ('.join(format_estimate(flow))})"])
    oldest = max((age for name, age in state.age_ns.items() if name.startswith(("tracker", "pressure"))), default=None)
    if oldest is not None:
        rows.append(["Oldest data", format_age(oldest)])
    return rows


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
        for name in ("page.js", "renderer.js", "geometry.js"):
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
        socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=4096)
        await socket.prepare(request)
        sender = asyncio.create_task(self._send(socket))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._obey(message.data)
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

    def _obey(self, text: str) -> None:
        try:
            wish = json.loads(text)
        except ValueError:
            return
        if isinstance(wish, dict) and wish.get("do") == "acknowledge":
            self.board.acknowledge()

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
