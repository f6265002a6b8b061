"""The scene in a window on the desktop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from viewer.controls import Controls
from viewer.errors import InputError
from viewer.feed import STALE_AFTER_S, Feed
from viewer.scene import Scene

if TYPE_CHECKING:
    from streams.messages import TwinState

_FOREVER = 2**31 - 1


def run_window(
    scene: Scene,
    next_state: Callable[[], TwinState | None],
    *,
    interval_ms: int = 40,
    stale_after_s: float = STALE_AFTER_S,
    title: str = "Surgical twin",
) -> None:
    """Show the scene until its window is closed; mouse and keys are those of `viewer.controls`.

    Args:
        scene: made with ``off_screen=False``.
        next_state: returns the newest state or None; called at every redraw, must not block.
        interval_ms: time between redraws.
        stale_after_s: silence after which the picture is marked as not trusted.
        title: of the window.

    Raises:
        InputError: no display to open a window on, or a scene made for off-screen use.
    """
    plotter = scene.plotter
    require_display(scene)
    feed = Feed(scene, next_state, stale_after_s=stale_after_s)

    def tick(_step: int) -> None:
        # Alerts flash while nothing else changes.
        if feed.poll() or scene.alerts.highest is not None:
            scene.refresh()

    Controls(scene, lambda: scene.refresh(at_once=True))
    plotter.add_timer_event(max_steps=_FOREVER, duration=interval_ms, callback=tick)
    plotter.show(title=title, auto_close=True)


def require_display(scene: Scene) -> None:
    """Raise InputError unless the scene can open a window on this machine."""
    if scene.plotter.off_screen:
        raise InputError("the scene was made for off-screen pictures; make it with off_screen=False for a window.")
    # Without a display VTK quietly falls back to windows in memory, which nobody would see.
    kind = scene.plotter.render_window.GetClassName()
    if kind in ("vtkEGLRenderWindow", "vtkOSOpenGLRenderWindow"):
        raise InputError("there is no display to open a window on; use --web for a browser, or write pictures.")
