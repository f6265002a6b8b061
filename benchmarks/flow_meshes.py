"""Meshes of the flow solver's verification, made from formulas: a box, tubes, a cylinder in a channel."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyvista as pv
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from surgical_twin.flow.domain import FlowDomain, FlowPort

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def oriented(points: Array, cells: Indices) -> Indices:
    """The cells with two corners swapped where their volume is negative."""
    corners = points[cells]
    flipped = np.linalg.det(corners[:, 1:] - corners[:, :1]) < 0
    cells = cells.copy()
    cells[flipped, :2] = cells[flipped, 1::-1]
    return cells


def boundary_of(cells: Indices) -> Indices:
    """The facets that belong to one cell only."""
    corners = cells.shape[1]
    facets = np.concatenate([np.delete(cells, corner, axis=1) for corner in range(corners)])
    _, first, times = np.unique(np.sort(facets, axis=1), axis=0, return_index=True, return_counts=True)
    return facets[first[times == 1]]


def port(name: str, role: str, tag: int, center: Array, normal: Array, area: float) -> FlowPort:
    return FlowPort(name, role, tag, np.asarray(center, float), np.asarray(normal, float), np.sqrt(area / np.pi), area)


def extruded(flat: Array, triangles: Indices, heights: Array) -> tuple[Array, Indices]:
    """Prisms over triangles, each cut into three tetrahedra: points (n, 3) with the heights in z."""
    count, layers = len(flat), len(heights) - 1
    triangles = np.sort(triangles, axis=1)
    points = np.concatenate([np.column_stack([flat, np.full(count, z)]) for z in heights])
    low = (triangles[None] + count * np.arange(layers)[:, None, None]).reshape(-1, 3)
    high = low + count
    # Diagonals run from the smaller node number: neighbors agree.
    cells = np.concatenate(
        [
            np.column_stack([low, high[:, 2]]),
            np.column_stack([low[:, :2], high[:, 1:]]),
            np.column_stack([low[:, 0], high]),
        ]
    )
    return points, oriented(points, cells)


def box(cells: int, dimension: int, low: float, high: float) -> FlowDomain:
    """The square or cube between two corners, with one port all around it: the velocity is given there."""
    axis = np.linspace(low, high, cells + 1)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    flat = np.column_stack([x, y])
    lower = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    right = lower + cells + 1
    triangles = np.concatenate(
        [np.column_stack([lower, right, right + 1]), np.column_stack([lower, right + 1, lower + 1])]
    )
    points, tetrahedra = (flat, oriented(flat, triangles)) if dimension == 2 else extruded(flat, triangles, axis)
    facets = boundary_of(tetrahedra)
    everywhere = port("around", "inlet", 1, np.zeros(dimension), np.eye(dimension)[0], 1.0)
    return FlowDomain.build(points, tetrahedra, facets, np.ones(len(facets), np.int32), [everywhere], enclosed=True)


def disk(rings: int, spacing: Callable[[Array], Array] = lambda share: share) -> tuple[Array, Indices]:
    """The unit disk in rings of 6, 12, 18, ... points; ``spacing`` maps shares of the radius, 0 to 1, to radii."""
    section = [(0.0, 0.0)]
    radii = spacing(np.linspace(0.0, 1.0, rings + 1))
    even = [(0.0, 0.0)]
    for ring in range(1, rings + 1):
        angle = 2 * np.pi * (np.arange(6 * ring) + 0.5 * (ring % 2)) / (6 * ring)
        section += list(zip(radii[ring] * np.cos(angle), radii[ring] * np.sin(angle), strict=True))
        even += list(zip(ring / rings * np.cos(angle), ring / rings * np.sin(angle), strict=True))
    regular = np.array(even)
    triangles = Delaunay(regular).simplices
    edges = regular[triangles[:, 1:]] - regular[triangles[:, :1]]
    return np.array(section), triangles[np.abs(np.linalg.det(edges)) > 1e-6]


def tube(
    rings: int,
    heights: Array,
    radius: float | Callable[[Array], Array],
    spacing: Callable[[Array], Array] = lambda share: share,
    *,
    same_area: bool = False,
) -> FlowDomain:
    """A round tube along z whose radius [m] may change with z [m]; ports ``inlet`` and ``outlet``.

    With ``same_area`` its polygonal sections have the circle's area.
    """
    flat, triangles = disk(rings, spacing)
    if same_area:
        sides = 6 * rings
        flat = flat * np.sqrt(2 * np.pi / (sides * np.sin(2 * np.pi / sides)))
    points, cells = extruded(flat, triangles, heights)
    at = radius(points[:, 2]) if callable(radius) else np.full(len(points), radius)
    points = points.copy()
    points[:, :2] *= at[:, None]
    facets = boundary_of(cells)
    z = points[facets][:, :, 2]
    tags = np.zeros(len(facets), dtype=np.int32)
    reach = 1e-9 * (heights[-1] - heights[0])
    tags[(z < heights[0] + reach).all(axis=1)] = 1
    tags[(z > heights[-1] - reach).all(axis=1)] = 2
    ends = [np.pi * at[0] ** 2, np.pi * at[-1] ** 2]
    ports = [
        port("inlet", "inlet", 1, [0, 0, heights[0]], [0, 0, -1], ends[0]),
        port("outlet", "outlet", 2, [0, 0, heights[-1]], [0, 0, 1], ends[1]),
    ]
    return FlowDomain.build(points, oriented(points, cells), facets, tags, ports)


WIDTH, CYLINDER = 0.41, 0.05
"""Of the channel and radius of the cylinder, m (Schaefer & Turek, Notes Numer. Fluid Mech. 52 (1996) 547-566)."""


def cylinder_channel(
    around: int, layers: int, along: int, *, grading: float = 3.0, upstream: float = 0.0
) -> tuple[Array, Indices]:
    """The planar channel with a cylinder: a ring of quadrilaterals between circle and square, and columns behind it.

    Args:
        around: edges around the cylinder, a multiple of 8.
        layers: between the circle and the square.
        along: columns behind the square.
        grading: how much thinner the layers are at the cylinder.
        upstream: length of the channel before the square, m.

    Returns:
        (n, 2) points with the inlet at x = 0 and the cylinder's center at (upstream + 0.2, 0.2); (m, 3) triangles.
    """
    side = around // 4
    center = np.array([0.2, 0.2])
    # On the square's border, the same count on each side; on the circle where the ray to it goes.
    share = np.linspace(0, 1, side, endpoint=False)
    corners = WIDTH * np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]])
    border = np.concatenate([a + share[:, None] * (b - a) for a, b in pairwise(corners)])
    angle = -np.pi / 4 + 2 * np.pi * np.arange(around) / around
    # A polygon of the circle's own area.
    radius = CYLINDER * np.sqrt(2 * np.pi / (around * np.sin(2 * np.pi / around)))
    circle = center + radius * np.column_stack([np.cos(angle), np.sin(angle)])
    steps = (np.exp(grading * np.linspace(0, 1, layers + 1)) - 1) / (np.exp(grading) - 1)
    points = [circle + step * (border - circle) for step in steps]
    # How far each node is from the axis, in edges: the same above and below.
    away = np.abs((np.arange(around) - side // 2 + around // 2) % around - around // 2)
    folds = [away] * (layers + 1)
    index = np.arange(around * (layers + 1)).reshape(layers + 1, around)
    quads = []
    for layer in range(layers):
        now, nxt = index[layer], index[layer + 1]
        quads.append(np.column_stack([now, np.roll(now, -1), np.roll(nxt, -1), nxt]))
    heights = border[: side + 1, 1].copy()
    heights[-1] = WIDTH
    right = np.concatenate([index[-1][:side], [index[-1][side]]])
    # Columns behind: growing to the outlet.
    first = WIDTH / side
    length = 2.2 - WIDTH
    growth = _growth(length / first, along)
    columns = WIDTH + length * (growth ** np.arange(1, along + 1) - 1) / (growth**along - 1)
    count, previous = around * (layers + 1), right
    for x in columns:
        points.append(np.column_stack([np.full(side + 1, x), heights]))
        folds.append(np.abs(np.arange(side + 1) - side // 2))
        new = count + np.arange(side + 1)
        quads.append(np.column_stack([previous[:-1], new[:-1], new[1:], previous[1:]]))
        count, previous = count + side + 1, new
    if upstream:
        # The square's left side runs from its upper corner down.
        left = index[-1][2 * side : 3 * side + 1]
        before = max(2, round(upstream / first))
        previous = left[::-1]
        for x in -upstream * np.arange(1, before + 1) / before:
            points.append(np.column_stack([np.full(side + 1, x), heights]))
            folds.append(np.abs(np.arange(side + 1) - side // 2))
            new = count + np.arange(side + 1)
            quads.append(np.column_stack([new[:-1], previous[:-1], previous[1:], new[1:]]))
            count, previous = count + side + 1, new
    nodes = np.concatenate(points)
    quad = np.concatenate(quads)
    # Numbered from the axis outwards: what goes by the numbers, here and in `extruded`, is then the same above and
    # below, where a mesh that is not would have a lift of its own.
    numbers = np.argsort(np.concatenate(folds), kind="stable")
    nodes, quad = nodes[numbers], np.argsort(numbers)[quad]
    # Each quadrilateral by its shorter diagonal, by that of its first node where they are alike.
    one = np.linalg.norm(nodes[quad[:, 0]] - nodes[quad[:, 2]], axis=1)
    two = np.linalg.norm(nodes[quad[:, 1]] - nodes[quad[:, 3]], axis=1)
    alike = np.abs(one - two) < 1e-3 * one
    swap = np.where(alike, np.argmin(quad, axis=1) % 2 == 1, two < one)
    quad[swap] = np.roll(quad[swap], 1, axis=1)
    triangles = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    nodes[:, 0] += upstream
    return nodes, oriented(nodes, triangles)


def _growth(total: float, count: int) -> float:
    """The ratio of a geometric series of ``count`` terms from 1 on with this sum."""
    low, high = 1.0 + 1e-9, 3.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if (middle**count - 1) / (middle - 1) < total else (low, middle)
    return low


def channel_domain(points: Array, cells: Indices, center: float) -> tuple[FlowDomain, NDArray[np.bool_]]:
    """A channel's mesh as a domain, and which of its facets are the cylinder's; ``center`` is its x, m."""
    facets = boundary_of(cells)
    places = points[facets]
    x = places[:, :, 0]
    length = points[:, 0].max()
    tags = np.zeros(len(facets), dtype=np.int32)
    tags[(x < 1e-9).all(axis=1)] = 1
    tags[(x > length - 1e-9).all(axis=1)] = 2
    offset = places[:, :, :2] - np.array([center, 0.2])
    on_cylinder = (np.linalg.norm(offset, axis=2) < 1.05 * CYLINDER).all(axis=1)
    dimension = points.shape[1]
    area = WIDTH ** (dimension - 1)
    middle = [WIDTH / 2] * (dimension - 1)
    axis = np.eye(dimension)[0]
    ports = [
        port("inlet", "inlet", 1, [0, *middle], -axis, area),
        port("outlet", "outlet", 2, [length, *middle], axis, area),
    ]
    return FlowDomain.build(points, cells, facets, tags, ports), on_cylinder


def read_svfsi(folder: Path) -> FlowDomain:
    """The pipe of svFSI's tests (cm) in m."""
    mesh = pv.read(folder / "mesh-complete" / "mesh-complete.mesh.vtu")
    cells = np.asarray(mesh.cells_dict[10], dtype=np.int64)
    points = np.asarray(mesh.points, dtype=float)
    facets = boundary_of(cells)
    z = points[facets][:, :, 2]
    tags = np.zeros(len(facets), dtype=np.int32)
    tags[(z < points[:, 2].min() + 1e-4).all(axis=1)] = 1
    tags[(z > points[:, 2].max() - 1e-4).all(axis=1)] = 2
    points = points * 1e-2
    area = np.pi * 0.02**2
    ports = [
        port("inlet", "inlet", 1, [0, 0, points[:, 2].min()], [0, 0, -1], area),
        port("outlet", "outlet", 2, [0, 0, points[:, 2].max()], [0, 0, 1], area),
    ]
    return FlowDomain.build(points, oriented(points, cells), facets, tags, ports)


def nozzle(inner: int = 7, outer: int = 13, grading: float = 1.0) -> FlowDomain:
    """FDA's nozzle (Stewart et al., Cardiovasc. Eng. Technol. 3 (2012) 139-160), z = 0 at the sudden expansion, m.

    Inlet 12 mm wide, a cone of 20 degrees, a throat of 4 mm and 40 mm length, then 12 mm again. Rings up to ``inner``
    go all the way through, closer to each other towards the wall by the power ``grading``, where the layer is that the
    jet is made of; those up to ``outer`` begin at the expansion.
    """
    cone = 4e-3 / np.tan(np.radians(10.0))
    flat, triangles = disk(outer)
    within = 1 + 3 * inner * (inner + 1)
    ring = np.round(np.linalg.norm(flat, axis=1) * outer).astype(int)
    direction = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300)
    core = triangles[(triangles < within).all(axis=1)]
    before = np.concatenate(
        [
            np.linspace(-0.12, -0.04 - cone, 16)[:-1],
            np.linspace(-0.04 - cone, -0.04, 19)[:-1],
            np.linspace(-0.04, 0.0, 37),
        ]
    )
    growth = np.linspace(0, 1, 61)
    behind = 0.12 * (0.45 * growth + 0.55 * growth**2)
    beyond = (ring - inner) / (outer - inner)
    # Finest in the jet's shear layer; each ring's polygon has its circle's area.
    share = 1.0 - (1.0 - np.minimum(ring / inner, 1.0)) ** grading
    radii = np.where(ring <= inner, 2e-3 * share, 2e-3 + 4e-3 * (0.4 * beyond + 0.6 * beyond**2))
    sides = 6.0 * np.maximum(ring, 1)
    swell = np.sqrt(2 * np.pi / (sides * np.sin(2 * np.pi / sides)))
    direction = direction * swell[:, None]
    first, first_cells = extruded(direction[:within] * share[:within, None], core, before)
    bore = np.interp(first[:, 2], [-0.12, -0.04 - cone, -0.04, 0.0], [6e-3, 6e-3, 2e-3, 2e-3])
    first[:, :2] *= bore[:, None]
    second, second_cells = extruded(direction * radii[:, None], triangles, behind)
    # The last layer before the expansion is the first one's core behind it.
    shift = len(first) - within
    number = np.arange(len(second)) + len(first)
    number[:within] = shift + np.arange(within)
    points = np.concatenate([first, second])
    cells = np.concatenate([first_cells, number[second_cells]])
    used, cells_flat = np.unique(cells, return_inverse=True)
    points, cells = points[used], cells_flat.reshape(-1, 4)
    facets = boundary_of(cells)
    z = points[facets][:, :, 2]
    tags = np.zeros(len(facets), dtype=np.int32)
    tags[(z < -0.12 + 1e-9).all(axis=1)] = 1
    tags[(z > 0.12 - 1e-9).all(axis=1)] = 2
    area = np.pi * 6e-3**2
    ports = [
        port("inlet", "inlet", 1, [0, 0, -0.12], [0, 0, -1], area),
        port("outlet", "outlet", 2, [0, 0, 0.12], [0, 0, 1], area),
    ]
    return FlowDomain.build(points, oriented(points, cells), facets, tags, ports)
