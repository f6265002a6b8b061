"""The 3D view: the lumen in its colors, the tool, streamlines, what surrounds the vessel, and from where it is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import ArrayLike, NDArray

from viewer import colors
from viewer.actors import LumenActors, ToolActors, outline_actor, target_actor, typical_radius
from viewer.catheter import CatheterPath
from viewer.flat import Compass, port_label
from viewer.flow_lines import FlowLines
from viewer.landmark_marks import LandmarkMarks
from viewer.layout import Pane
from viewer.particles import Particles
from viewer.quantities import PRESSURE, VELOCITY, Field, Quantity

if TYPE_CHECKING:
    from streams.messages import TwinState

_VIEW_ANGLE = 24.0

LINES_INTERVAL_S = 0.5
"""Streamlines are traced anew at most this often."""


class VesselView:
    """The plotter's own renderer and everything in it. Positions mm LPS.

    Args:
        plotter: of the window.
        lumen: display surface with its pressure modes.
        limits: of the pressure's color scale, mmHg.
        anatomy: bone or skin to show as a see-through shell.
        centerline: along which the catheter's shaft is drawn.
        ports: name and position of each inlet and outlet, to label them.
        grid: tetrahedra for streamlines; None where there are none.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        plotter: pv.Plotter,
        lumen: pv.PolyData,
        limits: tuple[float, float],
        *,
        anatomy: pv.PolyData | None,
        centerline: pv.PolyData | None,
        ports: Mapping[str, Sequence[float]],
        grid: pv.UnstructuredGrid | None,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._radius = typical_radius(lumen, centerline)
        self.lumen = LumenActors(lumen, limits)
        path = None if centerline is None else CatheterPath(centerline)
        self.tool = ToolActors(path, radius=float(np.clip(0.28 * self._radius, 0.4, 2.5)))
        self._renderer = plotter.renderer
        plotter.set_background(colors.BACKGROUND)
        # One lamp at the eye: a wall that faces the viewer has exactly the color of the scale.
        plotter.add_light(pv.Light(light_type="headlight", intensity=1.0))
        self._lines = None if grid is None else FlowLines(grid)
        self._particles = None if grid is None else Particles(grid)
        self.as_particles = False
        self._lines_at = -np.inf
        inside = tuple(flow.actor for flow in (self._lines, self._particles) if flow is not None)
        # See-through things are blended in this order, from the inside out. (Depth peeling would order them
        # itself, but it draws none of them together with multisampling on Mesa's software renderer.)
        for actor in (*self.tool.actors, *inside, *self.lumen.actors):
            self._renderer.AddActor(actor)
        self._anatomy = None
        if anatomy is not None and anatomy.n_points:
            self._anatomy = outline_actor(anatomy, colors.ANATOMY, 0.16)
            self._renderer.AddActor(self._anatomy)
        self._labels: list[vtk.vtkTextActor] = []
        self.name_ports(ports)
        self.marks = LandmarkMarks(self._renderer, float(np.clip(0.3 * self._radius, 0.8, 2.5)))
        self._compass = Compass(self._renderer)
        plotter.enable_anti_aliasing("msaa", multi_samples=4)

    def pick(self, x: float, y: float) -> NDArray[np.float64] | None:
        """The point (3,) mm LPS of the surface seen at a pixel, counted from the window's lower left corner."""
        picker = vtk.vtkCellPicker()
        picker.SetTolerance(0.0005)
        picker.PickFromListOn()
        for actor in self.lumen.actors[1:] if self._anatomy is None else (self.lumen.actors[1], self._anatomy):
            picker.AddPickList(actor)
        return np.array(picker.GetPickPosition()) if picker.Pick(x, y, 0.0, self._renderer) else None

    def mark_target(self, point: ArrayLike) -> None:
        """Three rings around a point."""
        self._renderer.AddActor(target_actor(np.asarray(point, dtype=float), 1.3 * self._radius))

    def name_ports(self, places: Mapping[str, ArrayLike]) -> None:
        """Label these ports, (3,) mm LPS by name, and no others."""
        for label in self._labels:
            self._renderer.RemoveViewProp(label)
        self._labels = [port_label(name, self._label_point(position)) for name, position in places.items()]
        for label in self._labels:
            self._renderer.AddViewProp(label)

    def show_anatomy(self, shown: bool) -> None:
        """Show or hide bone and skin."""
        if self._anatomy is not None:
            self._anatomy.SetVisibility(shown)

    def trace_anew(self) -> None:
        """Trace the streamlines with the next state, however new they are."""
        self._lines_at = -np.inf

    def paint(self, state: TwinState | None, quantity: Quantity, field: Field) -> None:
        """Color wall and streamlines by a quantity, or hatch the wall where there is no state to be trusted.

        Args:
            state: None where it is not to be trusted.
            quantity: to color by.
            field: its values at a state's time.
        """
        if state is None or not state.field_coefficients:
            self.lumen.paint(None, quantity)
        elif quantity.key == PRESSURE.key:
            self.lumen.show(state.field_coefficients)
        elif quantity.key == VELOCITY.key and self._lines is not None and self._particles is not None:
            self._show_flow(state, quantity, field)
            return
        else:
            self.lumen.paint(field(state), quantity)
        for flow in (self._lines, self._particles):
            if flow is not None:
                flow.show(None)

    def _show_flow(self, state: TwinState, quantity: Quantity, field: Field) -> None:
        """Streamlines of this moment, or particles carried on to it, in a see-through wall."""
        assert self._lines is not None
        assert self._particles is not None
        self.lumen.fade()
        shown, hidden = (self._particles, self._lines) if self.as_particles else (self._lines, self._particles)
        hidden.show(None)
        shown.scale(quantity.limits)
        if self.as_particles:
            self._particles.show(field(state), state.model_time_ns * 1e-9)
            return
        now = self._clock()
        if now - self._lines_at >= LINES_INTERVAL_S:
            self._lines_at = now
            self._lines.show(field(state))

    def place(self, share: tuple[float, float, float, float]) -> None:
        """Draw into a part of the window: left, lower, right, upper end, 0 to 1."""
        self._renderer.SetViewport(*share)

    def resize(self, scale: float, label_size: float, *, small: bool = False) -> None:
        """Set the sizes of type; a scale of 1 for a window of 720 pixels. A small view has no compass."""
        for label in self._labels:
            label.GetTextProperty().SetFontSize(round(label_size * scale))
        self.marks.resize(round(0.85 * label_size * scale))
        self._compass.resize(scale, shown=not small)

    def look_at_all(self, pane: Pane) -> None:
        """Look at the whole lumen along its thinnest direction, from the front of the patient, head up."""
        points = np.asarray(self.lumen.mesh.points, dtype=np.float64)
        center = 0.5 * (points.min(axis=0) + points.max(axis=0))
        toward = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][2]
        if toward[1] > 0.0 or (toward[1] == 0.0 and toward.sum() < 0.0):
            toward = -toward  # LPS: the patient's front is -y
        up = np.array([0.0, 0.0, 1.0]) if abs(toward[2]) < 0.9 else np.array([0.0, -1.0, 0.0])
        right = np.cross(up, toward)
        right /= np.linalg.norm(right)
        up = np.cross(toward, right)
        # Half the view, in tangents, that the lumen may fill: the rest is for labels and the banner.
        half = np.tan(np.radians(0.5 * _VIEW_ANGLE))
        half_x, half_y = 0.86 * half * pane.width / pane.height, 0.76 * half
        x, y, z = np.column_stack((right, up, toward)).T @ (points - center).T
        distance = float(np.max(z + np.maximum(np.abs(x) / half_x, np.abs(y) / half_y)))
        target = center + 0.06 * half * distance * up
        camera = self._renderer.GetActiveCamera()
        camera.SetViewAngle(_VIEW_ANGLE)
        camera.SetFocalPoint(*target)
        camera.SetPosition(*(target + distance * toward))
        camera.SetViewUp(*up)
        self._renderer.ResetCameraClippingRange()
        self._renderer.camera_set = True  # or PyVista would reset it at the first picture

    def _label_point(self, position: ArrayLike) -> NDArray[np.float64]:
        """A little outside the port, away from the lumen's middle."""
        point = np.asarray(position, dtype=np.float64)
        outward = point - np.asarray(self.lumen.mesh.center)
        length = float(np.linalg.norm(outward))
        return point + outward / length * 0.1 * length if length > 0.0 else point
