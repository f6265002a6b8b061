"""The case's surface with its pressure modes, as the OpenIGTLink bridge sends it."""

from pathlib import Path

import numpy as np
import pyvista as pv

from streams.igtl_outward import Surface
from surgical_twin.case import SURFACE, Case
from surgical_twin.errors import InputError

MODE = "pressure_mode_"


def overlay_surface(folder: Path) -> Surface:
    """The surface of a planned case.

    Raises:
        InputError: the case is not planned to its end.
    """
    path = Case.open(folder).require(SURFACE)
    mesh = pv.read(path).triangulate()
    names = sorted((name for name in mesh.point_data if name.startswith(MODE)), key=lambda name: int(name[len(MODE) :]))
    if not names:
        raise InputError(f"{path} has no pressure modes; plan the case to its end.")
    return Surface(
        points=np.asarray(mesh.points, dtype=float),
        triangles=mesh.regular_faces.astype(np.int64),
        modes=np.column_stack([np.asarray(mesh.point_data[name], dtype=float) for name in names]),
    )
