"""Mouse and keys, as in 3D Slicer, for the window and for the page that shows its picture.

Over the 3D view the left button turns, the middle one (or shift) moves, the right one and the wheel zoom: VTK does
that. Over a slice the wheel goes through slices, the left button sets window and level, the right one zooms, and the
middle one moves; with shift held the crosshair of all slices goes to the mouse, over the 3D view to what is seen there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewer.layout import LAYOUTS
from viewer.scene import Scene

KEYS = {
    "1 2 3 4": "arrangement: conventional, four-up, 3D only, endoluminal",
    "c": "color by the next quantity",
    "a": "acknowledge all alerts",
    "space": "slices follow the tip again",
    "f b": "next and previous slice, under the mouse",
    "g": "outline of the lumen on and off",
    "v": "anatomy on and off",
    "p": "velocity as particles or as streamlines",
    "r": "look at the whole vessel, and undo window and level",
}
"""For the help in the window and the guide."""


class Controls:
    """Listens to a scene's interactor.

    Args:
        scene: what is steered.
        changed: called when a person changed something, to draw it.
    """

    def __init__(self, scene: Scene, changed: Callable[[], None]) -> None:
        self._scene, self._changed = scene, changed
        self._held: tuple[str, int, int, int] | None = None
        self._turning = False
        self._anatomy = True
        self._tags: dict[str, int] = {}
        interactor = scene.plotter.render_window.GetInteractor()
        self._interactor = interactor
        events: dict[str, Callable[[], bool]] = {
            "LeftButtonPressEvent": lambda: self._press(1),
            "MiddleButtonPressEvent": lambda: self._press(2),
            "RightButtonPressEvent": lambda: self._press(3),
            "LeftButtonReleaseEvent": self._release,
            "MiddleButtonReleaseEvent": self._release,
            "RightButtonReleaseEvent": self._release,
            "MouseMoveEvent": self._move,
            "MouseWheelForwardEvent": lambda: self._wheel(1),
            "MouseWheelBackwardEvent": lambda: self._wheel(-1),
            "KeyPressEvent": self._key,
            "CharEvent": lambda: True,  # VTK's own keys (w: wireframe, e: end) would surprise in a procedure
        }
        for name, act in events.items():
            # Before VTK's own camera (priority 0), which must not see what was meant for a slice.
            self._tags[name] = interactor.AddObserver(name, self._guarded(name, act), 10.0)

    @property
    def window(self) -> Any:
        """VTK's render window."""
        return self._scene.plotter.render_window

    def hover(self, x: float, y: float) -> bool:
        """The mouse moves with shift held, at a pixel counted from the lower left corner; whether slices went there."""
        self._interactor.SetEventInformation(round(x), round(y), 0, 1)
        return self._move()

    def press_key(self, key: str) -> bool:
        """Do what a key does; whether it does anything."""
        scene = self._scene
        if key in "1234" and len(key) == 1:
            scene.arrange(LAYOUTS[int(key) - 1])
        elif key == "c":
            scene.next_quantity()
        elif key == "a":
            scene.acknowledge()
        elif key == "space":
            scene.follow_tip()
        elif key in ("f", "b"):
            name = self._slice_under_mouse() or "axial"
            self._scroll(name, 1 if key == "f" else -1)
        elif key == "g":
            scene.outline = not scene.outline
        elif key == "v":
            self._anatomy = not self._anatomy
            scene.show_anatomy(self._anatomy)
        elif key == "p":
            scene.show_particles(not scene.as_particles)
        elif key == "r":
            scene.reset_view()
            if scene.volume is not None:
                scene.window_level = scene.volume.window_level
        else:
            return False
        self._changed()
        return True

    def _guarded(self, name: str, act: Callable[[], bool]) -> Callable[..., None]:
        def called(*_: Any) -> None:
            if act():
                self._interactor.GetCommand(self._tags[name]).SetAbortFlag(1)

        return called

    def _mouse(self) -> tuple[int, int]:
        x, y = self._interactor.GetEventPosition()
        return x, self._scene.size[1] - 1 - y

    def _slice_under_mouse(self) -> str | None:
        found = self._scene.pane_at(*self._mouse())
        return found[0] if found is not None and found[0] in self._scene.slices else None

    def _point_under_mouse(self) -> NDArray[np.float64] | None:
        """Of a slice, or of what is seen in 3D."""
        x, y = self._mouse()
        found = self._scene.pane_at(x, y)
        if found is not None and found[0] in self._scene.slices:
            name, pane = found
            return self._scene.slices[name].to_point(x - pane.x, y - pane.y, pane.size)
        return self._scene.pick(x, y)

    def _press(self, button: int) -> bool:
        name = self._slice_under_mouse()
        if name is None:
            self._turning = True
            return False
        self._held = (name, button, *self._mouse())
        return True

    def _release(self) -> bool:
        held, self._held, self._turning = self._held, None, False
        return held is not None

    def _move(self) -> bool:
        scene = self._scene
        x, y = self._mouse()
        if self._held is None:
            point = None if self._turning or not self._interactor.GetShiftKey() else self._point_under_mouse()
            if point is None:
                return False
            scene.cross_at(point)
            self._changed()
            return True
        name, button, x0, y0 = self._held
        self._held = (name, button, x, y)
        view = scene.slices[name]
        if button == 1 and scene.volume is not None:
            window, level = scene.window_level
            step = scene.volume.window_level[0] / 250.0
            scene.window_level = (max(window + step * (x - x0), step), level + step * (y - y0))
        elif button == 3:
            view.zoom(float(np.exp(0.008 * (y - y0))))
        elif button == 2:
            found = next((pane for n, pane in self._panes() if n == name), None)
            if found is not None:
                scene.following = False
                step = view.mm_per_pixel(found.size)
                right, down = np.array(view.plane.right), np.array(view.plane.down)
                view.center = view.center - step * ((x - x0) * right + (y - y0) * down)
        self._changed()
        return True

    def _panes(self) -> list[tuple[str, Any]]:
        from viewer.layout import panes

        return list(panes(self._scene.layout, *self._scene.size).items())

    def _wheel(self, steps: int) -> bool:
        name = self._slice_under_mouse()
        if name is None:
            return False
        self._scroll(name, steps)
        self._changed()
        return True

    def _scroll(self, name: str, steps: int) -> None:
        scene = self._scene
        scene.following = False
        scene.slices[name].scroll(steps, 1.0 if scene.volume is None else scene.volume.spacing_mm)

    def _key(self) -> bool:
        return self.press_key(self._interactor.GetKeySym())
