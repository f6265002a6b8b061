"""The view from the tip along the vessel, as an endoscope there would see it, with the wall's colors."""

from __future__ import annotations

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import ArrayLike, NDArray

from viewer import colors
from viewer.actors import LumenActors

VIEW_ANGLE = 90.0


class EndoluminalView:
    """A renderer that looks from the tip along the vessel.

    Args:
        window: to draw in.
        lumen: whose wall, colored as in the 3D view, is seen from inside.
        way: (n, 3) mm LPS along the vessel, at which rings every 5 mm show the depth; none where None.
        radius: (n,) mm of the vessel there.
    """

    def __init__(
        self,
        window: vtk.vtkRenderWindow,
        lumen: LumenActors,
        way: ArrayLike | None = None,
        radius: ArrayLike | None = None,
    ) -> None:
        self.renderer = vtk.vtkRenderer()
        self.renderer.SetBackground(*colors.unit_rgb(colors.BACKGROUND))
        self.renderer.AutomaticLightCreationOff()
        light = vtk.vtkLight()
        light.SetLightTypeToHeadlight()
        self.renderer.AddLight(light)
        self.renderer.SetInteractive(False)
        wall = vtk.vtkActor()
        wall.SetMapper(lumen.actors[0].GetMapper())
        wall.GetProperty().DeepCopy(lumen.actors[0].GetProperty())
        wall.GetProperty().SetFrontfaceCulling(False)
        wall.GetProperty().SetOpacity(1.0)
        # Walls are seen at a grazing angle here: more of their own color, or the map would look dark.
        wall.GetProperty().SetAmbient(0.6)
        wall.GetProperty().SetDiffuse(0.6)
        self._wall, self._lumen = wall, lumen
        self.renderer.AddActor(wall)
        if way is not None and radius is not None and len(np.asarray(way)) > 3:
            self.renderer.AddActor(_rings(np.asarray(way, dtype=float), np.asarray(radius, dtype=float)))
        self._line = vtk.vtkPolyData()
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(self._line)
        mapper.ScalarVisibilityOff()
        course = vtk.vtkActor()
        course.SetMapper(mapper)
        course.GetProperty().SetColor(*colors.unit_rgb(colors.COURSE))
        course.GetProperty().SetLineWidth(3.0)
        course.GetProperty().LightingOff()
        self.renderer.AddActor(course)
        self.renderer.SetDraw(False)
        window.AddRenderer(self.renderer)
        self._up = np.array([0.0, 0.0, 1.0])

    def place(self, viewport: tuple[float, float, float, float] | None) -> None:
        """Show it in a part of the window (x0, y0, x1, y1, shares of it), or not at all."""
        self.renderer.SetDraw(viewport is not None)
        if viewport is not None:
            self.renderer.SetViewport(*viewport)

    def look(self, tip: ArrayLike, course: NDArray[np.float64]) -> None:
        """Look from the tip (3,) along the vessel's middle (n, 3) before it, mm LPS."""
        self._wall.SetTexture(self._lumen.actors[0].GetTexture())
        eye = np.asarray(tip, dtype=float)
        ahead = course[np.linalg.norm(course - eye, axis=1) > 6.0] if len(course) else course
        toward = (ahead[0] if len(ahead) else eye + [0.0, 0.0, -1.0]) - eye
        toward /= np.linalg.norm(toward)
        # Up is carried along the way, so that the picture does not flip where the vessel turns over.
        up = self._up - (self._up @ toward) * toward
        if np.linalg.norm(up) < 0.1:
            up = np.array([0.0, -1.0, 0.0]) - (np.array([0.0, -1.0, 0.0]) @ toward) * toward
        self._up = up / np.linalg.norm(up)
        camera = self.renderer.GetActiveCamera()
        camera.SetViewAngle(VIEW_ANGLE)
        camera.SetPosition(*eye)
        camera.SetFocalPoint(*(eye + toward))
        camera.SetViewUp(*self._up)
        camera.SetClippingRange(0.2, 300.0)
        # The first millimetres of the course would fill the picture.
        near = course[np.linalg.norm(course - eye, axis=1) > 3.0] if len(course) else course
        self._line.ShallowCopy(pv.lines_from_points(near) if len(near) > 1 else pv.PolyData())


def _rings(way: NDArray[np.float64], radius: NDArray[np.float64]) -> vtk.vtkActor:
    """Circles across the vessel every 5 mm of the way, a little inside its wall."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    tangents = np.gradient(way, along, axis=0)
    rings = pv.MultiBlock()
    for at in np.arange(5.0, along[-1], 5.0):
        center, normal = (np.array([np.interp(at, along, data[:, i]) for i in range(3)]) for data in (way, tangents))
        inner = 0.92 * float(np.interp(at, along, radius))
        rings.append(pv.Polygon(center=center, radius=inner, normal=normal, n_sides=48, fill=False))
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputData(rings.combine().extract_surface(algorithm=None) if len(rings) else pv.PolyData())
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(1.0, 1.0, 1.0)
    actor.GetProperty().SetOpacity(0.45)
    actor.GetProperty().SetLineWidth(1.5)
    actor.GetProperty().SetRepresentationToWireframe()
    actor.GetProperty().LightingOff()
    return actor
