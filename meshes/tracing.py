"""Finding the centerline of a vessel tree from the signed distance to its wall.

A path through the tree is the cheapest way between two of its ends when a step costs its length over the square of the
distance to the wall: it keeps to the middle (`lumen_paths`). Paths are then smoothed and their points moved to the
ridge of the distance, between voxels.

A tree with loops (a circle of Willis) is opened where two paths meet halfway around a loop (`loops`). Both branches
are marked as closing a loop, no port is put there, and the mesh keeps the loop.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from meshes.centerline import Centerline, Indices, Line
from meshes.errors import InputError
from meshes.grid import Array, Grid
from meshes.level_set import wall_surface
from meshes.lines import resampled_line, tangents_of
from meshes.loops import meetings
from meshes.lumen_graph import LumenGraph
from meshes.lumen_paths import find_paths

SMOOTHING_RADII = 0.5
"""Standard deviation of the smoothing along a branch, in its radii."""


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
            one end of a vessel, even if the border cuts the vessel lengthwise.

    Raises:
        InputError: the lumen is too small or too round to have two ends.
    """
    field = Grid.of(level_set)
    graph = LumenGraph.of(field)
    paths, notes = find_paths(graph, max_ends, image)
    paths, meeting = meetings(graph, paths)
    if meeting:
        notes.append(
            f"{(len(meeting) + 1) // 2} loops of vessels are closed in the mesh; the centerline is opened "
            "halfway around."
        )
    tree = _tree(paths, meeting)
    root = _choose_inlet(tree, graph, inlet_near)
    return _smooth_tree(tree, root, graph, field, notes)


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


def _choose_inlet(tree: _Tree, graph: LumenGraph, near: tuple[float, float, float] | None) -> int:
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


def _smooth_tree(tree: _Tree, root: int, graph: LumenGraph, field: Grid, notes: list[str]) -> Centerline:
    """Order the chains from the root on, smooth them, and place their points on the ridge of the distance."""
    # The distance to the wall itself: interpolating its peak between voxels would cut it off.
    wall = cKDTree(np.asarray(wall_surface(field).points, dtype=float))
    waiting: list[tuple[int, int | None]] = [(root, None)]
    unused = list(tree.chains)
    lines: list[Line] = []
    fixed: dict[int, Array] = {}
    while waiting:
        voxel, parent = waiting.pop(0)
        leaving = [chain for chain in unused if voxel in (int(chain[0]), int(chain[-1]))]
        for chain in leaving:
            unused = [other for other in unused if other is not chain]
            ordered = chain if int(chain[0]) == voxel else chain[::-1]
            ends = voxel, int(ordered[-1])
            if ends[0] in tree.ends:
                ordered = ordered[graph.cap_length(ordered) :]
            if ends[1] in tree.ends:
                ordered = ordered[: len(ordered) - graph.cap_length(ordered[::-1])]
            line = _smooth(graph.positions[ordered], graph.depth[ordered], field)
            for end, place in ((ends[0], 0), (ends[1], -1)):
                if end in fixed:
                    line = _pulled(line, place, fixed[end])
                elif end not in tree.ends and end not in tree.meeting:
                    fixed[end] = line[place]
            lines.append(Line(line, wall.query(line)[0], parent, closes_loop=ends[1] in tree.meeting))
            waiting.append((ends[1], len(lines) - 1))
    return Centerline.of_lines(lines, notes)


def _smooth(voxels: Array, depth: Array, field: Grid) -> Array:
    """A smooth line near a chain of voxels, on the ridge of the distance, evenly spaced."""
    step = 0.75 * float(field.spacing.max())
    line = resampled_line(voxels, step)
    if len(line) < 5:
        return line
    sigma = max(2.0, SMOOTHING_RADII * float(np.median(depth)) / step)
    line = _blurred(line, sigma)
    for _ in range(12):
        tangent = tangents_of(line)
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


def _pulled(line: Array, place: int, target: Array) -> Array:
    """Move an end of a line to a point, the rest less and less along the first third."""
    share = np.linspace(1.0, 0.0, len(line)) if place == 0 else np.linspace(0.0, 1.0, len(line))
    weight = np.clip((share - 2 / 3) * 3, 0.0, 1.0)[:, None]
    return line + weight * (target - line[place])
