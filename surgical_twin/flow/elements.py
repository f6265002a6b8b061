"""Lagrange elements of first and second order on simplices: their nodes, and their integrals on the reference cell.

On a straight-sided simplex the gradients' map is constant, so every element matrix is a contraction of a tensor of the
reference cell, computed once, with the geometry and the coefficient (Kirby & Logg, ACM Trans. Math. Softw. 32 (2006)
417-444). For all elements together such a contraction is one product of dense matrices: no loop over quadrature points.
"""

import dolfinx_solver  # noqa: F401  # isort: skip  (finds the libraries; must come before basix)
from dataclasses import dataclass

import basix
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_KINDS = {1: basix.CellType.interval, 2: basix.CellType.triangle, 3: basix.CellType.tetrahedron}

# Edges of a simplex in the order of basix: the nodes of second order lie on their middles.
EDGES = {1: ((0, 1),), 2: ((1, 2), (0, 2), (0, 1)), 3: ((2, 3), (1, 3), (1, 2), (0, 3), (0, 2), (0, 1))}


@dataclass(frozen=True)
class ReferenceElement:
    """Shape functions on the reference simplex, tabulated at the points of a quadrature that integrates cubes of them.

    Attributes:
        weights: (q,), summing to the reference cell's volume, 1/d!.
        values: (q, c).
        slopes: (q, c, d).
    """

    dimension: int
    order: int
    weights: Array
    values: Array
    slopes: Array

    @classmethod
    def make(cls, dimension: int, order: int, degree: int | None = None) -> "ReferenceElement":
        """Lagrange's element of order 1 or 2 on a simplex of dimension 1 to 3; degree of quadrature 3 order if None."""
        kind = _KINDS[dimension]
        element = basix.create_element(basix.ElementFamily.P, kind, order, basix.LagrangeVariant.equispaced)
        points, weights = basix.make_quadrature(kind, 3 * order if degree is None else degree)
        table = element.tabulate(1, points)[..., 0]
        slopes = np.moveaxis(table[1 : dimension + 1], 0, -1)
        return cls(dimension, order, weights, table[0], slopes)

    def mass(self) -> Array:
        """(c, c) integral of phi_i phi_j."""
        return np.einsum("q,qi,qj->ij", self.weights, self.values, self.values)

    def stiffness(self) -> Array:
        """(d, d, c, c) integral of d_l phi_i d_m phi_j."""
        return np.einsum("q,qil,qjm->lmij", self.weights, self.slopes, self.slopes)

    def skew_convection(self) -> Array:
        """(c, d, c, c) integral of 1/2 phi_a (phi_i d_l phi_j - phi_j d_l phi_i)."""
        plain = np.einsum("q,qa,qi,qjl->alij", self.weights, self.values, self.values, self.slopes)
        return 0.5 * (plain - np.swapaxes(plain, 2, 3))


def midside(order: int, simplices: Indices, edges: Indices, count: int) -> Indices:
    """(e, c) node numbers of simplices of any dimension: their vertices, then for order 2 their edges.

    Args:
        order: 1 or 2.
        simplices: (e, d + 1) vertex numbers.
        edges: (m, 2) all edges of the mesh, each once, its smaller vertex first, in lexical order.
        count: number of vertices; the edges' nodes are numbered from there on.
    """
    if order == 1:
        return simplices
    pairs = np.array(EDGES[simplices.shape[1] - 1])
    ends = np.sort(simplices[:, pairs], axis=2)
    keys = edges[:, 0] * count + edges[:, 1]
    found = np.searchsorted(keys, ends[..., 0] * count + ends[..., 1])
    return np.concatenate([simplices, count + found], axis=1)


class LagrangeSpace:
    """Continuous scalar functions of order 1 or 2 on a mesh of simplices.

    Attributes:
        points: (n, d) nodes, the mesh's vertices first and in their order.
        cells: (e, c) node numbers.
        reference: of the cells.
    """

    def __init__(self, vertices: Array, simplices: Indices, order: int) -> None:
        dimension = vertices.shape[1]
        self.order = order
        self.vertex_count = len(vertices)
        self.reference = ReferenceElement.make(dimension, order)
        self.facet_reference = ReferenceElement.make(dimension - 1, order)
        if order == 1:
            self._edges = np.empty((0, 2), dtype=np.int64)
            self.points = vertices
        else:
            pairs = np.array(EDGES[dimension])
            ends = np.sort(simplices[:, pairs], axis=2).reshape(-1, 2)
            keys = np.unique(ends[:, 0] * len(vertices) + ends[:, 1])
            self._edges = np.column_stack([keys // len(vertices), keys % len(vertices)])
            self.points = np.concatenate([vertices, vertices[self._edges].mean(axis=1)])
        self.cells = midside(order, simplices, self._edges, len(vertices))

    def __len__(self) -> int:
        return len(self.points)

    def facet_nodes(self, facets: Indices) -> Indices:
        """(k, c) nodes of facets (k, d) given by vertices."""
        return midside(self.order, facets, self._edges, self.vertex_count)

    def from_vertices(self, values: Array) -> Array:
        """(n, ...) the linear function with these values at the vertices."""
        if self.order == 1:
            return values
        return np.concatenate([values, values[self._edges].mean(axis=1)])
