"""Sacs of aneurysms: where they are on the vessel tree, how wide they are, and how much blood they hold.

The parent vessel goes on through an aneurysm as it is before and behind it: a tube of the healthy radius around the
centerline. What of the lumen lies outside of it, and is as wide as a vessel and not long, is a sac; and so is what lies
around the tube where the vessel itself is half as wide again. Healthy is the wider of the vessel before and behind: a
vessel that gets thinner where it gives off a branch is not wide before it. A stenosis, and an end that thins out, tell
nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from meshes.centerline import Branch, Centerline
from meshes.grid import Array, Grid

WINDOW_RADII = 12.0
"""Within this many radii before a place, and behind it, the usual radius is taken as healthy: a sac is shorter than
half of that."""

USUAL = 0.4
"""Quantile of the radius that is the usual one: an aneurysm is no longer than the healthy vessel beside it."""

NARROWED = 0.75
"""What is thinner than this part of the vessel to both of its sides is a stenosis, and not the healthy vessel."""

CONTINUES = 0.6
"""A branch of at least this part of its parent's radius is its continuation: what is healthy before it is so for it."""

BRANCH_WIDTH = 0.5
"""Where the lumen that was cut off beyond a sac is at least this part of its radius wide, it is a branch's stump."""

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


def find_aneurysms(
    level_set: sitk.Image,
    centerline: Centerline,
    *,
    whole: sitk.Image | None = None,
    beyond: npt.NDArray[np.bool_] | None = None,
) -> tuple[Aneurysm, ...]:
    """All sacs of a vessel tree, the largest first.

    Args:
        level_set: the lumen without the branches that the centerline leaves out (signed distance, mm, negative inside).
        centerline: of the tree.
        whole: the lumen with those branches, on the same grid: their stumps are told from sacs by it.
        beyond: (n,) which of the centerline's points are not looked at: those that the ports cut off.
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
    boxes = ndimage.find_objects(parts, count)
    tree = cKDTree(centerline.points)
    run = _widened(centerline, healthy)
    around: dict[int, list[int]] = {}
    cut = None if whole is None else _Cut(field, Grid.of(whole))
    found = []
    for number, box in enumerate(boxes, start=1):
        core = parts[box] == number
        low = [side.start for side in box][::-1]
        beside = np.unique(tree.query(field.to_position(np.argwhere(core)[:, ::-1] + low))[1])
        if beyond is not None and beyond[beside].all():
            continue
        if run[beside].any():
            around.setdefault(int(run[beside].max()), []).append(number)
            continue
        depth = np.where(core, -field.values[box], 0.0)
        largest = float(depth.max())
        volume = float(core.sum() * np.prod(field.spacing))
        if volume > LONGEST * largest**3 or largest < 1.5 * step:
            continue
        place = np.array(np.unravel_index(int(np.argmax(depth)), depth.shape))
        position = field.to_position(place[::-1] + low)[0]
        nearest = int(tree.query(position)[1])
        if largest < LEAST_WIDTH * healthy[nearest] or (cut and cut.goes_on(core, box, BRANCH_WIDTH * largest)):
            continue
        sac = _volume(field, outside, parts == number, float(healthy[nearest]))
        found.append(_aneurysm(centerline, nearest, position, largest, healthy, sac, fusiform=False))
    for number, members in around.items():
        wide = np.flatnonzero(run == number)
        core = np.isin(parts, members)
        # The flare of an origin, and bumps of a rough wall, are small.
        if core.sum() * np.prod(field.spacing) < LEAST_FUSIFORM * healthy[wide].max() ** 3:
            continue
        nearest = int(wide[np.argmax(centerline.radius[wide])])
        position, largest = centerline.points[nearest], float(centerline.radius[nearest])
        sac = _volume(field, outside, core, float(healthy[nearest]))
        found.append(_aneurysm(centerline, nearest, position, largest, healthy, sac, fusiform=True))
    return tuple(sorted(found, key=lambda aneurysm: -aneurysm.volume_ml))


def _aneurysm(
    centerline: Centerline,
    point: int,
    position: Array,
    largest: float,
    healthy: Array,
    volume: float,
    *,
    fusiform: bool,
) -> Aneurysm:
    """The sac of ``volume`` [mm3] beside a point of the centerline whose largest ball is at a position."""
    return Aneurysm(
        branch=int(centerline.branch[point]),
        position=position,
        arc_length=float(centerline.arc_length[point]),
        volume_ml=volume / 1000.0,
        width=2.0 * largest,
        fusiform=fusiform,
        vessel_diameter=2.0 * float(healthy[point]),
    )


class _Cut:
    """The lumen that was cut off with the branches that the centerline leaves out."""

    def __init__(self, kept: Grid, whole: Grid) -> None:
        gone = (whole.values < 0) & (kept.values >= 0)
        self._parts, count = ndimage.label(gone)
        self._depth = np.zeros(count + 1)
        if count:
            self._depth[1:] = -ndimage.minimum(whole.values, self._parts, np.arange(1, count + 1))

    def goes_on(self, core: npt.NDArray[np.bool_], box: tuple[slice, ...], radius: float) -> bool:
        """Whether a structure within a box of voxels went on in what was cut off, at least so wide [mm]."""
        wider = tuple(slice(max(0, side.start - 3), side.stop + 3) for side in box)
        parts = self._parts[wider]
        near = np.zeros(parts.shape, dtype=bool)
        near[tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wider, strict=True))] = core
        return bool((self._depth[np.unique(parts[ndimage.binary_dilation(near, iterations=3)])] >= radius).any())


def _healthy(centerline: Centerline) -> Array:
    """(n,) the radius of the healthy vessel at each point: the wider of the usual ones before and behind it."""
    healthy = centerline.radius.copy()
    for branch in centerline.branches:
        ids = branch.point_ids
        arc, radius = centerline.arc_length[ids], centerline.radius[ids]
        known = ~_narrowed(arc, radius)
        if branch.parent is not None:
            above = centerline.branches[branch.parent].point_ids
            if _continues(centerline, branch):
                before = centerline.arc_length[above]
                arc = np.concatenate([before - before[-1], arc])
                radius = np.concatenate([centerline.radius[above], radius])
                known = np.concatenate([~_narrowed(before, centerline.radius[above]), known])
            else:
                known &= arc >= 2.0 * radius[0]
        window = WINDOW_RADII * float(np.median(centerline.radius[ids]))
        for point in ids:
            way = arc - centerline.arc_length[point]
            sides = [known & (way <= 0) & (way >= -window), known & (way >= 0) & (way <= window)]
            usual_beside = [float(np.quantile(radius[side], USUAL)) for side in sides if side.sum() >= 3]
            healthy[point] = max(usual_beside, default=centerline.radius[point])
    return healthy


def _narrowed(arc: Array, radius: Array) -> npt.NDArray[np.bool_]:
    """(n,) where a branch is thinner than what is before and behind it; at its ends, than what there is of it."""
    window = WINDOW_RADII * float(np.median(radius))
    narrowed = np.zeros(len(arc), dtype=bool)
    for place, here in enumerate(arc):
        sides = [radius[(arc <= here) & (arc >= here - window)], radius[(arc >= here) & (arc <= here + window)]]
        beside = [float(np.quantile(side, NARROWED)) for side in sides if len(side) >= 3]
        narrowed[place] = bool(beside) and radius[place] < NARROWED * min(beside)
    return narrowed


def _widened(centerline: Centerline, healthy: Array) -> npt.NDArray[np.int64]:
    """(n,) the number, from 1, of the stretch of a wide vessel that a point is in, else 0.

    The beginning of a branch lies in its parent; that of a side branch flares, and what is wide from there on is no
    aneurysm.
    """
    wide = centerline.radius > WIDENED * healthy
    number = np.zeros(len(wide), dtype=np.int64)
    for branch in centerline.branches:
        ids = branch.point_ids
        begins = np.zeros(len(ids), dtype=bool)
        if branch.parent is not None:
            begins = centerline.arc_length[ids] < 2.0 * centerline.radius[ids[0]]
        if branch.parent is not None and _continues(centerline, branch):
            wide[ids[begins]] = False
            begins[:] = False
        own, _ = ndimage.label(wide[ids] | begins)
        own[np.isin(own, np.unique(own[begins]))] = 0
        number[ids] = np.where(own > 0, own + number.max(), 0)
    return number


def _continues(centerline: Centerline, branch: Branch) -> bool:
    """Whether a branch goes on about as wide as its parent."""
    if branch.parent is None:
        return False
    above = centerline.branches[branch.parent].point_ids
    own, usual = (float(np.quantile(centerline.radius[ids], USUAL)) for ids in (branch.point_ids, above))
    return own >= CONTINUES * usual


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
