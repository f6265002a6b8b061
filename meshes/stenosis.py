"""Narrowings of a vessel: where, how long, and how much of the diameter and area is lost.

As in quantitative angiography: the reference is the healthy vessel just before and just behind the lesion, a straight
line between the two; the reduction is 1 - d/d_ref. A branch is looked at by itself, without its ends at junctions, for
a daughter is thinner than its parent without any disease. So it is at the origin of a side branch that the centerline
leaves out: the section there holds part of the side branch and is passed over, and healthy is the vessel on the same
side of it as the lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meshes.centerline import Centerline, Indices
from meshes.grid import Array
from meshes.sections import Sections

LEAST_REDUCTION = 0.25
"""Diameter reduction from which on a narrowing is reported."""

SHOULDER = 0.1
"""A lesion reaches as far as the diameter is reduced by more than this."""

SHORTEST = 0.25
"""A narrowing shorter than this part of the healthy diameter is the section's doing, not the vessel's: a lesion has
shoulders."""

REFERENCE_RADII = 4.0
"""The healthy vessel is looked at over this many radii beside the lesion."""

OPEN_SHARE, OPEN_WIDER = 1.2, 1.1
"""A section whose area is that of a circle so many times as wide as its shortest width tells, against what is usual in
its branch, and so many times as wide as the usual one around, opens into a side branch."""

WINDOW_RADII = 8.0
"""Within this many radii the wider half of the vessel is taken as healthy, to find lesions at first."""


@dataclass(frozen=True)
class Stenosis:
    """One narrowing; lengths mm, positions mm, LPS."""

    branch: int
    point: int
    """id of the centerline's narrowest point"""
    position: Array
    arc_length: float
    """of that point, along the branch"""
    start: float
    """arc length along the branch where the lesion begins"""
    length: float
    diameter: float
    reference_diameter: float

    @property
    def diameter_reduction(self) -> float:
        """1 - d / d_ref."""
        return 1.0 - self.diameter / self.reference_diameter

    @property
    def area_reduction(self) -> float:
        """1 - (d / d_ref)^2."""
        return 1.0 - (self.diameter / self.reference_diameter) ** 2


def find_stenoses(centerline: Centerline, sections: Sections) -> tuple[Stenosis, ...]:
    """All narrowings of a vessel tree, the severest first.

    Args:
        centerline: of the tree.
        sections: its cross-sections.
    """
    found = []
    for branch in centerline.branches:
        ids = branch.point_ids[sections.single[branch.point_ids]]
        ids = _without_caps(centerline, ids, branch.parent is None, branch.end is not None)
        if len(ids) < 8:
            continue
        opens = _opens(centerline.arc_length[ids], sections.radius[ids], 0.5 * sections.shortest[ids])
        part = np.cumsum(opens[1:] & ~opens[:-1], dtype=np.int64)
        part = np.concatenate([[0], part])[~opens]
        ids = ids[~opens]
        if len(ids) < 8:
            continue
        radius, arc = sections.radius[ids], centerline.arc_length[ids]
        healthy = _around(arc, radius, 0.75)
        left = np.ones(len(ids), dtype=bool)
        while left.any():
            ratio = np.where(left, radius / healthy, 1.0)
            place = int(np.argmin(ratio))
            if 1.0 - ratio[place] < LEAST_REDUCTION:
                break
            first, last, reference = _lesion(arc, radius, part, healthy, place)
            left[first : last + 1] = False
            # At the tree's own ends a vessel thins out; only between healthy parts, or at its origin, it is narrowed.
            at_start, at_end = first == 0, last == len(ids) - 1
            if at_end or (at_start and branch.parent is None) or 1.0 - radius[place] / reference < LEAST_REDUCTION:
                continue
            if arc[last] - arc[first] < SHORTEST * 2.0 * reference:
                continue
            found.append(
                Stenosis(
                    branch=branch.index,
                    point=int(ids[place]),
                    position=centerline.points[ids[place]],
                    arc_length=float(arc[place]),
                    start=float(arc[first]),
                    length=float(arc[last] - arc[first]),
                    diameter=2.0 * float(radius[place]),
                    reference_diameter=2.0 * reference,
                )
            )
    return tuple(sorted(found, key=lambda stenosis: -stenosis.diameter_reduction))


def _without_caps(centerline: Centerline, ids: Indices, starts: bool, ends: bool) -> Indices:
    """Without a diameter at the tree's own ends, where sections run out of the vessel."""
    if len(ids) == 0:
        return ids
    arc, radius = centerline.arc_length[ids], centerline.radius[ids]
    low = arc[0] + (2.0 * float(np.median(radius)) if starts else 0.0)
    high = arc[-1] - (2.0 * float(np.median(radius)) if ends else 0.0)
    return ids[(arc >= low) & (arc <= high)]


def _around(arc: Array, radius: Array, share: float) -> Array:
    """(n,) a quantile of the radius around each point."""
    window = WINDOW_RADII * float(np.median(radius))
    return np.array([np.quantile(radius[np.abs(arc - here) <= window], share) for here in arc])


def _opens(arc: Array, radius: Array, half_width: Array) -> npt.NDArray[np.bool_]:
    """(n,) where a side branch that the centerline leaves out begins: the section is wide in its direction only.

    The slit of an eccentric stenosis has much area for its width, too, but less than the vessel beside it.
    """
    ratio = radius / np.maximum(half_width, 1e-6)
    wider = radius > OPEN_WIDER * _around(arc, radius, 0.5)
    return np.asarray((ratio > OPEN_SHARE * np.median(ratio)) & wider)


def _lesion(arc: Array, radius: Array, part: Indices, healthy: Array, place: int) -> tuple[int, int, float]:
    """First and last point of the lesion around the narrowest place, and the reference radius there.

    ``part`` (n,) counts the origins of side branches up to each point.
    """
    reference = healthy
    first = last = place
    for _ in range(3):
        narrow = radius < (1.0 - SHOULDER) * reference
        first = last = place
        while first > 0 and narrow[first - 1]:
            first -= 1
        while last < len(arc) - 1 and narrow[last + 1]:
            last += 1
        reach = REFERENCE_RADII * float(reference[place])
        margin = 0.5 * float(reference[place])
        before = (arc < arc[first] - margin) & (arc >= arc[first] - margin - reach)
        behind = (arc > arc[last] + margin) & (arc <= arc[last] + margin + reach)
        # Beyond a side branch's origin the vessel is of another width without any disease.
        known = _widths(arc, radius, [before & (part == part[first]), behind & (part == part[last])])
        known = known or _widths(arc, radius, [before, behind])
        if not known:
            break
        reference = np.interp(arc, [at for at, _ in known], [value for _, value in known])
    return first, last, float(reference[place])


def _widths(arc: Array, radius: Array, sides: Sequence[npt.NDArray[np.bool_]]) -> list[tuple[float, float]]:
    """Where the middle of each side with enough points is, and its radius."""
    return [(float(arc[side].mean()), float(np.median(radius[side]))) for side in sides if side.sum() >= 3]
