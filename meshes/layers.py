"""Layers of thin tetrahedra along the wall, where wall shear stress is to be resolved.

The lumen is meshed only up to some distance from its wall, a share of the local radius; from that inner surface each
triangle is led out to the wall in columns of prisms, thinner towards the wall, and each prism is divided into three
tetrahedra. Its quadrilateral sides are divided from the end with the smaller number, so that neighbors agree (Dompierre
et al., 8th International Meshing Roundtable, 1999). At a port the columns stay in its plane.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from meshes.clipping import Index, boundary, oriented
from meshes.grid import Array, Grid

if TYPE_CHECKING:
    from meshes.tetrahedra import LumenMesh

GROWTH = 1.3
"""Each layer is thicker than the next one towards the wall by this factor."""


def with_wall_layers(mesh: LumenMesh, field: Grid, count: int) -> LumenMesh:
    """The mesh of a lumen's inner part, with layers from its wall to the lumen's.

    Args:
        mesh: of what is deeper in the lumen than the layers are to be thick.
        field: signed distance to the lumen's wall, mm, negative inside.
        count: layers.

    Returns:
        The mesh whose wall is the lumen's.
    """
    wall = mesh.triangles[mesh.triangle_tags == 0]
    nodes = np.unique(wall)
    ends = _on_wall(mesh, field, nodes)
    heights = GROWTH ** np.arange(count)[::-1]
    shares = np.cumsum(heights) / heights.sum()
    points = [mesh.points]
    base = np.full(len(mesh.points), -1, dtype=np.int64)
    base[nodes] = np.arange(len(nodes))
    inner = mesh.points[nodes]
    for share in shares:
        points.append(inner + share * (ends - inner))
    # From the inner surface outward: the nodes of each level.
    levels = [nodes, *(len(mesh.points) + number * len(nodes) + np.arange(len(nodes)) for number in range(count))]
    sides = np.sort(base[wall], axis=1)
    cells = [mesh.tetrahedra]
    for below, above in pairwise(levels):
        a, b, c = (below[sides[:, n]] for n in range(3))
        above_a, above_b, above_c = (above[sides[:, n]] for n in range(3))
        cells += [
            np.stack([a, b, c, above_c], axis=1),
            np.stack([a, b, above_c, above_b], axis=1),
            np.stack([a, above_b, above_c, above_a], axis=1),
        ]
    everything = np.concatenate(points)
    tetrahedra: Index = oriented(everything, np.concatenate(cells))
    triangles = boundary(tetrahedra)
    tags = np.zeros(len(triangles), dtype=np.int32)
    normals = np.cross(
        everything[triangles[:, 1]] - everything[triangles[:, 0]],
        everything[triangles[:, 2]] - everything[triangles[:, 0]],
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    for port in mesh.ports:
        mine = np.unique(mesh.triangles[mesh.triangle_tags == port.tag])
        rim = base[mine[base[mine] >= 0]]
        mine = np.concatenate([mine, *(level[rim] for level in levels[1:])])
        tags[np.isin(triangles, mine).all(axis=1) & (normals @ port.normal > 0.95)] = port.tag
    return replace(mesh, points=everything, tetrahedra=tetrahedra, triangles=triangles, triangle_tags=tags)


def _on_wall(mesh: LumenMesh, field: Grid, nodes: Index) -> Array:
    """(n, 3) where the lines out of the inner surface's nodes meet the wall; within a port's plane at its rim."""
    start = mesh.points[nodes]
    step = float(field.spacing.max())
    direction = field.gradient_at(start, step=step)
    for port in mesh.ports:
        rim = np.isin(nodes, np.unique(mesh.triangles[mesh.triangle_tags == port.tag]))
        direction[rim] -= (direction[rim] @ port.normal)[:, None] * port.normal
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    away = np.zeros(len(nodes))
    longest = 2.0 * np.maximum(-field.sample(start), 0.05 * step)
    for _ in range(6):
        away = np.clip(away - field.sample(start + away[:, None] * direction), 0.25 * longest, longest)
    return np.asarray(start + away[:, None] * direction)
