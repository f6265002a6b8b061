"""The window: the patient's vessel in 3D, slices of the image, curves, alerts, and the numbers beside them.

One scene serves the desktop window, the web page, PNG files and films; each asks it to `update` with a new state and
shows what it renders.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyvista as pv
from numpy.typing import ArrayLike, NDArray

from viewer import colors
from viewer.alert_strip import draw_alerts
from viewer.alerts import PLAN_CHANGED, AlertBoard
from viewer.case_files import read_case
from viewer.coloring import Coloring
from viewer.endoluminal import EndoluminalView
from viewer.errors import InputError
from viewer.flat_panes import FLAT_INTERVAL_S, FlatPanes
from viewer.guidance import Guidance, Guide
from viewer.history import History
from viewer.layout import LAYOUTS, Pane, panes
from viewer.lettering import DESIGN_HEIGHT
from viewer.moment import Moment
from viewer.motion import Motion
from viewer.pane_contents import (
    Content,
    SliceLook,
    panel_content,
    pullback_content,
    slice_content,
    waves_content,
    words_pane,
)
from viewer.picture_files import write_png
from viewer.quantities import VELOCITY, Field, Quantity
from viewer.slices import PLANES, SliceView, Volume
from viewer.vessel_view import VesselView

if TYPE_CHECKING:
    from streams.messages import TwinState

LEAST_WINDOW = 100
"""Below this many pixels a side nothing is written."""

TRAIL_S = 6.0

FLAT = ("axial", "coronal", "sagittal", "waves", "pullback", "panel")
FREE = ("endoluminal_words", "banner")
"""Flat panes of the arrangements, and pictures that come and go by themselves."""

SMALL_VIEW = 0.4
"""A 3D view of a smaller part of the window's height has room for little type."""

MOST_BANNER = 0.33
"""Part of the 3D view that alerts may cover before their type is made smaller."""


class Scene:
    """What the surgeon sees. Positions mm LPS, pressures mmHg.

    Args:
        lumen: display surface with the point arrays ``pressure_mode_0`` to ``pressure_mode_{K-1}``.
        anatomy: bone or skin to show as a see-through shell.
        centerline: lines with ``Radius`` (and ``BranchId``, ``ArcLength``), along which the catheter's shaft
            is drawn.
        ports: name and position of each inlet and outlet, to label them.
        volume: the planning image, for slices.
        way: (n, 3) mm LPS stations along the vessel from the inlet, at which the state's axis pressures are.
        target: (3,) mm LPS to navigate to; the way's narrowest place where None.
        grid: tetrahedra for streamlines, whose velocity `fields` gives.
        fields: what else the wall may be colored by: a quantity's key to its values at a state's time.
        listeners: called with every state, such as what computes `fields`.
        pressure_range: fixed ends of the color scale in mmHg; it never follows the data, so that a color
            always means the same pressure.
        motion: the wall's places over a beat; None where it is taken to stand still.
        plan_words: what the plan's approval is worth, for the foot of the panel.
        plan_changed: the plan is not as it was approved: an alert.
        layout: of `viewer.layout.LAYOUTS`; with slices where there is an image, else 3D alone.
        off_screen: False opens a window on the desktop when shown.
        size: window width and height in pixels.
        clock: seconds from any origin, for flashing and for how often things are drawn.
    """

    def __init__(
        self,
        lumen: pv.PolyData,
        *,
        anatomy: pv.PolyData | None = None,
        centerline: pv.PolyData | None = None,
        ports: Mapping[str, Sequence[float]] | None = None,
        volume: Volume | None = None,
        way: ArrayLike | None = None,
        target: ArrayLike | None = None,
        grid: pv.UnstructuredGrid | None = None,
        fields: Mapping[str, Field] | None = None,
        quantities: Iterable[Quantity] = (),
        listeners: Sequence[Callable[[TwinState], None]] = (),
        pressure_range: tuple[float, float] = (60.0, 140.0),
        motion: Motion | None = None,
        plan_words: str = "",
        plan_changed: bool = False,
        layout: str | None = None,
        off_screen: bool = True,
        size: tuple[int, int] = (1280, 720),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = colors.check_limits(pressure_range)
        self._clock = clock
        self._plotter = pv.Plotter(border=False, off_screen=off_screen, window_size=list(size), lighting="none")
        self._view = VesselView(
            self._plotter,
            lumen,
            self.limits,
            anatomy=anatomy,
            centerline=centerline,
            ports=ports or {},
            grid=grid if VELOCITY.key in (fields or {}) else None,
            clock=clock,
        )
        self._lumen, self._tool = self._view.lumen, self._view.tool
        stations = None if way is None else np.asarray(way, dtype=float).reshape(-1, 3)
        self._stations = stations
        radius = None
        if stations is not None and centerline is not None and "Radius" in centerline.point_data:
            nearest = pv.PolyData(np.asarray(centerline.points))
            radius = np.array([float(centerline.point_data["Radius"][nearest.find_closest_point(p)]) for p in stations])
        self.guide = Guide(
            self._lumen.mesh, way=stations, radius=radius, target=target, ends=list((ports or {}).values()) or None
        )
        if self.guide.target is not None:
            self._view.mark_target(self.guide.target)
        self.history = History()
        self.alerts = AlertBoard()
        self._listeners = tuple(listeners)
        self._coloring = Coloring(self._lumen.modes, self.history, self.limits, fields or {}, quantities)
        self._moment = Moment()
        self._motion = motion
        self._plan_alerts = (PLAN_CHANGED,) if plan_changed else ()
        self._trusted_drawn = False
        self._lines_at = -np.inf
        self.plan_words = plan_words
        self.pace = ""
        self.outline = True
        self.following = True

        window = self._plotter.render_window
        self._endoluminal = EndoluminalView(window, self._lumen, stations, radius)

        self.volume = volume
        center = np.asarray(self._lumen.mesh.center, dtype=float)
        span = 0.75 * float(np.ptp(np.asarray(self._lumen.mesh.points), axis=0).max())
        self.slices = {p.name.lower(): SliceView(p, center.copy(), float(np.clip(span, 30.0, 160.0))) for p in PLANES}
        self.window_level = (1.0, 0.5) if volume is None else volume.window_level
        self._layout = layout or ("3d" if volume is None else LAYOUTS[0])
        panes(self._layout, *size)  # refuses an unknown name

        self._flat = FlatPanes(window, FLAT, FREE, clock)
        self.reset_view()
        self._draw()
        # A window may be resized by its user or by a browser at any time: the panes are drawn anew for its size.
        window.AddObserver("WindowResizeEvent", lambda *_: self._draw())

    @classmethod
    def from_case(cls, folder: Path | str, **options: Any) -> Scene:
        """The scene of a case folder: ``surface.vtp``, and ``anatomy.vtp``, ``centerline.vtp``, ``image.nrrd`` and
        ``axis.csv`` and ``motion.pvd`` where present.

        Port labels come from the surface's field data ``PortNames`` (strings) and ``PortCenters`` (n x 3) if
        it carries them. `options` go to the constructor.

        Raises:
            InputError: no such folder, no surface in it, or a file that cannot be read.
        """
        lumen, found = read_case(Path(folder), given=options)
        return cls(lumen, **(found | options))

    @property
    def plotter(self) -> pv.Plotter:
        """The PyVista plotter underneath, for a window or a web view."""
        return self._plotter

    @property
    def state(self) -> TwinState | None:
        """The state shown last."""
        return self._moment.state

    @property
    def guidance(self) -> Guidance | None:
        """Distances from the tip as last shown; None where it is not known."""
        return self._moment.guidance

    @property
    def wall_values(self) -> NDArray[np.float32]:
        """What the wall is colored by (points,), in the unit of `quantity`."""
        return self._lumen.values

    @property
    def trusted(self) -> bool:
        """Whether what is shown is shown as trusted."""
        return self._moment.trusted

    # What a person may choose

    @property
    def quantity(self) -> Quantity:
        """What the lumen is colored by."""
        return self._coloring.quantity

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What it may be colored by."""
        return self._coloring.quantities

    def color_by(self, key: str) -> None:
        """Color the lumen by another quantity.

        Raises:
            InputError: this case cannot show it.
        """
        self._coloring.choose(key)
        self._view.trace_anew()
        self._paint()

    @property
    def as_particles(self) -> bool:
        """Whether velocity is shown as particles that it carries along; else as streamlines."""
        return self._view.as_particles

    def show_particles(self, wanted: bool) -> None:
        """Show velocity as particles, or as streamlines."""
        self._view.as_particles = wanted
        self._view.trace_anew()
        self._paint()

    def next_quantity(self) -> None:
        """Color by the next quantity."""
        keys = [quantity.key for quantity in self.quantities]
        self.color_by(keys[(keys.index(self.quantity.key) + 1) % len(keys)])

    @property
    def layout(self) -> str:
        """How the window is divided."""
        return self._layout

    def arrange(self, layout: str) -> None:
        """Divide the window otherwise.

        Raises:
            InputError: no such layout.
        """
        panes(layout, *self.size)
        self._layout = layout
        self._flat.forget()
        self.reset_view()
        self._draw()

    def acknowledge(self) -> int:
        """A person has seen every alert that holds; how many were new."""
        return self.alerts.acknowledge()

    def show_anatomy(self, shown: bool) -> None:
        """Show or hide bone and skin."""
        self._view.show_anatomy(shown)

    def mark(self, places: Mapping[str, ArrayLike]) -> None:
        """Show these landmarks, (3,) mm LPS by name, and no others, in 3D and in the slices."""
        self._view.marks.show(places)

    def name_ports(self, places: Mapping[str, ArrayLike]) -> None:
        """Label these ports, (3,) mm LPS by name, and no others."""
        self._view.name_ports(places)

    def pick(self, x: float, y: float) -> NDArray[np.float64] | None:
        """The point (3,) mm LPS of wall, bone or skin that is seen at a pixel of the 3D view; None where none is."""
        found = self.pane_at(x, y)
        return self._view.pick(x, self.size[1] - 1 - y) if found is not None and found[0] == "3d" else None

    def follow_tip(self) -> None:
        """Let the slices follow the tip (again)."""
        self.following = True
        self._center_slices()

    def cross_at(self, point: ArrayLike) -> None:
        """Bring all slices to a point, mm LPS; they no longer follow the tip."""
        self.following = False
        for view in self.slices.values():
            view.center = np.asarray(point, dtype=float)

    # What is shown

    @property
    def size(self) -> tuple[int, int]:
        """Window width and height in pixels."""
        width, height = self._plotter.window_size
        return int(width), int(height)

    def pane_at(self, x: float, y: float) -> tuple[str, Pane] | None:
        """The pane at a pixel, counted from the window's upper left corner."""
        found = panes(self._layout, *self.size)
        return next(((name, pane) for name, pane in found.items() if pane.holds(x, y)), None)

    def remember(self, state: TwinState) -> None:
        """Take a state into curves and means without showing it: a slow display skips some, a curve must not."""
        for listener in self._listeners:
            listener(state)
        self.history.add(state)

    def update(self, state: TwinState) -> None:
        """Show a new state: wall colors, tool, numbers; visibly untrusted if it carries flags.

        Raises:
            InputError: a state of another case (its field has another number of coefficients).
        """
        count = self._lumen.modes.shape[1]
        if len(state.field_coefficients) not in (0, count):
            raise InputError(
                f"the state holds {len(state.field_coefficients)} field coefficients but the display surface has "
                f"{count} pressure modes; they are not of the same case."
            )
        self._tool.show(state)
        self.remember(state)
        guidance = self.guide.look(state)
        self._moment = Moment(state, guidance)
        self._move_wall(state)
        self._paint()
        self._center_slices()
        self._take_alerts()

    def show_plan(self, state: TwinState) -> None:
        """Show what the plan predicts: its numbers stand without a tip, and without the doubts of a procedure."""
        self._tool.show(None)
        self.following = False
        self._moment = Moment(msgspec.structs.replace(state, flags=()), planning=True)
        self._paint()

    def show_silence(self, seconds: float) -> None:
        """Say that no state came for so long: the last picture stays, but nothing in it is trusted any
        more."""
        self._moment = replace(self._moment, silent_s=seconds)
        self._paint()
        self._take_alerts()

    def show_problem(self, words: str) -> None:
        """Say why a state cannot be shown: like silence, it leaves nothing trusted until the next good
        state."""
        self._moment = replace(self._moment, problem=words, guidance=None)
        self._tool.show(None)
        self._paint()
        self._take_alerts()

    def reset_view(self) -> None:
        """Look at the whole lumen along its thinnest direction, from the front of the patient, head up."""
        self._view.look_at_all(panes(self._layout, *self.size)["3d"])

    def render(self, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The picture (height, width, 3) as shown now, at `size` (width, height) or the present one."""
        if size is not None:
            if min(size) < 200:
                raise InputError(
                    f"a picture of {size[0]} x {size[1]} pixels is too small to be read; ask for 200 or more."
                )
            self._plotter.window_size = list(size)
        self._draw()
        self._plotter.render_window.Render()
        return np.ascontiguousarray(self._plotter.screenshot(None, return_img=True)[..., :3])

    def save_png(self, path: Path | str, size: tuple[int, int] | None = None) -> None:
        """Write `render` to a PNG; the file appears complete or not at all."""
        write_png(path, self.render(size))

    def refresh(self, *, at_once: bool = False) -> None:
        """Draw the present state into the window (for the interactive window and the web view).

        What is read (numbers, slices, curves) takes turns within its share of the time; all of it is drawn `at_once`
        when a person has just changed something, and when trust comes or goes.
        """
        self._flat.enter()
        self._draw(within_credit=not at_once and self.trusted == self._trusted_drawn)
        self._plotter.render_window.Render()
        self._flat.leave()

    def close(self) -> None:
        """Give the window and its memory back."""
        self._plotter.close()

    # How it is drawn

    def _paint(self) -> None:
        """Color wall and streamlines by the chosen quantity, or hatch the wall where it is not to be trusted."""
        self._view.paint(self._moment.state if self.trusted else None, self.quantity, self._coloring.field)

    def _center_slices(self) -> None:
        state = self._moment.state
        if self.following and state is not None and state.tip is not None and state.tip_valid:
            for view in self.slices.values():
                view.center = np.array(state.tip, dtype=float)

    def _move_wall(self, state: TwinState) -> None:
        share = None if self._motion is None else self.history.beat_share(state)
        # Without a heart beat that is heard of the wall stands where it was last.
        if self._motion is not None and share is not None:
            self._lumen.move(self._motion.at(share))

    def _take_alerts(self) -> None:
        self.alerts.take((*self._moment.conditions, *self._plan_alerts), self._clock())

    def _draw(self, *, within_credit: bool = False) -> None:
        """Bring panes, banner and text sizes up to date with state and window size.

        Within the credit only the pane whose turn it is is drawn, if there is credit for it.
        """
        width, height = self.size
        # A page that is only just opening has a window of a few pixels: there is no room for text in it.
        if min(width, height) < LEAST_WINDOW:
            return
        self._trusted_drawn = self.trusted
        placed = panes(self._layout, width, height)
        self._flat.place(placed, height, within_credit=within_credit)
        scale = height / DESIGN_HEIGHT
        self._place_views(placed, width, height)
        self._draw_lines(within_credit=within_credit)
        for name, content in self._contents(placed, scale).items():
            self._flat.draw(name, content.key, content.draw)
        self._draw_banner(placed, scale)
        small = min(placed["3d"].size) < SMALL_VIEW * height
        self._view.resize(scale, 17 if self._layout == "3d" else 12 if small else 15, small=small)

    def _draw_lines(self, *, within_credit: bool) -> None:
        """Where the tip was and the way before it: within the credit no more often than numbers, for they are long."""
        state, guidance = self._moment.state, self._moment.guidance
        now = self._clock()
        if state is None or (within_credit and now - self._lines_at < FLAT_INTERVAL_S):
            return
        self._lines_at = now
        self._tool.show_lines(self.history.trail(TRAIL_S), np.zeros((0, 3)) if guidance is None else guidance.way)

    def _contents(self, placed: Mapping[str, Pane], scale: float) -> dict[str, Content]:
        """What the panes of this arrangement show now, in the order in which they are drawn."""
        moment = self._moment
        contents = {}
        if "panel" in placed:
            foot = " · ".join(words for words in (self.pace, self.plan_words) if words)
            contents["panel"] = panel_content(moment, placed["panel"], self.limits, self.quantity, foot)
        outline = self._lumen.mesh if self.outline else None
        look = SliceLook(self.volume, self.window_level, outline, self.following, scale, self._view.marks.places)
        for name, view in self.slices.items():
            if name in placed:
                contents[name] = slice_content(moment, view, placed[name], look)
        if "waves" in placed:
            contents["waves"] = waves_content(moment, self.history, placed["waves"], scale)
            contents["pullback"] = pullback_content(
                moment, self.history, self.guide, self._stations, placed["pullback"], scale
            )
        return contents

    def _place_views(self, placed: Mapping[str, Pane], width: int, height: int) -> None:
        def share(pane: Pane) -> tuple[float, float, float, float]:
            low = height - pane.y - pane.height
            return pane.x / width, low / height, (pane.x + pane.width) / width, (low + pane.height) / height

        self._view.place(share(placed["3d"]))
        pane = placed.get("endoluminal")
        state = self._moment.state
        if pane is not None and self._moment.guidance is not None and state is not None and state.tip is not None:
            self._endoluminal.look(state.tip, self._moment.guidance.ahead)
        known = self._moment.guidance is not None and self._moment.silent_s is None
        self._endoluminal.place(share(pane) if pane is not None and known else None)
        if pane is None or known:
            self._flat.hide("endoluminal_words")
            return
        size = pane.size
        self._flat.draw_free("endoluminal_words", pane, pane, lambda: words_pane(size, "TIP NOT KNOWN"))

    def _draw_banner(self, placed: Mapping[str, Pane], scale: float) -> None:
        alerts = self.alerts.alerts
        if self.trusted and not alerts:
            self._flat.hide("banner")
            return
        now = self._clock()
        pane = placed["3d"] if self._layout in ("3d", "conventional") else placed.get("endoluminal", placed["3d"])
        lit = tuple((a.condition, a.acknowledged, a.lit(now)) for a in alerts)
        own = self._moment.own_doubts
        self._flat.draw_free(
            "banner",
            pane,
            (lit, own, self.trusted, pane),
            lambda: draw_alerts(
                alerts, pane.width, scale, now, trusted=self.trusted, said=own, most_height=MOST_BANNER * pane.height
            ),
        )
