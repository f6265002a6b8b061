"""The way a catheter takes along the vessel's centerline, from where it enters to its tip."""

from __future__ import annotations

import numpy as np
import pyvista as pv
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from viewer.errors import InputError

REACH = 1.5
"""The tip counts as inside the vessel within this many inscribed radii of the centerline."""


class CatheterPath:
    """Shortest ways along a centerline from one access point.

    Args:
        centerline: lines with the point array ``Radius`` (mm); ``BranchId`` and ``ArcLength`` tell the root.
        access: where the catheter enters, mm LPS; the centerline's root (the inlet) if not given.
    """

    def __init__(self, centerline: pv.PolyData, *, access: ArrayLike | None = None) -> None:
        points = np.asarray(centerline.points, dtype=np.float64)
        if len(points) < 2 or centerline.n_lines < 1:
            raise InputError("the centerline holds no line; write the case's centerline again.")
        if "Radius" not in centerline.point_data:
            raise InputError("the centerline has no point array Radius; write the case's centerline again.")
        self._radius = np.asarray(centerline.point_data["Radius"], dtype=np.float64)
        self._tree = cKDTree(points)
        self._points = points
        first, second = _segments(centerline)
        # Branches may repeat the point they leave from, or start a little off it: join those by a short step.
        joints = _joints(points, first, second, self._radius)
        first, second = np.append(first, joints[:, 0]), np.append(second, joints[:, 1])
        length = np.maximum(np.linalg.norm(points[first] - points[second], axis=1), 1e-9)
        graph = csr_array((length, (first, second)), shape=(len(points), len(points)))
        if access is not None:
            root = int(self._tree.query(np.asarray(access, dtype=np.float64))[1])
        else:
            root = _root(centerline)
        self._before = dijkstra(graph, directed=False, indices=root, return_predecessors=True)[1]
        self._root = root

    def to(self, tip: ArrayLike) -> NDArray[np.float64] | None:
        """Points (n, 3) from the access to `tip` (3,), or None if the tip is not in a vessel joined to it."""
        tip = np.asarray(tip, dtype=np.float64)
        distance, nearest = self._tree.query(tip)
        if distance > REACH * self._radius[nearest]:
            return None
        way = [int(nearest)]
        while way[-1] != self._root:
            before = int(self._before[way[-1]])
            if before < 0:
                return None
            way.append(before)
        line = self._points[way[::-1]]
        # Leave the centerline gently: no kink beside the tip.
        near = np.linalg.norm(line - tip, axis=1) < max(2.0 * distance, 1e-3)
        line = np.vstack([line[: int(np.argmax(near))] if near.any() else line, tip])
        return line if len(line) > 1 else None


def _segments(centerline: pv.PolyData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and second point of every piece of every polyline."""
    cells = np.asarray(centerline.lines, dtype=np.int64)
    first: list[NDArray[np.int64]] = []
    second: list[NDArray[np.int64]] = []
    at = 0
    while at < len(cells):
        ids = cells[at + 1 : at + 1 + cells[at]]
        first.append(ids[:-1])
        second.append(ids[1:])
        at += int(cells[at]) + 1
    return np.concatenate(first), np.concatenate(second)


def _joints(
    points: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    radius: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Pairs (m, 2) joining each line's end to the nearest point of another line within its vessel's
    radius."""
    count = np.bincount(np.append(first, second), minlength=len(points))
    graph = csr_array((np.ones(len(first)), (first, second)), shape=(len(points), len(points)))
    from scipy.sparse.csgraph import connected_components

    label = connected_components(graph, directed=False)[1]
    tree = cKDTree(points)
    pairs = []
    for end in np.flatnonzero(count == 1):
        near = [j for j in tree.query_ball_point(points[end], radius[end]) if label[j] != label[end]]
        if near:
            pairs.append((end, min(near, key=lambda j: float(np.linalg.norm(points[j] - points[end])))))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _root(centerline: pv.PolyData) -> int:
    """The inlet: the start of branch 0, or the first point when branches are not told."""
    if "ArcLength" not in centerline.point_data or "BranchId" not in centerline.point_data:
        return 0
    branch = np.asarray(centerline.point_data["BranchId"])
    arc = np.asarray(centerline.point_data["ArcLength"], dtype=np.float64)
    return int(np.argmin(np.where(branch == branch.min(), arc, np.inf)))
