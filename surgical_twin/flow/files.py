"""A 3D run as files that other programs open: a VTKHDF time series (ParaView), the wall as VTP, tables as CSV."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyvista as pv
from numpy.typing import NDArray
from vtkmodules.util.vtkAlgorithm import VTKPythonAlgorithmBase
from vtkmodules.vtkCommonDataModel import vtkDataObject, vtkUnstructuredGrid
from vtkmodules.vtkCommonExecutionModel import vtkStreamingDemandDrivenPipeline
from vtkmodules.vtkIOHDF import vtkHDFWriter

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import WALL_TAG, FlowDomain
from surgical_twin.flow.wall_shear import ShearMeans

Array = NDArray[np.float64]

MM_PER_METRE = 1e3


class _Series(VTKPythonAlgorithmBase):
    """VTK's form of a time series: it is asked for one time after another."""

    def __init__(self, grid: pv.UnstructuredGrid, times: Array, fields: Callable[[int], Mapping[str, Array]]) -> None:
        super().__init__(nInputPorts=0, nOutputPorts=1, outputType="vtkUnstructuredGrid")
        self._grid, self._times, self._fields = grid, [float(time) for time in times], fields

    def RequestInformation(self, request, inputs, outputs):  # type: ignore[no-untyped-def]  # noqa: N802
        """Say which times there are."""
        information = outputs.GetInformationObject(0)
        information.Set(vtkStreamingDemandDrivenPipeline.TIME_STEPS(), self._times, len(self._times))
        information.Set(vtkStreamingDemandDrivenPipeline.TIME_RANGE(), [self._times[0], self._times[-1]], 2)
        return 1

    def RequestData(self, request, inputs, outputs):  # type: ignore[no-untyped-def]  # noqa: N802
        """Give the fields of one time."""
        information = outputs.GetInformationObject(0)
        key = vtkStreamingDemandDrivenPipeline.UPDATE_TIME_STEP()
        time = information.Get(key) if information.Has(key) else self._times[0]
        place = int(np.argmin(np.abs(np.array(self._times) - time)))
        grid = self._grid.copy(deep=False)
        for name, values in self._fields(place).items():
            grid.point_data[name] = values
        output = vtkUnstructuredGrid.GetData(outputs, 0)
        output.ShallowCopy(grid)
        output.GetInformation().Set(vtkDataObject.DATA_TIME_STEP(), self._times[place])
        return 1


def write_series(path: Path, domain: FlowDomain, times: Array, fields: Callable[[int], Mapping[str, Array]]) -> None:
    """Write a time series of nodal fields as one VTKHDF file, under a temporary name and renamed; positions in mm.

    Args:
        path: where to.
        domain: the mesh.
        times: (t,) s.
        fields: gives the fields of a time by its place in ``times``.

    Raises:
        InputError: it cannot be written, as on a full disk; nothing is left half-written.
    """
    cells = np.hstack([np.full((len(domain.tetrahedra), 1), 4), domain.tetrahedra]).ravel()
    kinds = np.full(len(domain.tetrahedra), 10, dtype=np.uint8)
    grid = pv.UnstructuredGrid(cells, kinds, domain.points * MM_PER_METRE)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    # HDF5 writes what it holds back when it closes the file, and VTK does not tell that it failed.
    sample = fields(0).values()
    mesh = grid.points.nbytes + cells.nbytes + 9 * len(kinds)
    _require_room(path, mesh + len(times) * sum(np.asarray(values).nbytes for values in sample))
    series = _Series(grid, times, fields)  # VTK holds no reference to it: it has to live until all is written
    writer = vtkHDFWriter()
    writer.SetInputConnection(series.GetOutputPort())
    writer.SetFileName(str(temporary))
    writer.SetWriteAllTimeSteps(True)
    writer.SetChunkSize(max(256, len(domain.points)))  # its own of 25,000 rows makes files of small meshes large
    written = writer.Write() and not writer.GetErrorCode()
    del writer
    _finish(temporary, path, bool(written))


def write_wall(path: Path, domain: FlowDomain, means: ShearMeans, extra: Mapping[str, Array]) -> None:
    """Write the wall as VTP with TAWSS [Pa], OSI and RRT [1/Pa] and other nodal fields (w, ...); positions in mm.

    Raises:
        InputError: it cannot be written; nothing is left half-written.
    """
    triangles = domain.triangles[domain.triangle_tags == WALL_TAG]
    faces = np.hstack([np.full((len(triangles), 1), 3), np.searchsorted(domain.wall_nodes, triangles)]).ravel()
    wall = pv.PolyData(domain.points[domain.wall_nodes] * MM_PER_METRE, faces)
    wall.point_data["TAWSS"] = means.mean_magnitude
    wall.point_data["OSI"] = means.oscillation
    wall.point_data["RRT"] = np.minimum(means.residence, np.finfo(np.float32).max)
    for name, values in extra.items():
        wall.point_data[name] = values
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    _require_room(
        path, wall.points.nbytes + faces.nbytes + sum(wall.point_data[name].nbytes for name in wall.point_data)
    )
    try:
        wall.save(temporary)
        written = temporary.read_bytes().rstrip().endswith(b"</VTKFile>")
    except (OSError, RuntimeError):
        written = False
    _finish(temporary, path, written)


def _require_room(path: Path, size: int) -> None:
    """Make sure that a file of so many bytes fits on the disk.

    Raises:
        InputError: it does not.
    """
    free = shutil.disk_usage(path.parent).free
    needed = size + size // 4 + 500_000
    if free < needed:
        raise InputError(
            f"{path} cannot be written: it needs {needed / 1e6:.1f} MB, and there are {free / 1e6:.1f} MB left on the "
            "disk; make room, or name another place with --out, and run again."
        )


def _finish(temporary: Path, path: Path, written: bool) -> None:
    if not written or not temporary.is_file():
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written; make room on the disk, or name another place with --out.")
    temporary.replace(path)


def table_rows(columns: Mapping[str, Array]) -> tuple[Sequence[str], list[list[str]]]:
    """Columns of equal length as a header and rows of text."""
    header = list(columns)
    values = np.column_stack(list(columns.values()))
    return header, [[f"{value:.9g}" for value in row] for row in values]
