"""Keeping of a lumen what its centerline describes."""

import numpy as np
import SimpleITK as sitk
from scipy.spatial import cKDTree

from meshes.centerline import Centerline
from meshes.grid import Grid

REACH_RADII = 2.2
"""What is farther from the centerline than this many of its radii belongs to a branch that was left out."""


def trim_to_centerline(level_set: sitk.Image, centerline: Centerline) -> sitk.Image:
    """A level set without the branches that the centerline leaves out.

    They would be blind sacs in the flow, thinner than the mesh can follow. They are closed a little outside the
    vessel that they leave: max(phi, min_i(|x - p_i| - 2.2 r_i)) over the centerline's points.
    """
    field = Grid.of(level_set)
    band = np.flatnonzero(field.values < 2.0 * float(field.spacing.max()))
    positions = field.positions_of(band)
    # Points of one width at a time, so that the nearest point decides: the farthest reach is not the nearest point's.
    order = np.argsort(centerline.radius)
    outside = np.full(len(band), np.inf)
    for group in np.array_split(order, max(1, min(24, len(order) // 8))):
        distance, nearest = cKDTree(centerline.points[group]).query(positions)
        floor = float(field.spacing.max())
        outside = np.minimum(outside, distance - REACH_RADII * np.maximum(centerline.radius[group][nearest], floor))
    values = field.values.copy()
    values.ravel()[band] = np.maximum(values.ravel()[band], outside.astype(np.float32))
    return field.like(values).image()
