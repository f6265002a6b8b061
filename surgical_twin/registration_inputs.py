"""What the registration commands read of a case and of files: surfaces, tissue, the branch tree, an earlier result."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyvista
from numpy.typing import NDArray

from meshes.files import read_centerline, read_lumen_mesh
from registration.image.files import read_linear_transform
from registration.lumen.branch_tree import BranchTree
from registration.point_files import FARTHEST_MM, LPS_FROM_RAS
from registration.rigid import check_rigid, invert
from registration.surface.target import SurfaceTarget
from surgical_twin.axis import between_ports
from surgical_twin.case import CENTERLINE, CENTERLINE_TABLE, MESH, Case, read_table
from surgical_twin.errors import InputError

Array = NDArray[np.float64]

TRANSFORM_FILES = (".tfm", ".h5", ".mat")


def read_surface(path: Path) -> SurfaceTarget:
    """The triangles of a surface file (VTP, STL, PLY, OBJ), in mm; a cloud without triangles is taken as points.

    As in 3D Slicer, a file that says SPACE=RAS is turned, and any other one is in LPS.

    Raises:
        InputError: it cannot be read, or is no surface.
    """
    whole = _read_mesh(path, "a surface", "VTP, STL or PLY")
    if isinstance(whole, pyvista.ImageData):
        # Its outer faces would be taken for the anatomy.
        raise InputError(f"{path} is an image, not a surface; segment it, and give the surface (VTP, STL or PLY).")
    read = whole.extract_surface(algorithm="dataset_surface").triangulate()
    points = np.asarray(read.points, dtype=np.float64)
    faces = np.asarray(read.faces).reshape(-1, 4)[:, 1:]
    return SurfaceTarget.from_triangles(points, faces) if len(faces) else SurfaceTarget.from_points(points)


def read_tissue(path: Path) -> tuple[Array, NDArray[np.int64]]:
    """Nodes (n, 3) in mm and tetrahedra (m, 4) of a mesh file (VTU, VTK); nodes that none uses are left out.

    Raises:
        InputError: it cannot be read, or holds no tetrahedra.
    """
    grid = _read_mesh(path, "a mesh of tetrahedra", "VTU or VTK")
    cells = getattr(grid, "cells_dict", {}).get(pyvista.CellType.TETRA)
    if cells is None or not len(cells):
        raise InputError(f"{path} holds no tetrahedra; give a volume mesh of the tissue (VTU, VTK).")
    used, tetrahedra = np.unique(np.asarray(cells), return_inverse=True)
    return np.asarray(grid.points, dtype=np.float64)[used], tetrahedra.reshape(-1, 4).astype(np.int64)


def _read_mesh(path: Path, what: str, formats: str) -> Any:
    if not Path(path).is_file():
        lacking = "is a folder" if Path(path).is_dir() else "is not there"
        raise InputError(f"{path} {lacking}; name {what} ({formats}).")
    try:
        with warnings.catch_warnings():  # what a reader has to say of a file is in the error
            warnings.simplefilter("ignore")
            read = pyvista.read(path)
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as {what} ({error}); give {formats}.") from error
    if not isinstance(read, pyvista.DataSet) or not read.n_points:
        raise InputError(f"{path} holds no points; give {what} ({formats}).")
    points = np.asarray(read.points, dtype=np.float64)
    if not (np.abs(points) <= FARTHEST_MM).all():
        raise InputError(f"{path} has points that are not finite, or not of a patient in mm; give {what} in mm.")
    if isinstance(read, pyvista.PolyData | pyvista.UnstructuredGrid | pyvista.PointSet):
        read.points = points * (LPS_FROM_RAS if _says_ras(Path(path), read) else 1.0)
    return read


def _says_ras(path: Path, read: Any) -> bool:
    """Whether a mesh says, as 3D Slicer's do, that it is in RAS: in a comment of its head, or a field of its data."""
    if "SPACE" in read.field_data:
        return "RAS" in np.asarray(read.field_data["SPACE"]).ravel().tolist()
    if path.suffix.lower() not in (".stl", ".vtk", ".ply", ".obj"):
        return False
    with path.open("rb") as file:
        return re.search(rb"\bSPACE=RAS\b", file.read(1024)) is not None


def read_branch_tree(case: Case) -> BranchTree:
    """The case's vessel tree between its ports: branches by number, each point with the radius of its section.

    A section's radius (that of the circle of the same area) is what the catheter has room in; where a section cannot be
    measured, the inscribed radius stands for it.

    Raises:
        InputError: the case is not planned that far, or its files do not fit each other.
    """
    centerline = read_centerline(case.require(CENTERLINE))
    rows = read_table(case.require(CENTERLINE_TABLE))
    try:
        sections = np.array([float(row["equivalent_radius_mm"]) for row in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{case.path(CENTERLINE_TABLE)} cannot be used ({error!r}); plan the case again.") from error
    if len(sections) != len(centerline.points):
        raise InputError(
            f"{case.path(CENTERLINE_TABLE)} has {len(sections)} points and {CENTERLINE} {len(centerline.points)}; "
            "plan the case again."
        )
    radius = np.where(np.isfinite(sections) & (sections > 0.0), sections, centerline.radius)
    kept = between_ports(centerline, read_lumen_mesh(case.require(MESH)).ports)
    lines, radii, names = [], [], []
    for branch in centerline.branches:
        ids = branch.point_ids[kept[branch.point_ids]]
        if len(ids) > 1:
            lines.append(centerline.points[ids])
            radii.append(radius[ids])
            names.append(str(branch.index))
    return BranchTree.from_branches(lines, radii, names=names)


def read_start(path: Path, key: str = "image_from_tracker") -> Array:
    """The transform (4, 4) of some name in an earlier registration's result file, or of a transform file of 3D Slicer,
    which holds the way back.

    Raises:
        InputError: it is none, or one that failed.
    """
    if path.suffix.lower() in TRANSFORM_FILES:
        return check_rigid(invert(check_rigid(read_linear_transform(path), str(path))), str(path))
    return check_rigid(_read_result(path, key), f"{key} of {path}")


def read_tip(path: Path) -> Array:
    """The tip (3,) in the tool's frame, mm, that an earlier pivot or template calibration found.

    Raises:
        InputError: the file is no such result, or one that failed.
    """
    tip = np.asarray(_read_result(path, "tip_mm"), dtype=np.float64)
    if tip.shape != (3,) or not np.isfinite(tip).all():
        raise InputError(f"tip_mm of {path} is no point; calibrate the pivot again.")
    return tip


def _read_result(path: Path, key: str) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        value, verdict = content[key], content["verdict"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no registration's result with {key} ({error!r}); name a file registration/*.json."
        ) from error
    if verdict == "fail":
        raise InputError(f"{path} failed ({content.get('reason')}); a failed registration is no start.")
    return value
