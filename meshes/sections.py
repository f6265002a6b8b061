"""Cross-sections of a vessel tree: their area and diameters at every point of its centerline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from meshes.centerline import Centerline
from meshes.grid import Array, Grid

RAYS = 48
REACH_RADII = 4.0
"""A section is looked at within this many inscribed radii; farther away lies another vessel."""

OTHER_RADII, OWN_RADII = 1.15, 0.5
"""A section is of one branch only where it is farther from every other branch's centerline than so many of that one's
radii and of its own together."""


@dataclass(frozen=True)
class Sections:
    """Planar sections normal to the centerline, one at each of its n points.

    Attributes:
        area: (n,) mm2.
        shortest: (n,) mm, the smallest width through the centerline's point.
        longest: (n,) mm, the largest one.
        single: (n,) whether the section is of one branch only, away from junctions.
    """

    area: Array
    shortest: Array
    longest: Array
    single: npt.NDArray[np.bool_]

    @property
    def radius(self) -> Array:
        """(n,) mm, of the circle of the same area. The wall's noise averages out of it; not so the inscribed one."""
        return np.asarray(np.sqrt(self.area / np.pi))


def cross_sections(level_set: sitk.Image, centerline: Centerline) -> Sections:
    """Measure the sections of a lumen (signed distance, mm, negative inside) along its centerline.

    The wall is looked for along rays from the centerline's point, to a fraction of a voxel; the area is that of the
    outline they give, 1/2 sum(r_i r_(i+1) sin(2 pi / k)).
    """
    field = Grid.of(level_set)
    tangents = centerline.tangents()
    # Two axes across each tangent.
    helper = np.eye(3)[np.argmin(np.abs(tangents), axis=1)]
    first = np.cross(tangents, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangents, first)
    angles = np.linspace(0.0, 2.0 * np.pi, RAYS, endpoint=False)
    rays = np.cos(angles)[None, :, None] * first[:, None] + np.sin(angles)[None, :, None] * second[:, None]
    step = 0.5 * float(field.spacing.min())
    floor = float(field.spacing.max())
    reach = REACH_RADII * np.maximum(centerline.radius, floor)
    length = np.zeros((len(centerline.points), RAYS))
    before = np.broadcast_to(field.sample(centerline.points, outside=1.0)[:, None], length.shape).copy()
    found = before > 0
    for number in range(1, int(np.ceil(reach.max() / step)) + 1):
        open_rays = ~found & (number * step <= reach)[:, None]
        if not open_rays.any():
            break
        places = centerline.points[:, None] + number * step * rays
        depth = np.full(length.shape, 1.0)
        depth[open_rays] = field.sample(places[open_rays], outside=1.0)
        crossed = open_rays & (depth > 0)
        share = before[crossed] / np.minimum(before[crossed] - depth[crossed], -1e-9)
        length[crossed] = (number - 1 + share) * step
        found |= crossed
        before[open_rays] = depth[open_rays]
    length = np.where(found, length, reach[:, None])
    following = np.roll(length, -1, axis=1)
    area = 0.5 * np.sin(2.0 * np.pi / RAYS) * (length * following).sum(axis=1)
    # The outline's corners lie on the wall, its sides within: a circle's polygon is smaller by this.
    area *= (2.0 * np.pi / RAYS) / np.sin(2.0 * np.pi / RAYS)
    across = length + np.roll(length, RAYS // 2, axis=1)
    return Sections(area, across.min(axis=1), across.max(axis=1), _away_from_junctions(centerline))


def _away_from_junctions(centerline: Centerline) -> npt.NDArray[np.bool_]:
    """Points that lie outside of every other branch: within one, a section cuts that one lengthwise."""
    points, radius = centerline.points, centerline.radius
    single = np.ones(len(points), dtype=bool)
    for branch in centerline.branches:
        mine = branch.point_ids
        others = np.flatnonzero(centerline.branch != branch.index)
        if len(others) == 0:
            continue
        for point in mine:
            away = np.linalg.norm(points[others] - points[point], axis=1)
            single[point] = bool(np.all(away > OTHER_RADII * radius[others] + OWN_RADII * radius[point]))
    return single
