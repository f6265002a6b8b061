"""The vessel's axis that the display and the catheter follow: from the inlet through the narrowest place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshes.centerline import Centerline
from meshes.ports import Port

Array = NDArray[np.float64]

STATION_SPACING_MM = 2.0
MOST_STATIONS = 60

REFERENCE_REACH = 8.0
"""The healthy reference of a place is the median radius within this many of its radii along the vessel."""

END_MARGIN = 2.0
"""Radii at each end of a path in which no narrowing is looked for: caps and junctions distort the radius there."""


@dataclass(frozen=True)
class Axis:
    """Points along one way through the vessel tree."""

    outlet: str
    points: Array
    """(n, 3) mm, LPS, from the inlet"""
    radius: Array
    """(n,) mm"""
    distance: Array
    """(n,) mm from the inlet"""
    narrowest: float
    """Distance of the narrowest place [mm]."""
    narrowing: float
    """Its radius over that of the healthy vessel around it; 1 where nothing is narrow."""

    def at(self, distance: ArrayLike) -> Array:
        """(k, 3) points at distances [mm] from the inlet."""
        wanted = np.atleast_1d(distance)
        return np.column_stack([np.interp(wanted, self.distance, self.points[:, axis]) for axis in range(3)])

    def stations(self) -> Array:
        """(k,) evenly spaced distances [mm], both ends among them."""
        length = float(self.distance[-1])
        count = int(np.clip(np.ceil(length / STATION_SPACING_MM) + 1, 2, MOST_STATIONS))
        return np.linspace(0.0, length, count)


def between_ports(centerline: Centerline, ports: Sequence[Port]) -> NDArray[np.bool_]:
    """(n,) which points of a centerline lie between the ports.

    A centerline goes on behind its ports, into frayed ends that are cut away: what it measures there is no vessel's.
    """
    kept = np.ones(len(centerline.points), dtype=bool)
    for port in ports:
        if port.role == "inlet":
            ids = centerline.branches[0].point_ids
            kept[ids[: _nearest(centerline.points[ids], port.center)]] = False
            continue
        for branch in centerline.branches:
            if branch.end == port.name:
                kept[branch.point_ids[_nearest(centerline.points[branch.point_ids], port.center) + 1 :]] = False
    return kept


def _nearest(points: Array, place: Array) -> int:
    return int(np.argmin(np.linalg.norm(points - place, axis=1)))


def path_axis(centerline: Centerline, ports: Sequence[Port], outlet: str) -> Axis:
    """The way from the inlet to one outlet, with its narrowest place."""
    ids = centerline.path_to(outlet)
    ids = ids[between_ports(centerline, ports)[ids]]
    points, radius = centerline.points[ids], centerline.radius[ids]
    distance = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    ratio = np.ones(len(ids))
    inner = (distance > END_MARGIN * radius[0]) & (distance < distance[-1] - END_MARGIN * radius[-1])
    for index in np.flatnonzero(inner):
        near = np.abs(distance - distance[index]) < REFERENCE_REACH * radius[index]
        # Only distal of the place and at its own calibre: the parent of a branch is wider without any disease.
        distal = near & (distance >= distance[index])
        reference = min(float(np.median(radius[near])), float(np.percentile(radius[distal], 75)))
        ratio[index] = min(1.0, radius[index] / reference)
    narrowest = int(np.argmin(ratio))
    return Axis(outlet, points, radius, distance, float(distance[narrowest]), float(ratio[narrowest]))


def main_axis(centerline: Centerline, ports: Sequence[Port]) -> Axis:
    """Of all ways through the tree the one with the severest narrowing."""
    axes = [path_axis(centerline, ports, port.name) for port in ports if port.role == "outlet"]
    return min(axes, key=lambda axis: axis.narrowing)
