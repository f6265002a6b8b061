"""The lumen as the flow solver sees it: tetrahedra, ports, and what follows from them alone. SI units."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve

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
    """A tetrahedral mesh of the lumen with tagged boundary; make it with `build`."""

    points: Array
    """(n, 3) m"""
    tetrahedra: Indices
    """(m, 4) positively oriented"""
    triangles: Indices
    """(k, 3) the boundary"""
    triangle_tags: NDArray[np.int32]
    """(k,) 0 for the wall, else the port's tag"""
    ports: tuple[FlowPort, ...]
    """inlet first"""

    @classmethod
    def build(
        cls,
        points: Array,
        tetrahedra: Indices,
        triangles: Indices,
        triangle_tags: NDArray[np.int32],
        ports: Sequence[FlowPort],
    ) -> "FlowDomain":
        """Check a mesh and make a domain of it; shapes and units as the attributes say.

        Raises:
            InputError: the mesh has inverted elements, more than one part, or a port without triangles; or there is
                not exactly one inlet and at least one outlet.
        """
        points = np.asarray(points, dtype=float)
        tetrahedra = np.asarray(tetrahedra, dtype=np.int64)
        corners = points[tetrahedra]
        volumes = np.linalg.det(corners[:, 1:] - corners[:, :1]) / 6.0
        if not (volumes > 0).all():
            raise InputError(f"{int((volumes <= 0).sum())} of {len(volumes)} tetrahedra are inverted; mesh again.")
        edges = tetrahedra[:, [0, 0, 0]].ravel(), tetrahedra[:, 1:].ravel()
        graph = sp.coo_matrix((np.ones(len(edges[0])), edges), shape=(len(points), len(points)))
        parts, _ = connected_components(graph, directed=False)
        if parts != 1:
            raise InputError(f"The mesh has {parts} unconnected parts; keep the one that the inlet belongs to.")
        inlets = [port for port in ports if port.role == "inlet"]
        outlets = [port for port in ports if port.role == "outlet"]
        if len(inlets) != 1 or not outlets:
            raise InputError(
                f"A flow domain needs one inlet and at least one outlet; it has {len(inlets)} and {len(outlets)}."
            )
        tags = np.asarray(triangle_tags, dtype=np.int32)
        missing = [port.name for port in ports if not (tags == port.tag).any()]
        if missing:
            raise InputError(f"No triangle of the mesh belongs to the port(s) {', '.join(missing)}.")
        return cls(points, tetrahedra, np.asarray(triangles, dtype=np.int64), tags, (*inlets, *outlets))

    @property
    def inlet(self) -> FlowPort:
        """The port where blood enters."""
        return self.ports[0]

    @property
    def outlets(self) -> tuple[FlowPort, ...]:
        """The ports where it leaves."""
        return self.ports[1:]

    @cached_property
    def volumes(self) -> Array:
        """(m,) m^3"""
        corners = self.points[self.tetrahedra]
        return np.linalg.det(corners[:, 1:] - corners[:, :1]) / 6.0

    @cached_property
    def gradients(self) -> Array:
        """(m, 4, 3) gradients of the four linear shape functions, 1/m."""
        corners = self.points[self.tetrahedra]
        inverse = np.linalg.inv(corners[:, 1:] - corners[:, :1])
        inner = np.swapaxes(inverse, 1, 2)
        return np.concatenate([-inner.sum(axis=1, keepdims=True), inner], axis=1)

    @cached_property
    def element_length(self) -> Array:
        """(m,) edge of the regular tetrahedron of the same volume, m."""
        return np.cbrt(6.0 * np.sqrt(2.0) * self.volumes)

    def port_triangles(self, port: FlowPort) -> Indices:
        """(t, 3) triangles of a port."""
        return self.triangles[self.triangle_tags == port.tag]

    def triangle_areas(self, triangles: Indices) -> Array:
        """(t,) m^2"""
        corners = self.points[triangles]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return 0.5 * np.linalg.norm(normal, axis=1)

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
        return np.bincount(
            triangles.ravel(), weights=np.repeat(self.triangle_areas(triangles) / 3.0, 3), minlength=len(self.points)
        )

    def inflow_profile(self) -> Array:
        """(n,) velocity into the domain [m/s] that carries 1 m^3/s through the inlet, zero on its rim.

        Fully developed flow through a section of any shape: the Poisson problem -laplace(w) = 1 on the section
        (a paraboloid on a circle), scaled so that its net flow on this mesh is exact.

        Raises:
            InputError: the inlet has no node off its rim.
        """
        triangles = self.port_triangles(self.inlet)
        nodes = np.unique(triangles)
        inner = np.setdiff1d(nodes, self.wall_nodes)
        if len(inner) == 0:
            raise InputError(f"The inlet {self.inlet.name} has no node inside its rim; mesh it finer.")
        corners = self.points[triangles]
        areas = self.triangle_areas(triangles)
        opposite = np.stack([corners[:, (i + 2) % 3] - corners[:, (i + 1) % 3] for i in range(3)], axis=1)
        local = np.einsum("tid,tjd->tij", opposite, opposite) / (4.0 * areas)[:, None, None]
        rows = np.repeat(triangles, 3, axis=1).ravel()
        columns = np.tile(triangles, (1, 3)).ravel()
        count = len(self.points)
        stiffness = sp.csr_matrix((local.ravel(), (rows, columns)), shape=(count, count))
        load = self.port_load(self.inlet)
        profile = np.zeros(count)
        profile[inner] = spsolve(stiffness[inner][:, inner].tocsc(), load[inner])
        scaled: Array = profile / (profile @ load)
        return scaled
