"""The panes that are read (numbers, slices, curves), drawn flat over a window and no more often than time allows.

Each is drawn anew only where what it shows has changed. Where the 3D view needs the whole machine they are drawn one
after another within a share of the time, and the vessel does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import vtk
from numpy.typing import NDArray

from viewer.flat import FlatPicture
from viewer.layout import Pane

Pixels = NDArray[np.uint8]

FLAT_INTERVAL_S = 0.1
"""Numbers, slices and curves are drawn anew at most ten times a second; faster nobody reads them."""

FLAT_SHARE, IDLE_SHARE = 0.04, 0.5
"""Parts of the time, and of the time in which nothing else is drawn, that they may take."""

MOST_CREDIT_S = 0.04
MOST_AGE_S = 1.5
"""No pane is older than this, whatever it costs."""


class FlatPanes:
    """Flat pictures in a layer of their own above everything else in a window.

    Args:
        window: to draw in.
        panes: names of those with a place in the arrangement.
        free: names of those that are shown and hidden by themselves.
        clock: seconds from any origin.
    """

    def __init__(
        self, window: vtk.vtkRenderWindow, panes: Sequence[str], free: Sequence[str], clock: Callable[[], float]
    ) -> None:
        window.SetNumberOfLayers(max(window.GetNumberOfLayers(), 2))
        renderer = vtk.vtkRenderer()
        renderer.SetLayer(1)
        renderer.SetInteractive(False)  # a drag over a pane must turn no camera
        window.AddRenderer(renderer)
        self._pictures = {name: FlatPicture(renderer) for name in (*panes, *free)}
        self._free = tuple(free)
        self._clock = clock
        self._placed: Mapping[str, Pane] = {}
        self._height = 0
        self._drawn: dict[str, object] = {}
        self._drawn_at: dict[str, float] = {}
        self._turn: str | None = None
        self._credit_s = 0.0
        self._entered_at = self._left_at = clock()

    def enter(self) -> None:
        """A redraw begins: earn credit for the time since the last one."""
        now = self._clock()
        earned = FLAT_SHARE * (now - self._entered_at) + IDLE_SHARE * (now - self._left_at)
        self._credit_s = min(self._credit_s + earned, MOST_CREDIT_S)
        self._entered_at = now

    def leave(self) -> None:
        """A redraw is over: what comes until the next one is idle time."""
        self._left_at = self._clock()

    def place(self, placed: Mapping[str, Pane], height: int, *, within_credit: bool) -> None:
        """Say where the panes are in a window of so many rows; those without a place are hidden.

        Within the credit only the pane whose turn it is will be drawn, if there is credit for it.
        """
        self._placed, self._height = placed, height
        self._turn = None
        if within_credit:
            turns = [name for name in placed if name in self._pictures]
            self._turn = min(turns, key=lambda name: self._drawn_at.get(name, -np.inf))
        for name in self._pictures:
            if name not in placed and name not in self._free:
                self.hide(name)

    def draw(self, name: str, key: object, draw: Callable[[], Pixels]) -> None:
        """Draw a pane if it has a place, if its turn has come, and if what it shows (its key) has changed."""
        if name not in self._placed:
            return
        begin = self._clock()
        if self._drawn.get(name) == key:
            self._drawn_at[name] = begin
            return
        age = begin - self._drawn_at.get(name, -np.inf)
        must_wait = name != self._turn or self._credit_s <= 0.0 or age < FLAT_INTERVAL_S
        if self._turn is not None and age < MOST_AGE_S and must_wait:
            return
        self._show(name, self._placed[name], key, draw)
        self._drawn_at[name] = self._clock()
        if self._turn is not None:
            self._credit_s -= self._drawn_at[name] - begin

    def draw_free(self, name: str, pane: Pane, key: object, draw: Callable[[], Pixels]) -> None:
        """Draw a picture at the top of a pane, at once and however tall it is, if what it shows has changed."""
        if self._drawn.get(name) != key:
            self._show(name, pane, key, draw)

    def hide(self, name: str) -> None:
        """Draw nothing there."""
        self._pictures[name].hide()
        self._drawn.pop(name, None)

    def forget(self) -> None:
        """All of them have to be drawn anew."""
        self._drawn.clear()

    def _show(self, name: str, pane: Pane, key: object, draw: Callable[[], Pixels]) -> None:
        self._drawn[name] = key
        pixels = draw()
        self._pictures[name].show(pixels, pane.x, self._height - pane.y - pixels.shape[0])
