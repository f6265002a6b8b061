"""The centerline of a vessel tree, from the signed distance to its wall.

A path through the tree is the cheapest way between two of its ends when a step costs its length over the square of the
distance to the wall: it keeps to the middle. Ends are the voxels farthest from the tree found so far, measured along
the lumen, one after the other (the idea of TEASAR: Sato et al., Pacific Graphics 2000). What a path explains, within
some of its inscribed radii, is not looked at again; a branch has to stick out of the vessel it leaves by more than its
own width. So the rules have no length in mm. Paths are then smoothed and their points moved to the ridge of the
distance, between voxels.

A tree with loops (a circle of Willis) is opened where two paths meet halfway around a loop. Such a meeting is told from
an end by the lumen: through it the way to the other path is short, along the tree it is long. Both branches are marked
as closing a loop, no port is put there, and the mesh keeps the loop.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from meshes.errors import InputError
from meshes.grid import Array, Grid
from meshes.level_set import wall_surface

Indices = npt.NDArray[np.int64]

COVERED_RADII = 1.6
"""A path explains what is within this many of its inscribed radii."""

SPUR_RADII = 1.5
"""A branch must reach this many of its own radii beyond the wall of the vessel that it leaves, its cap not counted."""

RESOLVED_VOXELS = 0.9
"""A branch whose radius is less than this many voxels is not resolved by the image."""

LEAST_RADIUS = 0.15
"""A branch thinner than this part of the widest radius would carry a third of a percent of its flow (Murray's law)."""

FRAYED_RADII = 3.5
"""A side branch this near to a vessel's end, and reaching no farther than this, in radii of that vessel: a frayed end.

An aorta whose signal fades towards the coil's edge ends in tips over some one and a half diameters.
"""

STRAND_RADII, STRAND_WIDTH = 4.5, 0.6
"""A side branch thinner than the second part of its vessel's usual radius is a strand even if it reaches the first many
of those radii: a vessel that the image's edge cuts lengthwise ends in a thin sheet."""

BORDER_VOXELS = 1.0
"""Lumen this near to the image's outermost voxels leaves the image there."""

MEETING_RADII, AROUND_RADII = 6.0, 6.0
"""Two paths meet in a loop where one's tip is within the first many of its radii of the other through the lumen, and
farther than the second many along the tree."""

MOST_PATHS = 400

WIDTH_DECAY = 0.25
"""How fast a path's width may fall along it, mm per mm, to be a vessel that tapers and not one that ends."""

CAP_DEPTH = 0.75
"""A vessel's end is where the depth is this part of the width behind it."""

SMOOTHING_RADII = 0.5
"""Standard deviation of the smoothing along a branch, in its radii."""

MOST_VOXELS = 500_000
"""A lumen of more voxels is searched on a coarser grid; its points are still placed by the fine distance."""


@dataclass(frozen=True)
class Branch:
    """A way between two ends or junctions."""

    index: int
    point_ids: Indices
    """in the order from the inlet on; the first is the junction with the parent"""
    parent: int | None
    end: str | None = None
    """the port's name where it ends in one"""
    closes_loop: bool = False
    """whether it ends where it meets another branch, halfway around a loop, and not at an end of the lumen"""


@dataclass(frozen=True)
class Centerline:
    """A tree of branches, from the inlet on; positions mm, LPS.

    Attributes:
        points: (n, 3).
        radius: (n,) of the inscribed sphere.
        branch: (n,) which branch a point belongs to; a junction's point is repeated in each of its branches.
        arc_length: (n,) mm from the branch's start.
        branches: by index.
        notes: what was decided, one sentence each.
    """

    points: Array
    radius: Array
    branch: Indices
    arc_length: Array
    branches: tuple[Branch, ...]
    notes: tuple[str, ...] = ()

    def path_to(self, end: str) -> Indices:
        """Ids of the points from the inlet to a port, each place once.

        Raises:
            InputError: no branch ends there.
        """
        found = [branch for branch in self.branches if branch.end == end]
        if not found:
            names = ", ".join(branch.end for branch in self.branches if branch.end)
            raise InputError(f"The centerline has no end {end}; it has {names}.")
        chain = [found[0]]
        while chain[0].parent is not None:
            chain.insert(0, self.branches[chain[0].parent])
        parts = [chain[0].point_ids, *(branch.point_ids[1:] for branch in chain[1:])]
        return np.concatenate(parts)

    def tangents(self) -> Array:
        """(n, 3) unit vectors along the branches, away from the inlet."""
        tangents = np.zeros_like(self.points)
        for branch in self.branches:
            tangents[branch.point_ids] = _tangents(self.points[branch.point_ids])
        return tangents

    def terminals(self) -> list[tuple[int, int]]:
        """Of each end of the tree: its branch, and the id of its outermost point; the inlet first."""
        parents = {branch.parent for branch in self.branches}
        ends = [
            (branch.index, int(branch.point_ids[-1]))
            for branch in self.branches
            if branch.index not in parents and not branch.closes_loop
        ]
        return [(0, int(self.branches[0].point_ids[0])), *ends]

    def named(self, ends: dict[int, str]) -> "Centerline":
        """The same tree with the ports' names at the ends of branches."""
        branches = tuple(replace(branch, end=ends.get(branch.index, branch.end)) for branch in self.branches)
        return replace(self, branches=branches)


def extract_centerline(
    level_set: sitk.Image,
    *,
    inlet_near: tuple[float, float, float] | None = None,
    max_ends: int = 10,
    image: sitk.Image | None = None,
) -> Centerline:
    """Find the centerline tree of a lumen.

    Args:
        level_set: signed distance to the wall, mm, negative inside.
        inlet_near: the end nearest to this point (mm, LPS) is the inlet; the widest where None.
        max_ends: the tree keeps this many ends at most, those of the widest branches.
        image: what the lumen was found in. Where the lumen leaves it, through a connected patch of its border, is
        one end
            of a vessel, even if the border cuts the vessel lengthwise.

    Raises:
        InputError: the lumen is too small or too round to have two ends.
    """
    field = Grid.of(level_set)
    coarse = _coarse(field)
    graph = _LumenGraph(coarse)
    paths, notes = _paths(graph, max_ends, _openings(graph, image))
    paths, meeting = _meetings(graph, paths)
    if meeting:
        notes.append(
            f"{(len(meeting) + 1) // 2} loops of vessels are closed in the mesh; the centerline is opened "
            "halfway around."
        )
    tree = _tree(paths, meeting)
    root = _choose_inlet(tree, graph, inlet_near)
    return _smooth_tree(tree, root, graph, field, notes)


class _LumenGraph:
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

    def distances(self, sources: npt.ArrayLike) -> Array:
        """(count,) geodesic distance [mm] from the nearest of the source voxels."""
        distance: Array = csgraph.dijkstra(self.length, directed=False, indices=np.atleast_1d(sources), min_only=True)
        return distance


def _coarse(field: Grid) -> Grid:
    """The level set on a grid that the search can afford."""
    inside = int((field.values < 0).sum())
    if inside <= MOST_VOXELS:
        return field
    factor = float(np.cbrt(inside / MOST_VOXELS))
    return field.like(field.values) if factor <= 1 else _shrunk(field, factor)


def _shrunk(field: Grid, factor: float) -> Grid:
    values = ndimage.zoom(field.values, 1.0 / factor, order=1)
    spacing = field.spacing * (field.size - 1) / (np.array(values.shape[::-1]) - 1)
    return Grid(values, field.origin, spacing, field.direction)


def _openings(graph: _LumenGraph, image: sitk.Image | None) -> Indices:
    """(count,) number of the patch of the image's border that a voxel lies in, -1 away from it."""
    opening = np.full(len(graph.positions), -1, dtype=np.int64)
    if image is None:
        return opening
    grid = Grid(np.zeros((0, 0, 0)), np.array(image.GetOrigin()), np.array(image.GetSpacing()),
                np.array(image.GetDirection()).reshape(3, 3))  # fmt: skip
    index = grid.to_index(graph.positions)
    at_border = (np.minimum(index, np.array(image.GetSize()) - 1.0 - index) <= BORDER_VOXELS).any(axis=1)
    border = np.flatnonzero(at_border)
    _, opening[border] = csgraph.connected_components(graph.length[border][:, border], directed=False)
    return opening


def _at_same_opening(graph: _LumenGraph, paths: list[Indices], opening: Indices) -> set[int]:
    """Numbers of the paths that leave the image through an opening that a wider path leaves it through."""
    places = np.flatnonzero(opening >= 0)
    if len(places) == 0:
        return set()
    tips = np.array([int(paths[0][0]), *(int(path[-1]) for path in paths)])
    away, nearest = cKDTree(graph.positions[places]).query(graph.positions[tips])
    through = np.where(away <= graph.width[tips] + graph.step, opening[places[nearest]], -1)
    widths = [np.inf, *(_own_radius(graph, path)[0] for path in paths)]
    dropped: set[int] = set()
    for number, path in reversed(list(enumerate(paths))[1:]):
        carries = any(
            path[0] != other[0] and other[0] in path for n, other in enumerate(paths[1:], 1) if n not in dropped
        )
        rivals = [
            n for n in range(len(paths)) if n != number and n not in dropped and through[n + 1] == through[number + 1]
        ]
        wider = through[0] == through[number + 1] or any(widths[n + 1] >= widths[number + 1] for n in rivals)
        if through[number + 1] >= 0 and wider and not carries:
            dropped.add(number)
    return dropped


def _paths(graph: _LumenGraph, max_ends: int, opening: Indices) -> tuple[list[Indices], list[str]]:
    """Voxel paths: the first between two ends, each other from a voxel of the tree to a new end."""
    deepest = int(np.argmax(graph.depth))
    reach = graph.distances(deepest)
    connected = np.isfinite(reach)
    start = int(np.argmax(np.where(connected, reach, -1.0)))
    from_start = graph.distances(start)
    _, before = csgraph.dijkstra(graph.cost, directed=False, indices=start, return_predecessors=True)
    covered = ~connected
    in_tree = np.zeros(len(covered), dtype=bool)
    paths: list[Indices] = []
    thin = 0
    for _ in range(MOST_PATHS):
        open_distance = np.where(covered, -1.0, from_start)
        tip = int(np.argmax(open_distance))
        if open_distance[tip] < 0:
            break
        way = [tip]
        while way[-1] != start and not in_tree[way[-1]]:
            way.append(int(before[way[-1]]))
        path = np.array(way[::-1], dtype=np.int64)
        _widen(graph, path)
        _cover(graph, path, covered)
        if paths:
            radius, beyond = _own_radius(graph, path)
            if beyond < SPUR_RADII * radius:
                continue
            if radius < max(RESOLVED_VOXELS * graph.step, LEAST_RADIUS * float(graph.depth.max())):
                thin += 1
                continue
        paths.append(path)
        in_tree[path] = True
    if not paths or len(paths[0]) < 4:
        raise InputError("The lumen has no two ends that a centerline could join; is it a vessel?")
    notes = []
    if thin:
        notes.append(
            f"{thin} branches are thinner than {RESOLVED_VOXELS:g} voxels or {LEAST_RADIUS:g} of the widest radius "
            f"and are left out."
        )
    strands = _frayed(graph, paths)
    if strands:
        paths = [path for number, path in enumerate(paths) if number not in strands]
        notes.append(f"{len(strands)} short strands at frayed ends of wider vessels are taken as part of those ends.")
    doubled = _at_same_opening(graph, paths, opening)
    if doubled:
        paths = [path for number, path in enumerate(paths) if number not in doubled]
        notes.append(
            f"{len(doubled)} ends leave the image through the same opening as a wider vessel and are left out."
        )
    kept = _widest(graph, paths, max_ends)
    if len(kept) < len(paths):
        notes.append(
            f"Of {len(paths) + 1} ends the {max_ends} of the widest branches are kept; {len(paths) - len(kept)} are "
            f"left out."
        )
    return kept, notes


def _frayed(graph: _LumenGraph, paths: list[Indices]) -> set[int]:
    """Numbers of the paths that are strands of another's frayed end.

    Where contrast or signal fades, the segmentation of a wide vessel ends in several tips. None of them is a vessel:
    they are short, and leave it at its very end, both measured in its radius before it thins out.
    """
    strands: set[int] = set()
    for number, path in reversed(list(enumerate(paths))[1:]):
        # One that carries another that is no strand is a vessel.
        if any(path[0] != other[0] and other[0] in path for n, other in enumerate(paths[1:], 1) if n not in strands):
            continue
        for n, other in enumerate(paths):
            place = np.flatnonzero(other == path[0])
            if n == number or n in strands or len(place) == 0:
                continue
            away = np.linalg.norm(graph.positions[other] - graph.positions[path[0]], axis=1)
            around = away <= 2.0 * FRAYED_RADII * float(graph.width[path[0]])
            onward, back = other[int(place[0]) :], other[: int(place[0]) + 1][::-1]
            reach = FRAYED_RADII * float(graph.depth[other[around]].max())
            behind = np.linalg.norm(graph.positions[back] - graph.positions[path[0]], axis=1) >= reach
            usual = float(np.median(graph.depth[back[behind]])) if behind.any() else 0.0
            if _own_radius(graph, path)[0] < STRAND_WIDTH * usual:
                reach = max(reach, STRAND_RADII * usual)
            if _reach(graph, path) >= reach:
                continue
            if any(len(end) > 1 and _reach(graph, end) < reach for end in ([onward, back] if n == 0 else [onward])):
                strands.add(number)
    return strands


def _reach(graph: _LumenGraph, path: Indices) -> float:
    """How far from its first voxel a path gets [mm]."""
    return float(np.linalg.norm(graph.positions[path] - graph.positions[path[0]], axis=1).max())


def _widen(graph: _LumenGraph, path: Indices) -> None:
    """Let the width of a path's wide places reach along it: it falls by ``WIDTH_DECAY`` per mm only.

    At the end of a vessel, whether a flat cap or one that dissolves into noise, the depth drops at once, and what
    sticks out there is no branch.
    """
    steps = np.linalg.norm(np.diff(graph.positions[path], axis=0), axis=1)
    arc = np.concatenate([[0.0], np.cumsum(steps)]) * WIDTH_DECAY
    depth = graph.depth[path]
    forward = np.maximum.accumulate(depth + arc) - arc
    backward = np.maximum.accumulate((depth - arc)[::-1])[::-1] + arc
    graph.width[path] = np.maximum(graph.width[path], np.maximum(forward, backward))


def _own_radius(graph: _LumenGraph, path: Indices) -> tuple[float, float]:
    """A branch's radius outside the vessel that it leaves, and how long it is there [mm]."""
    away = np.linalg.norm(graph.positions[path] - graph.positions[path[0]], axis=1)
    parent = float(graph.width[path[0]])
    path = path[: len(path) - _cap_length(graph, path[::-1])]
    away = away[: len(path)]
    outside = path[away > parent]
    if len(outside) < 2:
        return float(graph.depth[path].max()), 0.0
    beyond = float(np.linalg.norm(np.diff(graph.positions[outside], axis=0), axis=1).sum())
    return float(np.quantile(graph.depth[outside], 0.9)), beyond


def _widest(graph: _LumenGraph, paths: list[Indices], max_ends: int) -> list[Indices]:
    """The first path and the widest others, such that each kept path begins on another that is kept."""
    widths = [_own_radius(graph, path)[0] for path in paths]
    kept = {0}
    while len(kept) < min(len(paths), max_ends - 1):
        present = np.unique(np.concatenate([paths[number] for number in kept]))
        reachable = [n for n in range(len(paths)) if n not in kept and np.isin(paths[n][0], present)]
        if not reachable:
            break
        kept.add(max(reachable, key=lambda number: (widths[number], -number)))
    return [paths[number] for number in sorted(kept)]


def _cover(graph: _LumenGraph, path: Indices, covered: npt.NDArray[np.bool_]) -> None:
    """Mark what a path explains: the voxels within its spheres, so that the corners of a flat end are no branches."""
    for voxel in path[:: max(1, len(path) // 400)]:
        reach = COVERED_RADII * float(graph.width[voxel]) + graph.step
        covered[graph.tree.query_ball_point(graph.positions[voxel], reach)] = True
    covered[path] = True


def _meetings(graph: _LumenGraph, paths: list[Indices]) -> tuple[list[Indices], set[int]]:
    """Paths that meet others halfway around loops, led on to where they meet, and their last voxels.

    The lumen goes on behind such a tip to another path, which along the tree is far away.
    """
    paths = list(paths)
    meeting: set[int] = set()
    tips = [(number, int(path[-1])) for number, path in enumerate(paths)]
    begins = {int(path[0]) for path in paths[1:]}
    for number, tip in tips:
        if tip in begins:
            continue
        width = max(_own_radius(graph, paths[number])[0], graph.step)
        reach = MEETING_RADII * width + graph.step
        near, before = csgraph.dijkstra(
            graph.length, directed=False, indices=tip, limit=reach, return_predecessors=True
        )
        along = _along_tree(graph, paths, tip)
        others = np.array(sorted({int(v) for n, path in enumerate(paths) if n != number for v in path}), dtype=np.int64)
        met = others[(near[others] <= reach) & (along[others] > AROUND_RADII * width + 2.0 * near[others])]
        if len(met) == 0:
            continue
        nearest = int(met[np.argmin(near[met])])
        way = [nearest]
        while way[-1] != tip:
            way.append(int(before[way[-1]]))
        # Up to the other path, and no voxel of it.
        paths[number] = np.concatenate([paths[number], np.array(way[-2:0:-1], dtype=np.int64)])
        meeting.add(int(paths[number][-1]))
    return paths, meeting


def _along_tree(graph: _LumenGraph, paths: list[Indices], start: int) -> Array:
    """(count,) distance [mm] of the paths' voxels from one of them along the paths; infinite elsewhere."""
    rows = np.concatenate([path[:-1] for path in paths])
    columns = np.concatenate([path[1:] for path in paths])
    lengths = np.linalg.norm(graph.positions[rows] - graph.positions[columns], axis=1)
    count = len(graph.positions)
    tree = sparse.coo_matrix((lengths, (rows, columns)), shape=(count, count)).tocsr()
    distance: Array = csgraph.dijkstra(tree, directed=False, indices=start)
    return distance


@dataclass(frozen=True)
class _Tree:
    """Chains of voxels between ends and junctions, undirected."""

    chains: list[Indices]
    ends: list[int]
    """voxels that are an end of one chain only, and of the lumen"""
    meeting: frozenset[int]
    """voxels where a chain ends because it meets another one in a loop"""


def _tree(paths: list[Indices], meeting: set[int]) -> _Tree:
    """Split paths where others begin."""
    junctions = {int(path[0]) for path in paths[1:]}
    chains: list[Indices] = []
    for path in paths:
        cuts = [
            position for position, voxel in enumerate(path) if int(voxel) in junctions and 0 < position < len(path) - 1
        ]
        for begin, end in zip([0, *cuts], [*cuts, len(path) - 1], strict=True):
            chains.append(path[begin : end + 1])
    touched: dict[int, int] = {}
    for chain in chains:
        for voxel in (int(chain[0]), int(chain[-1])):
            touched[voxel] = touched.get(voxel, 0) + 1
    ends = [voxel for voxel, count in touched.items() if count == 1 and voxel not in meeting]
    if len(ends) < 2:
        raise InputError(
            "The lumen has no two ends that a centerline could join: it is closed in itself; is it a vessel?"
        )
    return _Tree(chains, ends, frozenset(meeting))


def _choose_inlet(tree: _Tree, graph: _LumenGraph, near: tuple[float, float, float] | None) -> int:
    """The end voxel where blood enters."""
    if near is not None:
        away = [float(np.linalg.norm(graph.positions[end] - np.array(near))) for end in tree.ends]
        return tree.ends[int(np.argmin(away))]

    def width(end: int) -> float:
        """The vessel's usual depth on the way from its junction to this end, outside of what it joins there; without a
        junction, in the half next to the end. A tip that has dissolved into noise counts little, and a short side
        branch is as thin as it is."""
        chain = next(chain for chain in tree.chains if end in (int(chain[0]), int(chain[-1])))
        outward = chain if int(chain[-1]) == end else chain[::-1]
        if int(outward[0]) in tree.ends:
            outside = outward[len(outward) // 2 :]
        else:
            away = np.linalg.norm(graph.positions[outward] - graph.positions[outward[0]], axis=1)
            outside = outward[away > graph.width[outward[0]]]
            if len(outside) == 0:
                outside = outward[-1:]
        return float(np.quantile(graph.depth[outside], 0.75))

    return max(tree.ends, key=lambda end: (width(end), -end))


def _cap_length(graph: _LumenGraph, chain: Indices) -> int:
    """How many voxels at the beginning of a chain belong to the vessel's cap: until the depth is that of the vessel
    behind."""
    depth, width = graph.depth[chain], graph.width[chain]
    full = np.flatnonzero(depth >= CAP_DEPTH * width)
    begin = int(full[0]) if len(full) else 0
    # Further on while it still grows: the ridge begins where the inscribed sphere touches the cap.
    while begin + 1 < len(depth) and depth[begin + 1] > depth[begin] + 0.2 * graph.step:
        begin += 1
    return min(begin, max(0, len(depth) - 4))


def _smooth_tree(tree: _Tree, root: int, graph: _LumenGraph, field: Grid, notes: list[str]) -> Centerline:
    """Order the chains from the root on, smooth them, and place their points on the ridge of the distance."""
    # The distance to the wall itself: interpolating its peak between voxels would cut it off.
    wall = cKDTree(np.asarray(wall_surface(field).points, dtype=float))
    waiting: list[tuple[int, int | None]] = [(root, None)]
    unused = list(tree.chains)
    branches: list[Branch] = []
    points, radii, owner, arcs = [], [], [], []
    fixed: dict[int, Array] = {}
    total = 0
    while waiting:
        voxel, parent = waiting.pop(0)
        leaving = [chain for chain in unused if voxel in (int(chain[0]), int(chain[-1]))]
        for chain in leaving:
            unused = [other for other in unused if other is not chain]
            ordered = chain if int(chain[0]) == voxel else chain[::-1]
            ends = voxel, int(ordered[-1])
            if ends[0] in tree.ends:
                ordered = ordered[_cap_length(graph, ordered) :]
            if ends[1] in tree.ends:
                ordered = ordered[: len(ordered) - _cap_length(graph, ordered[::-1])]
            line = _smooth(graph.positions[ordered], graph.depth[ordered], field)
            for end, place in ((ends[0], 0), (ends[1], -1)):
                if end in fixed:
                    line = _pulled(line, place, fixed[end])
                elif end not in tree.ends and end not in tree.meeting:
                    fixed[end] = line[place]
            index = len(branches)
            ids = np.arange(total, total + len(line))
            total += len(line)
            branches.append(Branch(index, ids, parent, closes_loop=ends[1] in tree.meeting))
            points.append(line)
            radii.append(wall.query(line)[0])
            owner.append(np.full(len(line), index))
            arcs.append(np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]))
            waiting.append((ends[1], index))
    return Centerline(
        np.concatenate(points),
        np.concatenate(radii),
        np.concatenate(owner),
        np.concatenate(arcs),
        tuple(branches),
        tuple(notes),
    )


def _smooth(voxels: Array, depth: Array, field: Grid) -> Array:
    """A smooth line near a chain of voxels, on the ridge of the distance, evenly spaced."""
    step = 0.75 * float(field.spacing.max())
    line = resampled_line(voxels, step)
    if len(line) < 5:
        return line
    sigma = max(2.0, SMOOTHING_RADII * float(np.median(depth)) / step)
    line = _blurred(line, sigma)
    for _ in range(12):
        tangent = _tangents(line)
        uphill = -field.gradient_at(line, step=float(field.spacing.max()))
        uphill -= np.einsum("nd,nd->n", uphill, tangent)[:, None] * tangent
        # On the ridge the distance's slope across the vessel vanishes; half of it, times the radius, is about how far
        # off.
        radius = np.maximum(-field.sample(line), 0.0)
        move = np.clip(0.4 * radius, 0.0, float(field.spacing.max()))[:, None] * uphill
        move[[0, -1]] = 0.0
        line = _blurred(line + move, 0.5 * sigma)
    return resampled_line(line, step)


def _blurred(line: Array, sigma: float) -> Array:
    """Gaussian smoothing along a line whose ends stay: the line is continued by its reflection through them."""
    reach = min(len(line) - 1, int(np.ceil(4 * sigma)))
    front, back = 2 * line[0] - line[reach:0:-1], 2 * line[-1] - line[-2 : -2 - reach : -1]
    longer = np.concatenate([front, line, back])
    smooth = ndimage.gaussian_filter1d(longer, sigma, axis=0, mode="nearest")[len(front) : len(front) + len(line)]
    smooth[0], smooth[-1] = line[0], line[-1]
    return np.asarray(smooth)


def resampled_line(line: Array, step: float) -> Array:
    """The same line with points evenly about ``step`` mm apart."""
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    count = max(3, round(arc[-1] / step) + 1)
    wanted = np.linspace(0.0, arc[-1], count)
    return np.column_stack([np.interp(wanted, arc, line[:, axis]) for axis in range(3)])


def _pulled(line: Array, place: int, target: Array) -> Array:
    """Move an end of a line to a point, the rest less and less along the first third."""
    share = np.linspace(1.0, 0.0, len(line)) if place == 0 else np.linspace(0.0, 1.0, len(line))
    weight = np.clip((share - 2 / 3) * 3, 0.0, 1.0)[:, None]
    return line + weight * (target - line[place])


def _tangents(line: Array) -> Array:
    """(n, 3) unit tangents of a line."""
    slope = np.gradient(line, axis=0)
    tangents: Array = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)
    return tangents
