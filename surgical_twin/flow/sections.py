"""Flow and mean pressure on plane sections of the lumen, exact for linear fields.

A plane cuts a tetrahedron in a triangle or a quadrilateral whose corners lie on edges. The mean of a linear function
over them is a weighted sum of nodal values, so a section is a row of weights: flow and pressure of many sections at
many times are products of sparse matrices.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import WALL_TAG, FlowDomain

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class Sections:
    """Plane sections through the lumen, each the connected part of its plane that is nearest to the given center."""

    centers: Array
    """(s, 3) m"""
    normals: Array
    """(s, 3)"""
    area: Array
    """(s,) m^2"""
    weights: sp.csr_matrix
    """(s, n) integral of the nodes' shape functions over each section, m^2"""

    def flow(self, velocity: Array) -> Array:
        """(..., s) m^3/s along the normals, of velocities (..., n, 3)."""
        moved = [np.asarray(velocity[..., axis], dtype=float) @ self.weights.T for axis in range(3)]
        return sum(part * self.normals[:, axis] for axis, part in enumerate(moved))

    def pressure(self, pressure: Array) -> Array:
        """(..., s) mean over each section, of pressures (..., n)."""
        return (np.asarray(pressure, dtype=float) @ self.weights.T) / self.area


def cut(domain: FlowDomain, centers: Array, normals: Array) -> Sections:
    """Cut the lumen.

    Args:
        domain: the lumen.
        centers: (s, 3) m.
        normals: (s, 3), of any length.

    Raises:
        InputError: a normal has no length, or a plane does not meet the lumen.
    """
    centers, normals = np.atleast_2d(centers).astype(float), np.atleast_2d(normals).astype(float)
    lengths = np.linalg.norm(normals, axis=1)
    if not (lengths > 0).all():
        raise InputError(f"Section {int(np.argmin(lengths))} has a normal of no length; give a direction.")
    normals = normals / lengths[:, None]
    rows, areas = [], []
    for number, (center, normal) in enumerate(zip(centers, normals, strict=True)):
        nodes, weights = _one(domain, center, normal)
        if not len(nodes):
            place = ", ".join(f"{1e3 * value:.1f}" for value in center)
            raise InputError(f"The plane of section {number} at ({place}) mm does not meet the lumen; move it inside.")
        rows.append((nodes, weights))
        areas.append(weights.sum())
    matrix = sp.csr_matrix(
        (
            np.concatenate([weights for _, weights in rows]),
            np.concatenate([nodes for nodes, _ in rows]),
            np.cumsum([0, *(len(nodes) for nodes, _ in rows)]),
        ),
        shape=(len(rows), len(domain.points)),
    )
    matrix.sum_duplicates()
    return Sections(centers, normals, np.array(areas), matrix)


def _one(domain: FlowDomain, center: Array, normal: Array) -> tuple[Indices, Array]:
    """Nodes and their weights; nodes may repeat."""
    height = (domain.points - center) @ normal
    # A node exactly on the plane counts as above it: a cell is then cut in three or four edges, or not at all.
    above = height >= 0.0
    inside = above[domain.tetrahedra]
    count = inside.sum(axis=1)
    crossed = np.flatnonzero((count > 0) & (count < 4))
    if not len(crossed):
        return np.empty(0, dtype=np.int64), np.empty(0)
    crossed = _connected(domain, crossed, height, center)
    cells, inside = domain.tetrahedra[crossed], inside[crossed]
    nodes, weights = [], []
    # Which edges are cut depends only on which corners are above: fourteen cases, all cells of one at a time.
    code = inside @ np.array([1, 2, 4, 8])
    for case in np.unique(code):
        chosen = cells[code == case]
        corners = [bool(case >> corner & 1) for corner in range(4)]
        edges = [edge for edge in _EDGES if corners[edge[0]] != corners[edge[1]]]
        if len(edges) == 4:
            # In the order around the quadrilateral: neighbors share a corner of the cell.
            first, *rest = edges
            second = next(edge for edge in rest if set(edge) & set(first))
            rest.remove(second)
            third = next(edge for edge in rest if set(edge) & set(second) and not set(edge) & set(first))
            rest.remove(third)
            edges = [first, second, third, rest[0]]
        ends = [chosen[:, list(edge)] for edge in edges]
        shares = []
        for pair in ends:
            low, high = height[pair[:, 0]], height[pair[:, 1]]
            shares.append(low / (low - high))
        places = [
            domain.points[pair[:, 0]] * (1 - share)[:, None] + domain.points[pair[:, 1]] * share[:, None]
            for pair, share in zip(ends, shares, strict=True)
        ]
        for triangle in ((0, 1, 2), (0, 2, 3))[: len(edges) - 2]:
            a, b, c = (places[corner] for corner in triangle)
            third_part = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6.0
            for corner in triangle:
                nodes += [ends[corner][:, 0], ends[corner][:, 1]]
                weights += [third_part * (1 - shares[corner]), third_part * shares[corner]]
    return np.concatenate(nodes), np.concatenate(weights)


def _connected(domain: FlowDomain, crossed: Indices, height: Array, center: Array) -> Indices:
    """Of the cells that a plane crosses those connected to the one nearest to the center, by edges that it cuts too."""
    cells = domain.tetrahedra[crossed]
    below = height < 0
    keys, owners = [], []
    count = len(domain.points)
    for first, second in _EDGES:
        a, b = cells[:, first], cells[:, second]
        cutting = below[a] != below[b]
        keys.append((np.minimum(a, b) * count + np.maximum(a, b))[cutting])
        owners.append(np.flatnonzero(cutting))
    _, edge = np.unique(np.concatenate(keys), return_inverse=True)
    owner = np.concatenate(owners)
    shape = len(crossed) + int(edge.max()) + 1
    graph = sp.coo_matrix((np.ones(len(owner)), (owner, len(crossed) + edge)), shape=(shape, shape))
    _, labels = connected_components(graph, directed=False)
    middle = domain.points[cells].mean(axis=1)
    nearest = int(np.argmin(np.linalg.norm(middle - center, axis=1)))
    return crossed[labels[: len(crossed)] == labels[nearest]]


def centerline_sections(domain: FlowDomain, points: Array, spacing: float) -> tuple[Sections, Array]:
    """Sections across a centerline.

    Args:
        domain: the lumen.
        points: (k, 3) m, from the inlet on.
        spacing: m between sections.

    Returns:
        The sections, and their distances (s,) [m] along the centerline. Those whose plane misses the lumen, or leaves
        it through a port, are left out.

    Raises:
        InputError: none is left.
    """
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    distance = np.concatenate([[0.0], np.cumsum(steps)])
    keep = np.concatenate([[True], steps > 0])
    points, distance = points[keep], distance[keep]
    stations = np.linspace(0.0, distance[-1], max(2, int(np.ceil(distance[-1] / spacing)) + 1))

    def at(place: Array) -> Array:
        return np.column_stack([np.interp(place, distance, points[:, axis]) for axis in range(3)])

    reach = 2.0 * spacing
    tangents = at(np.minimum(stations + reach, distance[-1])) - at(np.maximum(stations - reach, 0.0))
    centers = at(stations)
    met = np.array(
        [_is_across(domain, center, tangent) for center, tangent in zip(centers, tangents, strict=True)], dtype=bool
    )
    if not met.any():
        raise InputError("No section across the centerline lies in the lumen: are both of the same case, in m?")
    return cut(domain, centers[met], tangents[met]), stations[met]


def _is_across(domain: FlowDomain, center: Array, normal: Array) -> bool:
    """Whether a plane cuts the lumen at this center, and the faces of ports not."""
    height = (domain.points - center) @ normal
    inside = (height >= 0.0)[domain.tetrahedra].sum(axis=1)
    crossed = np.flatnonzero((inside > 0) & (inside < 4))
    if not len(crossed):
        return False
    crossed = _connected(domain, crossed, height, center)
    at_ports = domain.boundary_cells[domain.triangle_tags != WALL_TAG]
    return not np.isin(crossed, at_ports).any()
