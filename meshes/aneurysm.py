"""Sacs of aneurysms: where they are on the vessel tree, how wide they are, and how much blood they hold.

The parent vessel goes on through an aneurysm as it is before and behind it: a tube of the healthy radius around the
centerline. What of the lumen lies outside of it, and is as wide as a vessel and not long, is a sac; and so is what lies
around the tube where the vessel itself is half as wide again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from meshes.centerline import Centerline
from meshes.grid import Array, Grid

WINDOW_RADII = 12.0
"""Within this many radii along a branch the usual radius is taken as healthy: a sac is shorter than half of that."""

SURELY_OUTSIDE = 1.35
"""What is farther from the centerline than this many healthy radii is no unevenness of the wall."""

LEAST_WIDTH = 0.4
"""The largest ball in a sac has at least this part of the healthy radius; a branch's stump is thinner."""

LONGEST = 9.0
"""A sac's volume is at most this many times the cube of its largest inscribed radius: a ball's is some four times."""

WIDENED = 1.5
"""A vessel of this many times its healthy width is an aneurysm all around (fusiform): the vascular societies' measure.
"""


LEAST_FUSIFORM = 4.0
"""What lies around a widened vessel counts from this many times the cube of its healthy radius on: about its ball."""


@dataclass(frozen=True)
class Aneurysm:
    """One sac; lengths mm, positions mm, LPS."""

    branch: int
    position: Array
    """the middle of the largest ball in it"""
    arc_length: float
    """along the branch, where the sac sits on it"""
    volume_ml: float
    """outside of the parent vessel"""
    width: float
    """the diameter of the largest ball in the lumen there"""
    fusiform: bool
    """whether the vessel itself is wide all around; else the sac sits on its side"""
    vessel_diameter: float
    """of the healthy parent vessel"""


def find_aneurysms(level_set: sitk.Image, centerline: Centerline) -> tuple[Aneurysm, ...]:
    """All sacs of a vessel tree, the largest first.

    Args:
        level_set: the lumen without the branches that the centerline leaves out (signed distance, mm, negative inside).
        centerline: of the tree.
    """
    field = Grid.of(level_set)
    step = float(field.spacing.max())
    lumen = np.flatnonzero(field.values < 0.5 * step)
    positions = field.positions_of(lumen)
    healthy = np.maximum(_healthy(centerline), step)
    outside = np.full(field.values.shape, -np.inf, dtype=np.float32)
    surely = np.zeros(field.values.shape, dtype=bool)
    outside.ravel()[lumen] = _outside(positions, centerline.points, healthy)
    surely.ravel()[lumen] = _outside(positions, centerline.points, SURELY_OUTSIDE * healthy) > 0
    parts, count = ndimage.label(surely & (field.values < 0))
    found = []
    tree = cKDTree(centerline.points)
    widened = _widened(centerline, healthy)
    for number, box in enumerate(ndimage.find_objects(parts, count), start=1):
        core = parts[box] == number
        depth = np.where(core, -field.values[box], 0.0)
        largest = float(depth.max())
        low = [side.start for side in box][::-1]
        beside = np.unique(tree.query(field.to_position(np.argwhere(core)[:, ::-1] + low))[1])
        fusiform = bool(widened[beside].any())
        volume = float(core.sum() * np.prod(field.spacing))
        if fusiform:
            # The flare of an origin, and bumps of a rough wall, are small.
            if volume < LEAST_FUSIFORM * healthy[beside].max() ** 3:
                continue
            nearest = int(beside[np.argmax(centerline.radius[beside] * widened[beside])])
            position, largest = centerline.points[nearest], float(centerline.radius[nearest])
        else:
            if volume > LONGEST * largest**3 or largest < 1.5 * step:
                continue
            place = np.array(np.unravel_index(int(np.argmax(depth)), depth.shape))
            position = field.to_position(place[::-1] + low)[0]
            nearest = int(tree.query(position)[1])
            if largest < LEAST_WIDTH * healthy[nearest]:
                continue
        found.append(
            Aneurysm(
                branch=int(centerline.branch[nearest]),
                position=position,
                arc_length=float(centerline.arc_length[nearest]),
                volume_ml=_volume(field, outside, parts == number, float(healthy[nearest])) / 1000.0,
                width=2.0 * largest,
                fusiform=fusiform,
                vessel_diameter=2.0 * float(healthy[nearest]),
            )
        )
    return tuple(sorted(found, key=lambda aneurysm: -aneurysm.volume_ml))


def _healthy(centerline: Centerline) -> Array:
    """(n,) the usual radius of its branch around each point."""
    healthy = centerline.radius.copy()
    for branch in centerline.branches:
        ids = branch.point_ids
        arc, radius = centerline.arc_length[ids], centerline.radius[ids]
        window = WINDOW_RADII * float(np.median(radius))
        healthy[ids] = [np.quantile(radius[np.abs(arc - here) <= window], 0.4) for here in arc]
    return healthy


def _widened(centerline: Centerline, healthy: Array) -> npt.NDArray[np.bool_]:
    """(n,) where the vessel itself is wide; not at a branch's beginning, which lies in its parent."""
    wide = centerline.radius > WIDENED * healthy
    for branch in centerline.branches:
        if branch.parent is not None:
            ids = branch.point_ids
            wide[ids[centerline.arc_length[ids] < 2.0 * centerline.radius[ids[0]]]] = False
    return wide


def _outside(positions: Array, points: Array, radius: Array) -> Array:
    """(n,) how far [mm] positions are outside of the union of balls around points."""
    outside = np.full(len(positions), np.inf)
    # Points of about the same radius at a time, so that the nearest one decides.
    for group in np.array_split(np.argsort(radius), max(1, min(24, len(radius) // 8))):
        away, nearest = cKDTree(points[group]).query(positions)
        outside = np.minimum(outside, away - radius[group][nearest])
    return outside


def _volume(field: Grid, outside: npt.NDArray[np.float32], core: npt.NDArray[np.bool_], healthy: float) -> float:
    """mm3 of the lumen outside of the parent vessel, around what is surely outside, by parts of voxels."""
    step = float(np.cbrt(np.prod(field.spacing)))
    beside = ndimage.distance_transform_edt(~core, sampling=field.spacing[::-1]) < 0.5 * healthy + step
    within = np.clip(0.5 - field.values / step, 0.0, 1.0) * np.clip(0.5 + outside / step, 0.0, 1.0)
    return float(within[beside].sum() * np.prod(field.spacing))
