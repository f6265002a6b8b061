"""Narrowings of a vessel: where, how long, and how much of the diameter and area is lost.

As in quantitative angiography: the reference is the healthy vessel just before and just behind the lesion, a straight
line between the two; the reduction is 1 - d/d_ref. A branch is looked at by itself, without its ends at junctions, for
a daughter is thinner than its parent without any disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
        radius, arc = sections.radius[ids], centerline.arc_length[ids]
        healthy = _healthy_at_first(arc, radius)
        left = np.ones(len(ids), dtype=bool)
        while left.any():
            ratio = np.where(left, radius / healthy, 1.0)
            place = int(np.argmin(ratio))
            if 1.0 - ratio[place] < LEAST_REDUCTION:
                break
            first, last, reference = _lesion(arc, radius, healthy, place)
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


def _healthy_at_first(arc: Array, radius: Array) -> Array:
    """(n,) the 75 % quantile of the radius around each point."""
    window = WINDOW_RADII * float(np.median(radius))
    return np.array([np.quantile(radius[np.abs(arc - here) <= window], 0.75) for here in arc])


def _lesion(arc: Array, radius: Array, healthy: Array, place: int) -> tuple[int, int, float]:
    """First and last point of the lesion around the narrowest place, and the reference radius there."""
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
        known = [(arc[side].mean(), np.median(radius[side])) for side in (before, behind) if side.sum() >= 3]
        if not known:
            break
        reference = np.interp(arc, [at for at, _ in known], [value for _, value in known])
    return first, last, float(reference[place])
