"""Mend the last few bad tetrahedra of a mesh, which remeshing leaves: wedges at a rim, and slivers.

A thin wedge between a port's plane and the wall is taken off: it lies open on two sides, and nearly nothing of the
lumen is in it. Around every other bad tetrahedron the nodes are moved such that the worst tetrahedron at each node
becomes better, one node after the other (optimization-based smoothing: Freitag & Ollivier-Gooch, Int. J. Numer. Meth.
Eng. 40 (1997) 3979-4002), here by a search over directions and lengths: the worst of several qualities has no
derivative. Nodes of a port stay in its plane, nodes of the boundary near to where they were.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from meshes.clipping import Index, boundary, volumes
from meshes.grid import Array

WALL_ROOM = 0.12
"""A node of the wall or of a rim is moved by this part of its edges at most."""

LEAST_GAIN = 1e-4
"""A node is moved where its worst tetrahedron becomes better by more than this."""

_ROUNDS = 30
_FIRST, _AT_ONCE = 3, 12
"""So many tetrahedra of a node are measured at all places, and so many places with the others."""

_PEELS = 10
_DIRECTIONS = 40
_LENGTHS = (0.3, 0.1, 0.03, 0.01)
"""Steps tried, as shares of the mean edge at the node."""


def scaled_jacobians(points: Array, tetrahedra: Index) -> Array:
    """(m,) scaled Jacobian of each tetrahedron: 1 for a regular one, 0 for a flat one, negative if inverted.

    The smallest over the corners of the Jacobian over the product of its three edges, times the square root of two
    (Knupp 2000; the Verdict library).
    """
    corners = points[tetrahedra]
    edges = np.linalg.norm(corners[:, [1, 2, 3, 2, 3, 3]] - corners[:, [0, 0, 0, 1, 1, 2]], axis=2)
    return np.asarray(np.sqrt(2.0) * 6.0 * volumes(points, tetrahedra) / np.maximum(_largest_products(edges), 1e-300))


def worst_shapes(points: Array, tetrahedra: Index) -> Array:
    """(m,) the smaller of a tetrahedron's scaled Jacobian and the sine of its worst dihedral angle."""
    return _shapes(points[tetrahedra])


def without_wedges(points: Array, tetrahedra: Index, least: float) -> Index:
    """The mesh without those tetrahedra worse than ``least`` that have two faces or more on the boundary.

    None is taken off whose absence would pinch the lumen at an edge or at a point.
    """
    for _ in range(_PEELS):
        bad = np.flatnonzero(worst_shapes(points, tetrahedra) < least)
        outer = boundary(tetrahedra)
        faces = {tuple(face) for face in np.sort(outer, axis=1).tolist()}
        edges = {edge for a, b, c in faces for edge in ((a, b), (a, c), (b, c))}
        drop: list[int] = []
        touched: set[int] = set()
        for number in bad.tolist():
            nodes = sorted(tetrahedra[number].tolist())
            if touched.intersection(nodes):
                continue
            open_faces = [tuple(nodes[:n] + nodes[n + 1 :]) for n in range(4)]
            open_faces = [face for face in open_faces if face in faces]
            if len(open_faces) == 2:
                # The edge that the two closed faces share comes to light; on the boundary already, it would be pinched.
                inner = set(nodes) - (set(open_faces[0]) & set(open_faces[1]))
                takes_off = tuple(sorted(inner)) not in edges
            else:
                takes_off = len(open_faces) == 3
            if takes_off:
                drop.append(number)
                touched.update(nodes)
        if not drop:
            break
        tetrahedra = np.delete(tetrahedra, drop, axis=0)
    return tetrahedra


def relaxed(
    points: Array, tetrahedra: Index, planes: Sequence[tuple[Array, npt.NDArray[np.int64]]], good: float
) -> Array:
    """(n, 3) nodes moved until no tetrahedron is worse than ``good``, as far as that can be had.

    Args:
        points: (n, 3) mm.
        tetrahedra: (m, 4), positively oriented.
        planes: of each port its unit normal (3,) and its nodes: they stay in its plane.
        good: the scaled Jacobian, and the sine of the worst dihedral angle, aimed for.
    """
    points = points.copy()
    at_start = points.copy()
    held = np.zeros(len(points), dtype=bool)
    held[boundary(tetrahedra).ravel()] = True
    normals: dict[int, list[Array]] = {}
    for normal, nodes in planes:
        for node in nodes.tolist():
            normals.setdefault(node, []).append(normal)
    order = np.argsort(tetrahedra.ravel(), kind="stable")
    first = np.searchsorted(tetrahedra.ravel()[order], np.arange(len(points) + 1))
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(_DIRECTIONS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    steps = np.concatenate([length * directions for length in _LENGTHS])
    quality = worst_shapes(points, tetrahedra)
    # A node that found no better place finds none again until one beside it has moved.
    open_nodes = np.ones(len(points), dtype=bool)
    for _ in range(_ROUNDS):
        nodes = np.unique(tetrahedra[quality < good])
        if not open_nodes[nodes].any():
            break
        for node in nodes.tolist():
            if not open_nodes[node]:
                continue
            open_nodes[node] = False
            around = order[first[node] : first[node + 1]] // 4
            cells = tetrahedra[around]
            edge = float(np.linalg.norm(points[cells] - points[node], axis=2).sum() / (3 * len(cells)))
            tried = edge * steps
            for normal in normals.get(node, ()):
                tried = tried - (tried @ normal)[:, None] * normal
            places = points[node] + tried
            if held[node]:
                places = places[np.linalg.norm(places - at_start[node], axis=1) <= WALL_ROOM * edge]
            place = _best_place(points, cells, node, places, quality[around])
            if place is not None:
                points[node] = place
                quality[around] = _shapes(points[cells])
                open_nodes[cells] = True
    return points


def _best_place(points: Array, cells: Index, node: int, places: Array, quality: Array) -> Array | None:
    """Of some places for a node the one whose worst tetrahedron is best; None where none betters it.

    The tetrahedra that are worst now decide in most places, so these are measured first, everywhere: their worst is
    a bound, and the others are measured only where the bound is above the best place found.
    """
    corners = points[cells]
    is_node = cells == node
    ranked = np.argsort(quality, kind="stable")
    best, place = float(quality[ranked[0]]) + LEAST_GAIN, None
    bound = _moved_shapes(corners[ranked[:_FIRST]], is_node[ranked[:_FIRST]], places)
    others = ranked[_FIRST:]
    hopeful = np.flatnonzero(bound > best)
    hopeful = hopeful[np.argsort(-bound[hopeful], kind="stable")]
    for begin in range(0, len(hopeful), _AT_ONCE):
        some = hopeful[begin : begin + _AT_ONCE]
        if bound[some[0]] <= best:
            break
        worst = bound[some]
        if len(others):
            worst = np.minimum(worst, _moved_shapes(corners[others], is_node[others], places[some]))
        chosen = int(np.argmax(worst))
        if worst[chosen] > best:
            best, place = float(worst[chosen]), places[some[chosen]]
    return place


def _moved_shapes(corners: Array, is_node: npt.NDArray[np.bool_], places: Array) -> Array:
    """(p,) the worst shape of tetrahedra (m, 4, 3) with one corner of each at each of p places."""
    moved = np.broadcast_to(corners, (len(places), *corners.shape)).copy()
    moved[:, is_node] = places[:, None]
    return np.asarray(_shapes(moved).min(axis=1))


def _shapes(corners: Array) -> Array:
    """The smaller of the scaled Jacobian and the sine of the worst dihedral angle, of tetrahedra (..., 4, 3)."""
    first = corners[..., 1:, :] - corners[..., :1, :]
    jacobian = np.einsum("...d,...d->...", np.cross(first[..., 0, :], first[..., 1, :]), first[..., 2, :])
    ends = corners[..., [1, 2, 3, 2, 3, 3], :] - corners[..., [0, 0, 0, 1, 1, 2], :]
    edges = np.sqrt(np.einsum("...d,...d->...", ends, ends))
    scaled = np.sqrt(2.0) * jacobian / np.maximum(_largest_products(edges), 1e-300)
    # Twice the area of the faces opposite to corners 0, 1, 2 and 3.
    sides = np.stack([np.cross(ends[..., i, :], ends[..., j, :]) for i, j in ((3, 4), (1, 2), (0, 2), (0, 1))], axis=-2)
    areas = np.sqrt(np.einsum("...d,...d->...", sides, sides))
    # The faces that meet in an edge are those opposite to the two other corners: sin = 3/2 V l / (A A').
    beside = areas[..., [2, 1, 1, 0, 0, 0]] * areas[..., [3, 3, 2, 3, 2, 1]]
    sines = jacobian[..., None] * edges / np.maximum(beside, 1e-300)
    return np.asarray(np.minimum(scaled, sines.min(axis=-1)))


def _largest_products(edges: Array) -> Array:
    """The largest product of the three edges at a corner; edges (..., 6) are 01, 02, 03, 12, 13, 23."""
    corners = ([0, 1, 2], [0, 3, 4], [1, 3, 5], [2, 4, 5])
    return np.asarray(np.max([edges[..., three].prod(axis=-1) for three in corners], axis=0))
