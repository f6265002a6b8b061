"""Keeping of a lumen what its centerline describes, no thinner than a mesh can follow."""

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from meshes.centerline import RESOLVED_VOXELS, Centerline, Indices
from meshes.grid import Array, Grid
from meshes.level_set import redistance

REACH_RADII = 2.2
"""What is farther from the centerline than this many of its radii belongs to a branch that was left out."""

SAC_WIDTH = 0.6
"""A sac's largest inscribed radius beyond that reach is at least this part of its vessel's radius."""

SAC_LENGTH = 9.0
"""The volume of a sac beyond that reach is at most this many times the cube of its largest inscribed radius."""

CORE_RADII = 1.3
"""Within this many of its radii of the centerline the lumen is left exactly as it is."""


def trim_to_centerline(level_set: sitk.Image, centerline: Centerline) -> sitk.Image:
    """A level set without the branches that the centerline leaves out, and nowhere thinner than the image resolves.

    Branches left out would be blind sacs in the flow, thinner than the mesh can follow. They are closed a little
    outside the vessel that they leave: max(phi, min_i(|x - p_i| - 2.2 r_i)) over the centerline's points; the sac of an
    aneurysm is no branch and stays. What then
    sticks out of the vessel (beyond 1.3 radii) and is thinner than ``RESOLVED_VOXELS`` in radius goes as well: a
    morphological opening, a ball of that radius rolled inside the wall. Where a vessel that is kept is thinner than
    that itself, it is a tube of that radius, so that it stays connected.
    """
    field = Grid.of(level_set)
    voxel = float(field.spacing.max())
    ball = RESOLVED_VOXELS * voxel
    band = np.flatnonzero(field.values < 2.0 * voxel)
    positions = field.positions_of(band)
    outside = _beyond(positions, centerline, REACH_RADII * np.maximum(centerline.radius, voxel))
    beyond = np.full(field.values.shape, -np.inf, dtype=np.float32)
    beyond.ravel()[band] = outside
    beyond[_sacs(field, beyond > 0, centerline)] = -np.inf
    values = np.maximum(field.values, beyond)
    opened = redistance(field.like(values + np.float32(ball))).values - np.float32(ball)
    core = _beyond(positions, centerline, np.maximum(CORE_RADII * centerline.radius, ball))
    kept = np.maximum(values.ravel()[band], core.astype(np.float32))
    result = np.maximum(opened, values)
    result.ravel()[band] = np.minimum(result.ravel()[band], kept)
    thin = _dense_points_below(centerline, ball)
    if len(thin):
        distance = cKDTree(thin).query(positions)[0]
        result.ravel()[band] = np.minimum(result.ravel()[band], (distance - ball).astype(np.float32))
    # What is outside within the vessel, and not connected with the outside around it, is noise.
    hollow = ndimage.binary_fill_holes(result < 0) & (result >= 0)
    result[hollow] = -np.maximum(result[hollow], np.float32(0.1 * voxel))
    return field.like(result).image()


def _sacs(field: Grid, beyond: npt.NDArray[np.bool_], centerline: Centerline) -> npt.NDArray[np.bool_]:
    """Of the lumen beyond the centerline's reach, what belongs to an aneurysm's sac, with its surroundings.

    A branch that was left out is thin, or long for its width; a sac is as wide as the vessel that it sits on, and not
    long: its volume is some four of its largest inscribed radius cubed (a ball), and not pi times length over radius.
    """
    parts, _ = ndimage.label((field.values < 0) & beyond)
    kept = np.zeros(beyond.shape, dtype=bool)
    tree = cKDTree(centerline.points)
    voxel_volume = float(np.prod(field.spacing))
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[box] == number
        depth = np.where(part, -field.values[box], 0.0)
        largest = float(depth.max())
        if largest < 2.0 * float(field.spacing.max()) or part.sum() * voxel_volume > SAC_LENGTH * largest**3:
            continue
        deepest = np.array(np.unravel_index(int(np.argmax(depth)), depth.shape)) + [side.start for side in box]
        _, nearest = tree.query(field.to_position(deepest[::-1]))
        if largest < SAC_WIDTH * float(centerline.radius[nearest[0]]):
            continue
        around = np.zeros(beyond.shape, dtype=bool)
        around[box] = part
        # The distance to the cut reaches some voxels to both of its sides: left there, it would be a wall in the sac.
        kept |= ndimage.binary_dilation(around, iterations=4)
    return kept


def unresolved_narrowing(level_set: sitk.Image, centerline: Centerline) -> float | None:
    """The smallest radius [mm] of a narrowing that ``trim_to_centerline`` widens; None where it widens none.

    A vessel that only gets thinner towards its end is no narrowing: behind one the lumen is wide enough again.
    """
    ball = RESOLVED_VOXELS * float(Grid.of(level_set).spacing.max())
    terminal = {branch for branch, _ in centerline.terminals()[1:]}
    smallest = np.inf
    for branch in centerline.branches:
        radius = centerline.radius[branch.point_ids]
        wide = np.flatnonzero(radius >= ball)
        last = int(wide[-1]) if branch.index in terminal and len(wide) else len(radius) - 1
        first = int(wide[0]) if branch.parent is None and len(wide) else 0
        if (branch.index in terminal or branch.parent is None) and not len(wide):
            continue
        smallest = min(smallest, float(radius[first : last + 1].min()))
    return smallest if smallest < ball else None


def _dense_points_below(centerline: Centerline, radius: float) -> Array:
    """(n, 3) places along the centerline where its radius is below ``radius``, near enough for balls to make a tube."""
    places = []
    for branch in centerline.branches:
        ids = branch.point_ids
        fine = np.linspace(0.0, len(ids) - 1.0, 5 * (len(ids) - 1) + 1)
        at = np.arange(len(ids))
        line = np.column_stack([np.interp(fine, at, centerline.points[ids, axis]) for axis in range(3)])
        places.append(line[np.interp(fine, at, centerline.radius[ids]) < radius])
    return np.concatenate(places)


def _beyond(positions: Array, centerline: Centerline, reach: Array) -> Array:
    """(n,) how far [mm] positions are outside the union of balls of radii ``reach`` around the centerline's points."""
    # Points of one width at a time, so that the nearest point decides: the farthest reach is not the nearest point's.
    order: Indices = np.argsort(reach)
    outside = np.full(len(positions), np.inf)
    for group in np.array_split(order, max(1, min(24, len(order) // 8))):
        distance, nearest = cKDTree(centerline.points[group]).query(positions, workers=-1)
        outside = np.minimum(outside, distance - reach[group][nearest])
    return outside
