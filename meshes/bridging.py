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
    widest = float(ndimage.distance_transform_edt(component, sampling=grid.spacing[::-1]).max())
    parts, _ = ndimage.label(bright & ~component)
    volumes = np.bincount(parts.ravel()) * float(np.prod(grid.spacing))
    while len(found) < MOST_GAPS:
        # Beyond the longest gap, so much of what is behind it that its shape is seen.
        low, box = _box(component, 2.0 * LONGEST_GAP_RADII * widest, grid)
        inner = Grid(component[box], grid.to_position(low)[0], grid.spacing, grid.direction)
        gap = _next_gap(inner.values, parts[box], volumes, share[box], noise, inner)
        if gap is None:
            break
        way, number = gap
        component |= parts == number
        parts[parts == number] = 0
        joined = component[box]
        joined.ravel()[way] = True
        component[box] = joined
        found.append(Gap(inner.positions_of(way)))
    return component, found


def _box(mask: Mask, margin: float, grid: Grid) -> tuple[npt.NDArray[np.int64], tuple[slice, ...]]:
    """First voxel (i, j, k) of the mask's box with a margin [mm], and the box as slices of the array."""
    sides = ndimage.find_objects(mask.astype(np.uint8))[0]
    steps = np.ceil(margin / grid.spacing[::-1]).astype(int)
    slices = tuple(
        slice(max(0, side.start - step), min(size, side.stop + step))
        for side, step, size in zip(sides, steps, mask.shape, strict=True)
    )
    return np.array([part.start for part in slices[::-1]]), slices


def _next_gap(
    component: Mask,
    parts: npt.NDArray[np.integer],
    volumes: npt.NDArray[np.floating],
    share: npt.NDArray[np.float32],
    noise: float,
    grid: Grid,
) -> tuple[npt.NDArray[np.int64], int] | None:
    """The way across the shortest gap to a continuation, as flat indices, and the continuation's number."""
    numbers = np.unique(parts)[1:]
    if len(numbers) == 0:
        return None
    spacing = grid.spacing[::-1]
    away, nearest = ndimage.distance_transform_edt(~component, sampling=spacing, return_indices=True)
    depth = ndimage.distance_transform_edt(component, sampling=spacing)
    other_depth = ndimage.distance_transform_edt(parts > 0, sampling=spacing)
    gaps = ndimage.minimum(away, parts, numbers)
    widths = ndimage.maximum(other_depth, parts, numbers)
    step = float(grid.spacing.max())
    own = _Shape(component, depth, grid)
    for place in np.argsort(gaps):
        width = float(widths[place])
        if width < step or volumes[numbers[place]] < LEAST_LENGTH_RADII * np.pi * width**3:
            continue
        if gaps[place] > LONGEST_GAP_RADII * max(width, float(depth.max())):
            break
        part = parts == numbers[place]
        q = int(np.argmin(np.where(part, away, np.inf)))
        p = int(np.ravel_multi_index(tuple(axis.ravel()[q] for axis in nearest), component.shape))
        theirs = _Shape(part, other_depth, grid)
        mine_end, their_end = own.end_near(p), theirs.end_near(q)
        if mine_end is None or their_end is None:
            continue
        across = their_end.center - mine_end.center
        across /= np.linalg.norm(across)
        if min(abs(mine_end.axis @ across), abs(their_end.axis @ across)) < END_ON:
            continue
        if gaps[place] > LONGEST_GAP_RADII * max(mine_end.radius, their_end.radius):
            continue
        way = _brightest_way(share, p, q, grid)
        inner = way[~component.ravel()[way] & ~part.ravel()[way]]
        signal = float(share.ravel()[inner].mean()) if len(inner) else 1.0
        if signal < LEAST_SIGNAL + 0.5 * noise:
            continue
        return way, int(numbers[place])
    return None


@dataclass(frozen=True)
class _End:
    center: Array
    axis: Array
    radius: float


class _Shape:
    """Voxels of a structure, to look at its ends."""

    def __init__(self, mask: Mask, depth: npt.NDArray[np.floating], grid: Grid) -> None:
        flat = np.flatnonzero(mask)
        self._positions = grid.positions_of(flat)
        self._depth = depth.ravel()[flat]
        self._tree = cKDTree(self._positions)
        self._grid = grid

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
