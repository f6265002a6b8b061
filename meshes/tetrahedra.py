"""From the signed distance and the ports to a tetrahedral mesh of the lumen.

A lattice of tetrahedra on the voxels is cut along the zero of the signed distance and along the ports' planes
(``clipping``); what lies between the ports is then remeshed by Mmg (Dapogny, Dobrzynski & Frey, J. Comput. Phys. 262
(2014) 358-378) with edges that follow the local radius, and its last bad elements are mended (``mending``). No surface
is repaired anywhere, because none is made by hand, and the ports are flat because their cut is exact.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from meshes.clipping import Index, boundary, clip, lattice, oriented, renumbered, row_keys
from meshes.errors import InputError
from meshes.grid import Array, Grid
from meshes.layers import with_wall_layers
from meshes.manifold import without_pinches
from meshes.mending import relaxed, scaled_jacobians, without_wedges
from meshes.ports import Port
from meshes.remeshing import remesh
from meshes.sizing import COARSEST, Refinement, Sizes, local_radius

logger = logging.getLogger(__name__)

WALL_TAG = 0

SNAP = 0.25
"""Nodes nearer to a cut than this part of the lattice's step are moved onto it, so that no sliver is born."""

LEAST_QUALITY = 0.05
"""Smallest scaled Jacobian that a solver can live with."""

GOOD_QUALITY = 0.1
"""Smallest scaled Jacobian that is not worth another pass."""

WEDGE_QUALITY = 0.1
"""A tetrahedron with two faces on the boundary and of a shape worse than this is taken off."""

MENDED_SHAPE = 0.3
"""Scaled Jacobian, and sine of the worst dihedral angle (17 degrees), that nodes are moved for."""

FLATNESS = 1e-4
"""A triangle belongs to a port when its corners are this near to the plane, as a share of the port's radius."""

HAUSDORFF_SHARE = 0.12
"""The wall may be off by this part of the edges: image noise is not meshed."""

CUT_REACHES = (4.0, 2.5, 1.5)
"""A port's plane cuts within so many of its radii; the next where it would cut other ports off."""

PORT_MOVES = (-0.5, -1.0, 0.5, -1.5, 1.0)
"""Where else a port is tried, in voxels along its normal, when slivers stay beside it."""

_GRADATION = 1.5
_ATTEMPTS = 4
"""Meshes tried with ports moved until no sliver is left."""

_PASSES = 4
"""Attempts to bring a mesh below the number of tetrahedra allowed, and to a good quality."""

_AIM = 0.95
"""What part of the tetrahedra allowed is aimed for: Mmg makes some more or some fewer than expected."""


@dataclass(frozen=True)
class LumenMesh:
    """Tetrahedra of the lumen; positions in mm, LPS.

    points (n, 3) float64; tetrahedra (m, 4) int64, positively oriented; triangles (k, 3) int64, the whole boundary,
    outward; triangle_tags (k,) int32, 0 on the wall and a port's tag on that port; notes: where the mesh is not what
    was asked for, one sentence each.
    """

    points: Array
    tetrahedra: Index
    triangles: Index
    triangle_tags: npt.NDArray[np.int32]
    ports: tuple[Port, ...]
    notes: tuple[str, ...] = ()


def mesh_lumen(
    level_set: sitk.Image,
    ports: Sequence[Port],
    *,
    edge_length: float | None = None,
    edges_across: float = 8.0,
    max_tetrahedra: int = 400_000,
    finer: Sequence[Refinement] = (),
    wall_layers: int = 0,
    wall_share: float = 0.2,
) -> LumenMesh:
    """Mesh what ``level_set`` (signed distance in mm, negative inside) encloses between the ports.

    Edges are ``edge_length`` mm everywhere, or the local diameter over ``edges_across``; where that makes more than
    ``max_tetrahedra`` they are made longer, as far as each vessel keeps `sizing.FEWEST_ACROSS`; the mesh's
    notes say what came of it.

    Args:
        level_set: on voxels about as fine as the thinnest vessel's radius, or finer.
        ports: where it is cut.
        edge_length: mm; by the local radius where None.
        edges_across: the local diameter.
        max_tetrahedra: at most; layers come on top.
        finer: places with shorter edges, such as stenoses.
        wall_layers: layers of thin tetrahedra along the wall (`layers`).
        wall_share: thickness of all layers together, as a share of the local radius.

    Raises:
        InputError: the ports cut nothing off, or no mesh of usable quality can be made.
    """
    whole = field = Grid.of(level_set)
    radius = local_radius(field)
    if wall_layers:
        field = field.like((field.values + wall_share * radius.values).astype(np.float32))
    lumen = _cut_wall(field)
    best, best_quality = None, -1.0
    moved, moves = list(ports), [0] * len(ports)
    for _ in range(_ATTEMPTS):
        points, tetrahedra, cut = _cut_ports(*lumen, moved, float(radius.spacing.min()))
        sizes = Sizes.of(radius, points, edge_length=edge_length, edges_across=edges_across, finer=finer)
        mesh, worst = _mesh_between(points, tetrahedra, cut, sizes, max_tetrahedra)
        if worst.quality > best_quality:
            best, best_quality = mesh, worst.quality
        if best_quality >= LEAST_QUALITY:
            break
        # A sliver that stays is mostly a wedge between the wall and a port's plane: cut there a little beside.
        near = min(range(len(moved)), key=lambda n: float(np.linalg.norm(moved[n].center - worst.place)))
        if moves[near] == len(PORT_MOVES):
            break
        step = PORT_MOVES[moves[near]] * float(field.spacing.max())
        moves[near] += 1
        logger.info("a sliver at %s stays; its cut is moved by %.2f mm", moved[near].name, step)
        moved[near] = replace(ports[near], center=ports[near].center + step * ports[near].normal)
    if best is None or best_quality < LEAST_QUALITY:
        raise InputError(
            f"No mesh without slivers was found (smallest scaled Jacobian {best_quality:.2g}); "
            "change mesh.edges_across or max_tetrahedra, or correct the segmentation where it is rough."
        )
    if not wall_layers:
        return _mended(_bulged(best, field))
    layered = _bulged(with_wall_layers(_mended(best), whole, wall_layers), whole)
    poorest = float(scaled_jacobians(layered.points, layered.tetrahedra).min())
    if poorest <= 0.0:
        raise InputError(
            f"The wall layers turn over where the wall is rough (scaled Jacobian {poorest:.2g}); ask for fewer "
            "or thinner "
            "ones with mesh.wall_layers and mesh.wall_share, or for none."
        )
    return layered


@dataclass(frozen=True)
class _Worst:
    """The worst tetrahedron of a mesh: its scaled Jacobian, and where it is."""

    quality: float
    place: Array


def _mesh_between(
    points: Array, tetrahedra: Index, ports: tuple[Port, ...], sizes: Sizes, most: int
) -> tuple[LumenMesh, _Worst]:
    """The best of some passes of Mmg over the lumen between the ports, and its worst tetrahedron.

    Passes first bring the number of tetrahedra below ``most``, and then the worst tetrahedron to a good shape.

    Raises:
        InputError: Mmg makes none at all.
    """
    best, worst = None, _Worst(-1.0, ports[0].center)
    made_of_expected, shorter = 1.0, 1.0
    for number in range(_PASSES):
        coarser = shorter * sizes.coarsening(points, tetrahedra, _AIM * most / made_of_expected)
        expected = sizes.expected(points, tetrahedra, coarser)
        try:
            mesh = _adapted(points, tetrahedra, sizes.at(points, coarser), ports)
        except RuntimeError as error:
            # Mmg gives up where edges asked for are too long for the vessel: ask for shorter ones.
            logger.info("%s; trying again with shorter edges", error)
            shorter *= 0.8
            continue
        count = len(mesh.tetrahedra)
        logger.info("edges %.3g times as long as asked for: %d tetrahedra of %.0f expected", coarser, count, expected)
        # The next pass starts from this one's mesh: its bad elements, few by now, are what is left to mend.
        points, tetrahedra, made_of_expected = mesh.points, mesh.tetrahedra, count / expected
        if count > most and coarser < COARSEST and number < _PASSES - 1:
            continue
        wanted = made_of_expected * sizes.expected(points, tetrahedra, 1.0)
        mesh = replace(_mended(mesh), notes=sizes.notes(count, most, coarser, wanted))
        qualities = scaled_jacobians(mesh.points, mesh.tetrahedra)
        poorest = int(np.argmin(qualities))
        if best is None or qualities[poorest] > worst.quality:
            best, worst = mesh, _Worst(float(qualities[poorest]), mesh.points[mesh.tetrahedra[poorest]].mean(axis=0))
        if worst.quality >= GOOD_QUALITY:
            break
    if best is None:
        raise InputError(
            "The mesher (Mmg) made no mesh of the lumen; change mesh.edges_across or mesh.max_tetrahedra, or correct "
            "the segmentation where it is rough."
        )
    return best, worst


def _compact(points: Array, tetrahedra: Index) -> tuple[Array, Index]:
    """Without the points that no tetrahedron uses."""
    used, tetrahedra = renumbered(tetrahedra, len(points))
    return points[used], tetrahedra


def _cut_wall(field: Grid) -> tuple[Array, Index]:
    """The inside of the level set, from a lattice of the grid's own voxels around it, cut at the wall."""
    near = ndimage.binary_dilation(field.values < 0, iterations=2)
    nodes, tetrahedra = lattice(field.size, np.transpose(near, (2, 1, 0))[:-1, :-1, :-1])
    points = field.to_position(nodes)
    values = field.values[nodes[:, 2], nodes[:, 1], nodes[:, 0]].astype(float)
    snapped = np.abs(values) < SNAP * float(field.spacing.min())
    slope = field.gradient_at(points[snapped])
    steepness = np.maximum(np.einsum("nd,nd->n", slope, slope), 0.3)
    points[snapped] -= (values[snapped] / steepness)[:, None] * slope
    values[snapped] = 0.0
    points, tetrahedra, _ = clip(points, oriented(points, tetrahedra), values)
    if len(tetrahedra) == 0:
        raise InputError("The lumen encloses nothing that could be meshed; look at its level set.")
    return points, tetrahedra


def _cut_ports(
    points: Array, tetrahedra: Index, ports: Sequence[Port], spacing: float
) -> tuple[Array, Index, tuple[Port, ...]]:
    """The part of the lumen between the ports, and the ports that could be cut.

    A port whose vessel another port has already cut off, or that is not connected with the inlet, is dropped with a
    warning.
    """
    inlet = next(port for port in ports if port.role == "inlet")
    inner = inlet.center - 0.5 * inlet.radius * inlet.normal
    points, tetrahedra = _compact(points, tetrahedra[_part_of(points, tetrahedra, inner)])
    present = _present(points, ports, spacing)
    for port in ports:
        if port.name not in present:
            continue
        for reach in CUT_REACHES:
            cut = _cut_port(points, tetrahedra, port, inner, spacing, reach)
            if cut is None:
                break
            left = _present(cut[0], ports, spacing)
            if port is inlet or present <= left | {port.name}:
                (points, tetrahedra), present = cut, left | {port.name}
                break
        else:
            logger.warning("%s lies in the way to other ports: it is dropped, and its vessel ends blind", port.name)
    tetrahedra = without_pinches(tetrahedra)
    points, tetrahedra = _compact(points, tetrahedra[_part_of(points, tetrahedra, inner)])
    kept = []
    for port in ports:
        away = np.abs((points - port.center) @ port.normal)
        if (
            (away < 1e-6 + 0.01 * spacing) & (np.linalg.norm(points - port.center, axis=1) < 3 * port.radius)
        ).sum() >= 6:
            kept.append(port)
        else:
            logger.warning("%s is not connected with the inlet, or too close to another port: it is dropped", port.name)
    if inlet not in kept or len(kept) < 2:
        raise InputError(
            "No outlet is connected with the inlet through the lumen; correct the segmentation or the labels."
        )
    return points, tetrahedra, tuple(kept)


def _present(points: Array, ports: Sequence[Port], spacing: float) -> set[str]:
    """Names of the ports whose vessels, a little inside of their planes, are in the mesh."""
    inside = np.array([port.center - 0.5 * port.radius * port.normal for port in ports])
    away, _ = cKDTree(points).query(inside)
    return {
        port.name for port, distance in zip(ports, away, strict=True) if distance < 1.5 * spacing + 0.3 * port.radius
    }


def _cut_port(
    points: Array, tetrahedra: Index, port: Port, inner: Array, spacing: float, reach: float
) -> tuple[Array, Index] | None:
    """The mesh without what lies beyond a port, within ``reach`` of its radii; None where nothing lies there."""
    height = (points - port.center) @ port.normal
    mine = _at_port(points, tetrahedra, port, height, spacing, reach)
    if not (mine & (height > 0)).any():
        return None
    snapped = mine & (np.abs(height) < SNAP * spacing)
    points = points.copy()
    points[snapped] -= height[snapped, None] * port.normal
    height[snapped] = 0.0
    points, tetrahedra, _ = clip(points, tetrahedra, np.where(mine, height, -1.0))
    return _compact(points, tetrahedra[_part_of(points, tetrahedra, inner, faces=False)])


def _at_port(
    points: Array, tetrahedra: Index, port: Port, height: Array, spacing: float, radii: float
) -> npt.NDArray[np.bool_]:
    """The nodes whose tetrahedra the port's plane decides: its own vessel's around and beyond the plane, no other's."""
    distance = np.linalg.norm(points - port.center, axis=1)
    reach = radii * (port.radius + spacing)
    local = (height > -1.5 * spacing - 0.5 * port.radius) & (distance < reach)
    inside = local[tetrahedra].all(axis=1)
    rows = tetrahedra[inside]
    if len(rows) == 0:
        return np.zeros(len(points), dtype=bool)
    label = _parts(len(points), np.repeat(rows[:, 0], 3), rows[:, 1:].ravel())
    nodes = np.unique(rows)
    own = label[nodes[np.argmin(distance[nodes])]]
    return np.asarray((label == own) & local)


def _part_of(points: Array, tetrahedra: Index, place: Array, *, faces: bool = True) -> npt.NDArray[np.bool_]:
    """Which tetrahedra are connected, through faces or only through corners, with the one nearest to a place."""
    if not faces:
        label = _parts(len(points), np.repeat(tetrahedra[:, 0], 3), tetrahedra[:, 1:].ravel())
        nearest = int(np.argmin(np.linalg.norm(points - place, axis=1)))
        return np.asarray((label == label[nearest])[tetrahedra[:, 0]])
    nearest = int(np.argmin(np.linalg.norm(points[tetrahedra].mean(axis=1) - place, axis=1)))
    corners = np.sort(np.concatenate([np.delete(tetrahedra, corner, axis=1) for corner in range(4)]), axis=1)
    owner = np.tile(np.arange(len(tetrahedra)), 4)
    key = row_keys(corners)
    order = np.argsort(key, kind="stable")
    key, owner = key[order], owner[order]
    same = key[1:] == key[:-1]
    label = _parts(len(tetrahedra), owner[:-1][same], owner[1:][same])
    return np.asarray(label == label[nearest])


def _parts(count: int, one: Index, other: Index) -> npt.NDArray[np.int32]:
    """(count,) the number of the connected part that each of some things is in, which are linked in pairs."""
    graph = sparse.coo_matrix((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1])


def _adapted(points: Array, tetrahedra: Index, size: Array, ports: Sequence[Port]) -> LumenMesh:
    """The mesh with edges of the sizes given at its nodes (mm), tagged."""
    triangles = boundary(tetrahedra)
    tags = _tags(points, triangles, ports)
    low, high = float(size.min()), float(size.max())
    # Mmg keeps the line between two references as a ridge: the ports' rims.
    all_points, new, marked, references = remesh(
        points,
        tetrahedra,
        triangles,
        tags.astype(np.int64) + 1,
        size,
        hmin=0.7 * low,
        hmax=1.3 * high,
        hausd=HAUSDORFF_SHARE * float(np.median(size)),
        hgrad=_GRADATION,
    )
    new = without_wedges(all_points, oriented(all_points, new), WEDGE_QUALITY)
    new_points, new = _compact(all_points, new)
    place = np.full(len(all_points), -1)
    place[np.unique(new)] = np.arange(len(new_points))
    tag_of = {
        tuple(sorted(corners)): int(reference) - 1
        for corners, reference in zip(place[marked].tolist(), references, strict=True)
    }
    outer = boundary(new)
    new_tags = np.array([tag_of.get(tuple(sorted(corners)), WALL_TAG) for corners in outer.tolist()], dtype=np.int32)
    for port in ports:
        # Where a flat tetrahedron lay in the port's plane and was taken off, the face below it is the port's.
        nodes = np.unique(outer[new_tags == port.tag])
        corners = new_points[outer]
        upright = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) @ port.normal
        new_tags[np.isin(outer, nodes).all(axis=1) & (new_tags == WALL_TAG) & (upright > 0)] = port.tag
    for port in ports:
        nodes = np.unique(outer[new_tags == port.tag])
        new_points[nodes] -= ((new_points[nodes] - port.center) @ port.normal)[:, None] * port.normal
    return LumenMesh(new_points, new, outer, new_tags, tuple(ports))


def _mended(mesh: LumenMesh) -> LumenMesh:
    """The mesh with the nodes around its worst tetrahedra moved (`mending.relaxed`)."""
    at_ports = [(port.normal, np.unique(mesh.triangles[mesh.triangle_tags == port.tag])) for port in mesh.ports]
    return replace(mesh, points=relaxed(mesh.points, mesh.tetrahedra, at_ports, MENDED_SHAPE))


def _bulged(mesh: LumenMesh, field: Grid) -> LumenMesh:
    """The mesh with its wall's nodes moved out by what flat triangles cut off of a curved lumen: k h^2 / 16.

    Over an equilateral triangle of edge h the linear interpolant of k x^2 / 2 is too high by k h^2 / 16 on average;
    k is the sum of the curvatures, the Laplacian of the distance. A tube with eight edges across would lose a percent
    of its volume.
    """
    wall = mesh.triangles[mesh.triangle_tags == WALL_TAG]
    nodes = np.setdiff1d(np.unique(wall), np.unique(mesh.triangles[mesh.triangle_tags != WALL_TAG]))
    places = mesh.points[nodes]
    edges = np.linalg.norm(mesh.points[wall] - mesh.points[np.roll(wall, 1, axis=1)], axis=2).mean(axis=1)
    size = np.zeros(len(mesh.points))
    np.add.at(size, wall, edges[:, None])
    size = size[nodes] / np.maximum(np.bincount(wall.ravel(), minlength=len(mesh.points))[nodes], 1)
    step = 1.5 * float(field.spacing.max())
    normal = field.gradient_at(places, step=step)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    around = [field.sample(places + sign * step * axis) for axis in np.eye(3) for sign in (-1.0, 1.0)]
    curvature = (np.sum(around, axis=0) - 6.0 * field.sample(places)) / step**2
    out = np.clip(curvature * size**2 / 16.0, 0.0, 0.1 * size)
    points = mesh.points.copy()
    points[nodes] += out[:, None] * normal
    return replace(mesh, points=points)


def _tags(points: Array, triangles: Index, ports: Sequence[Port]) -> npt.NDArray[np.int32]:
    """A port's tag for the triangles in its plane and near its center, 0 for the others."""
    tags = np.zeros(len(triangles), dtype=np.int32)
    corners = points[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    for port in ports:
        offset = corners - port.center
        flat = np.abs(offset @ port.normal).max(axis=1) < FLATNESS * port.radius
        flat &= np.linalg.norm(offset, axis=2).max(axis=1) < 4.0 * port.radius
        tags[flat & (normals @ port.normal > 0.95)] = port.tag
    return tags
