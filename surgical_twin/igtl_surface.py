"""The case's surface with its pressure modes, as the OpenIGTLink bridge sends it to 3D Slicer and to headsets."""

from pathlib import Path

import numpy as np

from registration.point_files import read_point_file
from streams.igtl_outward import Surface
from surgical_twin.case import FIDUCIALS, SURFACE, Case
from surgical_twin.errors import InputError
from viewer.actors import pressure_modes
from viewer.case_files import read_surface
from viewer.decimation import within_budget
from viewer.gltf import Structure

TRIANGLES = 50_000
"""What a headset draws without a stutter; two of them a second are 3 MB/s."""


def overlay_surface(folder: Path, triangles: int = TRIANGLES) -> Surface:
    """The surface of a planned case with at most so many triangles, and the fiducials.

    Raises:
        InputError: the case is not planned to its end.
    """
    case = Case.open(folder)
    path = case.require(SURFACE)
    lumen = read_surface(path).triangulate()
    modes = pressure_modes(lumen)
    if not modes.shape[1]:
        raise InputError(f"{path} has no pressure modes; plan the case to its end.")
    # Each mode is a value at the vertices: decimation carries them over as it carries a cycle's phases.
    whole = Structure("lumen", lumen, scalars=np.zeros(lumen.n_points), cycle=np.vstack([modes.T, modes.T]))
    (kept,) = within_budget([whole], triangles)
    fiducials = read_point_file(case.path(FIDUCIALS)).by_name() if case.path(FIDUCIALS).is_file() else {}
    return Surface(
        points=np.asarray(kept.mesh.points, dtype=float),
        triangles=kept.mesh.regular_faces.astype(np.int64),
        modes=np.asarray(kept.cycle, dtype=float)[: modes.shape[1]].T,
        fiducials=fiducials,
    )
