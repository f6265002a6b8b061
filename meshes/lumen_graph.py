"""The voxels of a lumen as a graph, and how wide and long paths through it are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from meshes.centerline import Indices
from meshes.errors import InputError
from meshes.grid import Array, Grid

WIDTH_DECAY = 0.25
"""How fast a path's width may fall along it, mm per mm, to be a vessel that tapers and not one that ends."""

CAP_DEPTH = 0.75
"""A vessel's end is where the depth is this part of the width behind it."""

MOST_VOXELS = 500_000
"""A lumen of more voxels is searched on a coarser grid; its points are still placed by the fine distance."""


class LumenGraph:
    """The inside voxels of a level set, linked to their 26 neighbors."""

    def __init__(self, field: Grid) -> None:
        inside = field.values < 0
        if inside.sum() < 30:
            raise InputError("The lumen has fewer than 30 voxels; it is too small for a centerline.")
        self.number = np.full(inside.shape, -1, dtype=np.int64)
        self.number[inside] = np.arange(int(inside.sum()))
        self.voxels = np.argwhere(inside)
        self.positions = field.to_position(self.voxels[:, ::-1])
        self.depth = -field.values[inside].astype(float)
        rows, columns, lengths = [], [], []
        for dk in (0, 1):
            for dj in (-1, 0, 1) if dk else (0, 1):
                for di in (-1, 0, 1) if dk or dj else (1,):
                    neighbor = self.voxels + (dk, dj, di)
                    fits = np.all((neighbor >= 0) & (neighbor < inside.shape), axis=1)
                    other = np.full(len(neighbor), -1)
                    other[fits] = self.number[tuple(neighbor[fits].T)]
                    linked = np.flatnonzero(other >= 0)
                    rows.append(linked)
                    columns.append(other[linked])
                    step = np.linalg.norm(np.array([di, dj, dk]) * field.spacing)
                    lengths.append(np.full(len(linked), step))
        row, column, length = np.concatenate(rows), np.concatenate(columns), np.concatenate(lengths)
        count = len(self.voxels)
        self.width = self.depth.copy()
        floor = 0.5 * float(field.spacing.min())
        self.step = float(field.spacing.max())
        depth = np.maximum(self.depth, floor)
        cost = length / (0.5 * (depth[row] + depth[column])) ** 2
        self.tree = cKDTree(self.positions)
        self.length = sparse.coo_matrix((length, (row, column)), shape=(count, count)).tocsr()
        self.cost = sparse.coo_matrix((cost, (row, column)), shape=(count, count)).tocsr()

    @classmethod
    def of(cls, field: Grid) -> LumenGraph:
        """The graph of a lumen, on a coarser grid where it has more voxels than the search can afford."""
        factor = float(np.cbrt((field.values < 0).sum() / MOST_VOXELS))
        if factor <= 1.0:
            return cls(field)
        values = ndimage.zoom(field.values, 1.0 / factor, order=1)
        spacing = field.spacing * (field.size - 1) / (np.array(values.shape[::-1]) - 1)
        return cls(Grid(values, field.origin, spacing, field.direction))

    def distances(self, sources: npt.ArrayLike) -> Array:
        """(count,) geodesic distance [mm] from the nearest of the source voxels."""
        distance: Array = csgraph.dijkstra(self.length, directed=False, indices=np.atleast_1d(sources), min_only=True)
        return distance

    def reach(self, path: Indices) -> float:
        """How far from its first voxel a path gets [mm]."""
        return float(np.linalg.norm(self.positions[path] - self.positions[path[0]], axis=1).max())

    def widen(self, path: Indices) -> None:
        """Let the width of a path's wide places reach along it: it falls by ``WIDTH_DECAY`` per mm only.

        At the end of a vessel, whether a flat cap or one that dissolves into noise, the depth drops at once, and what
        sticks out there is no branch.
        """
        steps = np.linalg.norm(np.diff(self.positions[path], axis=0), axis=1)
        arc = np.concatenate([[0.0], np.cumsum(steps)]) * WIDTH_DECAY
        depth = self.depth[path]
        forward = np.maximum.accumulate(depth + arc) - arc
        backward = np.maximum.accumulate((depth - arc)[::-1])[::-1] + arc
        self.width[path] = np.maximum(self.width[path], np.maximum(forward, backward))

    def own_radius(self, path: Indices) -> tuple[float, float]:
        """A branch's radius outside the vessel that it leaves, and how long it is there [mm]."""
        away = np.linalg.norm(self.positions[path] - self.positions[path[0]], axis=1)
        parent = float(self.width[path[0]])
        path = path[: len(path) - self.cap_length(path[::-1])]
        away = away[: len(path)]
        outside = path[away > parent]
        if len(outside) < 2:
            return float(self.depth[path].max()), 0.0
        beyond = float(np.linalg.norm(np.diff(self.positions[outside], axis=0), axis=1).sum())
        return float(np.quantile(self.depth[outside], 0.9)), beyond

    def cap_length(self, chain: Indices) -> int:
        """How many voxels at the beginning of a chain belong to the vessel's cap: until the depth is that of the vessel
        behind."""
        depth, width = self.depth[chain], self.width[chain]
        full = np.flatnonzero(depth >= CAP_DEPTH * width)
        begin = int(full[0]) if len(full) else 0
        # Further on while it still grows: the ridge begins where the inscribed sphere touches the cap.
        while begin + 1 < len(depth) and depth[begin + 1] > depth[begin] + 0.2 * self.step:
            begin += 1
        return min(begin, max(0, len(depth) - 4))
