"""The scene as a web page: drawn on this machine, shown in a browser.

The page is served by trame; VTK renders here and sends pictures, so that a tablet shows the same pixels as
the desktop window and needs no graphics hardware of its own.
"""

from __future__ import annotations

import asyncio
import base64
import io
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import numpy as np
import vtk
from numpy.typing import NDArray
from PIL import Image

from viewer import colors
from viewer.backlog import Backlog
from viewer.controls import Controls
from viewer.errors import InputError
from viewer.feed import STALE_AFTER_S, Feed
from viewer.layout import LAYOUTS
from viewer.player import SPEEDS, Player
from viewer.quantities import VELOCITY, Quantity
from viewer.scene import Scene
from viewer.what_if_panel import KINDS, WhatIfPanel

if TYPE_CHECKING:
    from streams.messages import TwinState

log = logging.getLogger(__name__)

KEYS_HEARD = """
window.addEventListener("keydown", (event) => {
  const near = (selector) => event.target.closest && event.target.closest(selector);
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.key.length !== 1) return;
  if (near("input:not([readonly]):not([inputmode=none]), textarea")) return;  // a person is typing
  if (document.querySelector(".v-overlay--active .v-list") || (event.key === " " && near("button"))) return;
  if (near("input")) { event.stopPropagation(); event.target.blur(); }  // or a closed menu would choose by it
  window.trame.trigger("%s", [event.key]);
}, true);
"""
"""Keys of the page as those of the window, wherever the mouse is: the remote view hears them with the focus alone."""


def serve(
    scene: Scene,
    next_state: Callable[[], TwinState | None],
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    pictures_per_second: float = 10.0,
    stale_after_s: float = STALE_AFTER_S,
    on_ready: Callable[[str], None] | None = None,
    desk: WhatIfPanel | None = None,
    player: Player | None = None,
) -> None:
    """Serve the scene until interrupted.

    Args:
        scene: an off-screen scene.
        next_state: returns the newest state or None; must not block.
        host: address to listen on. The default reaches this machine only; the page has no password, so any
            other address shows the patient's data to everyone on that network.
        port: TCP port.
        pictures_per_second: upper bound; drawing may be slower.
        stale_after_s: silence after which the picture is marked as not trusted.
        on_ready: called with the page's address once it is served.
        desk: answers what-if questions; the page has no panel for them without it.
        player: whose states these are, if they are a recording's: the page then has its time bar.

    Raises:
        InputError: the port is in use or may not be opened, or the host is not an address of this machine.
    """
    if not pictures_per_second > 0.0:
        raise InputError(f"{pictures_per_second:g} pictures per second are none; give a positive number.")
    require_free(host, port)
    if not is_loopback(host):
        log.warning("The page on %s:%d has no password: everyone on that network can see it.", host, port)
    feed = Feed(scene, next_state, stale_after_s=stale_after_s)
    server, view = _page(scene, feed, desk, player)
    backlog = Backlog(server)

    async def pulse(**_: Any) -> None:
        if on_ready is not None:
            on_ready(f"http://{host}:{port}/")
        owed = False
        while True:
            owed = feed.poll() or scene.alerts.highest is not None or owed  # alerts flash while nothing else changes
            server.state.status = feed.status + ("" if scene.following else ", slices not following")
            if backlog.holds():  # a browser that does not keep up gets the newest later
                await asyncio.sleep(1.0 / pictures_per_second)
                continue
            if owed:
                scene.refresh(at_once=True)  # a picture is sent as a whole: all panes of one moment
                view.update()
                owed = False
            if player is not None:
                server.state.position = round(player.position_s, 1)
                server.state.playing = not player.paused
            server.state.alerts = sum(not alert.acknowledged for alert in scene.alerts.alerts)
            server.state.flush()
            await asyncio.sleep(1.0 / pictures_per_second)

    run_server(server, pulse, host, port)


_BESIDE: set[asyncio.Task[None]] = set()


def beside(work: Coroutine[Any, Any, None]) -> None:
    """Do something that takes time without making the page wait: what a page asks for is done one after the other."""
    task = asyncio.get_running_loop().create_task(work)
    _BESIDE.add(task)  # the loop itself holds no reference to its tasks
    task.add_done_callback(_BESIDE.discard)


def picture_of(server: Any, controls: Controls, press: Callable[[str], None] | None = None) -> Any:
    """The scene's picture on a page, with what VTK's remote view keeps to itself: a mouse without a button, and keys.

    Args:
        server: of the page.
        controls: told of a mouse that moves with shift held.
        press: told of keys by the names of `viewer.controls.KEYS`, but where a person types into a field; None for a
            page without them.
    """
    from trame.widgets import client
    from trame.widgets import vtk as vtk_widgets

    waiting: list[tuple[float, float]] = []

    def hover(position: dict[str, float], *_: Any) -> None:
        # While one picture is drawn the mouse moves on: only where it came to is drawn next.
        waiting.append((float(position["x"]), float(position["y"])))
        if len(waiting) == 1:
            beside(go())

    async def go() -> None:
        await asyncio.sleep(0.02)
        place = waiting[-1]
        waiting.clear()
        controls.hover(*place)
        server.state.flush()

    def pressed(key: str, *_: Any) -> None:
        if press is not None:
            press("space" if key == " " else str(key)[:20])

    trigger = server.controller.trigger_name
    server.state.heard = ["MouseMove"]
    if press is not None:
        client.Script(KEYS_HEARD % trigger(pressed))
    return vtk_widgets.VtkRemoteView(
        controls.window,
        ref="picture",
        interactive_ratio=1,
        style="width: 100%; height: 100%;",
        interactor_events=("heard",),
        MouseMove=f"$event.shiftKey && trigger('{trigger(hover)}', [$event.position])",
    )


def run_server(server: Any, pulse: Callable[..., Any], host: str, port: int) -> None:
    """Serve a trame page, and run `pulse` beside it, until interrupted."""
    server.controller.add_task("on_server_ready")(pulse)
    # trame reads the process's own command line, whose --port or --host may mean something else there.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        server.start(host=host, port=port, open_browser=False, show_connection_info=False, timeout=0)
    finally:
        sys.argv = arguments


def _page(scene: Scene, feed: Feed, desk: WhatIfPanel | None, player: Player | None) -> tuple[Any, Any]:
    """The trame server and its picture: the view over the whole window, a row of controls below."""
    # Imported here: trame reads the command line and starts its machinery on import, which a PNG does not
    # need.
    from trame.app import get_server
    from trame.ui.vuetify3 import VAppLayout
    from trame.widgets import html, vuetify3

    require_interactor(scene)
    server = get_server("surgical-twin", client_type="vue3")
    state = server.state
    state.trame__title = "Surgical twin"
    state.status = feed.status
    state.alerts = 0
    state.quantity, state.layout = scene.quantity.key, scene.layout
    state.particles = scene.as_particles
    state.asking, state.answer, state.answer_picture = False, [], ""
    state.kind, state.wish = "stent", "stenosis_1=10%"
    state.position, state.playing, state.speed, state.bookmarks, state.chosen = 0.0, True, 1.0, [], None
    scene.refresh(at_once=True)

    def draw() -> None:
        scene.refresh(at_once=True)
        view.update()

    controls = Controls(scene, draw)

    @state.change("quantity")
    def _color(quantity: str, **_: Any) -> None:
        if quantity != scene.quantity.key:
            scene.color_by(quantity)
            draw()

    @state.change("layout")
    def _arrange(layout: str, **_: Any) -> None:
        if layout != scene.layout:
            scene.arrange(layout)
            draw()

    def press(key: str) -> None:
        controls.press_key(key)
        state.quantity, state.layout, state.particles = scene.quantity.key, scene.layout, scene.as_particles
        # trame takes what it sent last for what the page has, which a person may have changed since.
        state.dirty("quantity", "layout", "particles")

    def ask() -> None:
        if desk is not None and not state.asking:
            state.asking, state.answer, state.answer_picture = True, [], ""
            beside(answered())

    async def answered() -> None:
        assert desk is not None
        answer = await asyncio.to_thread(desk.ask, str(state.kind), str(state.wish))
        state.answer = answer.rows
        state.answer_picture = "" if answer.picture is None else png_address(answer.picture)
        state.asking = False
        state.flush()

    def seek(seconds: float) -> None:
        if player is not None:
            player.seek(float(seconds))
            state.position = round(player.position_s, 1)

    def toggle() -> None:
        if player is not None:
            (player.play if player.paused else player.pause)()

    def mark() -> None:
        if player is not None:
            player.bookmark()
            state.bookmarks = [{"title": _clock(at), "value": at} for at in player.bookmarks]

    @state.change("speed")
    def _run_at(speed: float, **_: Any) -> None:
        if player is not None:
            player.run_at(float(speed))

    button = {"variant": "outlined", "size": "default"}
    with VAppLayout(server, theme="dark") as layout:
        with vuetify3.VMain(style=f"background: {colors.BACKGROUND}; height: 100vh;"):
            view = picture_of(server, controls, press)
        if player is not None:
            with vuetify3.VFooter(app=True, color=colors.PANEL, classes="ga-3", style="min-height: 60px;"):
                vuetify3.VBtn("{{ playing ? 'Pause' : 'Play' }}", click=toggle, classes="control-play", **button)
                vuetify3.VSlider(
                    model_value=("position", 0.0),
                    update_modelValue=(seek, "[$event]"),
                    min=0,
                    max=player.duration_s,
                    step=0.1,
                    hide_details=True,
                    style="flex: 1 1 220px;",
                    classes="control-time",
                )
                html.Div(
                    "{{ Math.floor(position / 60) }}:{{ ('0' + (position % 60).toFixed(1)).slice(-4) }}"
                    f" / {_clock(player.duration_s)}",
                    style="font-size: 17px; min-width: 120px;",
                )
                for name, model, items, title in (
                    ("speed", "speed", [{"title": f"{s:g} x", "value": s} for s in SPEEDS], "Speed"),
                    ("bookmarks", "chosen", None, "Bookmarks"),
                ):
                    vuetify3.VSelect(
                        v_model=(model,),
                        items=(f"{name}_items", items) if items else ("bookmarks",),
                        label=title,
                        density="compact",
                        hide_details=True,
                        style="flex: 0 0 130px;",
                        classes=f"control-{name}",
                        **({} if items else {"update_modelValue": (seek, "[$event]")}),
                    )
                vuetify3.VBtn("Bookmark", click=mark, classes="control-bookmark", **button)
        with vuetify3.VFooter(app=True, color=colors.PANEL, classes="ga-3", style="min-height: 64px;"):
            vuetify3.VSelect(
                v_model=("quantity",),
                items=("quantities", [{"title": _title(q), "value": q.key} for q in scene.quantities]),
                label="Color by",
                density="compact",
                hide_details=True,
                style="flex: 0 0 170px;",
                classes="control-quantity",
            )
            vuetify3.VSelect(
                v_model=("layout",),
                items=("layouts", [{"title": n.replace("_", " "), "value": n} for n in LAYOUTS]),
                label="Arrangement",
                density="compact",
                hide_details=True,
                style="flex: 0 0 170px;",
                classes="control-layout",
            )
            vuetify3.VBtn("Follow tip", click=lambda: press("space"), classes="control-follow", **button)
            vuetify3.VBtn("Outline", click=lambda: press("g"), classes="control-outline", **button)
            vuetify3.VBtn("Anatomy", click=lambda: press("v"), classes="control-anatomy", **button)
            if VELOCITY.key in {q.key for q in scene.quantities}:
                vuetify3.VBtn(
                    "{{ particles ? 'Streamlines' : 'Particles' }}",
                    click=lambda: press("p"),
                    disabled=(f"quantity !== '{VELOCITY.key}'",),
                    classes="control-particles",
                    **button,
                )
            vuetify3.VBtn("Reset view", click=lambda: press("r"), classes="control-reset", **button)
            vuetify3.VBtn(
                "Acknowledge {{ alerts ? '(' + alerts + ')' : '' }}",
                click=lambda: press("a"),
                disabled=("alerts === 0",),
                color=("alerts ? 'warning' : undefined",),
                classes="control-acknowledge",
                **button,
            )
            if desk is not None:
                with vuetify3.VDialog(max_width=820, scrim=False):
                    with vuetify3.Template(v_slot_activator="{ props }"):
                        vuetify3.VBtn("What if", v_bind="props", classes="control-what-if", **button)
                    card = vuetify3.VCard(title="What would happen if", color=colors.PANEL)
                    with card, vuetify3.VCardText():
                        with html.Div(style="display: flex; gap: 12px;"):
                            vuetify3.VSelect(v_model=("kind",), items=("kinds", list(KINDS)), label="Intervention")
                            vuetify3.VTextField(
                                v_model=("wish",),
                                label="What: stenosis_1=10%, outlet_2, +20%",
                                classes="control-wish",
                            )
                            vuetify3.VBtn("Ask", click=ask, loading=("asking",), classes="control-ask", size="x-large")
                        html.Img(
                            v_if=("answer_picture",),
                            src=("answer_picture",),
                            classes="before-after",
                            style="width: 100%; margin-bottom: 8px;",
                        )
                        with vuetify3.VTable(v_if=("answer.length",), density="comfortable"):
                            with html.Thead(), html.Tr():
                                for head in ("quantity", "before", "after", "change"):
                                    html.Th(head)
                            with html.Tbody(), html.Tr(v_for="row in answer", key="row[0]"):
                                html.Td("{{ cell }}", v_for="(cell, i) in row", key="i")
            html.Div("{{ status }}", classes="status", style="flex: 1 1 90px; font-size: 15px; line-height: 1.2;")
    layout.root.style = f"background: {colors.BACKGROUND};"
    return server, view


def png_address(pixels: NDArray[np.uint8]) -> str:
    """A picture (height, width, 3) as an address that holds all of it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def _title(quantity: Quantity) -> str:
    return quantity.title if quantity.title == "Pd/Pa" else quantity.title.capitalize()


def require_interactor(scene: Scene) -> None:
    """Give the off-screen window what turns a drag in the browser into a camera motion."""
    window = scene.plotter.render_window
    interactor = window.GetInteractor()
    if interactor is None:
        interactor = vtk.vtkRenderWindowInteractor()
        interactor.SetRenderWindow(window)
    interactor.SetInteractorStyle(vtk.vtkInteractorStyleTrackballCamera())
    interactor.EnableRenderOff()  # the server renders when it is ready to send


def require_free(host: str, port: int) -> None:
    """Raise InputError unless a server may listen on this address."""
    if not 0 < port < 65536:
        raise InputError(f"port {port} is not one; give a number from 1 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot serve the page on {host}:{port} ({error.strerror or error}); give another port or host."
        ) from None


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
