"""Meshes and centerlines as files that ParaView and 3D Slicer open."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyvista as pv

from meshes.centerline import Branch, Centerline
from meshes.errors import InputError
from meshes.ports import Port
from meshes.sections import Sections
from meshes.tetrahedra import LumenMesh

_TETRAHEDRON = 10
"""VTK's number of the linear tetrahedron."""


def write_lumen_mesh(mesh: LumenMesh, path: Path) -> None:
    """Write a mesh as VTU: tetrahedra, with the boundary's triangles, their tags and the ports as field data."""
    cells = np.hstack([np.full((len(mesh.tetrahedra), 1), 4), mesh.tetrahedra]).ravel()
    grid = pv.UnstructuredGrid(cells, np.full(len(mesh.tetrahedra), _TETRAHEDRON, dtype=np.uint8), mesh.points)
    tags = np.full(len(mesh.points), -1, dtype=np.int32)
    for tag in np.unique(mesh.triangle_tags):
        tags[mesh.triangles[mesh.triangle_tags == tag]] = tag
    grid.point_data["BoundaryTag"] = tags
    grid.field_data["Triangles"] = mesh.triangles.astype(np.int64)
    grid.field_data["TriangleTags"] = mesh.triangle_tags
    grid.field_data["Ports"] = [json.dumps([_plain(port) for port in mesh.ports])]
    _save(grid, path)


def read_lumen_mesh(path: Path) -> LumenMesh:
    """Read what `write_lumen_mesh` wrote, exactly.

    Raises:
        InputError: it is missing or something else.
    """
    grid = _load(path, pv.UnstructuredGrid)
    try:
        ports = tuple(
            Port(**{**port, "center": np.array(port["center"]), "normal": np.array(port["normal"])})
            for port in json.loads(str(np.atleast_1d(grid.field_data["Ports"])[0]))
        )
        return LumenMesh(
            points=np.array(grid.points, dtype=float),
            tetrahedra=np.array(grid.cells_dict[np.uint8(_TETRAHEDRON)], dtype=np.int64),
            triangles=np.array(grid.field_data["Triangles"], dtype=np.int64).reshape(-1, 3),
            triangle_tags=np.array(grid.field_data["TriangleTags"], dtype=np.int32),
            ports=ports,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no lumen mesh with tags and ports ({error}); plan the case again.") from error


def write_centerline(centerline: Centerline, path: Path, sections: Sections | None = None) -> None:
    """Write a centerline as VTP: a polyline per branch, with Radius, BranchId and ArcLength at its points.

    With the sections also SectionArea, EquivalentRadius, ShortestDiameter and LongestDiameter.
    """
    lines = np.concatenate([[len(branch.point_ids), *branch.point_ids] for branch in centerline.branches])
    data = pv.PolyData(centerline.points, lines=lines)
    data.point_data["Radius"] = centerline.radius
    data.point_data["BranchId"] = centerline.branch
    data.point_data["ArcLength"] = centerline.arc_length
    if sections is not None:
        data.point_data["SectionArea"] = sections.area
        data.point_data["EquivalentRadius"] = sections.radius
        data.point_data["ShortestDiameter"] = sections.shortest
        data.point_data["LongestDiameter"] = sections.longest
    data.cell_data["Branch"] = np.arange(len(centerline.branches))
    data.cell_data["Parent"] = [-1 if branch.parent is None else branch.parent for branch in centerline.branches]
    data.cell_data["ClosesLoop"] = np.array([branch.closes_loop for branch in centerline.branches], dtype=np.uint8)
    data.field_data["Ends"] = [json.dumps([branch.end for branch in centerline.branches])]
    _save(data, path)


def read_centerline(path: Path) -> Centerline:
    """Read what `write_centerline` wrote.

    Raises:
        InputError: it is missing or something else.
    """
    data = _load(path, pv.PolyData)
    try:
        parents = np.array(data.cell_data["Parent"])
        ends = json.loads(str(np.atleast_1d(data.field_data["Ends"])[0]))
        closing = np.array(data.cell_data["ClosesLoop"]) if "ClosesLoop" in data.cell_data else np.zeros(len(parents))
        cells, branches, place = np.array(data.lines), [], 0
        for index, (parent, end) in enumerate(zip(parents, ends, strict=True)):
            count = int(cells[place])
            ids = cells[place + 1 : place + 1 + count].astype(np.int64)
            branches.append(Branch(index, ids, None if parent < 0 else int(parent), end, bool(closing[index])))
            place += count + 1
        return Centerline(
            points=np.array(data.points, dtype=float),
            radius=np.array(data.point_data["Radius"], dtype=float),
            branch=np.array(data.point_data["BranchId"], dtype=np.int64),
            arc_length=np.array(data.point_data["ArcLength"], dtype=float),
            branches=tuple(branches),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path} is no centerline with branches ({error}); plan the case again.") from error


def _plain(port: Port) -> dict[str, object]:
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(port).items()}


def _save(data: pv.DataSet, path: Path) -> None:
    """Write under a temporary name and rename."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    data.save(temporary)
    temporary.replace(path)


def _load[T: pv.DataSet](path: Path, kind: type[T]) -> T:
    if not path.is_file():
        raise InputError(f"There is no {path}; plan the case first.")
    try:
        data = pv.read(path)
    except Exception as error:  # VTK's readers raise errors of many kinds
        raise InputError(f"{path} cannot be read ({error}); plan the case again.") from error
    if not isinstance(data, kind):
        raise InputError(f"{path} holds a {type(data).__name__} and not a {kind.__name__}; plan the case again.")
    return data
