"""A surface prepared once for many registrations: points, outward or inward normals, search trees, two densities."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from registration.errors import InputError
from registration.rigid import Array, check_points
from registration.surface.step_kernel import normal_equations

COARSE_POINTS = 2000
"""About how many points the coarse copy keeps: enough to find the basin, few enough for sixty starts at once."""

NORMAL_NEIGHBORS = 12
"""Points through which a normal is laid; more of them span too much of a sparse surface's curvature."""

DENSE_SURFACE, DENSE_NEIGHBORS = 10_000, 20
"""From so many points on, more neighbors, which still lie close by, even out the noise of a scanned surface."""

RASTER = 48
"""Cells per side of the raster in which the coarse points are looked up."""

RASTER_MARGIN = 0.15
"""How far the raster reaches beyond the surface, in diameters; from farther off its nearest rim cell is taken."""


@dataclass(frozen=True)
class SurfaceTarget:
    """Points (n, 3) of a surface in mm with unit normals (n, 3), and a coarse copy of both."""

    points: Array
    normals: Array
    coarse_points: Array
    coarse_normals: Array
    spacing: float
    tree: KDTree = field(repr=False)
    coarse_tree: KDTree = field(repr=False)

    @classmethod
    def from_points(cls, points: ArrayLike) -> SurfaceTarget:
        """From scattered points (n, 3); normals (their sign is free) from the plane through their neighbors.

        Raises:
            InputError: fewer than 50 points, values that are not finite, or points on a line.
        """
        p = check_points(points, "surface points")
        if len(p) < 50:
            raise InputError(f"a surface of {len(p)} points is too sparse; give at least 50.")
        tree = KDTree(p)
        _, neighbors = tree.query(p, k=neighbors_of_normal(len(p)))
        around = p[neighbors] - p[neighbors].mean(axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
        if np.median(values[:, 1]) <= 1e-12 * max(float(np.median(values[:, 2])), 1e-300):
            raise InputError("the surface points lie on lines; scan across the surface.")
        return cls._prepared(p, vectors[:, :, 0], tree)

    @classmethod
    def from_triangles(cls, vertices: ArrayLike, triangles: ArrayLike, *, count: int = 20_000) -> SurfaceTarget:
        """From a triangle mesh: `count` points spread evenly over its area, with the triangles' own normals.

        Args:
            vertices: (n, 3) in mm.
            triangles: (m, 3) indices.
            count: how many points are drawn (low-discrepancy, always the same ones).

        Raises:
            InputError: indices outside the vertices, or a mesh without area.
        """
        v, t = check_points(vertices, "surface vertices"), np.asarray(triangles)
        if t.ndim != 2 or t.shape[1] != 3 or not np.issubdtype(t.dtype, np.integer):
            raise InputError(f"triangles have shape {t.shape}; give three vertex indices per triangle.")
        if len(t) == 0 or t.min() < 0 or t.max() >= len(v):
            raise InputError("a triangle names a vertex that the surface does not have; write the surface again.")
        a, b, c = v[t[:, 0]], v[t[:, 1]], v[t[:, 2]]
        cross = np.cross(b - a, c - a)
        areas = 0.5 * np.linalg.norm(cross, axis=1)
        total = float(areas.sum())
        if total <= 0.0:
            raise InputError("the surface has no area: all its triangles are degenerate.")
        which = np.searchsorted(np.cumsum(areas) / total, (np.arange(count) + 0.5) / count).clip(0, len(t) - 1)
        # The plastic number's additive recurrence (Roberts 2018) fills each triangle evenly.
        k = np.arange(count)
        u, w = (0.5 + k * 0.7548776662466927) % 1.0, (0.5 + k * 0.5698402909980532) % 1.0
        fold = u + w > 1.0
        u[fold], w[fold] = 1.0 - u[fold], 1.0 - w[fold]
        points = a[which] + u[:, None] * (b - a)[which] + w[:, None] * (c - a)[which]
        normals = cross[which] / np.maximum(np.linalg.norm(cross[which], axis=1, keepdims=True), 1e-300)
        return cls._prepared(points, normals, KDTree(points))

    @classmethod
    def _prepared(cls, points: Array, normals: Array, tree: KDTree) -> SurfaceTarget:
        spacing = float(np.median(tree.query(points[:: max(1, len(points) // 2000)], k=2)[0][:, 1]))
        keep = thin_out(points, COARSE_POINTS)
        return cls(points, normals, points[keep], normals[keep], spacing, tree, KDTree(points[keep]))

    @cached_property
    def _raster(self) -> tuple[Array, Array, NDArray[np.intp]]:
        """Corner and cell of a raster around the surface, and the coarse point nearest to each cell's middle."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        margin = RASTER_MARGIN * self.diameter
        low, high = low - margin, high + margin
        cell = (high - low) / RASTER
        middles = np.array(np.meshgrid(*([np.arange(RASTER) + 0.5] * 3), indexing="ij")).reshape(3, -1).T
        nearest = self.coarse_tree.query(low + middles * cell)[1]
        return low, cell, nearest

    def near_coarse(self, points: Array) -> tuple[Array, NDArray[np.intp]]:
        """Distance (n,) from points (n, 3) to coarse points about nearest to them, and the indices (n,) of these.

        Looked up in a raster: many times faster than in a tree, and good enough to find the basin."""
        low, cell, nearest = self._raster
        place = np.clip(((points - low) / cell).astype(np.intp), 0, RASTER - 1)
        index = nearest[(place[:, 0] * RASTER + place[:, 1]) * RASTER + place[:, 2]]
        offset = points - self.coarse_points[index]
        return np.sqrt(np.einsum("ni,ni->n", offset, offset)), index

    def coarse_equations(self, poses: Array, points: Array, scale: float) -> tuple[Array, Array, Array]:
        """Normal equations of poses (s, 4, 4) of points (n, 3) on the coarse copy; see `normal_equations`."""
        low, cell, nearest = self._raster
        return normal_equations(
            np.ascontiguousarray(poses),
            np.ascontiguousarray(points),
            low,
            cell,
            nearest,
            RASTER,
            self.coarse_points,
            self.coarse_normals,
            scale,
        )

    @property
    def diameter(self) -> float:
        """Diagonal of the bounding box, mm."""
        return float(np.linalg.norm(np.ptp(self.points, axis=0)))


def neighbors_of_normal(count: int) -> int:
    """How many neighbors a normal of a surface of `count` points is laid through."""
    return DENSE_NEIGHBORS if count >= DENSE_SURFACE else NORMAL_NEIGHBORS


def thin_out(points: Array, count: int) -> NDArray[np.intp]:
    """Indices of about `count` points, one per cell of a cubic raster, the same ones every time."""
    if len(points) <= count:
        return np.arange(len(points))
    corner = points.min(axis=0)
    offsets = points - corner
    low, high = 0.0, float(offsets.max())
    keep = np.arange(len(points))
    for _ in range(25):
        cell = 0.5 * (low + high)
        keys = (offsets / cell).astype(np.int64)
        keep = np.unique(keys @ (1, 2_000_003, 4_000_037_000_003), return_index=True)[1]
        if len(keep) > 1.1 * count:
            low = cell
        elif len(keep) < 0.9 * count:
            high = cell
        else:
            break
    return np.sort(keep)
