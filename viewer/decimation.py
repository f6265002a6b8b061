"""Fewer triangles for machines that draw few: quadric decimation to a budget, with the values carried over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyvista as pv
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from viewer.errors import InputError
from viewer.gltf import Structure

LEAST = 200
"""Triangles that every structure keeps."""


def within_budget(structures: Sequence[Structure], triangles: int) -> list[Structure]:
    """The structures with at most so many triangles together.

    What has values to show keeps its triangles for as long as what only surrounds it can give some.

    Args:
        structures: to write.
        triangles: the budget.

    Raises:
        InputError: a budget of less than `LEAST` a structure.
    """
    least = LEAST * len(structures)
    if triangles < least:
        raise InputError(f"{triangles} triangles are too few for {len(structures)} structures; allow {least} or more.")
    plain = [replace(one, mesh=_triangulated(one.mesh)) for one in structures]
    counts = np.array([one.mesh.n_cells for one in plain])
    allowed = counts.copy()
    for shown in (False, True):
        over = int(allowed.sum()) - triangles
        chosen = np.array([(one.scalars is not None) == shown for one in plain])
        if over <= 0 or not chosen.any():
            continue
        room = allowed[chosen] - np.minimum(allowed[chosen], LEAST)
        cut = np.minimum(np.ceil(room * over / max(int(room.sum()), 1)).astype(int), room)
        allowed[chosen] -= cut
    return [
        one if most >= one.mesh.n_cells else _reduced(one, int(most)) for one, most in zip(plain, allowed, strict=True)
    ]


def coarser(points: ArrayLike, triangles: NDArray[np.integer], most: int) -> NDArray[np.int64]:
    """(k, 3) triangles of some of the same vertices, most of them gone: for those who draw too slowly to draw all.

    Since the vertices stay, so do their values and their normals. Vertices go in the order of how little they change
    the surface (Schroeder, Zarge & Lorensen, SIGGRAPH 1992).

    Args:
        points: (n, 3) all vertices.
        triangles: (t, 3) of them.
        most: how many may be left; where the surface's form allows no fewer, more are.
    """
    if len(triangles) <= most:
        return np.asarray(triangles, dtype=np.int64)
    surface = pv.PolyData.from_regular_faces(np.asarray(points, dtype=np.float64), triangles)
    smaller = surface.decimate_pro(1.0 - most / len(triangles), preserve_topology=True, feature_angle=120.0)
    kept = cKDTree(surface.points).query(smaller.points)[1]
    return np.asarray(kept[smaller.regular_faces], dtype=np.int64)


def _triangulated(mesh: pv.PolyData) -> pv.PolyData:
    return mesh if mesh.is_all_triangles else mesh.triangulate()


def _reduced(structure: Structure, most: int) -> Structure:
    """Quadric decimation (Garland & Heckbert, SIGGRAPH 1997); a few triangles fewer may be left."""
    plain = pv.PolyData(np.asarray(structure.mesh.points), structure.mesh.faces)
    smaller = plain
    for _ in range(4):
        smaller = smaller.decimate(1.0 - most / smaller.n_cells, volume_preservation=True)
        if smaller.n_cells <= most:
            break
    if smaller.n_cells > most or not smaller.n_cells:
        raise InputError(
            f"structure {structure.name} cannot be drawn with {most} triangles; allow more than {smaller.n_cells}."
        )
    if structure.scalars is None:
        return replace(structure, mesh=smaller)
    carry = _Carrier(plain, np.asarray(smaller.points, dtype=float))
    cycle = None if structure.cycle is None else np.stack([carry(values) for values in np.asarray(structure.cycle)])
    return replace(structure, mesh=smaller, scalars=carry(structure.scalars), cycle=cycle)


class _Carrier:
    """Values at the nearest place of another surface, linear within its triangles."""

    def __init__(self, surface: pv.PolyData, points: NDArray[np.float64]) -> None:
        cells, near = surface.find_closest_cell(points, return_closest_point=True)
        self._corners = surface.regular_faces[np.atleast_1d(cells)]
        corners = np.asarray(surface.points, dtype=float)[self._corners]
        self._weights = np.empty((len(points), 3))
        weights = [0.0, 0.0, 0.0]
        for number, (corner, point) in enumerate(zip(corners, np.atleast_2d(near), strict=True)):
            a, b = corner[1] - corner[0], corner[2] - corner[0]
            offset = point - corner[0]
            gram = np.array([[a @ a, a @ b], [a @ b, b @ b]])
            if np.linalg.det(gram) > 1e-18:
                u, v = np.linalg.solve(gram, [a @ offset, b @ offset])
                weights = [1.0 - u - v, u, v]
            else:
                weights = [1.0, 0.0, 0.0]
            self._weights[number] = weights

    def __call__(self, values: ArrayLike) -> NDArray[np.float64]:
        return np.asarray((np.asarray(values, dtype=float)[self._corners] * self._weights).sum(axis=1))
