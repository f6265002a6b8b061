"""The files of a case folder that the display reads."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import NDArray

from viewer.errors import InputError
from viewer.motion import MOTION, read_motion
from viewer.slices import Volume


def read_case(folder: Path, *, given: Collection[str] = ()) -> tuple[pv.PolyData, dict[str, Any]]:
    """A case's lumen, and what else of `viewer.scene.Scene`'s arguments its folder holds; what is given is not read.

    Raises:
        InputError: no such folder, no surface in it, or a file that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"case folder {folder} does not exist; give the folder that planning wrote.")
    lumen = read_surface(folder / "surface.vtp")
    readers: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "anatomy": ("anatomy.vtp", read_surface),
        "centerline": ("centerline.vtp", read_surface),
        "volume": ("image.nrrd", Volume.read),
        "way": ("axis.csv", read_stations),
    }
    found = {
        name: read(folder / file)
        for name, (file, read) in readers.items()
        if name not in given and (folder / file).is_file()
    }
    if "motion" not in given and (folder / MOTION).is_file():
        found["motion"] = read_motion(folder / MOTION, lumen)
    ports = named_ports(lumen)
    return lumen, found if ports is None else {"ports": ports} | found


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


def named_ports(lumen: pv.PolyData) -> dict[str, NDArray[np.float64]] | None:
    """Name and center (3,) mm LPS of each port that a surface carries in its field data, or None where it does not.

    They are ``PortNames`` (strings) and ``PortCenters`` (n x 3).
    """
    if "PortNames" not in lumen.field_data or "PortCenters" not in lumen.field_data:
        return None
    names = [str(name) for name in np.atleast_1d(lumen.field_data["PortNames"])]
    centers = np.asarray(lumen.field_data["PortCenters"], dtype=np.float64).reshape(-1, 3)
    return dict(zip(names, centers, strict=True))
