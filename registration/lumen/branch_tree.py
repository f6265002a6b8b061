"""The vessel's centerline as a graph of stations: place, width, branch, and the way from each to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

from registration.errors import InputError
from registration.rigid import Array, check_points

SPACING = 1.0
"""Distance of stations along a branch, mm."""

FEW = 5000
"""Stations among which looking at all takes less than asking a search tree."""


@dataclass(frozen=True)
class BranchTree:
    """Stations along all branches, mm.

    Attributes:
        points: (n, 3) on the centerline.
        tangents: (n, 3) unit vectors along the branch.
        radii: (n,) of the largest sphere inside the lumen.
        branch: (n,) index into `names`.
        along: (n,) distance from the branch's beginning.
        names: the branches' names.
        distances: (n, n) way through the vessel between stations.
        junctions: (k,) stations at which branches meet.
    """

    points: Array
    tangents: Array
    radii: Array
    branch: NDArray[np.intp]
    along: Array
    names: tuple[str, ...]
    distances: Array = field(repr=False)
    junctions: NDArray[np.intp]
    tree: KDTree = field(repr=False)

    @classmethod
    def from_branches(
        cls,
        centerlines: Sequence[ArrayLike],
        radii: Sequence[ArrayLike],
        *,
        names: Sequence[str] | None = None,
        join_mm: float | None = None,
    ) -> BranchTree:
        """From one polyline (n, 3) with radii (n,) per branch; branches whose ends meet another are joined there.

        Args:
            centerlines: points of each branch in order, mm.
            radii: lumen radius at each point, mm.
            names: what to call the branches; "1", "2", ... if not given.
            join_mm: largest gap between a branch's end and the branch it leaves; the local radius if not given.

        Raises:
            InputError: no branches, unequal counts, radii that are not positive, or branches that join nothing.
        """
        if not len(centerlines) or len(centerlines) != len(radii):
            raise InputError(
                f"{len(centerlines)} centerlines and {len(radii)} sets of radii; give one of each per branch."
            )
        labels = tuple(names) if names is not None else tuple(str(i + 1) for i in range(len(centerlines)))
        if len(labels) != len(centerlines) or len(set(labels)) != len(labels):
            raise InputError(f"{len(labels)} names for {len(centerlines)} branches; give each its own name.")
        parts = []
        for k, (line, width) in enumerate(zip(centerlines, radii, strict=True)):
            points, r = (
                check_points(line, f"centerline of branch {labels[k]}"),
                np.asarray(width, dtype=np.float64).ravel(),
            )
            if len(points) < 2 or len(r) != len(points):
                raise InputError(
                    f"branch {labels[k]} has {len(points)} points and {len(r)} radii; give two or more of each."
                )
            if not (np.isfinite(r).all() and (r > 0.0).all()):
                raise InputError(f"branch {labels[k]} has a radius that is not positive; compute the centerline again.")
            parts.append(_resampled(points, r, labels[k]))
        points = np.concatenate([part[0] for part in parts])
        widths = np.concatenate([part[1] for part in parts])
        tangents = np.concatenate([part[2] for part in parts])
        along = np.concatenate([part[3] for part in parts])
        branch = np.concatenate([np.full(len(part[0]), k) for k, part in enumerate(parts)])
        edges, junctions = _edges(points, widths, branch, join_mm, labels)
        i, j = edges.T
        lengths = np.maximum(np.linalg.norm(points[i] - points[j], axis=1), 1e-6)
        graph = coo_matrix((lengths, (i, j)), shape=(len(points), len(points)))
        return cls(
            points,
            tangents,
            widths,
            branch,
            along,
            labels,
            dijkstra(graph.tocsr(), directed=False),
            np.unique(junctions).astype(np.intp),
            KDTree(points),
        )

    @cached_property
    def middle(self) -> Array:
        """(3,) mean of the stations, mm."""
        return np.asarray(self.points.mean(axis=0))

    def from_junction(self, station: int) -> float:
        """Way from a station to the nearest place where branches meet, mm; inf in an unbranched vessel."""
        return float(self.distances[station, self.junctions].min()) if len(self.junctions) else np.inf

    def outside(self, points: ArrayLike) -> Array:
        """How far points (n, 3) lie outside the lumen, mm: beyond the local radius around the centerline; 0 inside."""
        p = np.asarray(points, dtype=np.float64)
        if len(p) == 1 and len(self.points) < FEW:
            offset = self.points - p[0]
            gap = np.sqrt(np.einsum("ni,ni->n", offset, offset)) - self.radii
            return np.maximum(gap.min(keepdims=True), 0.0)
        _, near = self.tree.query(p, k=min(24, len(self.points)))
        gap = np.linalg.norm(p[:, None] - self.points[near], axis=2) - self.radii[near]
        return np.maximum(gap.min(axis=1), 0.0)


def _resampled(points: Array, radii: Array, name: str) -> tuple[Array, Array, Array, Array]:
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    keep = np.concatenate([[True], steps > 0.0])
    points, radii = points[keep], radii[keep]
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    if arc[-1] <= 0.0:
        raise InputError(f"branch {name} has no length; leave it out.")
    along = np.linspace(0.0, arc[-1], max(2, int(np.ceil(arc[-1] / SPACING)) + 1))
    even = np.column_stack([np.interp(along, arc, points[:, k]) for k in range(3)])
    # Tangents over two radii: a polyline's own corners are not the vessel's.
    width = np.interp(along, arc, radii)
    half = np.maximum(width, 1.5 * SPACING)
    ahead, behind = np.minimum(along + half, arc[-1]), np.maximum(along - half, 0.0)
    tangents = np.column_stack(
        [np.interp(ahead, arc, points[:, k]) - np.interp(behind, arc, points[:, k]) for k in range(3)]
    )
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)
    return even, width, tangents, along


def _edges(
    points: Array, radii: Array, branch: NDArray[np.intp], join_mm: float | None, labels: tuple[str, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Neighboring stations (m, 2), and those where branches meet (k,)."""
    same = np.flatnonzero(branch[1:] == branch[:-1])
    edges = [np.column_stack([same, same + 1])]
    junctions: list[int] = []
    count = int(branch.max()) + 1
    joined = np.eye(count, dtype=bool)
    for k in range(count):
        mine, others = np.flatnonzero(branch == k), np.flatnonzero(branch != k)
        if not len(others):
            break
        for end in (mine[0], mine[-1]):
            gaps = np.linalg.norm(points[others] - points[end], axis=1)
            near = others[int(np.argmin(gaps))]
            limit = join_mm if join_mm is not None else max(radii[near], radii[end], 2.0 * SPACING)
            if gaps.min() <= limit:
                edges.append(np.array([[end, near]]))
                junctions += [int(end), int(near)]
                joined[k, branch[near]] = joined[branch[near], k] = True
    reach = np.linalg.matrix_power(joined.astype(float), count) > 0
    if not reach[0].all():
        lost = ", ".join(labels[k] for k in np.flatnonzero(~reach[0]))
        raise InputError(f"branches {lost} join no other branch; check the centerline, or allow a larger gap.")
    return np.concatenate(edges), np.array(junctions, dtype=np.intp)
