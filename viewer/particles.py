"""Particles that the blood carries along: where it stands, where it turns, and how the beat drives it.

Each is moved through the beating velocity by the midpoint rule, in steps of at most `LONGEST_STEP_S` of the twin's own
time, velocity going linearly from one state's to the next::

    x(t + h) = x(t) + h u(x(t) + h/2 u(x(t), t), t + h/2)

A particle knows the tetrahedron that it is in and walks from there to the next through the face whose barycentric
coordinate is negative, so that nothing has to be searched. Where it leaves the lumen, or is older than its life, it
begins anew at its own seed. Nothing is random: equal states give equal pictures.
"""

from __future__ import annotations

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from viewer.errors import InputError
from viewer.quantities import VELOCITY

Array = NDArray[np.float64]

COUNT = 700
LIFE_S = 1.6
"""Two beats: then a particle that found a dead corner begins anew."""

LONGEST_STEP_S = 0.01
LONGEST_GAP_S = 0.25
"""States farther apart in the twin's time tell no motion between them: a jump in a replay, a twin that was stopped."""

TAIL = 5
"""Places of the past that a particle's tail goes through."""

MOST_FACES = 12
"""A particle that crosses more tetrahedra than this in a step is taken to have left."""

MM_PER_M = 1e3


class TetrahedronWalk:
    """Where points are in a mesh of tetrahedra, each found from where it was.

    Args:
        points: (n, 3).
        cells: (m, 4) tetrahedra.
    """

    def __init__(self, points: Array, cells: NDArray[np.int64]) -> None:
        self.cells = np.asarray(cells, dtype=np.int64)
        corners = np.asarray(points, dtype=float)[self.cells]
        self._origin = corners[:, 0]
        edges = np.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2)
        size = np.abs(np.linalg.det(edges))
        good = size > 1e-12 * max(float(size.max(initial=0.0)), 1e-300)
        self._inverse = np.zeros_like(edges)
        self._inverse[good] = np.linalg.inv(edges[good])
        self._beyond = _neighbors(self.cells)

    def weights(self, where: Array, inside: NDArray[np.int64]) -> Array:
        """(k, 4) barycentric coordinates of points (k, 3) in the tetrahedra (k,) `inside`."""
        three = np.einsum("kij,kj->ki", self._inverse[inside], where - self._origin[inside])
        return np.column_stack([1.0 - three.sum(axis=1), three])

    def follow(self, where: Array, inside: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
        """Tetrahedra (k,) that hold points (k, 3), from those before; -1 outside. With barycentric coordinates."""
        found = inside.copy()
        weights = self.weights(where, found)
        moving = np.arange(len(where))
        for _ in range(MOST_FACES):
            low = weights[moving].argmin(axis=1)
            moving, low = (kept[weights[moving, low] < -1e-9] for kept in (moving, low))
            if not len(moving):
                return found, weights
            found[moving] = self._beyond[found[moving], low]
            moving = moving[found[moving] >= 0]
            weights[moving] = self.weights(where[moving], found[moving])
        found[moving] = -1
        return found, weights


class Particles:
    """The actor, and the particles' places.

    Args:
        grid: tetrahedra in mm LPS.
        count: particles at most.
    """

    def __init__(self, grid: pv.UnstructuredGrid, count: int = COUNT) -> None:
        cells = np.asarray(grid.cells).reshape(-1, 5)[:, 1:]
        points = np.asarray(grid.points, dtype=float)
        self._walk = TetrahedronWalk(points, cells)
        # Each in a tetrahedron of its own, by volume: as many in a wide vessel as its share of the blood.
        corners = points[cells]
        volume = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
        share = np.cumsum(volume) / volume.sum()
        number = min(count, len(cells))
        # The golden ratio's multiples spread evenly over the shares without a random number.
        spread = (np.arange(number) * 0.6180339887498949) % 1.0
        self._home = np.minimum(np.searchsorted(share, spread), len(cells) - 1)
        self._seeds = points[cells[self._home]].mean(axis=1)
        self._where = self._seeds.copy()
        self._inside = self._home.copy()
        self._age = LIFE_S * ((np.arange(number) * 0.7548776662466927) % 1.0)  # they must not all begin at once
        self._tail = np.repeat(self._where[:, None], TAIL, axis=1)
        self._speed = np.zeros(number)
        self._velocity: NDArray[np.float32] | None = None
        self._time_s = 0.0
        self._tail_s = 0.0
        self._shape = pv.PolyData()
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(self._shape)
        table = vtk.vtkLookupTable()
        table.SetTable(numpy_to_vtk(VELOCITY.table(), deep=True))
        mapper.SetLookupTable(table)
        mapper.SetScalarRange(*VELOCITY.limits)
        self.actor = vtk.vtkActor()
        self.actor.SetMapper(mapper)
        look = self.actor.GetProperty()
        look.SetLineWidth(2.6)
        look.LightingOff()
        self.actor.SetVisibility(False)

    @property
    def places(self) -> Array:
        """(k, 3) mm LPS."""
        return self._where

    def scale(self, limits: tuple[float, float]) -> None:
        """Set the ends of the color scale, m/s."""
        self.actor.GetMapper().SetScalarRange(*limits)

    def show(self, velocity: NDArray[np.float32] | None, time_s: float = 0.0) -> None:
        """Carry them on to a time of the twin's with the velocity (points, 3) m/s then; None hides them.

        Raises:
            InputError: a velocity of another mesh, or one that is not finite.
        """
        self.actor.SetVisibility(velocity is not None)
        if velocity is None:
            self._velocity = None
            return
        if velocity.ndim != 2 or len(velocity) <= self._walk.cells.max() or not np.isfinite(velocity).all():
            raise InputError(f"particles need a finite velocity at every vertex of the mesh, not {velocity.shape}.")
        before, gap = self._velocity, time_s - self._time_s
        if before is not None and 0.0 < gap <= LONGEST_GAP_S:
            steps = int(np.ceil(gap / LONGEST_STEP_S))
            for step in range(steps):
                self._advance(before, velocity, gap, step, steps)
        self._velocity, self._time_s = velocity.copy(), time_s
        self._draw()

    def _advance(self, before: NDArray[np.float32], after: NDArray[np.float32], gap: float, step: int, of: int) -> None:
        """One step of the midpoint rule, then those that left begin anew."""
        size = gap / of
        first, weights = self._walk.follow(self._where, self._inside)
        start = self._at(before, after, step / of, first, weights)
        middle, weights = self._walk.follow(self._where + 0.5 * size * MM_PER_M * start, first)
        moved = self._at(before, after, (step + 0.5) / of, np.where(middle < 0, first, middle), weights)
        self._where = self._where + size * MM_PER_M * moved
        self._speed = np.linalg.norm(moved, axis=1)
        self._inside, _ = self._walk.follow(self._where, np.where(middle < 0, first, middle))
        self._age = self._age + size
        self._tail_s += size
        if self._tail_s >= LONGEST_STEP_S:
            self._tail_s = 0.0
            self._tail = np.concatenate([self._where[:, None], self._tail[:, :-1]], axis=1)
        again = (self._inside < 0) | (self._age > LIFE_S)
        self._where[again], self._inside[again], self._age[again] = self._seeds[again], self._home[again], 0.0
        self._tail[again], self._speed[again] = self._seeds[again][:, None], 0.0

    def _at(
        self,
        before: NDArray[np.float32],
        after: NDArray[np.float32],
        share: float,
        inside: NDArray[np.int64],
        weights: Array,
    ) -> Array:
        nodes = self._walk.cells[inside]
        weights = np.clip(weights, 0.0, 1.0)
        weights /= weights.sum(axis=1, keepdims=True)
        there = (1.0 - share) * before[nodes] + share * after[nodes]
        return np.asarray(np.einsum("ki,kij->kj", weights, there))

    def _draw(self) -> None:
        """Each as a short tail, so that a still picture tells which way it goes."""
        count = len(self._where)
        lines = np.concatenate([self._where[:, None], self._tail], axis=1)
        # A particle that stands still would be no line at all.
        lines[:, -1] += np.array([0.0, 0.0, 0.15])
        each = TAIL + 1
        cells = np.column_stack([np.full(count, each), np.arange(count * each).reshape(count, each)])
        shape = pv.PolyData(lines.reshape(-1, 3), lines=cells.ravel())
        shape.point_data.set_scalars(np.repeat(self._speed, each).astype(np.float32), "speed")
        self._shape.shallow_copy(shape)


def _neighbors(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(m, 4) the tetrahedron beyond the face opposite each corner; -1 where the mesh ends."""
    count = len(cells)
    corners = [(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)]
    faces = np.sort(np.concatenate([cells[:, pick] for pick in corners]), axis=1)
    size = int(cells.max()) + 1
    key = (faces[:, 0] * size + faces[:, 1]) * size + faces[:, 2]
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    one, other = order[same], order[same + 1]
    beyond = np.full(4 * count, -1, dtype=np.int64)
    beyond[one], beyond[other] = other % count, one % count
    return beyond.reshape(4, count).T.copy()
