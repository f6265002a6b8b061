"""Lumen meshes in the formats of solvers and viewers, by meshio: VTU, XDMF, Gmsh, and MESH as Medit and Mmg have it.

Tetrahedra and the boundary's triangles are both written. Each triangle carries its tag (0 on the wall, 1 and on at the
ports) and each tetrahedron one number more than the largest tag, under the name that the format's readers look for:
``medit:ref``, ``gmsh:physical`` and ``gmsh:geometrical``, or ``tag``. Lengths are in mm.
"""

import os
from pathlib import Path

import meshio
import numpy as np

from meshes.clipping import boundary, oriented
from meshes.errors import InputError
from meshes.ports import Port
from meshes.tetrahedra import WALL_TAG, LumenMesh

FORMATS = {".vtu": "vtu", ".xdmf": "xdmf", ".mesh": "medit", ".msh": "gmsh", ".vtk": "vtk"}
_TAG_NAMES = {"medit": ("medit:ref",), "gmsh": ("gmsh:physical", "gmsh:geometrical")}

FLAT_MM = 1e-3
"""Triangles of a port read from a file lie within this of a plane."""


def export_mesh(mesh: LumenMesh, path: Path) -> None:
    """Write a mesh in the format that the file's ending names; under a temporary name, renamed.

    Raises:
        InputError: the ending names none, or the folder does not exist.
    """
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise InputError(f"{path} has an ending that names no format of meshes; use one of {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist; make it before writing {path.name} there.")
    inner = int(mesh.triangle_tags.max()) + 1
    tags = [mesh.triangle_tags.astype(np.int32), np.full(len(mesh.tetrahedra), inner, dtype=np.int32)]
    stored = meshio.Mesh(
        mesh.points,
        [("triangle", mesh.triangles), ("tetra", mesh.tetrahedra)],
        cell_data={name: tags for name in _TAG_NAMES.get(file_format, ("tag",))},
        field_data={
            **{port.name: np.array([port.tag, 2]) for port in mesh.ports},
            "wall": np.array([WALL_TAG, 2]),
            "lumen": np.array([inner, 3]),
        },
    )
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    # XDMF beside an HDF5 file would be two files; as XML it is one, and needs no further library.
    options = {"data_format": "XML"} if file_format == "xdmf" else {}
    if file_format == "gmsh":
        options = {"fmt_version": "2.2", "binary": False}  # type: ignore[dict-item]
        file_format = "gmsh22"
        options.pop("fmt_version")
    meshio.write(temporary, stored, file_format=file_format, **options)
    temporary.replace(path)


def import_mesh(path: Path) -> LumenMesh:
    """Read a mesh of tetrahedra with tagged, planar ports, as `export_mesh` writes it or a mesher does.

    Ports are the groups of boundary triangles with a positive tag; their centers, normals and areas are measured, and
    the largest is taken as the inlet unless the file names one ``inlet``.

    Raises:
        InputError: it cannot be read, has no tetrahedra or tags, or a port is not planar.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a mesh ({', '.join(FORMATS)}).")
    try:
        stored = meshio.read(path)
    except (Exception, SystemExit) as error:  # meshio's readers raise errors of many kinds, and exit on some
        raise InputError(f"{path} cannot be read as a mesh ({error}); give one of {', '.join(FORMATS)}.") from error
    cells = stored.cells_dict
    data = {name: by_kind["triangle"] for name, by_kind in stored.cell_data_dict.items() if "triangle" in by_kind}
    found = next((name for name in ("tag", "medit:ref", "gmsh:physical", "gmsh:geometrical") if name in data), None)
    if "tetra" not in cells or found is None:
        raise InputError(f"{path} has no tetrahedra, or no triangles with tags; export it with both.")
    points = np.asarray(stored.points, dtype=float)
    tetrahedra = oriented(points, cells["tetra"].astype(np.int64))
    triangles = boundary(tetrahedra)
    tag_of = {
        tuple(sorted(corners)): int(tag)
        for corners, tag in zip(cells["triangle"].tolist(), data[found].tolist(), strict=True)
    }
    tags = np.array([tag_of.get(tuple(sorted(corners)), WALL_TAG) for corners in triangles.tolist()], dtype=np.int32)
    named = {int(value[0]): name for name, value in (stored.field_data or {}).items() if int(np.ravel(value)[-1]) == 2}
    ports = _ports(points, triangles, tags, named, path)
    return LumenMesh(points, tetrahedra, triangles, tags, ports)


def _ports(
    points: np.typing.NDArray[np.float64],
    triangles: np.typing.NDArray[np.int64],
    tags: np.typing.NDArray[np.int32],
    named: dict[int, str],
    path: Path,
) -> tuple[Port, ...]:
    """Every group of triangles with a positive tag as a port."""
    measured = []
    for tag in sorted(set(tags.tolist()) - {WALL_TAG}):
        corners = points[triangles[tags == tag]]
        vectors = 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas = np.linalg.norm(vectors, axis=1)
        normal = vectors.sum(axis=0) / np.linalg.norm(vectors.sum(axis=0))
        center = (areas[:, None] * corners.mean(axis=1)).sum(axis=0) / areas.sum()
        if np.abs((corners - center) @ normal).max() > FLAT_MM:
            raise InputError(f"The triangles with tag {tag} in {path} do not lie in a plane; ports have to be planar.")
        measured.append((tag, center, normal, float(areas.sum())))
    if len(measured) < 2:
        raise InputError(f"{path} has {len(measured)} tagged ports; an inlet and an outlet are needed.")
    known = [tag for tag, name in named.items() if name == "inlet"]
    inlet = known[0] if known else max(measured, key=lambda port: port[3])[0]
    ports = []
    for number, (tag, center, normal, area) in enumerate(measured, start=1):
        is_inlet = tag == inlet
        name = "inlet" if is_inlet else named.get(tag, f"outlet_{number - 1}")
        radius = float(np.sqrt(area / np.pi))
        ports.append(Port(name, "inlet" if is_inlet else "outlet", tag, center, normal, radius, area))
    return tuple(sorted(ports, key=lambda port: port.role != "inlet"))
