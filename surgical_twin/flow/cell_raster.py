"""Which cells of a mesh may hold a point: a raster over the mesh whose boxes each know the cells that reach into them.

Complete: a point that none of its box's cells holds is in no cell. And it answers a single point in microseconds, which
a tool's tip needs at every pose; a tree of centroids takes ten times as long to be asked.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class CellRaster:
    """The raster; unit and frame of the mesh."""

    low: Array
    """(3,) where it begins"""
    spacing: float
    shape: Indices
    """(3,) boxes"""
    begins: Indices
    """(boxes + 1,) where the cells of each box begin in `cells`"""
    cells: Indices
    """of all boxes, by rising number in each"""

    @classmethod
    def of(cls, corners: Array, margin: float) -> CellRaster:
        """Of cells with ``corners`` (nc, 4, 3), each taken for larger by ``margin`` of its size on all sides."""
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
        return cls(low, spacing, shape, begins, cells)


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
def holding_cells(  # pragma: no cover - compiled
    points: Array,
    low: Array,
    spacing: float,
    shape: Indices,
    begins: Indices,
    cells: Indices,
    origins: Array,
    gradients: Array,
    tolerance: float,
) -> tuple[Indices, Array]:
    """The cell that holds each point (n, 3), -1 where none does, and its weights (n, 4), not negative and with sum one.

    Of several the one with the largest least weight, and of those the first: it depends on the point alone.

    Args:
        points: where.
        low, spacing, shape, begins, cells: of the raster.
        origins: (nc, 3) the first vertex of each cell.
        gradients: (nc, 3, 3) by row: of the barycentric weights of the other three.
        tolerance: a weight so far below zero still counts as inside.
    """
    held, weights = np.full(len(points), -1), np.zeros((len(points), 4))
    for n in range(len(points)):
        i = int(np.floor((points[n, 0] - low[0]) / spacing))
        j = int(np.floor((points[n, 1] - low[1]) / spacing))
        k = int(np.floor((points[n, 2] - low[2]) / spacing))
        if i < 0 or j < 0 or k < 0 or i >= shape[0] or j >= shape[1] or k >= shape[2]:
            continue
        box = (i * shape[1] + j) * shape[2] + k
        best = -tolerance
        for entry in range(begins[box], begins[box + 1]):
            cell = cells[entry]
            x = points[n, 0] - origins[cell, 0]
            y = points[n, 1] - origins[cell, 1]
            z = points[n, 2] - origins[cell, 2]
            second = gradients[cell, 0, 0] * x + gradients[cell, 0, 1] * y + gradients[cell, 0, 2] * z
            third = gradients[cell, 1, 0] * x + gradients[cell, 1, 1] * y + gradients[cell, 1, 2] * z
            fourth = gradients[cell, 2, 0] * x + gradients[cell, 2, 1] * y + gradients[cell, 2, 2] * z
            first = 1.0 - (second + third + fourth)
            least = min(min(first, second), min(third, fourth))
            if least > best or (held[n] < 0 and least >= best):
                best, held[n] = least, cell
                weights[n, 0], weights[n, 1], weights[n, 2], weights[n, 3] = first, second, third, fourth
        if held[n] >= 0:
            total = 0.0
            for corner in range(4):
                weights[n, corner] = max(weights[n, corner], 0.0)
                total += weights[n, corner]
            for corner in range(4):
                weights[n, corner] /= total
    return held, weights
