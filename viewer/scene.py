"""The window: the patient's vessel in 3D, slices of the image, curves, alerts, and the numbers beside them.

One scene serves the desktop window, the web page, PNG files and films; each asks it to `update` with a new state and
shows what it renders.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from viewer import colors
from viewer.actors import LumenActors, ToolActors, outline_actor, target_actor, typical_radius
from viewer.alert_strip import draw_alerts
from viewer.alerts import MISFIT, SILENT, AlertBoard, doubts
from viewer.catheter import CatheterPath
from viewer.curves import draw_pullback, draw_waves
from viewer.endoluminal import EndoluminalView
from viewer.errors import InputError
from viewer.flat import Compass, FlatPicture, port_label
from viewer.flow_lines import FlowLines
from viewer.guidance import Guidance, Guide
from viewer.history import History
from viewer.layout import LAYOUTS, Pane, panes
from viewer.lettering import DESIGN_HEIGHT, font
from viewer.quantities import FFR, PRESSURE, VELOCITY, Field, Quantity, quantity_named
from viewer.readout import draw_panel
from viewer.slices import PLANES, SliceView, Volume, draw_slice

if TYPE_CHECKING:
    from streams.messages import TwinState

_VIEW_ANGLE = 24.0

LEAST_WINDOW = 100
"""Below this many pixels a side nothing is written."""

FLAT_INTERVAL_S = 0.1
"""Numbers, slices and curves are drawn anew at most ten times a second; faster nobody reads them."""

FLAT_SHARE, IDLE_SHARE = 0.04, 0.5
"""Parts of the time, and of the time in which nothing else is drawn, that numbers, slices and curves may take: where
the 3D view needs the whole machine they are drawn one after another, and the vessel does not wait for them."""

MOST_CREDIT_S = 0.04
MOST_AGE_S = 1.5
"""No pane is older than this, whatever it costs."""

LINES_INTERVAL_S = 0.5
"""Streamlines are traced anew at most this often."""

TRAIL_S = 6.0

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
        layout: str | None = None,
        off_screen: bool = True,
        size: tuple[int, int] = (1280, 720),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = colors.check_limits(pressure_range)
        self._clock = clock
        self._lumen = LumenActors(lumen, self.limits)
        path = None if centerline is None else CatheterPath(centerline)
        self._tool = ToolActors(path, radius=float(np.clip(0.28 * typical_radius(lumen, centerline), 0.4, 2.5)))
        stations = None if way is None else np.asarray(way, dtype=float).reshape(-1, 3)
        self._stations = stations
        radius = None
        if stations is not None and centerline is not None and "Radius" in centerline.point_data:
            nearest = pv.PolyData(np.asarray(centerline.points))
            radius = np.array([float(centerline.point_data["Radius"][nearest.find_closest_point(p)]) for p in stations])
        self.guide = Guide(
            self._lumen.mesh, way=stations, radius=radius, target=target, ends=list((ports or {}).values()) or None
        )
        self.history = History()
        self.alerts = AlertBoard()
        self._fields: dict[str, Field] = {
            PRESSURE.key: self._pressure_field,
            FFR.key: self._ffr_field,
            **(fields or {}),
        }
        self._quantities = {key: quantity_named(key) for key in self._fields} | {q.key: q for q in quantities}
        self._quantities[PRESSURE.key] = PRESSURE.within(self.limits)
        self._listeners = tuple(listeners)
        self._quantity = self._quantities[PRESSURE.key]
        self._guidance: Guidance | None = None
        self._state: TwinState | None = None
        self._silent_s: float | None = None
        self._problem: str | None = None
        self._drawn: dict[str, object] = {}
        self._pane_at: dict[str, float] = {}
        self._turn: str | None = None
        self._credit_s = 0.0
        self._entered_at = self._left_at = clock()
        self._trusted_drawn = False
        self._lines_at = -np.inf
        self.pace = ""
        self.outline = True
        self.following = True

        self._plotter = pv.Plotter(border=False, off_screen=off_screen, window_size=list(size), lighting="none")
        self._view = self._plotter.renderer
        self._plotter.set_background(colors.BACKGROUND)
        # One lamp at the eye: a wall that faces the viewer has exactly the color of the scale.
        self._plotter.add_light(pv.Light(light_type="headlight", intensity=1.0))
        self._lines = None if grid is None or VELOCITY.key not in self._fields else FlowLines(grid)
        inside = () if self._lines is None else (self._lines.actor,)
        # See-through things are blended in this order, from the inside out. (Depth peeling would order them
        # itself, but it draws none of them together with multisampling on Mesa's software renderer.)
        for actor in (*self._tool.actors, *inside, *self._lumen.actors):
            self._view.AddActor(actor)
        self._anatomy = None
        if anatomy is not None and anatomy.n_points:
            self._anatomy = outline_actor(anatomy, colors.ANATOMY, 0.16)
            self._view.AddActor(self._anatomy)
        if self.guide.target is not None:
            self._view.AddActor(target_actor(self.guide.target, 1.3 * typical_radius(lumen, centerline)))
        self._labels = [port_label(name, self._label_point(position)) for name, position in (ports or {}).items()]
        for label in self._labels:
            self._view.AddViewProp(label)
        self._compass = Compass(self._view)
        self._plotter.enable_anti_aliasing("msaa", multi_samples=4)
        window = self._plotter.render_window
        self._endoluminal = EndoluminalView(window, self._lumen, stations, radius)

        self.volume = volume
        center = np.asarray(self._lumen.mesh.center, dtype=float)
        span = 0.75 * float(np.ptp(np.asarray(self._lumen.mesh.points), axis=0).max())
        self.slices = {p.name.lower(): SliceView(p, center.copy(), float(np.clip(span, 30.0, 160.0))) for p in PLANES}
        self.window_level = (1.0, 0.5) if volume is None else volume.window_level
        self._layout = layout or ("3d" if volume is None else LAYOUTS[0])
        panes(self._layout, *size)  # refuses an unknown name

        # Flat pictures lie in a layer of their own above everything; a drag over them must turn no camera.
        window.SetNumberOfLayers(max(window.GetNumberOfLayers(), 2))
        self._flat_view = vtk.vtkRenderer()
        self._flat_view.SetLayer(1)
        self._flat_view.SetInteractive(False)
        window.AddRenderer(self._flat_view)
        names = ("axial", "coronal", "sagittal", "waves", "pullback", "endoluminal_words", "panel", "banner")
        self._flat = {name: FlatPicture(self._flat_view) for name in names}
        self.reset_view()
        self._draw()
        # A window may be resized by its user or by a browser at any time: the panes are drawn anew for its size.
        window.AddObserver("WindowResizeEvent", lambda *_: self._draw())

    @classmethod
    def from_case(cls, folder: Path | str, **options: Any) -> Scene:
        """The scene of a case folder: ``surface.vtp``, and ``anatomy.vtp``, ``centerline.vtp``, ``image.nrrd`` and
        ``axis.csv`` where present.

        Port labels come from the surface's field data ``PortNames`` (strings) and ``PortCenters`` (n x 3) if
        it carries them. `options` go to the constructor.

        Raises:
            InputError: no such folder, no surface in it, or a file that cannot be read.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"case folder {folder} does not exist; give the folder that planning wrote.")
        lumen = read_surface(folder / "surface.vtp")
        for name in ("anatomy", "centerline"):
            file = folder / f"{name}.vtp"
            if file.exists():
                options.setdefault(name, read_surface(file))
        if "volume" not in options and (folder / "image.nrrd").is_file():
            options["volume"] = Volume.read(folder / "image.nrrd")
        if "way" not in options and (folder / "axis.csv").is_file():
            options["way"] = read_stations(folder / "axis.csv")
        if "PortNames" in lumen.field_data and "PortCenters" in lumen.field_data:
            names = [str(name) for name in np.atleast_1d(lumen.field_data["PortNames"])]
            centers = np.asarray(lumen.field_data["PortCenters"], dtype=np.float64).reshape(-1, 3)
            options.setdefault("ports", dict(zip(names, centers, strict=True)))
        return cls(lumen, **options)

    @property
    def plotter(self) -> pv.Plotter:
        """The PyVista plotter underneath, for a window or a web view."""
        return self._plotter

    @property
    def state(self) -> TwinState | None:
        """The state shown last."""
        return self._state

    @property
    def guidance(self) -> Guidance | None:
        """Distances from the tip as last shown; None where it is not known."""
        return self._guidance

    @property
    def wall_values(self) -> NDArray[np.float32]:
        """What the wall is colored by (points,), in the unit of `quantity`."""
        return self._lumen.values

    @property
    def trusted(self) -> bool:
        """Whether what is shown is shown as trusted."""
        return self._state is not None and not doubts(self._state.flags) and not self._doubts()

    # What a person may choose

    @property
    def quantity(self) -> Quantity:
        """What the lumen is colored by."""
        return self._quantity

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What it may be colored by."""
        return tuple(self._quantities.values())

    def color_by(self, key: str) -> None:
        """Color the lumen by another quantity.

        Raises:
            InputError: this case cannot show it.
        """
        if key not in self._quantities:
            raise InputError(f'this case cannot be colored by "{key}"; choose from {", ".join(self._quantities)}.')
        self._quantity = self._quantities[key]
        self._lines_at = -np.inf
        self._paint()

    def next_quantity(self) -> None:
        """Color by the next quantity."""
        keys = list(self._quantities)
        self.color_by(keys[(keys.index(self._quantity.key) + 1) % len(keys)])

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
        self._drawn.clear()
        self.reset_view()
        self._draw()

    def acknowledge(self) -> int:
        """A person has seen every alert that holds; how many were new."""
        return self.alerts.acknowledge()

    def show_anatomy(self, shown: bool) -> None:
        """Show or hide bone and skin."""
        if self._anatomy is not None:
            self._anatomy.SetVisibility(shown)

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
        self._state, self._silent_s, self._problem = state, None, None
        self.remember(state)
        self._guidance = self.guide.look(state)
        course = np.zeros((0, 3)) if self._guidance is None else self._guidance.way
        self._tool.show_lines(self.history.trail(TRAIL_S), course)
        if self._guidance is not None and state.tip is not None:
            self._endoluminal.look(state.tip, self._guidance.ahead)
        self._paint()
        self._center_slices()
        self._take_alerts()

    def show_silence(self, seconds: float) -> None:
        """Say that no state came for so long: the last picture stays, but nothing in it is trusted any
        more."""
        self._silent_s = seconds
        self._paint()
        self._take_alerts()

    def show_problem(self, words: str) -> None:
        """Say why a state cannot be shown: like silence, it leaves nothing trusted until the next good
        state."""
        self._problem = words
        self._tool.show(None)
        self._guidance = None
        self._paint()
        self._take_alerts()

    def reset_view(self) -> None:
        """Look at the whole lumen along its thinnest direction, from the front of the patient, head up."""
        points = np.asarray(self._lumen.mesh.points, dtype=np.float64)
        center = 0.5 * (points.min(axis=0) + points.max(axis=0))
        toward = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][2]
        if toward[1] > 0.0 or (toward[1] == 0.0 and toward.sum() < 0.0):
            toward = -toward  # LPS: the patient's front is -y
        up = np.array([0.0, 0.0, 1.0]) if abs(toward[2]) < 0.9 else np.array([0.0, -1.0, 0.0])
        right = np.cross(up, toward)
        right /= np.linalg.norm(right)
        up = np.cross(toward, right)
        pane = panes(self._layout, *self.size)["3d"]
        # Half the view, in tangents, that the lumen may fill: the rest is for labels and the banner.
        half = np.tan(np.radians(0.5 * _VIEW_ANGLE))
        half_x, half_y = 0.86 * half * pane.width / pane.height, 0.76 * half
        x, y, z = np.column_stack((right, up, toward)).T @ (points - center).T
        distance = float(np.max(z + np.maximum(np.abs(x) / half_x, np.abs(y) / half_y)))
        target = center + 0.06 * half * distance * up
        camera = self._view.GetActiveCamera()
        camera.SetViewAngle(_VIEW_ANGLE)
        camera.SetFocalPoint(*target)
        camera.SetPosition(*(target + distance * toward))
        camera.SetViewUp(*up)
        self._view.ResetCameraClippingRange()
        self._view.camera_set = True  # or PyVista would reset it at the first picture

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
        now = self._clock()
        earned = FLAT_SHARE * (now - self._entered_at) + IDLE_SHARE * (now - self._left_at)
        self._credit_s = min(self._credit_s + earned, MOST_CREDIT_S)
        self._entered_at = now
        self._draw(within_credit=not at_once and self.trusted == self._trusted_drawn)
        self._plotter.render_window.Render()
        self._left_at = self._clock()

    def close(self) -> None:
        """Give the window and its memory back."""
        self._plotter.close()

    # How it is drawn

    def _pressure_field(self, state: TwinState) -> NDArray[np.float32] | None:
        if not state.field_coefficients:
            return None
        return np.asarray(self._lumen.modes @ np.array(state.field_coefficients, dtype=np.float32))

    def _ffr_field(self, state: TwinState) -> NDArray[np.float32] | None:
        """Mean pressure of the last beat over the inlet's: FFR in hyperemia, Pd/Pa at rest."""
        means = self.history.beat
        if means is None or not means.inlet_mmhg > 1.0 or len(means.coefficients) != self._lumen.modes.shape[1]:
            return None
        return np.asarray(self._lumen.modes @ means.coefficients.astype(np.float32) / np.float32(means.inlet_mmhg))

    def _paint(self) -> None:
        """Color wall and streamlines by the chosen quantity, or hatch the wall where it is not to be trusted."""
        if not self.trusted or self._state is None or not self._state.field_coefficients:
            self._lumen.paint(None, self._quantity)
            if self._lines is not None:
                self._lines.show(None)
            return
        if self._quantity.key == PRESSURE.key:
            self._lumen.show(self._state.field_coefficients)
        elif self._quantity.key == VELOCITY.key and self._lines is not None:
            now = self._clock()
            if now - self._lines_at >= LINES_INTERVAL_S:
                self._lines_at = now
                self._lines.show(self._fields[VELOCITY.key](self._state))
            self._lumen.fade()
            return
        else:
            self._lumen.paint(self._fields[self._quantity.key](self._state), self._quantity)
        if self._lines is not None:
            self._lines.show(None)

    def _center_slices(self) -> None:
        state = self._state
        if self.following and state is not None and state.tip is not None and state.tip_valid:
            for view in self.slices.values():
                view.center = np.array(state.tip, dtype=float)

    def _take_alerts(self) -> None:
        conditions: list[str] = []
        if self._problem is not None:
            conditions.append(MISFIT)
        if self._silent_s is not None:
            conditions.append(SILENT)
        if self._state is not None:
            conditions += self._state.flags
        if self._guidance is not None and self._silent_s is None:
            conditions += self._guidance.conditions
        self.alerts.take(conditions, self._clock())

    def _doubts(self) -> tuple[str, ...]:
        """What the viewer itself holds against the picture, beside the state's own flags."""
        words = []
        if self._problem is not None:
            words.append(self._problem)
        if self._silent_s is not None:
            words.append(f"no state from the twin for {self._silent_s:.1f} s")
        elif self._state is None:
            words.append("no state received yet")
        return tuple(words)

    def _label_point(self, position: Sequence[float]) -> NDArray[np.float64]:
        """A little outside the port, away from the lumen's middle."""
        point = np.asarray(position, dtype=np.float64)
        outward = point - np.asarray(self._lumen.mesh.center)
        length = float(np.linalg.norm(outward))
        return point + outward / length * 0.1 * length if length > 0.0 else point

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
        self._turn = None
        if within_credit:
            turns = [name for name in placed if name in self._flat]
            self._turn = min(turns, key=lambda name: self._pane_at.get(name, -np.inf))
        scale = height / DESIGN_HEIGHT
        for name in self._flat:
            if name not in placed and name not in ("banner", "endoluminal_words"):
                self._flat[name].hide()
                self._drawn.pop(name, None)
        self._place_views(placed, width, height)
        # The silence counts on in tenths; redraw no more often than the text changes.
        silent = None if self._silent_s is None else round(self._silent_s, 1)
        # Numbers of a state that cannot be shown are not shown either.
        shown = self._state if self._problem is None else None
        key = (self._state, silent, self._problem, width, height, self._quantity.key, self.pace)
        self._once(
            "panel",
            placed,
            key,
            lambda: draw_panel(
                shown,
                placed["panel"].size,
                self.limits,
                silent_s=silent,
                guidance=self._guidance,
                quantity=self._quantity,
                pace=self.pace,
            ),
        )
        self._draw_slices(placed, scale)
        self._draw_curves(placed, scale)
        self._draw_banner(placed, scale)
        for label in self._labels:
            label.GetTextProperty().SetFontSize(round((17 if self._layout == "3d" else 15) * scale))
        self._compass.resize(scale)

    def _place_views(self, placed: Mapping[str, Pane], width: int, height: int) -> None:
        def share(pane: Pane) -> tuple[float, float, float, float]:
            low = height - pane.y - pane.height
            return pane.x / width, low / height, (pane.x + pane.width) / width, (low + pane.height) / height

        self._view.SetViewport(*share(placed["3d"]))
        pane = placed.get("endoluminal")
        known = self._guidance is not None and self._state is not None and self._silent_s is None
        self._endoluminal.place(share(pane) if pane is not None and known else None)
        if pane is None or known:
            self._flat["endoluminal_words"].hide()
            self._drawn.pop("endoluminal_words", None)
            return
        self._once(
            "endoluminal_words", {"endoluminal_words": pane}, pane.size, lambda: _words_pane(pane.size, "TIP NOT KNOWN")
        )

    def _once(self, name: str, placed: Mapping[str, Pane], key: object, draw: Callable[[], NDArray[np.uint8]]) -> None:
        """Draw a pane if what it shows has changed."""
        if name not in placed:
            return
        begin = self._clock()
        if self._drawn.get(name) == key:
            self._pane_at[name] = begin
            return
        age = begin - self._pane_at.get(name, -np.inf)
        must_wait = name != self._turn or self._credit_s <= 0.0 or age < FLAT_INTERVAL_S
        if self._turn is not None and age < MOST_AGE_S and must_wait:
            return
        pane = placed[name]
        self._drawn[name] = key
        self._flat[name].show(draw(), pane.x, self.size[1] - pane.y - pane.height)
        self._pane_at[name] = self._clock()
        if self._turn is not None:
            self._credit_s -= self._pane_at[name] - begin

    def _draw_slices(self, placed: Mapping[str, Pane], scale: float) -> None:
        state = self._state
        tip = state.tip if state is not None and state.tip_valid and self._problem is None else None
        covariance = None if tip is None or state is None else state.tip_covariance
        if tip is not None and covariance is None:
            tip = None  # a point without its uncertainty is not shown
        warning = None
        if tip is None:
            warning = "TIP NOT KNOWN"
        if not self.trusted and (state is None or tip is None or self._silent_s is not None or doubts(state.flags)):
            warning = warning or "NOT TRUSTED"
        for name, view in self.slices.items():
            if name not in placed:
                continue
            pane = placed[name]
            key = (
                tuple(np.round(view.center, 2)), view.span_mm, pane, self.window_level, self.outline, warning,
                self.following, None if tip is None else tuple(np.round(tip, 2)), covariance,
            )  # fmt: skip
            self._once(name, placed, key, partial(self._slice, view, pane, tip, covariance, warning, scale))

    def _slice(
        self,
        view: SliceView,
        pane: Pane,
        tip: ArrayLike | None,
        covariance: ArrayLike | None,
        warning: str | None,
        scale: float,
    ) -> NDArray[np.uint8]:
        if self.volume is None:
            return _words_pane(pane.size, "NO IMAGE")
        return draw_slice(
            self.volume,
            view,
            pane.size,
            window_level=self.window_level,
            lumen=self._lumen.mesh if self.outline else None,
            tip=tip,
            covariance=covariance,
            warning=warning,
            note="" if self.following else "not following: space",
            scale=scale,
        )

    def _draw_curves(self, placed: Mapping[str, Pane], scale: float) -> None:
        if "waves" not in placed:
            return
        doubt = None if self.trusted else "NOT TRUSTED"
        number = None if self._state is None else self._state.sequence
        self._once(
            "waves",
            placed,
            (number, doubt, placed["waves"]),
            lambda: draw_waves(
                self.history.waves(),
                placed["waves"].size,
                scale=scale,
                warning=doubt,
            ),
        )
        means = self.history.beat
        place = None
        if self._state is not None and self._state.tip is not None and self._state.tip_valid:
            along = self.guide.along(self._state.tip)
            if along is not None:
                place = (along, 1.96 * (self._state.tre or 0.0) / np.sqrt(3.0))
        stations = None if self._stations is None or means is None or not len(means.axis_mmhg) else self._stations
        distance = (
            None
            if stations is None
            else np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(stations, axis=0), axis=1))])
        )
        key = (id(means), None if place is None else round(place[0], 1), doubt, placed["pullback"])
        self._once(
            "pullback",
            placed,
            key,
            lambda: draw_pullback(
                distance,
                None if means is None else means.axis_mmhg,
                None if means is None else means.inlet_mmhg,
                placed["pullback"].size,
                scale=scale,
                tip_mm=place,
                whole_beat=means is None or means.whole_beat,
                warning=doubt,
            ),
        )

    def _draw_banner(self, placed: Mapping[str, Pane], scale: float) -> None:
        alerts = self.alerts.alerts
        if self.trusted and not alerts:
            self._flat["banner"].hide()
            self._drawn.pop("banner", None)
            return
        now = self._clock()
        pane = placed["3d"] if self._layout in ("3d", "conventional") else placed.get("endoluminal", placed["3d"])
        lit = tuple((a.condition, a.acknowledged, a.lit(now)) for a in alerts)
        own = self._doubts()
        key = (lit, own, self.trusted, pane)
        if self._drawn.get("banner") == key:
            return
        self._drawn["banner"] = key
        strip = draw_alerts(
            alerts, pane.width, scale, now, trusted=self.trusted, said=own, most_height=MOST_BANNER * pane.height
        )
        self._flat["banner"].show(strip, pane.x, self.size[1] - pane.y - strip.shape[0])


def _words_pane(size: tuple[int, int], words: str) -> NDArray[np.uint8]:
    """An empty pane that says why it is empty."""
    image = Image.new("RGB", size, colors.PANEL)
    draw = ImageDraw.Draw(image)
    for start in range(-size[1], size[0], 26):
        draw.line([(start, size[1]), (start + size[1], 0)], fill=colors.RULE, width=6)
    face = font(max(round(size[1] / 16), 14), bold=True)
    half = 0.5 * draw.textlength(words, font=face) + 12
    x, y, tall = size[0] / 2, size[1] / 2, face.size
    draw.rectangle([x - half, y - tall, x + half, y + tall], fill=colors.ALARM)
    draw.text((x, y), words, font=face, fill="#ffffff", anchor="mm")
    draw.rectangle([0, 0, size[0] - 1, size[1] - 1], outline=colors.RULE)
    return np.asarray(image, dtype=np.uint8)


def read_surface(path: Path) -> pv.PolyData:
    """A surface or lines from a VTP file.

    Raises:
        InputError: no such file, a file that VTK cannot read, or one without points.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run planning for this case first.")
    reader = vtk.vtkXMLPolyDataReader()
    if not reader.CanReadFile(str(path)):
        raise InputError(f"{path} is not a VTP surface that can be read; write it again.")
    reader.SetFileName(str(path))
    reader.Update()
    surface = pv.wrap(reader.GetOutput())
    if surface.n_points == 0:
        raise InputError(f"{path} holds no points; write it again.")
    return surface


def read_stations(path: Path) -> NDArray[np.float64]:
    """(n, 3) mm LPS stations along the vessel from a point file such as ``axis.csv``.

    Raises:
        InputError: it cannot be read.
    """
    from registration.errors import InputError as PointsInputError
    from registration.point_files import read_point_file

    try:
        return np.asarray(read_point_file(path).points, dtype=float)
    except PointsInputError as error:
        raise InputError(str(error)) from None


def write_png(path: Path | str, pixels: NDArray[np.uint8]) -> None:
    """Write an image (h, w, 3 or 4) as PNG under a temporary name and rename it."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist; make it before writing {path.name} there.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(pixels).save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
