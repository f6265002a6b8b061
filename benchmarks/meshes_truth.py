"""What is true of a vessel made from formulas between the ports that cut it, and how far a surface is from it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from analytic_vessels import AnalyticVessel, vessels
from scipy.spatial import cKDTree

from meshes.clipping import Index
from meshes.grid import Array, Grid
from meshes.level_set import wall_surface
from meshes.ports import Port

JUNCTION_RADII = 2.0
"""Where branches join there is no radius of one branch: so near to a junction none is compared."""


def line_errors(vessel: AnalyticVessel, points: Array, radius: Array, voxel: float) -> tuple[float, float]:
    """Mean radius error [%] and distance [voxels] of a centerline from the true one, away from junctions and ends."""
    true_points = np.concatenate([tube.points for tube in vessel.tubes])
    true_radius = np.concatenate([tube.radius for tube in vessel.tubes])
    far = np.ones(len(points), dtype=bool)
    for place, reach in vessel.junctions:
        far &= np.linalg.norm(points - place, axis=1) > JUNCTION_RADII * reach
    off, nearest = cKDTree(true_points).query(points[far])
    relative = np.abs(radius[far] / true_radius[nearest] - 1.0)
    return float(100.0 * relative.mean()), float(off.mean() / voxel)


def truth_surface(vessel: AnalyticVessel, ports: tuple[Port, ...]) -> Array:
    """Points of the true wall between the ports."""
    places = _true_wall(vessel.name)
    return places[between(places, ports, margin=0.7)]


@lru_cache(maxsize=1)
def _true_wall(name: str) -> Array:
    """Points of a vessel's true wall."""
    vessel = vessels()[name]()
    grid = _fine_grid(vessel, 0.35)
    depth = vessel.distance(grid.positions_of(np.arange(grid.values.size)))
    near = np.flatnonzero(np.abs(depth) < 0.35)
    places = grid.positions_of(near)
    for _ in range(3):
        step = 1e-3
        slope = np.stack(
            [(vessel.distance(places + step * e) - vessel.distance(places - step * e)) / (2 * step) for e in np.eye(3)],
            axis=1,
        )
        places -= (vessel.distance(places) / np.maximum((slope**2).sum(axis=1), 0.1))[:, None] * slope
    return places


def between(places: Array, ports: tuple[Port, ...], margin: float = 0.0) -> np.ndarray:
    """Which places no port cuts off; of a port's plane only what is around its vessel counts."""
    kept = np.ones(len(places), dtype=bool)
    for port in ports:
        offset = places - port.center
        height = offset @ port.normal
        # These vessels end soon behind their ports, and no other branch is there.
        kept &= ~(
            (height > -margin) & (np.linalg.norm(offset - height[:, None] * port.normal, axis=1) < 4 * port.radius)
        )
    return kept


def _fine_grid(vessel: AnalyticVessel, step: float) -> Grid:
    size = np.ceil((vessel.high - vessel.low) / step).astype(int) + 1
    return Grid(np.zeros(size[::-1], dtype=np.float32), vessel.low, np.full(3, step), np.eye(3))


def truth_volume(vessel: AnalyticVessel, ports: tuple[Port, ...]) -> float:
    """Volume [ml] of the true lumen between the ports, on a fine grid, its surface between grid points by depth."""
    points, share = _true_shares(vessel.name)
    for port in ports:
        offset = points - port.center
        height = offset @ port.normal
        beside = np.linalg.norm(offset - height[:, None] * port.normal, axis=1) < 4 * port.radius
        share = np.where(beside, share * np.clip(0.5 - height / 0.25, 0.0, 1.0), share)
    return float(share.sum() * 0.25**3 / 1000.0)


@lru_cache(maxsize=1)
def _true_shares(name: str) -> tuple[Array, Array]:
    """Cells of 0.25 mm that a vessel's lumen reaches, and which share of each it fills."""
    vessel = vessels()[name]()
    grid = _fine_grid(vessel, 0.25)
    points = grid.positions_of(np.arange(grid.values.size))
    # Distances to a line of points cost most: first from every fourth cell, along each axis, which are near at all.
    coarse = _fine_grid(vessel, 1.0)
    far = coarse.like(vessel.distance(coarse.positions_of(np.arange(coarse.values.size))).reshape(coarse.values.shape))
    points = points[far.sample(points) < 1.5]
    share = np.clip(0.5 - vessel.distance(points) / 0.25, 0.0, 1.0)
    return points[share > 0], share[share > 0]


def distance_to(points: Array, triangles: np.ndarray, places: Array) -> Array:
    """(n,) distance of places from a surface, by samples of it that are dense against the errors measured."""
    corners = points[triangles]
    dense = samples(points, triangles, 8)
    distance, nearest = cKDTree(dense).query(places)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    owner = nearest // 45
    plane = np.abs(np.einsum("nd,nd->n", places - dense[nearest], normals[owner]))
    # The foot on the sample's own triangle, where the sample is not far beside it.
    return np.where(distance < 0.6, np.minimum(plane, distance), distance)


def samples(points: Array, triangles: Index, count: int) -> Array:
    """Points all over triangles, ``count`` to an edge."""
    weights = np.array([[i, j, count - i - j] for i in range(count + 1) for j in range(count + 1 - i)]) / count
    return np.einsum("wc,tcd->twd", weights, points[triangles]).reshape(-1, 3)


def wall_offset(vessel: AnalyticVessel, level_set: Grid, ports: tuple[Port, ...]) -> Array:
    """(n,) how far [mm] outside of the true wall the zero of a level set is, between the ports."""
    places = np.asarray(wall_surface(level_set).extract_largest().points, float)
    return vessel.distance(places[between(places, ports, margin=0.7)])
