"""The normal equations and scores of many poses at once on the thinned surface, compiled: one pass over the points."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@njit(cache=True)
def _cell(value: float, low: float, size: float, count: int) -> int:
    # The nearest rim cell serves what lies outside the raster; clipped before it is an integer, so nothing overflows.
    return int(min(max((value - low) / size, 0.0), count - 1.0))


@njit(cache=True)
def normal_equations(
    poses: Array,
    points: Array,
    low: Array,
    size: Array,
    nearest: Indices,
    count: int,
    q: Array,
    n: Array,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Point-to-plane normal matrices (s, 6, 6), slopes (s, 6) and centers (s, 3) of poses; Geman-McClure weights.

    Args:
        poses: (s, 4, 4) target from source.
        points: (m, 3) of the source, mm.
        low: (3,) corner of the raster in which the target's points are looked up, mm.
        size: (3,) of its cells, mm.
        nearest: (count**3,) index of the target point nearest to each cell's middle.
        count: cells per side.
        q: (k, 3) target points, mm.
        n: (k, 3) their unit normals.
        scale: of the kernel, mm.
    """
    normals, slopes = np.zeros((len(poses), 6, 6)), np.zeros((len(poses), 6))
    centers = np.zeros((len(poses), 3))
    middle = np.zeros(3)
    for i in range(len(points)):
        for a in range(3):
            middle[a] += points[i, a] / len(points)
    row, moved = np.empty(6), np.empty(3)
    for s in range(len(poses)):
        pose = poses[s]
        for a in range(3):
            centers[s, a] = pose[a, 0] * middle[0] + pose[a, 1] * middle[1] + pose[a, 2] * middle[2] + pose[a, 3]
        for i in range(len(points)):
            cell = 0
            for a in range(3):
                moved[a] = (
                    pose[a, 0] * points[i, 0] + pose[a, 1] * points[i, 1] + pose[a, 2] * points[i, 2] + pose[a, 3]
                )
                cell = cell * count + _cell(moved[a], low[a], size[a], count)
            j = nearest[cell]
            square, miss = 0.0, 0.0
            for a in range(3):
                off = q[j, a] - moved[a]
                square += off * off
                miss += n[j, a] * off
            weight = 1.0 / (1.0 + square / (scale * scale)) ** 2
            x, y, z = moved[0] - centers[s, 0], moved[1] - centers[s, 1], moved[2] - centers[s, 2]
            row[0] = y * n[j, 2] - z * n[j, 1]
            row[1] = z * n[j, 0] - x * n[j, 2]
            row[2] = x * n[j, 1] - y * n[j, 0]
            row[3], row[4], row[5] = n[j, 0], n[j, 1], n[j, 2]
            for a in range(6):
                part = weight * row[a]
                slopes[s, a] += part * miss
                for b in range(a + 1):
                    normals[s, a, b] += part * row[b]
        for a in range(6):
            for b in range(a):
                normals[s, b, a] = normals[s, a, b]
    return normals, slopes, centers
