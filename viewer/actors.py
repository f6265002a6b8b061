"""The things in the picture: the lumen with its pressure, the catheter with the uncertainty of its tip.

Shared by the scene, which looks at them from anywhere, and by the overlay, which looks through a real camera.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

from viewer import colors
from viewer.alerts import doubts
from viewer.catheter import CatheterPath
from viewer.errors import InputError
from viewer.quantities import PRESSURE, Quantity
from viewer.readout import CHI2_3_95

if TYPE_CHECKING:
    from streams.messages import TwinState

MODE_PREFIX = "pressure_mode_"
"""Point arrays of the display surface: wall pressure [mmHg] = sum over k of coefficient k times array k."""


def pressure_modes(surface: pv.PolyData) -> NDArray[np.float32]:
    """The surface's pressure modes as one array (points, modes); no modes give (points, 0).

    Raises:
        InputError: modes that are not numbered without gaps from 0.
    """
    names = [name for name in surface.point_data if name.startswith(MODE_PREFIX)]
    wanted = [f"{MODE_PREFIX}{k}" for k in range(len(names))]
    if set(names) != set(wanted):
        raise InputError(
            f"the display surface holds the pressure modes {', '.join(sorted(names))}; they must be numbered "
            f"{MODE_PREFIX}0 to {MODE_PREFIX}{len(names) - 1} without gaps: write the case's surface again."
        )
    if not names:
        return np.zeros((surface.n_points, 0), dtype=np.float32)
    return np.ascontiguousarray(
        np.column_stack([np.asarray(surface.point_data[name], dtype=np.float32) for name in wanted])
    )


def ellipsoid_axes(covariance: ArrayLike) -> NDArray[np.float64]:
    """The 3x3 matrix A for which A u, |u| = 1, is the surface of the 95 % ellipsoid of a 3x3 covariance
    (mm)."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64).reshape(3, 3))
    return np.asarray(vectors * np.sqrt(CHI2_3_95 * np.clip(values, 0.0, None)))


class LumenActors:
    """The lumen's wall, colored by pressure or hatched grey when it is not to be trusted.

    The half of the wall behind the tool is opaque, the half before it see-through, so that a catheter inside
    is seen and the color stays that of the scale.
    """

    def __init__(self, surface: pv.PolyData, limits: tuple[float, float], *, front_opacity: float = 0.25) -> None:
        if surface.n_points == 0 or surface.n_cells == 0:
            raise InputError("the lumen surface is empty; write the case's display surface again.")
        self.modes = pressure_modes(surface)
        mesh = surface.extract_surface(algorithm=None) if not surface.is_all_triangles else surface
        mesh = pv.PolyData(mesh.points.astype(np.float32), mesh.faces)
        mesh.compute_normals(cell_normals=False, split_vertices=False, auto_orient_normals=True, inplace=True)
        if mesh.n_points != surface.n_points:
            raise InputError("the lumen surface holds points that no triangle uses; write it again.")
        # Normals as the triangles wind may all point inward: moving the wall must not turn them over.
        plain = mesh.compute_normals(cell_normals=False, split_vertices=False, auto_orient_normals=False)
        agree = (plain.point_data.active_normals * mesh.point_data.active_normals).sum(axis=1)
        self._outward = np.float32(1.0 if np.median(agree) >= 0.0 else -1.0)
        # The hatch runs along a diagonal of the body, four stripes per typical vessel diameter.
        size = float(np.linalg.norm(np.ptp(mesh.points, axis=0)))
        along = mesh.points @ np.array([0.6, 0.3, 0.74]) / max(size / 45.0, 1e-6)
        mesh.active_texture_coordinates = np.column_stack([along, np.zeros_like(along)]).astype(np.float32)
        self._mesh = mesh
        self._values = np.zeros(mesh.n_points, dtype=np.float32)
        self._scalars = numpy_to_vtk(self._values)
        self._scalars.SetName("pressure")
        mesh.GetPointData().SetScalars(self._scalars)
        self._hatch = _hatch_texture()
        self._pressure = PRESSURE.within(limits)
        self._quantity = self._pressure
        self._opacities = (1.0, front_opacity)
        self.actors = (self._actor(back=True, opacity=1.0), self._actor(back=False, opacity=front_opacity))
        self.show(None)

    @property
    def values(self) -> NDArray[np.float32]:
        """What the wall is colored by (points,), in its quantity's unit, as last shown."""
        return self._values

    @property
    def quantity(self) -> Quantity:
        """What the wall is colored by."""
        return self._quantity

    @property
    def mesh(self) -> pv.PolyData:
        """The surface being shown, mm LPS."""
        return self._mesh

    def move(self, points: NDArray[np.float32]) -> None:
        """Put the wall's points (n, 3) elsewhere, mm LPS; its triangles and colors stay."""
        self._mesh.points[:] = points
        normals = self._mesh.compute_normals(cell_normals=False, split_vertices=False, auto_orient_normals=False)
        self._mesh.point_data.active_normals[:] = self._outward * normals.point_data.active_normals
        self._mesh.GetPoints().Modified()
        self._mesh.GetPointData().GetNormals().Modified()

    def show(self, coefficients: ArrayLike | None) -> None:
        """Color the wall by ``modes @ coefficients`` [mmHg]; None shows it hatched grey.

        Raises:
            InputError: another number of coefficients than the surface has modes.
        """
        trusted = coefficients is not None
        if coefficients is not None:
            weights = np.asarray(coefficients, dtype=np.float32)
            if weights.shape != (self.modes.shape[1],):
                raise InputError(
                    f"the state holds {weights.size} field coefficients but the display surface has "
                    f"{self.modes.shape[1]} pressure modes; they are not of the same case."
                )
            self._take_quantity(self._pressure)
            np.matmul(self.modes, weights, out=self._values)
            self._scalars.Modified()
        self._set_hatched(not trusted)

    def paint(self, values: ArrayLike | None, quantity: Quantity) -> None:
        """Color the wall by any quantity; None, or values that are not finite, show it hatched grey.

        Raises:
            InputError: another number of values than the surface has points.
        """
        if values is None:
            self._take_quantity(quantity)
            self._set_hatched(True)
            return
        given = np.asarray(values, dtype=np.float32)
        if given.shape != self._values.shape:
            raise InputError(
                f"{given.size} values to color the lumen by, which has {self._values.size} points; "
                "they are not of the same case."
            )
        finite = bool(np.isfinite(given).all())
        if finite:
            self._take_quantity(quantity)
            np.copyto(self._values, given)
            self._scalars.Modified()
        self._set_hatched(not finite)

    def fade(self) -> None:
        """A see-through wall without a color, for what flows inside."""
        self._set_hatched(False)
        for actor in self.actors:
            actor.GetMapper().ScalarVisibilityOff()
            actor.GetProperty().SetOpacity(0.10)

    def _take_quantity(self, quantity: Quantity) -> None:
        if quantity == self._quantity:
            return
        self._quantity = quantity
        for actor in self.actors:
            mapper = actor.GetMapper()
            mapper.GetLookupTable().SetTable(numpy_to_vtk(quantity.table(), deep=True))
            mapper.SetScalarRange(*quantity.limits)

    def _set_hatched(self, hatched: bool) -> None:
        for actor, opacity in zip(self.actors, self._opacities, strict=True):
            actor.GetMapper().SetScalarVisibility(not hatched)
            actor.SetTexture(self._hatch if hatched else None)
            actor.GetProperty().SetOpacity(opacity)

    def _actor(self, *, back: bool, opacity: float) -> vtk.vtkActor:
        table = vtk.vtkLookupTable()
        table.SetTable(numpy_to_vtk(self._quantity.table(), deep=True))
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(self._mesh)
        mapper.SetLookupTable(table)
        mapper.SetScalarRange(*self._quantity.limits)
        mapper.SetInterpolateScalarsBeforeMapping(True)
        actor = vtk.vtkActor()
        actor.SetMapper(mapper)
        look = actor.GetProperty()
        look.SetFrontfaceCulling(back)
        look.SetBackfaceCulling(not back)
        look.SetOpacity(opacity)
        look.SetColor(1.0, 1.0, 1.0)
        look.SetAmbient(0.4)
        look.SetDiffuse(0.6)
        look.SetSpecular(0.0 if back else 0.25)
        look.SetSpecularPower(30.0)
        return actor


def _hatch_texture() -> vtk.vtkTexture:
    """Repeating stripes of two greys, with soft edges."""
    across = np.arange(64) / 64.0
    edge = np.clip((np.abs(across - 0.5) - 0.25) * 16.0 + 0.5, 0.0, 1.0)
    grey = np.array(colors.rgb(colors.UNTRUSTED), dtype=np.float64)
    stripe = grey * (0.42 + 0.58 * edge[:, None])
    image = pv.ImageData(dimensions=(64, 4, 1))
    image.point_data["stripe"] = np.tile(stripe, (4, 1)).astype(np.uint8)
    texture = vtk.vtkTexture()
    texture.SetInputData(image)
    texture.RepeatOn()
    texture.InterpolateOn()
    texture.MipmapOn()
    return texture


class ToolActors:
    """The catheter: its tip, the 95 % ellipsoid of where the tip may be, and a shaft drawn along the vessel.

    The twin knows the tip only. The shaft is a guide for the eye: it follows the centerline from the access
    port to the tip and is left out when the tip is not inside the vessel.
    """

    def __init__(self, path: CatheterPath | None, *, radius: float) -> None:
        self._path = path
        self._tube = vtk.vtkTubeFilter()
        self._tube.SetRadius(0.5 * radius)
        self._tube.SetNumberOfSides(12)
        self._tube.CappingOn()
        self.shaft = _plain_actor(self._tube.GetOutputPort(), colors.TOOL)
        tip = vtk.vtkSphereSource()
        tip.SetRadius(radius)
        tip.SetThetaResolution(24)
        tip.SetPhiResolution(16)
        self.tip = _plain_actor(tip.GetOutputPort(), colors.TIP)
        ball = vtk.vtkSphereSource()
        ball.SetRadius(1.0)
        ball.SetThetaResolution(40)
        ball.SetPhiResolution(24)
        self.ellipsoid = _plain_actor(ball.GetOutputPort(), colors.TIP)
        self.ellipsoid.GetProperty().SetOpacity(0.4)
        for actor in (self.tip, self.ellipsoid):
            actor.GetProperty().SetAmbient(0.85)
            actor.GetProperty().SetDiffuse(0.15)
        self._pose = vtk.vtkMatrix4x4()
        self.ellipsoid.SetUserMatrix(self._pose)
        self._trail_line, self.trail = _line_actor(colors.TRAIL, 2.5)
        self._course_line, self.course = _line_actor(colors.COURSE, 3.0)
        self.actors = (self.shaft, self.tip, self.ellipsoid, self.trail, self.course)
        self.show(None)

    def show(self, state: TwinState | None) -> None:
        """Move the tool to the state's tip; hide it when the tip is not tracked or comes without a
        covariance."""
        if state is None or state.tip is None or state.tip_covariance is None or not state.tip_valid:
            for actor in self.actors:
                actor.SetVisibility(False)
            return
        # A tip that the state itself doubts is drawn without its color.
        color = colors.unit_rgb(colors.UNTRUSTED if doubts(state.flags) else colors.TIP)
        for actor in (self.tip, self.ellipsoid):
            actor.GetProperty().SetColor(*color)
        point = np.array(state.tip, dtype=np.float64)
        axes = ellipsoid_axes(state.tip_covariance)
        if not (np.isfinite(point).all() and np.isfinite(axes).all()):
            raise InputError("the state's tip or its covariance is not finite; a tip that is not known must be None.")
        self.tip.SetPosition(*point)
        self.tip.SetVisibility(True)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = axes, point
        self._pose.DeepCopy(pose.ravel())
        self.ellipsoid.SetVisibility(True)
        for actor in (self.trail, self.course):
            actor.SetVisibility(True)
        line = None if self._path is None else self._path.to(point)
        self.shaft.SetVisibility(line is not None)
        if line is not None:
            self._tube.SetInputData(pv.lines_from_points(line))

    def show_lines(self, trail: ArrayLike, course: ArrayLike) -> None:
        """Draw where the tip was (n, 3) and the vessel's middle before it (m, 3), mm LPS; NaN rows are gaps."""
        for line, points in ((self._trail_line, trail), (self._course_line, course)):
            _set_line(line, np.asarray(points, dtype=np.float64).reshape(-1, 3))


def _line_actor(color: str, width: float) -> tuple[vtk.vtkPolyData, vtk.vtkActor]:
    line = vtk.vtkPolyData()
    actor = _one_color(color, data=line)
    actor.GetProperty().SetLineWidth(width)
    actor.GetProperty().LightingOff()
    return line, actor


def _set_line(line: vtk.vtkPolyData, points: NDArray[np.float64]) -> None:
    good = np.isfinite(points).all(axis=1)
    joined = np.flatnonzero(good[:-1] & good[1:]) if len(points) > 1 else np.zeros(0, dtype=int)
    # Twice with every state: through VTK itself, without what PyVista's constructor makes sure of.
    line.Initialize()
    if not len(joined):
        return
    place = vtk.vtkPoints()
    place.SetData(numpy_to_vtk(np.ascontiguousarray(np.nan_to_num(points)), deep=True))
    cells = vtk.vtkCellArray()
    ends = np.column_stack([joined, joined + 1]).ravel().astype(np.int64)
    cells.SetData(2, numpy_to_vtkIdTypeArray(ends, deep=True))
    line.SetPoints(place)
    line.SetLines(cells)


def _one_color(
    color: str, *, data: vtk.vtkPolyData | None = None, port: vtk.vtkAlgorithmOutput | None = None
) -> vtk.vtkActor:
    """An actor in one color, of data or of what comes out of a filter's port."""
    mapper = vtk.vtkPolyDataMapper()
    if data is not None:
        mapper.SetInputData(data)
    if port is not None:
        mapper.SetInputConnection(port)
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*colors.unit_rgb(color))
    return actor


def _plain_actor(port: vtk.vtkAlgorithmOutput, color: str) -> vtk.vtkActor:
    actor = _one_color(color, port=port)
    look = actor.GetProperty()
    look.SetAmbient(0.55)
    look.SetDiffuse(0.45)
    look.SetSpecular(0.2)
    return actor


def outline_actor(mesh: pv.PolyData, color: str, opacity: float) -> vtk.vtkActor:
    """A see-through shell for bone or skin around the lumen, brightest where it is seen edge-on."""
    shell = pv.PolyData(mesh.points, mesh.faces).compute_normals(cell_normals=False, split_vertices=False)
    actor = _one_color(color, data=shell)
    look = actor.GetProperty()
    look.SetOpacity(opacity)
    look.SetAmbient(0.2)
    look.SetDiffuse(0.8)
    look.SetBackfaceCulling(True)
    return actor


def target_actor(target: ArrayLike, radius: float) -> vtk.vtkActor:
    """Three rings around the target, seen from every side."""
    rings = [pv.Polygon(center=target, radius=radius, normal=n, n_sides=64, fill=False) for n in np.eye(3)]
    actor = _one_color(colors.TARGET, data=rings[0].append_polydata(*rings[1:]))
    look = actor.GetProperty()
    look.SetRepresentationToWireframe()
    look.SetLineWidth(1.6)
    look.LightingOff()
    return actor


def typical_radius(lumen: pv.PolyData, centerline: pv.PolyData | None) -> float:
    """A vessel radius in mm to size the tool by: the median of the centerline's, or volume over area."""
    if centerline is not None and "Radius" in centerline.point_data and centerline.n_points:
        radius = float(np.median(np.asarray(centerline.point_data["Radius"])))
    else:
        radius = 2.0 * abs(float(lumen.volume)) / max(float(lumen.area), 1e-9)
    return radius if math.isfinite(radius) and radius > 0.0 else 3.0
