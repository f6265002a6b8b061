"""Which cells of a mesh may hold a point: a raster over the mesh whose boxes each know the cells that reach into them.

Complete: a point that none of its box's cells holds is in no cell. And it answers a single point in microseconds, which
a tool's tip needs at every pose; a tree of centroids takes ten times as long to be asked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MOST_BOXES = 4_000_000
"""32 MB."""

MOST_ENTRIES = 40
"""Boxes that a cell reaches into, in the mean: boxes are made larger until it is no more."""

_GROWTH = 1.3


class CellRaster(NamedTuple):
    """The raster; unit and frame of the mesh. Compiled code takes it as it is."""

    low: Array
    """(3,) where it begins"""
    spacing: float
    shape: Indices
    """(3,) boxes"""
    begins: Indices
    """(boxes + 1,) where the cells of each box begin in `cells`"""
    cells: Indices
    """of all boxes, by rising number in each"""
    origins: Array
    """(nc, 3) the first vertex of each cell"""
    gradients: Array
    """(nc, 3, 3) by row: of the barycentric weights of the cell's other three vertices"""
    tolerance: float
    """a barycentric weight so far below zero still counts as inside"""

    @classmethod
    def of(cls, corners: Array, gradients: Array, tolerance: float) -> CellRaster:
        """Of cells with ``corners`` (nc, 4, 3) and weights' ``gradients``; no cell is flat."""
        margin = 4.0 * tolerance  # of a cell's size, by which it reaches further on all sides
        lows, highs = corners.min(axis=1), corners.max(axis=1)
        pad = margin * (highs - lows).max(axis=1, keepdims=True)
        lows, highs = lows - pad, highs + pad
        low, extent = lows.min(axis=0), np.ptp(np.concatenate([lows, highs]), axis=0)
        spacing = float(np.median(highs - lows))
        while True:
            shape = (np.floor(extent / spacing) + 1).astype(np.int64)
            reach = (np.floor((highs - low) / spacing) - np.floor((lows - low) / spacing) + 1).prod(axis=1).sum()
            if np.prod(shape.astype(float)) <= MOST_BOXES and reach <= MOST_ENTRIES * len(corners):
                break
            spacing *= _GROWTH
        begins, cells = _entries((lows - low) / spacing, (highs - low) / spacing, shape)
        origins = np.ascontiguousarray(corners[:, 0])
        return cls(low, spacing, shape, begins, cells, origins, np.ascontiguousarray(gradients), tolerance)


@njit(cache=True)
def _entries(lows: Array, highs: Array, shape: Indices) -> tuple[Indices, Indices]:  # pragma: no cover - compiled
    """Where each box's cells begin, and the cells; of cells that reach from ``lows`` to ``highs`` (nc, 3) boxes."""
    begins = np.zeros(shape[0] * shape[1] * shape[2] + 1, dtype=np.int64)
    places = begins[:0]
    cells = begins[:0]
    for filling in range(2):
        if filling:
            for box in range(len(begins) - 1):
                begins[box + 1] += begins[box]
            cells = np.empty(begins[-1], dtype=np.int64)
            places = begins[:-1].copy()
        for cell in range(len(lows)):
            for i in range(int(lows[cell, 0]), min(int(highs[cell, 0]), shape[0] - 1) + 1):
                for j in range(int(lows[cell, 1]), min(int(highs[cell, 1]), shape[1] - 1) + 1):
                    for k in range(int(lows[cell, 2]), min(int(highs[cell, 2]), shape[2] - 1) + 1):
                        box = (i * shape[1] + j) * shape[2] + k
                        if filling:
                            cells[places[box]] = cell
                            places[box] += 1
                        else:
                            begins[box + 1] += 1
    return begins, cells


@njit(cache=True)
def holding_cell(  # pragma: no cover - compiled
    x: float, y: float, z: float, raster: CellRaster, weights: Array
) -> int:
    """The cell that holds a point, -1 where none does; its ``weights`` (4,), not negative and with sum one, are filled.

    Of several the one with the largest least weight, and of those the first: it depends on the point alone.
    """
    i = int(np.floor((x - raster.low[0]) / raster.spacing))
    j = int(np.floor((y - raster.low[1]) / raster.spacing))
    k = int(np.floor((z - raster.low[2]) / raster.spacing))
    shape = raster.shape
    if i < 0 or j < 0 or k < 0 or i >= shape[0] or j >= shape[1] or k >= shape[2]:
        return -1
    box = (i * shape[1] + j) * shape[2] + k
    held, best = -1, -raster.tolerance
    for entry in range(raster.begins[box], raster.begins[box + 1]):
        cell = raster.cells[entry]
        dx, dy, dz = x - raster.origins[cell, 0], y - raster.origins[cell, 1], z - raster.origins[cell, 2]
        gradient = raster.gradients[cell]
        second = gradient[0, 0] * dx + gradient[0, 1] * dy + gradient[0, 2] * dz
        third = gradient[1, 0] * dx + gradient[1, 1] * dy + gradient[1, 2] * dz
        fourth = gradient[2, 0] * dx + gradient[2, 1] * dy + gradient[2, 2] * dz
        first = 1.0 - (second + third + fourth)
        least = min(min(first, second), min(third, fourth))
        if least > best or (held < 0 and least >= best):
            best, held = least, cell
            weights[0], weights[1], weights[2], weights[3] = first, second, third, fourth
    if held >= 0:
        total = 0.0
        for corner in range(4):
            weights[corner] = max(weights[corner], 0.0)
            total += weights[corner]
        for corner in range(4):
            weights[corner] /= total
    return held


@njit(cache=True)
def holding_cells(points: Array, raster: CellRaster) -> tuple[Indices, Array]:  # pragma: no cover - compiled
    """`holding_cell` of each point (n, 3), and their weights (n, 4)."""
    held, weights = np.empty(len(points), dtype=np.int64), np.zeros((len(points), 4))
    for n in range(len(points)):
        held[n] = holding_cell(points[n, 0], points[n, 1], points[n, 2], raster, weights[n])
    return held, weights
