"""Finds the tetrahedron that holds a point, or the nearest point of the mesh when none does.

Exact, not heuristic: a raster of the mesh knows every cell that may hold a point; where none does, every boundary
triangle whose centroid is near enough to matter is searched, with the largest triangle as the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from surgical_twin.errors import InputError
from surgical_twin.flow.cell_raster import CellRaster, holding_cell, holding_cells

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_INSIDE_TOLERANCE = 1e-9
# The faces of a tetrahedron, each followed by the vertex opposite to it.
_FACES = np.array([[1, 2, 3, 0], [0, 3, 2, 1], [0, 1, 3, 2], [0, 2, 1, 3]])


@dataclass(frozen=True)
class Location:
    """Where n points lie in the mesh."""

    cells: Indices
    """(n,) the tetrahedron that holds the point, or the one at the nearest boundary point"""
    vertices: Indices
    """(n, 4) its vertices"""
    weights: Array
    """(n, 4) barycentric weights, not negative, summing to one"""
    distance: Array
    """(n,) from the point to the mesh, zero inside; unit of the mesh"""


class MeshLocator:
    """Point location in a tetrahedral mesh: ``points`` (nv, 3), ``tetrahedra`` (nc, 4).

    Raises `InputError` for a mesh without cells, with indices out of range or with flat cells.
    """

    def __init__(self, points: Array, tetrahedra: Indices) -> None:
        self.points = np.ascontiguousarray(points, dtype=float)
        self.tetrahedra = np.ascontiguousarray(tetrahedra, dtype=np.int64)
        if self.tetrahedra.ndim != 2 or self.tetrahedra.shape[1] != 4 or len(self.tetrahedra) == 0:
            raise InputError("Locating points needs a mesh with at least one tetrahedron of four vertices.")
        if self.tetrahedra.min() < 0 or self.tetrahedra.max() >= len(self.points):
            raise InputError(f"The tetrahedra name vertices outside 0 to {len(self.points) - 1}.")
        corners = self.points[self.tetrahedra]
        edges = corners[:, 1:] - corners[:, :1]
        volumes = np.linalg.det(edges)
        longest = np.linalg.norm(edges, axis=2).max(axis=1)
        flat = int((np.abs(volumes) <= 1e-12 * longest**3).sum())
        if flat:
            raise InputError(f"{flat} of {len(volumes)} tetrahedra are flat; mesh the lumen again.")
        # Row k: the gradient of the barycentric weight of vertex k + 1.
        self.weight_gradients = np.ascontiguousarray(np.linalg.inv(edges).transpose(0, 2, 1))
        self.volumes = np.abs(volumes) / 6.0
        self.raster = CellRaster.of(corners, self.weight_gradients, _INSIDE_TOLERANCE)
        self._find_boundary()

    def _find_boundary(self) -> None:
        faces = self.tetrahedra[:, _FACES]  # (nc, 4, 4)
        triangles = faces[..., :3].reshape(-1, 3)
        ordered = np.sort(triangles, axis=1)
        _, first, count = np.unique(ordered, axis=0, return_index=True, return_counts=True)
        lone = np.sort(first[count == 1])
        self.boundary = triangles[lone]
        self._boundary_cell = lone // 4
        self._boundary_corner = _FACES[lone % 4, :3]
        corners = self.points[self.boundary]
        centroids = corners.mean(axis=1)
        self._boundary_points = np.unique(self.boundary)
        self._boundary_tree = cKDTree(centroids)
        self._boundary_vertex_tree = cKDTree(self.points[self._boundary_points])
        self._boundary_reach = float(np.linalg.norm(corners - centroids[:, None], axis=2).max())

    def locate(self, points: Array) -> Location:
        """Cells and barycentric weights of ``points`` (n, 3), in the mesh's unit and frame.

        A point outside the mesh gets the weights of the nearest point of its boundary.
        """
        points = np.asarray(points, dtype=float).reshape(-1, 3)
        if not np.isfinite(points).all():
            raise InputError("A point that is not finite cannot be located in the mesh.")
        cells, weights = holding_cells(points, self.raster)
        distance = np.zeros(len(points))
        for i in np.flatnonzero(cells < 0):
            cells[i], weights[i], distance[i] = self._nearest(points[i])
        return Location(cells, self.tetrahedra[cells], weights, distance)

    def locate_one(self, point: Array) -> tuple[int, Array, float]:
        """The same for one point (3,), at a fraction of the cost: cell, weights (4,), distance."""
        weights = np.zeros(4)
        cell = holding_cell(point[0], point[1], point[2], self.raster, weights)
        return self._nearest(point) if cell < 0 else (cell, weights, 0.0)

    def _nearest(self, point: Array) -> tuple[int, Array, float]:
        """At the nearest point of the boundary: the cell, its weights (4,), the distance."""
        # The nearest boundary vertex bounds the distance, so only triangles this near can be nearer.
        bound = float(self._boundary_vertex_tree.query(point)[0])
        near = self._boundary_tree.query_ball_point(point, (bound + self._boundary_reach) * (1.0 + 1e-9))
        triangles = np.sort(np.array(near, dtype=np.int64))
        corners = self.points[self.boundary[triangles]]
        in_triangle = _nearest_in_triangles(point, corners)
        gaps = np.linalg.norm((in_triangle[..., None] * corners).sum(axis=1) - point, axis=1)
        best = int(gaps.argmin())
        weights = np.zeros(4)
        weights[self._boundary_corner[triangles[best]]] = in_triangle[best]
        return int(self._boundary_cell[triangles[best]]), weights, float(gaps[best])


@njit(cache=True)
def at_corners(  # pragma: no cover - compiled
    weights: Array, vertices: NDArray[np.int64], nodal: NDArray[np.float32]
) -> Array:
    """(n, k) of nodal values (nv, k) at points whose weights (n, 4) of four vertices (n, 4) are known."""
    count, width = len(weights), nodal.shape[1]
    values = np.zeros((count, width))
    for i in range(count):
        for corner in range(4):
            weight, vertex = weights[i, corner], vertices[i, corner]
            for k in range(width):
                values[i, k] += weight * nodal[vertex, k]
    return values


def _nearest_in_triangles(point: Array, corners: Array) -> Array:
    """Barycentric weights (n, 3) of the point of each triangle (n, 3, 3) that is nearest to ``point`` (3,).

    The nearest point is the foot of the perpendicular when that falls inside, else it lies on an edge.
    """
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    u, v, w = b - a, c - a, point - a
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    wu, wv = (w * u).sum(1), (w * v).sum(1)
    determinant = np.maximum(uu * vv - uv * uv, np.finfo(float).tiny)
    second = (vv * wu - uv * wv) / determinant
    third = (uu * wv - uv * wu) / determinant
    foot = np.stack([1.0 - second - third, second, third], axis=1)
    options = np.zeros((4, len(corners), 3))
    options[0] = foot
    for edge, (i, j) in enumerate(((0, 1), (1, 2), (2, 0)), start=1):
        along = corners[:, j] - corners[:, i]
        length = np.maximum((along * along).sum(1), np.finfo(float).tiny)
        t = np.clip(((point - corners[:, i]) * along).sum(1) / length, 0.0, 1.0)
        options[edge, :, i] = 1.0 - t
        options[edge, :, j] = t
    gaps = np.linalg.norm((options[..., None] * corners).sum(axis=2) - point, axis=2)
    gaps[0, (foot < 0.0).any(axis=1)] = np.inf
    chosen: Array = options[gaps.argmin(axis=0), np.arange(len(corners))]
    return chosen
