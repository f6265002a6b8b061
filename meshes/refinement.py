"""A stenosis in the mesh: where edges are to be shorter, and how many of them there are across its throat."""

from __future__ import annotations

import numpy as np
import pyvista as pv
from scipy import sparse
from scipy.sparse import csgraph

from meshes.centerline import Centerline, Indices
from meshes.clipping import Index
from meshes.grid import Array
from meshes.sizing import Refinement
from meshes.stenosis import Stenosis
from meshes.tetrahedra import LumenMesh

THROAT_SHARE = 1.25
"""Where the lumen is no wider than this many times its narrowest width, it belongs to the throat."""

SEVERE_REDUCTION = 0.5
"""Of the diameter: from here on a stenosis takes pressure at rest, and its throat is kept fine before milder ones."""

JET_DIAMETERS = 3.0
"""Edges are shorter as far behind a throat as this many healthy diameters: there its jet breaks up, and what pressure
is won back is won back there."""

JET_GROWTH, APPROACH_GROWTH = 0.15, 0.3
"""How much longer edges get to each mm behind a throat, and before it."""

JET_SPREAD = 0.1
"""How much wider the jet gets to each mm: a jet's half width grows by some tenth of the way (Pope, Turbulent Flows,
2000, section 5.1)."""


def at_stenosis(stenosis: Stenosis, centerline: Centerline, radius: Array, edges_across: float) -> Refinement:
    """Edges that follow the lumen's width through a stenosis's throat, and get longer along its jet.

    A throat of diameter d takes some 12 a^3 / d tetrahedra to the mm, with a edges across, and the same edges in a
    wider vessel many more: their number goes with the width squared. So they are asked for in the throat only, and
    behind it in a cone as wide as the jet.

    Args:
        stenosis: one of the centerline's.
        centerline: from the inlet on; blood flows along its branches, and behind it those that it feeds.
        radius: (n,) mm, of the lumen that is meshed, at the centerline's points.
        edges_across: the diameter.
    """
    lesion = _lesion(stenosis, centerline)
    throat = lesion[radius[lesion] <= THROAT_SHARE * radius[lesion].min()]
    reach = JET_DIAMETERS * stenosis.reference_diameter
    first, last = centerline.arc_length[throat].min(), centerline.arc_length[throat].max()
    ids, arc = _along(centerline, stenosis.branch, first - reach, last + reach)
    behind = arc[:, None] - centerline.arc_length[throat]
    edges = 2.0 * radius[throat] / edges_across + np.where(behind > 0, JET_GROWTH * behind, -APPROACH_GROWTH * behind)
    spread = radius[throat] + JET_SPREAD * np.abs(behind)
    nearest = np.argmin(edges, axis=1)
    rows = np.arange(len(ids))
    return Refinement(
        centerline.points[ids],
        spread[rows, nearest],
        edges[rows, nearest],
        first=stenosis.diameter_reduction >= SEVERE_REDUCTION,
    )


def edges_at_stenosis(mesh: LumenMesh, stenosis: Stenosis, centerline: Centerline, radius: Array) -> float:
    """How many edges of a mesh there are across a stenosis, where the lumen that is meshed is narrowest.

    Args:
        mesh: of the lumen.
        stenosis: one of the centerline's.
        centerline: as in `at_stenosis`.
        radius: as there.
    """
    lesion = _lesion(stenosis, centerline)
    place = int(lesion[np.argmin(radius[lesion])])
    return edges_across(
        mesh.points, mesh.tetrahedra, centerline.points[place], centerline.tangents()[place],
        4.0 * float(radius[place]),
    )  # fmt: skip


def _lesion(stenosis: Stenosis, centerline: Centerline) -> Indices:
    """Ids of the centerline's points in a stenosis."""
    own = centerline.branches[stenosis.branch].point_ids
    arc = centerline.arc_length[own]
    return own[(arc >= stenosis.start) & (arc <= stenosis.start + stenosis.length)]


def _along(centerline: Centerline, branch: int, first: float, last: float) -> tuple[Indices, Array]:
    """Ids of a branch's points between two arc lengths, and of those of the branches behind it, with arc lengths."""
    found, arcs = [], []
    following = [(branch, 0.0)]
    for number, before in following:
        ids = centerline.branches[number].point_ids
        arc = before + centerline.arc_length[ids]
        within = (arc >= first) & (arc <= last)
        found.append(ids[within])
        arcs.append(arc[within])
        if arc[-1] < last:
            following += [(other.index, float(arc[-1])) for other in centerline.branches if other.parent == number]
    return np.concatenate(found), np.concatenate(arcs)


def edges_across(points: Array, tetrahedra: Index, center: Array, normal: Array, reach: float) -> float:
    """How many edges of a mesh there are across a vessel: the diameter over the mean edge, in a section.

    Args:
        points: (n, 3) mm.
        tetrahedra: (m, 4).
        center: (3,) mm, in the vessel.
        normal: (3,) along the vessel.
        reach: mm; farther from the center the plane cuts another vessel.

    Returns:
        The diameter of a circle as large as the section, over the mean edge of the tetrahedra that are cut; 0 where
        there is no lumen.
    """
    height = ((points - center) @ normal)[tetrahedra]
    near = (np.linalg.norm(points - center, axis=1) < reach)[tetrahedra].all(axis=1)
    cut = tetrahedra[near & (height.min(axis=1) < 0) & (height.max(axis=1) >= 0)]
    if len(cut) == 0:
        return 0.0
    corners = (np.ones(cut.size), (np.repeat(np.arange(len(cut)), 4), cut.ravel()))
    shared = sparse.coo_matrix(corners, shape=(len(cut), len(points))).tocsr()
    part = csgraph.connected_components(shared @ shared.T, directed=False)[1]
    nearest = int(np.argmin(np.linalg.norm(points[cut].mean(axis=1) - center, axis=1)))
    cut = cut[part == part[nearest]]
    section = pv.UnstructuredGrid({pv.CellType.TETRA: cut}, points).slice(normal=normal, origin=center)
    ends = points[cut]
    edges = np.linalg.norm(ends[:, [1, 2, 3, 2, 3, 3]] - ends[:, [0, 0, 0, 1, 1, 2]], axis=2)
    return float(np.sqrt(4.0 * section.area / np.pi) / edges.mean())
