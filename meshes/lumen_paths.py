"""The paths of a vessel tree through its lumen: from which ends they come, and which of them are vessels.

Ends are the voxels farthest from the tree found so far, measured along the lumen, one after the other (the idea of
TEASAR: Sato et al., Pacific Graphics 2000). What a path explains, within some of its inscribed radii, is not looked at
again; a branch has to stick out of the vessel it leaves by more than its own width. So the rules have no length in mm.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from meshes.centerline import RESOLVED_VOXELS, Indices
from meshes.errors import InputError
from meshes.grid import Grid
from meshes.lumen_graph import LumenGraph

COVERED_RADII = 1.6
"""A path explains what is within this many of its inscribed radii."""

SPUR_RADII = 1.5
"""A branch must reach this many of its own radii beyond the wall of the vessel that it leaves, its cap not counted."""

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

LEAST_LENGTH = 1.25
"""A lumen whose ends are nearer to each other than this many of its widths is a lump."""

MOST_PATHS = 400


def find_paths(graph: LumenGraph, max_ends: int, image: sitk.Image | None) -> tuple[list[Indices], list[str]]:
    """Voxel paths: the first between two ends, each other from a voxel of the tree to a new end.

    Args:
        graph: the lumen.
        max_ends: so many ends at most, those of the widest branches.
        image: what the lumen was found in; see `_openings`.

    Returns:
        The paths, and what was left out, one sentence each.

    Raises:
        InputError: the lumen is too small or too round to have two ends.
    """
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
        graph.widen(path)
        _cover(graph, path, covered)
        if paths:
            radius, beyond = graph.own_radius(path)
            if beyond < SPUR_RADII * radius:
                continue
            if radius < max(RESOLVED_VOXELS * graph.step, LEAST_RADIUS * float(graph.depth.max())):
                thin += 1
                continue
        paths.append(path)
        in_tree[path] = True
    if not paths or len(paths[0]) < 4:
        raise InputError("The lumen has no two ends that a centerline could join; is it a vessel?")
    length, width = float(from_start[paths[0][-1]]), 2.0 * float(graph.depth.max())
    if length < LEAST_LENGTH * width:
        raise InputError(
            f"The lumen is {width:.3g} mm wide and {length:.3g} mm long; a vessel is longer than wide: look at what "
            "was taken for it (lumen.png), and give --seed or labels."
        )
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
    doubled = _at_same_opening(graph, paths, _openings(graph, image))
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


def _openings(graph: LumenGraph, image: sitk.Image | None) -> Indices:
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


def _at_same_opening(graph: LumenGraph, paths: list[Indices], opening: Indices) -> set[int]:
    """Numbers of the paths that leave the image through an opening that a wider path leaves it through."""
    places = np.flatnonzero(opening >= 0)
    if len(places) == 0:
        return set()
    tips = np.array([int(paths[0][0]), *(int(path[-1]) for path in paths)])
    away, nearest = cKDTree(graph.positions[places]).query(graph.positions[tips])
    through = np.where(away <= graph.width[tips] + graph.step, opening[places[nearest]], -1)
    widths = [np.inf, *(graph.own_radius(path)[0] for path in paths)]
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


def _frayed(graph: LumenGraph, paths: list[Indices]) -> set[int]:
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
            if graph.own_radius(path)[0] < STRAND_WIDTH * usual:
                reach = max(reach, STRAND_RADII * usual)
            if graph.reach(path) >= reach:
                continue
            if any(len(end) > 1 and graph.reach(end) < reach for end in ([onward, back] if n == 0 else [onward])):
                strands.add(number)
    return strands


def _widest(graph: LumenGraph, paths: list[Indices], max_ends: int) -> list[Indices]:
    """The first path and the widest others, such that each kept path begins on another that is kept."""
    widths = [graph.own_radius(path)[0] for path in paths]
    kept = {0}
    while len(kept) < min(len(paths), max_ends - 1):
        present = np.unique(np.concatenate([paths[number] for number in kept]))
        reachable = [n for n in range(len(paths)) if n not in kept and np.isin(paths[n][0], present)]
        if not reachable:
            break
        kept.add(max(reachable, key=lambda number: (widths[number], -number)))
    return [paths[number] for number in sorted(kept)]


def _cover(graph: LumenGraph, path: Indices, covered: npt.NDArray[np.bool_]) -> None:
    """Mark what a path explains: the voxels within its spheres, so that the corners of a flat end are no branches."""
    for voxel in path[:: max(1, len(path) // 400)]:
        reach = COVERED_RADII * float(graph.width[voxel]) + graph.step
        covered[graph.tree.query_ball_point(graph.positions[voxel], reach)] = True
    covered[path] = True
