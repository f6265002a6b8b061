r"""How far a stenosis's losses may be off because of how coarsely it was meshed and how well it was seen.

On a coarse mesh the jet behind a throat breaks up too soon, and its pressure recovers too little. Of a stenosis of half
the diameter in a bifurcation this solver's drop at 6 mL/s was too large by 41 % with 5.1 edges across the throat, 19 %
with 6.4, 9 % with 9.2 and 4 % with 13.7, against the value that these tend to (Richardson's extrapolation): an error of
second order in the edge length, as theory has it for linear elements,

    model's drop = (1 + A / n^2) times the converged one,   A = 8.

Of 40 % of the diameter A was 5 to 6; of 62 % it was 9 at 5.2 edges, and nothing was left of it at 8. So the law bounds
the error more than it tells it.

A throat thinner than the image resolves is meshed wider than it was measured, and a drop that goes with the diameter's
fourth power is too low by that; and the diameter itself is then known to 0.3 voxels only
(``benchmarks/meshes_accuracy.py``). All of this widens the prior of the one factor on the tree's drop, whose mean it
leaves: by how much the patient's drop is another is learned when the catheter passes. Extrapolating the mean (L. F.
Richardson, Phil. Trans. R. Soc. A 226, 1927) would need the constant to be the same for all shapes of stenoses.
"""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from meshes.centerline import RESOLVED_VOXELS
from meshes.files import read_lumen_mesh
from surgical_twin.case import IMAGE, MESH, STENOSES, Case, read_table

Array = NDArray[np.float64]

EXCESS = 8.0
"""A, see the module."""

SMALL_LUMEN_VOXELS = 1.6
"""Thinner throats, in radius, are measured by their brightness."""

DIAMETER_DEVIATION_VOXELS = 0.3
"""Of such a measurement."""

LARGEST_DEVIATION = math.log(3.0)
"""Of the logarithm of the drop: of a throat that is hardly seen, nothing narrower is said."""


def excess_share(edges_across: float) -> float:
    """By what share a stenosis's pressure drop is too large with so many edges across its throat, or nearly so."""
    return EXCESS / edges_across**2


def drop_deviation(*, edges_across: float, diameter_mm: float, voxel_mm: float) -> float:
    """Standard deviation of the logarithm of a stenosis's drop, from its mesh and its measurement alone.

    Args:
        edges_across: of the throat as it is meshed.
        diameter_mm: of the throat as it was measured.
        voxel_mm: the image's largest spacing.
    """
    meshed = math.log1p(excess_share(edges_across))
    # A throat that is narrower than the image resolves is meshed as wide as it is resolved.
    wider = 4.0 * math.log(max(1.0, 2.0 * RESOLVED_VOXELS * voxel_mm / diameter_mm))
    measured = 0.0
    if 0.5 * diameter_mm < SMALL_LUMEN_VOXELS * voxel_mm:
        measured = 4.0 * DIAMETER_DEVIATION_VOXELS * voxel_mm / diameter_mm
    return min(math.hypot(meshed, wider, measured), LARGEST_DEVIATION)


def mesh_drop_deviation(case: Case) -> float:
    """The largest `drop_deviation` of a case's stenoses; 0 where it has none.

    Raises:
        InputError: a file of the case is missing or cannot be read.
    """
    rows = read_table(case.require(STENOSES))
    if not rows:
        return 0.0
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(case.require(IMAGE)))
    reader.ReadImageInformation()
    voxel = float(max(reader.GetSpacing()))
    mesh = read_lumen_mesh(case.require(MESH))
    corners = mesh.points[mesh.tetrahedra]
    centers = corners.mean(axis=1)
    largest = 0.0
    for row in rows:
        diameter = float(row["diameter_mm"])
        width = max(diameter, 2.0 * RESOLVED_VOXELS * voxel)
        away = np.linalg.norm(centers - [float(row[axis]) for axis in "xyz"], axis=1)
        near = away < max(width, float(np.partition(away, min(20, len(away) - 1))[min(20, len(away) - 1)]))
        largest = max(
            largest,
            drop_deviation(edges_across=width / _mean_edge(corners[near]), diameter_mm=diameter, voxel_mm=voxel),
        )
    return largest


def _mean_edge(corners: Array) -> float:
    """mm; of tetrahedra with corners (n, 4, 3)."""
    first, second = np.triu_indices(4, 1)
    return float(np.linalg.norm(corners[:, first] - corners[:, second], axis=2).mean())
