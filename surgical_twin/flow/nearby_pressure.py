"""Pressure at places near a point of the vessel, one for each member of an ensemble, in one compiled pass.

A live twin asks with every pose where each member has the catheter's tip, and what its pressure there is. Pressure
changes along a vessel and hardly across it, so that a place counts by the station of the centerline that is nearest to
it and by how far along it is beside that.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Stations(NamedTuple):
    """A vessel tree's centerline with the pressure modes on it; arrays are contiguous."""

    points: Array
    """(s, 3) mm"""
    tangents: Array
    """(s, 3) unit vectors"""
    modes: Array
    """(s, K) pressure modes"""
    slopes: Array
    """(s, K) 1/mm: their change along the centerline"""


@njit(cache=True)
def _nearest(x: float, y: float, z: float, points: Array, among: NDArray[np.int64], count: int) -> int:
    best, least = 0, math.inf
    for j in range(count):
        s = among[j]
        dx, dy, dz = x - points[s, 0], y - points[s, 1], z - points[s, 2]
        square = dx * dx + dy * dy + dz * dz
        if square < least:
            best, least = s, square
    return best


@njit(cache=True)
def pressure_changes(stations: Stations, origin: Array, moved: Array, coefficients: Array, reach: float) -> Array:
    """(m,) what moving from a point changes of each member's pressure, in the unit of the coefficients.

    Args:
        stations: of the vessel tree, at least one.
        origin: (3,) mm, the point.
        moved: (m, 3) mm from there.
        coefficients: (m, K) of the modes.
        reach: mm, so far beside its nearest station a place counts as along the vessel; beyond, as that far.
    """
    count, modes = coefficients.shape
    total = len(stations.points)
    squares = np.empty(total)
    first = 0
    for s in range(total):
        dx, dy, dz = (
            origin[0] - stations.points[s, 0],
            origin[1] - stations.points[s, 1],
            origin[2] - stations.points[s, 2],
        )
        squares[s] = dx * dx + dy * dy + dz * dz
        if squares[s] < squares[first]:
            first = s
    farthest = 0.0
    for i in range(count):
        farthest = max(farthest, moved[i, 0] ** 2 + moved[i, 1] ** 2 + moved[i, 2] ** 2)
    # Whatever is nearest to a place d away is no farther from the origin than its own nearest one and twice d.
    limit = (math.sqrt(squares[first]) + 2.0 * math.sqrt(farthest)) ** 2 * (1.0 + 1e-9)
    among = np.empty(total, dtype=np.int64)
    candidates = 0
    for s in range(total):
        if squares[s] <= limit:
            among[candidates] = s
            candidates += 1
    here = np.empty(modes)
    changes = np.empty(count)
    for i in range(-1, count):
        x, y, z = origin[0], origin[1], origin[2]
        if i >= 0:
            x, y, z = x + moved[i, 0], y + moved[i, 1], z + moved[i, 2]
        near = _nearest(x, y, z, stations.points, among, candidates)
        beside = (
            (x - stations.points[near, 0]) * stations.tangents[near, 0]
            + (y - stations.points[near, 1]) * stations.tangents[near, 1]
            + (z - stations.points[near, 2]) * stations.tangents[near, 2]
        )
        # Beyond its half of the way to the next station a place is nearest to that one, but for a vessel's ends.
        beside = min(max(beside, -reach), reach)
        change = 0.0
        for k in range(modes):
            mode = stations.modes[near, k] + beside * stations.slopes[near, k]
            if i < 0:
                here[k] = mode
            else:
                change += (mode - here[k]) * coefficients[i, k]
        if i >= 0:
            changes[i] = change
    return changes
