"""Finds the tetrahedron that holds a point, or the nearest point of the mesh when none does.

Exact, not heuristic: a first guess among the cells with the nearest centroids settles nearly every inside
point; what it leaves open is decided by searching every cell (or boundary triangle) whose centroid is near
enough to matter, with the mesh's largest cell as the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from surgical_twin.errors import InputError

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_INSIDE_TOLERANCE = 1e-9
_FIRST_CANDIDATES = 12
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
        self._origins = np.ascontiguousarray(corners[:, 0])
        centroids = corners.mean(axis=1)
        self._tree = cKDTree(centroids)
        self._reach = float(np.linalg.norm(corners - centroids[:, None], axis=2).max())
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
        n = len(points)
        nearby = min(_FIRST_CANDIDATES, len(self.tetrahedra))
        candidates = self._tree.query(points, k=nearby)[1].reshape(n, nearby)
        cells, weights, found = _best_cells(points, candidates, self._origins, self.weight_gradients)
        distance = np.zeros(n)
        if not found.all():
            for i in np.flatnonzero(~found):
                cells[i], weights[i], distance[i] = self._search(points[i])
                weights[i] = np.maximum(weights[i], 0.0)
                weights[i] /= weights[i].sum()
        return Location(cells, self.tetrahedra[cells], weights, distance)

    def _weights(self, points: Array, cells: Indices) -> Array:
        inner = (self.weight_gradients[cells] @ (points - self._origins[cells])[..., None])[..., 0]
        return np.concatenate([1.0 - inner.sum(axis=-1, keepdims=True), inner], axis=-1)

    def _search(self, point: Array) -> tuple[int, Array, float]:
        """Every cell that could hold the point, then the boundary; returns cell, weights, distance."""
        cells = np.array(self._tree.query_ball_point(point, self._reach * (1.0 + 1e-9)), dtype=np.int64)
        if len(cells):
            weights = self._weights(point[None], cells)
            best = int(weights.min(axis=1).argmax())
            if weights[best].min() >= -_INSIDE_TOLERANCE:
                return int(cells[best]), weights[best], 0.0
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
def _best_cells(  # pragma: no cover - compiled
    points: Array, candidates: Indices, origins: Array, gradients: Array
) -> tuple[Indices, Array, NDArray[np.bool_]]:
    """Of each point's candidate cells (n, c) the one with the largest least weight, its weights (n, 4), and whether
    it holds the point; then its weights are not negative and sum to one."""
    count = len(points)
    cells, weights = np.zeros(count, dtype=np.int64), np.zeros((count, 4))
    found = np.zeros(count, dtype=np.bool_)
    for i in range(count):
        best = -np.inf
        for cell in candidates[i]:
            x = points[i, 0] - origins[cell, 0]
            y = points[i, 1] - origins[cell, 1]
            z = points[i, 2] - origins[cell, 2]
            row = gradients[cell]
            second = row[0, 0] * x + row[0, 1] * y + row[0, 2] * z
            third = row[1, 0] * x + row[1, 1] * y + row[1, 2] * z
            fourth = row[2, 0] * x + row[2, 1] * y + row[2, 2] * z
            first = 1.0 - (second + third + fourth)
            least = min(min(first, second), min(third, fourth))
            if least > best:
                best, cells[i] = least, cell
                weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3] = first, second, third, fourth
        found[i] = best >= -_INSIDE_TOLERANCE
        if found[i]:
            total = 0.0
            for corner in range(4):
                weights[i, corner] = max(weights[i, corner], 0.0)
                total += weights[i, corner]
            for corner in range(4):
                weights[i, corner] /= total
    return cells, weights, found


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
