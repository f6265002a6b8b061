"""The lumen as the flow solver sees it: tetrahedra, ports, and what follows from them alone. SI units.

The same in two dimensions, with triangles for tetrahedra and edges for triangles, in which the solver is held to the
benchmarks of the literature that are planar.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from surgical_twin.errors import InputError

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

WALL_TAG = 0


@dataclass(frozen=True)
class FlowPort:
    """Where blood enters or leaves."""

    name: str
    role: Literal["inlet", "outlet"]
    tag: int
    center: Array
    """(3,) m"""
    normal: Array
    """(3,) outward unit normal"""
    radius: float
    """m"""
    area: float
    """m^2"""


@dataclass(frozen=True)
class FlowDomain:
    """A tetrahedral mesh of the lumen with tagged boundary; make it with `build`. d is 3, or 2 in tests."""

    points: Array
    """(n, d) m"""
    tetrahedra: Indices
    """(m, d + 1) positively oriented"""
    triangles: Indices
    """(k, d) the boundary"""
    triangle_tags: NDArray[np.int32]
    """(k,) 0 for the wall, else the port's tag"""
    ports: tuple[FlowPort, ...]
    """inlets first"""

    @classmethod
    def build(
        cls,
        points: Array,
        tetrahedra: Indices,
        triangles: Indices,
        triangle_tags: NDArray[np.int32],
        ports: Sequence[FlowPort],
        *,
        enclosed: bool = False,
    ) -> "FlowDomain":
        """Check a mesh and make a domain of it; shapes and units as the attributes say.

        With `enclosed` it may have no outlet: the velocity is then given on all of its boundary.

        Raises:
            InputError: the mesh has inverted elements, more than one part, a boundary that is not that of its
                elements, or a port without triangles; or there is no inlet, or no outlet.
        """
        points = np.asarray(points, dtype=float)
        tetrahedra = np.asarray(tetrahedra, dtype=np.int64)
        if not np.isfinite(points).all():
            raise InputError(
                f"{int((~np.isfinite(points)).any(axis=1).sum())} nodes have no finite position; mesh again."
            )
        volumes = _volumes(points, tetrahedra)
        if not (volumes > 0).all():
            raise InputError(f"{int((volumes <= 0).sum())} of {len(volumes)} tetrahedra are inverted; mesh again.")
        links = tetrahedra.shape[1] - 1
        edges = np.repeat(tetrahedra[:, :1], links, axis=1).ravel(), tetrahedra[:, 1:].ravel()
        graph = sp.coo_matrix((np.ones(len(edges[0])), edges), shape=(len(points), len(points)))
        parts, labels = connected_components(graph, directed=False)
        if parts != 1:
            sizes = np.sort(np.bincount(labels))[::-1]
            listed = ", ".join(str(size) for size in sizes[:5]) + (", ..." if parts > 5 else "")
            raise InputError(
                f"The mesh has {parts} unconnected parts (of {listed} nodes); keep the one that the inlet belongs to."
            )
        inlets = [port for port in ports if port.role == "inlet"]
        outlets = [port for port in ports if port.role == "outlet"]
        if not inlets or not (outlets or enclosed):
            raise InputError(
                f"A flow domain needs at least one inlet and at least one outlet; it has {len(inlets)} and "
                f"{len(outlets)}."
            )
        names = [port.name for port in ports]
        if len(set(names)) != len(names):
            raise InputError(f"Ports share a name among {', '.join(sorted(names))}; give each its own.")
        tags = np.asarray(triangle_tags, dtype=np.int32)
        missing = [port.name for port in ports if not (tags == port.tag).any()]
        if missing:
            raise InputError(f"No triangle of the mesh belongs to the port(s) {', '.join(missing)}.")
        facets = np.asarray(triangles, dtype=np.int64)
        owner = np.full(len(points), -1, dtype=np.int64)
        for place, port in enumerate(ports):
            nodes = np.unique(facets[tags == port.tag])
            if (owner[nodes] >= 0).any():
                other = ports[int(owner[nodes].max())].name
                raise InputError(f"The ports {other} and {port.name} touch each other; leave wall between them.")
            owner[nodes] = place
        _check_boundary(tetrahedra, facets)
        return cls(points, tetrahedra, facets, tags, (*inlets, *outlets))

    @property
    def dimension(self) -> int:
        """Of space: 3, or 2."""
        return self.points.shape[1]

    @property
    def inlet(self) -> FlowPort:
        """The first of the ports where blood enters."""
        return self.ports[0]

    @cached_property
    def inlets(self) -> tuple[FlowPort, ...]:
        """The ports where blood enters."""
        return tuple(port for port in self.ports if port.role == "inlet")

    @cached_property
    def outlets(self) -> tuple[FlowPort, ...]:
        """The ports where it leaves."""
        return tuple(port for port in self.ports if port.role == "outlet")

    @cached_property
    def volumes(self) -> Array:
        """(m,) m^3"""
        return _volumes(self.points, self.tetrahedra)

    @cached_property
    def inverse_jacobians(self) -> Array:
        """(m, d, d) of the map from the reference cell: row l is the gradient [1/m] of its l-th coordinate."""
        corners = self.points[self.tetrahedra]
        return np.swapaxes(np.linalg.inv(corners[:, 1:] - corners[:, :1]), 1, 2)

    @cached_property
    def gradients(self) -> Array:
        """(m, d + 1, d) gradients of the linear shape functions, 1/m."""
        inner = self.inverse_jacobians
        return np.concatenate([-inner.sum(axis=1, keepdims=True), inner], axis=1)

    @cached_property
    def element_length(self) -> Array:
        """(m,) edge of the regular tetrahedron (or triangle) of the same volume, m."""
        if self.dimension == 2:
            return np.sqrt(4.0 / np.sqrt(3.0) * self.volumes)
        return np.cbrt(6.0 * np.sqrt(2.0) * self.volumes)

    def port_triangles(self, port: FlowPort) -> Indices:
        """(t, 3) triangles of a port."""
        return self.triangles[self.triangle_tags == port.tag]

    def triangle_areas(self, triangles: Indices) -> Array:
        """(t,) m^2"""
        return np.linalg.norm(self.area_vectors(triangles), axis=1)

    def area_vectors(self, triangles: Indices) -> Array:
        """(t, d) normals of triangles with their areas [m^2] as lengths, to the side that their order says."""
        corners = self.points[triangles]
        first = corners[:, 1] - corners[:, 0]
        if self.dimension == 2:
            return np.column_stack([first[:, 1], -first[:, 0]])
        return 0.5 * np.cross(first, corners[:, 2] - corners[:, 0])

    @cached_property
    def outward(self) -> Array:
        """(k, d) area vectors of the boundary's triangles, out of the domain, m^2."""
        owners = self.boundary_cells
        vectors = self.area_vectors(self.triangles)
        inward = self.points[self.tetrahedra[owners]].mean(axis=1) - self.points[self.triangles].mean(axis=1)
        return np.where(np.einsum("kd,kd->k", vectors, inward)[:, None] > 0, -vectors, vectors)

    @cached_property
    def boundary_cells(self) -> Indices:
        """(k,) the tetrahedron behind each triangle of the boundary."""
        keys, owners = _facet_keys(self.tetrahedra)
        order = np.lexsort(keys.T[::-1])
        wanted = np.sort(self.triangles, axis=1)
        count = int(self.tetrahedra.max()) + 1
        return owners[order][np.searchsorted(_flat(keys[order], count), _flat(wanted, count))]

    @cached_property
    def wall_nodes(self) -> Indices:
        """Nodes on the wall, the ports' rims among them."""
        return np.unique(self.triangles[self.triangle_tags == WALL_TAG])

    def port_nodes(self, port: FlowPort) -> Indices:
        """Nodes of a port, its rim among them."""
        return np.unique(self.port_triangles(port))

    def port_load(self, port: FlowPort) -> Array:
        """(n,) integral of each node's shape function over a port, m^2."""
        triangles = self.port_triangles(port)
        corners = triangles.shape[1]
        return np.bincount(
            triangles.ravel(),
            weights=np.repeat(self.triangle_areas(triangles) / corners, corners),
            minlength=len(self.points),
        )


def _volumes(points: Array, tetrahedra: Indices) -> Array:
    corners = points[tetrahedra]
    return np.linalg.det(corners[:, 1:] - corners[:, :1]) / (6.0 if points.shape[1] == 3 else 2.0)


def _facet_keys(tetrahedra: Indices) -> tuple[Indices, Indices]:
    """All facets of all cells with their vertices sorted, and the cell that each belongs to."""
    corners = tetrahedra.shape[1]
    keep = [[other for other in range(corners) if other != left] for left in range(corners)]
    keys = np.sort(np.concatenate([tetrahedra[:, kept] for kept in keep]), axis=1)
    return keys, np.tile(np.arange(len(tetrahedra)), corners)


def _flat(keys: Indices, count: int) -> Indices:
    flat = keys[:, 0].astype(np.int64)
    for column in keys.T[1:]:
        flat = flat * count + column
    return flat


def _check_boundary(tetrahedra: Indices, triangles: Indices) -> None:
    """Raises InputError where the given boundary is not the cells' own."""
    keys, _ = _facet_keys(tetrahedra)
    count = int(tetrahedra.max()) + 1
    found, times = np.unique(_flat(keys, count), return_counts=True)
    given = _flat(np.sort(triangles, axis=1), count)
    if not np.array_equal(found[times == 1], np.unique(given)):
        lacking = len(np.setdiff1d(found[times == 1], given))
        foreign = len(np.setdiff1d(given, found[times == 1]))
        raise InputError(
            f"The mesh's boundary is not that of its tetrahedra: {lacking} of their outer triangles are not in it, and "
            f"{foreign} of its triangles are not theirs; mesh again."
        )
