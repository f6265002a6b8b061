"""Following a vessel through a gap where its lumen is too thin to be seen: a stenosis near to occlusion.

Where the lumen is thinner than about a voxel its grey value falls below half of blood's, and a threshold ends the
vessel there, with all that is behind. Another bright structure is taken as its continuation if the two face each other
end-on, the gap is short against the vessels' width, and some of blood's brightness is left along the way. Vessels that
lie side by side face each other with their flanks, and are not joined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from meshes.grid import Array, Grid
from meshes.level_set import depth_within

Mask = npt.NDArray[np.bool_]

LONGEST_GAP_RADII = 3.0
"""A gap is at most this many radii of the vessels beside it long."""

END_ON = 0.75
"""Cosine of the angle that either vessel's axis may make with the way across the gap."""

LEAST_SIGNAL = 0.1
"""Mean brightness along the way, as a share of blood's contrast, with half of the noise's deviation on top: the
brightest way through noise alone is about one deviation bright."""

LEAST_LENGTH_RADII = 3.0
"""What lies behind the gap has to be a vessel of at least this length, in its radii."""

MOST_GAPS = 6


@dataclass(frozen=True)
class Gap:
    """A gap that was bridged: the way (n, 3) across, from one end's voxel to the other's, mm, LPS."""

    way: Array

    @property
    def length(self) -> float:
        """mm from end to end."""
        return float(np.linalg.norm(self.way[-1] - self.way[0]))


def bridge_gaps(
    component: Mask, bright: Mask, share: npt.NDArray[np.float32], noise: float, grid: Grid
) -> tuple[Mask, list[Gap]]:
    """The component with what continues it behind gaps.

    Args:
        component: the vessel found so far.
        bright: every voxel brighter than half-way between tissue and blood, and not as bright as bone.
        share: (grey value - tissue) / (blood - tissue) at each voxel.
        noise: its standard deviation.
        grid: where the voxels are.
    """
    found: list[Gap] = []
    component = component.copy()
    parts, count = ndimage.label(bright & ~component)
    volumes = np.bincount(parts[parts > 0], minlength=count + 1) * float(np.prod(grid.spacing))
    boxes = ndimage.find_objects(parts)
    # Nothing smaller than this can be a vessel of the length asked for, one voxel wide.
    least = LEAST_LENGTH_RADII * np.pi * float(grid.spacing.max()) ** 3
    open_parts = [number for number in range(1, count + 1) if volumes[number] >= least]
    shapes = {number: _Shape.of(parts, number, boxes[number - 1], grid) for number in open_parts}
    open_parts = [
        number
        for number in open_parts
        if shapes[number].width >= float(grid.spacing.max())
        and volumes[number] >= LEAST_LENGTH_RADII * np.pi * shapes[number].width ** 3
    ]
    while open_parts and len(found) < MOST_GAPS:
        gap = _next_gap(_Shape.of_mask(component, grid), {n: shapes[n] for n in open_parts}, share, noise, grid)
        if gap is None:
            break
        way, number = gap
        component[parts == number] = True
        component.ravel()[way] = True
        open_parts.remove(number)
        found.append(Gap(grid.positions_of(way)))
    return component, found


def _next_gap(
    own: _Shape, others: dict[int, _Shape], share: npt.NDArray[np.float32], noise: float, grid: Grid
) -> tuple[npt.NDArray[np.int64], int] | None:
    """The way across the shortest gap to a continuation, as flat indices, and the continuation's number."""
    nearest = {number: own.nearest_to(other) for number, other in others.items()}
    for number, (length, p, q) in sorted(nearest.items(), key=lambda item: item[1][0]):
        other = others[number]
        if length > LONGEST_GAP_RADII * max(other.width, own.width):
            continue
        mine, theirs = own.end_near(p), other.end_near(q)
        if mine is None or theirs is None:
            continue
        across = theirs.center - mine.center
        across /= np.linalg.norm(across)
        if min(abs(mine.axis @ across), abs(theirs.axis @ across)) < END_ON:
            continue
        if length > LONGEST_GAP_RADII * max(mine.radius, theirs.radius):
            continue
        way = _brightest_way(share, p, q, grid)
        inner = way[1:-1]
        signal = float(share.ravel()[inner].mean()) if len(inner) else 1.0
        if signal >= LEAST_SIGNAL + 0.5 * noise:
            return way, number
    return None


@dataclass(frozen=True)
class _End:
    center: Array
    axis: Array
    radius: float


class _Shape:
    """Voxels of a structure, to look at its ends."""

    def __init__(self, flat: npt.NDArray[np.int64], depth: npt.NDArray[np.float32], grid: Grid) -> None:
        self._flat, self._depth, self._grid = flat, depth, grid
        self._positions = grid.positions_of(flat)
        self._tree = cKDTree(self._positions)
        self.width = float(depth.max())
        """Its largest inscribed radius [mm]."""

    @classmethod
    def of_mask(cls, mask: Mask, grid: Grid) -> _Shape:
        """The structure that a mask is."""
        flat = np.flatnonzero(mask)
        return cls(flat, depth_within(mask, grid.spacing).ravel()[flat], grid)

    @classmethod
    def of(cls, parts: npt.NDArray[np.integer], number: int, box: tuple[slice, ...], grid: Grid) -> _Shape:
        """One of several labelled structures, which lies within a box of voxels."""
        mask = parts[box] == number
        index = np.nonzero(mask)
        depth = depth_within(mask, grid.spacing)[index]
        first = [side.start for side in box]
        flat = np.ravel_multi_index(tuple(at + low for at, low in zip(index, first, strict=True)), parts.shape)
        return cls(np.asarray(flat, dtype=np.int64), depth, grid)

    def nearest_to(self, other: _Shape) -> tuple[float, int, int]:
        """The distance [mm] to another structure, and the voxels of either there, as flat indices."""
        distance, mine = self._tree.query(other._positions)
        theirs = int(np.argmin(distance))
        return float(distance[theirs]), int(self._flat[mine[theirs]]), int(other._flat[theirs])

    def end_near(self, voxel: int) -> _End | None:
        """The structure near a voxel of it: center, long axis, radius; None where it is no tube there."""
        here = self._grid.positions_of(np.array([voxel]))[0]
        reach = 4.0 * float(self._grid.spacing.max())
        # Tubes taper towards a stenosis: look until the reach is some radii of what is found.
        for _ in range(6):
            near = self._tree.query_ball_point(here, reach)
            radius = float(self._depth[near].max())
            if reach >= 4.0 * radius:
                break
            reach = 4.5 * radius
        if len(near) < 8:
            return None
        places = self._positions[near]
        center = places.mean(axis=0)
        spread, axes = np.linalg.eigh(np.cov((places - center).T))
        if spread[2] < 2.0 * spread[1]:
            return None
        return _End(center, axes[:, 2], radius)


def _brightest_way(share: npt.NDArray[np.float32], start: int, end: int, grid: Grid) -> npt.NDArray[np.int64]:
    """Voxels from one to another (flat indices) along which the image is bright, within a box around both."""
    shape = share.shape
    corners = np.stack(np.unravel_index([start, end], shape), axis=1)
    low = np.maximum(corners.min(axis=0) - 3, 0)
    high = np.minimum(corners.max(axis=0) + 4, shape)
    block = share[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    number = np.arange(block.size).reshape(block.shape)
    rows, columns, costs = [], [], []
    slowness = (1.0 / np.maximum(block, 0.05)) ** 2
    for dk in (0, 1):
        for dj in (-1, 0, 1) if dk else (0, 1):
            for di in (-1, 0, 1) if dk or dj else (1,):
                here = tuple(slice(max(0, -d), min(n, n - d)) for d, n in zip((dk, dj, di), block.shape, strict=True))
                there = tuple(slice(max(0, d), min(n, n + d)) for d, n in zip((dk, dj, di), block.shape, strict=True))
                rows.append(number[here].ravel())
                columns.append(number[there].ravel())
                length = float(np.linalg.norm(np.array([di, dj, dk]) * grid.spacing))
                costs.append(0.5 * length * (slowness[here] + slowness[there]).ravel())
    graph = sparse.coo_matrix(
        (np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns))), shape=(block.size, block.size)
    ).tocsr()
    first, last = (int(np.ravel_multi_index(tuple(corner - low), block.shape)) for corner in corners)
    _, before = csgraph.dijkstra(graph, directed=False, indices=first, return_predecessors=True)
    way = [last]
    while way[-1] != first:
        way.append(int(before[way[-1]]))
    index = np.stack(np.unravel_index(way[::-1], block.shape), axis=1) + low
    return np.asarray(np.ravel_multi_index(tuple(index.T), shape), dtype=np.int64)
