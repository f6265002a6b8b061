"""The scene as a web page: drawn on this machine, shown in a browser.

The page is served by trame; VTK renders here and sends pictures, so that a tablet shows the same pixels as
the desktop window and needs no graphics hardware of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import vtk

from viewer import colors
from viewer.errors import InputError
from viewer.feed import STALE_AFTER_S, Feed
from viewer.scene import Scene

if TYPE_CHECKING:
    from streams.messages import TwinState

log = logging.getLogger(__name__)


def serve(
    scene: Scene,
    next_state: Callable[[], TwinState | None],
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    pictures_per_second: float = 10.0,
    stale_after_s: float = STALE_AFTER_S,
    on_ready: Callable[[str], None] | None = None,
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

    Raises:
        InputError: the port is in use or may not be opened, or the host is not an address of this machine.
    """
    if not pictures_per_second > 0.0:
        raise InputError(f"{pictures_per_second:g} pictures per second are none; give a positive number.")
    _require_free(host, port)
    if not _is_loopback(host):
        log.warning("The page on %s:%d has no password: everyone on that network can see it.", host, port)
    feed = Feed(scene, next_state, stale_after_s=stale_after_s)
    server, view = _page(scene, feed)

    async def pulse(**_: Any) -> None:
        if on_ready is not None:
            on_ready(f"http://{host}:{port}/")
        while True:
            if feed.poll():
                scene.refresh()
                view.update()
            server.state.status = feed.status
            server.state.flush()
            await asyncio.sleep(1.0 / pictures_per_second)

    server.controller.add_task("on_server_ready")(pulse)
    # trame reads the process's own command line, whose --port or --host may mean something else there.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        server.start(host=host, port=port, open_browser=False, show_connection_info=False, timeout=0)
    finally:
        sys.argv = arguments


def _page(scene: Scene, feed: Feed) -> tuple[Any, Any]:
    """The trame server and its picture: the view over the whole window, a status line and a button below."""
    # Imported here: trame reads the command line and starts its machinery on import, which a PNG does not
    # need.
    from trame.app import get_server
    from trame.ui.vuetify3 import VAppLayout
    from trame.widgets import vtk as vtk_widgets
    from trame.widgets import vuetify3

    _require_interactor(scene)
    server = get_server("surgical-twin", client_type="vue3")
    server.state.trame__title = "Surgical twin"
    server.state.status = feed.status
    scene.refresh()

    with VAppLayout(server, theme="dark") as layout:
        with vuetify3.VMain(style=f"background: {colors.BACKGROUND}; height: 100vh;"):
            view = vtk_widgets.VtkRemoteView(
                scene.plotter.render_window,
                ref="picture",
                interactive_ratio=1,
                style="width: 100%; height: 100%;",
            )
        with vuetify3.VFooter(app=True, color=colors.PANEL, height=48):
            vuetify3.VLabel("{{ status }}", classes="text-body-1")
            vuetify3.VSpacer()

            def reset() -> None:
                scene.reset_view()
                scene.refresh()
                view.update()

            vuetify3.VBtn("Reset view", variant="outlined", size="small", click=reset)
    layout.root.style = f"background: {colors.BACKGROUND};"
    return server, view


def _require_interactor(scene: Scene) -> None:
    """Give the off-screen window what turns a drag in the browser into a camera motion."""
    window = scene.plotter.render_window
    interactor = window.GetInteractor()
    if interactor is None:
        interactor = vtk.vtkRenderWindowInteractor()
        interactor.SetRenderWindow(window)
    interactor.SetInteractorStyle(vtk.vtkInteractorStyleTrackballCamera())
    interactor.EnableRenderOff()  # the server renders when it is ready to send


def _require_free(host: str, port: int) -> None:
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
