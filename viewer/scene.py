"""The scene: the patient's lumen with its pressure, the tool in it, and the numbers beside it.

One scene serves the desktop window, the web page and PNG files; each asks it to `update` with a new state and
shows what it renders.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from vtk.util.numpy_support import numpy_to_vtk

from viewer import colors
from viewer.actors import LumenActors, ToolActors, outline_actor, typical_radius
from viewer.catheter import CatheterPath
from viewer.errors import InputError
from viewer.readout import DESIGN_HEIGHT, draw_banner, draw_panel, font_file, reasons

if TYPE_CHECKING:
    from streams.messages import TwinState

_VIEW_ANGLE = 24.0

PANEL_SHARE = 0.3
"""Part of the window's width that the numbers take."""

LEAST_WINDOW = 100
"""Below this many pixels a side nothing is written."""


class Scene:
    """What the surgeon sees. Positions mm LPS, pressures mmHg.

    Args:
        lumen: display surface with the point arrays ``pressure_mode_0`` to ``pressure_mode_{K-1}``.
        anatomy: bone or skin to show as a see-through shell.
        centerline: lines with ``Radius`` (and ``BranchId``, ``ArcLength``), along which the catheter's shaft
            is drawn.
        ports: name and position of each inlet and outlet, to label them.
        pressure_range: fixed ends of the color scale in mmHg; it never follows the data, so that a color
            always means the same pressure.
        off_screen: False opens a window on the desktop when shown.
        size: window width and height in pixels.
    """

    def __init__(
        self,
        lumen: pv.PolyData,
        *,
        anatomy: pv.PolyData | None = None,
        centerline: pv.PolyData | None = None,
        ports: Mapping[str, Sequence[float]] | None = None,
        pressure_range: tuple[float, float] = (60.0, 140.0),
        off_screen: bool = True,
        size: tuple[int, int] = (1280, 720),
    ) -> None:
        self.limits = colors.check_limits(pressure_range)
        self._lumen = LumenActors(lumen, self.limits)
        path = None if centerline is None else CatheterPath(centerline)
        self._tool = ToolActors(path, radius=float(np.clip(0.28 * typical_radius(lumen, centerline), 0.4, 2.5)))
        self._state: TwinState | None = None
        self._silent_s: float | None = None
        self._problem: str | None = None
        self._drawn: object = None

        share = [1.0 - PANEL_SHARE, PANEL_SHARE]
        self._plotter = pv.Plotter(
            shape=(1, 2),
            col_weights=share,
            border=False,
            off_screen=off_screen,
            window_size=list(size),
            lighting="none",
        )
        self._plotter.subplot(0, 0)
        self._view = self._plotter.renderer
        self._plotter.set_background(colors.BACKGROUND, all_renderers=False)
        # One lamp at the eye: a wall that faces the viewer has exactly the color of the scale.
        self._plotter.add_light(pv.Light(light_type="headlight", intensity=1.0))
        # See-through things are blended in this order, from the inside out. (Depth peeling would order them
        # itself, but it draws none of them together with multisampling on Mesa's software renderer.)
        for actor in (*self._tool.actors, *self._lumen.actors):
            self._view.AddActor(actor)
        if anatomy is not None and anatomy.n_points:
            self._view.AddActor(outline_actor(anatomy, colors.ANATOMY, 0.16))
        self._banner = _Picture(self._view)
        self._labels = [_label(name, self._label_point(position)) for name, position in (ports or {}).items()]
        for label in self._labels:
            self._view.AddViewProp(label)
        self._compass = _Compass(self._view)
        self._plotter.enable_anti_aliasing("msaa", multi_samples=4)
        self.reset_view()

        self._plotter.subplot(0, 1)
        self._plotter.set_background(colors.PANEL, all_renderers=False)
        self._panel_view = self._plotter.renderer
        # A drag that starts over the numbers must not turn a second, empty camera.
        self._panel_view.InteractiveOff()
        self._panel = _Picture(self._panel_view)
        self._plotter.subplot(0, 0)
        self._draw()
        # A window may be resized by its user or by a browser at any time: the panel is drawn anew for its
        # size.
        self._plotter.render_window.AddObserver("WindowResizeEvent", lambda *_: self._draw())

    @classmethod
    def from_case(cls, folder: Path | str, **options: Any) -> Scene:
        """The scene of a case folder: ``surface.vtp``, and ``anatomy.vtp`` and ``centerline.vtp`` where
        present.

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
    def wall_pressure(self) -> NDArray[np.float32]:
        """Wall pressure (points,) in mmHg as last shown."""
        return self._lumen.values

    @property
    def trusted(self) -> bool:
        """Whether what is shown is shown as trusted."""
        return self._state is not None and not reasons(self._state) and not self._doubts()

    def update(self, state: TwinState) -> None:
        """Show a new state: wall colors, tool, numbers; visibly untrusted if it carries flags.

        Raises:
            InputError: a state of another case (its field has another number of coefficients).
        """
        trusted = not state.flags and len(state.field_coefficients) > 0
        self._lumen.show(state.field_coefficients if trusted else None)
        self._tool.show(state)
        self._state = state
        self._silent_s = self._problem = None

    def show_silence(self, seconds: float) -> None:
        """Say that no state came for so long: the last picture stays, but nothing in it is trusted any
        more."""
        self._silent_s = seconds
        self._lumen.show(None)

    def show_problem(self, words: str) -> None:
        """Say why a state cannot be shown: like silence, it leaves nothing trusted until the next good
        state."""
        self._problem = words
        self._lumen.show(None)
        self._tool.show(None)

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
        width, height = self._plotter.window_size
        # Half the view, in tangents, that the lumen may fill: the rest is for labels and the banner.
        half = np.tan(np.radians(0.5 * _VIEW_ANGLE))
        half_x, half_y = 0.86 * half * (1.0 - PANEL_SHARE) * width / height, 0.76 * half
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
        self._plotter.render()
        return np.ascontiguousarray(self._plotter.screenshot(None, return_img=True)[..., :3])

    def save_png(self, path: Path | str, size: tuple[int, int] | None = None) -> None:
        """Write `render` to a PNG; the file appears complete or not at all."""
        write_png(path, self.render(size))

    def refresh(self) -> None:
        """Draw the present state into the window (for the interactive window and the web view)."""
        self._draw()
        self._plotter.render()

    def close(self) -> None:
        """Give the window and its memory back."""
        self._plotter.close()

    def _doubts(self) -> tuple[str, ...]:
        """What the viewer itself holds against the picture, beside the state's own flags."""
        doubts = []
        if self._problem is not None:
            doubts.append(self._problem)
        if self._silent_s is not None:
            doubts.append(f"no state from the twin for {self._silent_s:.1f} s")
        elif self._state is None:
            doubts.append("no state received yet")
        return tuple(doubts)

    def _label_point(self, position: Sequence[float]) -> NDArray[np.float64]:
        """A little outside the port, away from the lumen's middle."""
        point = np.asarray(position, dtype=np.float64)
        outward = point - np.asarray(self._lumen.mesh.center)
        length = float(np.linalg.norm(outward))
        return point + outward / length * 0.1 * length if length > 0.0 else point

    def _draw(self) -> None:
        """Bring panel, banner and text sizes up to date with state and window size."""
        width, height = (int(x) for x in self._plotter.window_size)
        # A page that is only just opening has a window of a few pixels: there is no room for text in it.
        if min(width, height) < LEAST_WINDOW:
            return
        # The silence counts on in tenths; redraw no more often than the text changes.
        silent = None if self._silent_s is None else round(self._silent_s, 1)
        key = (self._state, silent, self._problem, width, height)
        if key == self._drawn:
            return
        self._drawn = key
        # Numbers of a state that cannot be shown are not shown either.
        shown = self._state if self._problem is None else None
        panel_width = width - round((1.0 - PANEL_SHARE) * width)
        self._panel.show(draw_panel(shown, (panel_width, height), self.limits, silent_s=silent))
        self._panel.place(0, 0)
        scale = height / DESIGN_HEIGHT
        words = (*self._doubts(), *(() if self._state is None else reasons(self._state)))
        if words:
            strip = draw_banner(words, width - panel_width, scale)
            self._banner.show(strip)
            self._banner.place(0, height - strip.shape[0])
        else:
            self._banner.hide()
        for label in self._labels:
            label.GetTextProperty().SetFontSize(round(17 * scale))
        self._compass.resize(scale)


class _Picture:
    """An image drawn flat on a renderer, pixel for pixel."""

    def __init__(self, renderer: pv.Renderer) -> None:
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255.0)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.SetVisibility(False)
        self._actor.SetLayerNumber(2)
        renderer.AddViewProp(self._actor)

    def show(self, pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        image = vtk.vtkImageData()
        image.SetDimensions(width, height, 1)
        # VTK counts rows from the bottom.
        flat = np.ascontiguousarray(pixels[::-1]).reshape(-1, 3)
        image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
        self._mapper.SetInputData(image)
        self._actor.SetVisibility(True)

    def place(self, x: int, y: int) -> None:
        self._actor.SetPosition(x, y)

    def hide(self) -> None:
        self._actor.SetVisibility(False)


class _Compass:
    """The letters at the edges of the view that say which way the patient lies (R L A P S I)."""

    _NAMES = (("R", "L"), ("A", "P"), ("I", "S"))  # toward -, + of LPS x, y, z

    def __init__(self, renderer: pv.Renderer) -> None:
        self._renderer = renderer
        places = ((0.02, 0.5, 0, 1), (0.98, 0.5, 2, 1), (0.5, 0.02, 1, 0))
        self._letters = []
        for x, y, across, along in places:
            letter = vtk.vtkTextActor()
            letter.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
            letter.GetPositionCoordinate().SetValue(x, y)
            _style(letter.GetTextProperty(), colors.MUTED)
            letter.GetTextProperty().SetJustification(across)
            letter.GetTextProperty().SetVerticalJustification(along)
            renderer.AddViewProp(letter)
            self._letters.append(letter)
        renderer.AddObserver("StartEvent", lambda *_: self.turn())

    def resize(self, scale: float) -> None:
        for letter in self._letters:
            letter.GetTextProperty().SetFontSize(round(18 * scale))

    def turn(self) -> None:
        """Name the directions of the present view."""
        view = self._renderer.GetActiveCamera().GetViewTransformMatrix()
        right = np.array([view.GetElement(0, i) for i in range(3)])
        up = np.array([view.GetElement(1, i) for i in range(3)])
        for letter, direction in zip(self._letters, (-right, right, -up), strict=True):
            name = self._name(direction)
            if letter.GetInput() != name:
                letter.SetInput(name)

    def _name(self, direction: NDArray[np.float64]) -> str:
        axis = int(np.argmax(np.abs(direction)))
        return self._NAMES[axis][int(direction[axis] > 0.0)]


def _style(text: vtk.vtkTextProperty, color: str) -> None:
    text.SetFontFamily(vtk.VTK_FONT_FILE)
    text.SetFontFile(font_file(bold=True))
    text.SetColor(*(channel / 255.0 for channel in colors.rgb(color)))


def _label(name: str, position: ArrayLike) -> vtk.vtkTextActor:
    """A port's name that stays upright and in front."""
    label = vtk.vtkTextActor()
    label.SetInput(name.replace("_", " "))
    label.GetPositionCoordinate().SetCoordinateSystemToWorld()
    label.GetPositionCoordinate().SetValue(*np.asarray(position, dtype=np.float64))
    style = label.GetTextProperty()
    _style(style, colors.TEXT)
    style.SetJustificationToCentered()
    style.SetVerticalJustificationToCentered()
    style.SetBackgroundColor(*(channel / 255.0 for channel in colors.rgb(colors.BACKGROUND)))
    style.SetBackgroundOpacity(0.6)
    return label


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
