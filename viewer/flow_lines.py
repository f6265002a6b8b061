"""Streamlines of the velocity inside the lumen, colored by speed."""

from __future__ import annotations

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from viewer.errors import InputError
from viewer.quantities import VELOCITY


class FlowLines:
    """Lines that follow the velocity at one moment, from seeds spread evenly through the lumen.

    Args:
        grid: tetrahedra in mm LPS.
        seeds: how many lines.
    """

    def __init__(self, grid: pv.UnstructuredGrid, *, seeds: int = 160) -> None:
        if grid.n_cells == 0:
            raise InputError("the mesh for streamlines holds no cells; plan the case again.")
        self._grid = pv.UnstructuredGrid(grid)
        self._grid.clear_data()
        self._velocity = np.zeros((grid.n_points, 3), dtype=np.float32)
        self._array = numpy_to_vtk(self._velocity)
        self._array.SetName("velocity")
        self._grid.GetPointData().SetVectors(self._array)
        source = pv.PolyData(_spread(_inner_points(grid), seeds))
        self._tracer = vtk.vtkStreamTracer()
        self._tracer.SetInputData(self._grid)
        self._tracer.SetSourceData(source)
        self._tracer.SetIntegratorTypeToRungeKutta45()
        self._tracer.SetIntegrationDirectionToBoth()
        self._tracer.SetComputeVorticity(False)
        self._tracer.SetMaximumPropagation(0.35 * float(grid.length))
        self._tracer.SetMaximumNumberOfSteps(400)
        self._shape = vtk.vtkPolyData()
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(self._shape)
        table = vtk.vtkLookupTable()
        table.SetTable(numpy_to_vtk(VELOCITY.table(), deep=True))
        mapper.SetLookupTable(table)
        mapper.SetScalarRange(*VELOCITY.limits)
        mapper.SetScalarModeToUsePointFieldData()
        mapper.SelectColorArray("speed")
        self.actor = vtk.vtkActor()
        self.actor.SetMapper(mapper)
        self.actor.GetProperty().SetLineWidth(2.2)
        self.actor.GetProperty().LightingOff()
        self.actor.SetVisibility(False)

    def scale(self, limits: tuple[float, float]) -> None:
        """Set the ends of the color scale, m/s."""
        self.actor.GetMapper().SetScalarRange(*limits)

    def show(self, velocity: NDArray[np.float32] | None) -> None:
        """Draw the lines of a velocity (points, 3) in m/s; None hides them."""
        self.actor.SetVisibility(velocity is not None)
        if velocity is None:
            return
        if velocity.shape != self._velocity.shape or not np.isfinite(velocity).all():
            raise InputError(
                f"a velocity to draw must hold {self._velocity.shape} finite values; it has {velocity.shape}."
            )
        np.copyto(self._velocity, velocity)
        self._array.Modified()
        self._grid.Modified()
        self._tracer.Update()
        lines = self._tracer.GetOutput()
        vectors = lines.GetPointData().GetArray("velocity")
        if vectors is not None and lines.GetNumberOfPoints():
            speed = np.linalg.norm(pv.convert_array(vectors), axis=1).astype(np.float32)
            array = numpy_to_vtk(speed, deep=True)
            array.SetName("speed")
            lines.GetPointData().AddArray(array)
        self._shape.ShallowCopy(lines)

    @property
    def lines(self) -> pv.PolyData:
        """As last drawn."""
        return pv.wrap(self._shape)


def _inner_points(grid: pv.UnstructuredGrid) -> NDArray[np.float64]:
    """Centers of the cells that have no corner on the wall, where blood stands still; of all cells if none is so."""
    cells = np.asarray(grid.cells).reshape(-1, 5)[:, 1:]
    wall = np.zeros(grid.n_points, dtype=bool)
    wall[np.asarray(grid.extract_surface(algorithm=None).point_data["vtkOriginalPointIds"])] = True
    inner = ~wall[cells].any(axis=1)
    chosen = cells[inner] if inner.sum() >= 50 else cells
    return np.asarray(np.asarray(grid.points, dtype=float)[chosen].mean(axis=1))


def _spread(points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`count` of the points, each the farthest from those before it, so that no vessel is left out."""
    rng = np.random.default_rng(0)
    some = points[rng.permutation(len(points))[: max(4000, count)]]
    picked = [0]
    distance = np.linalg.norm(some - some[0], axis=1)
    for _ in range(min(count, len(some)) - 1):
        picked.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(some - some[picked[-1]], axis=1))
    return some[picked]
