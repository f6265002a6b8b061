"""The load of convection's orthogonal subscales on quadratic elements: (tau pi(c.grad u), c.grad v).

With the cell's mean of c, c.grad u is linear in each cell, and pi is its L2 projection onto continuous linear
functions with the consistent mass matrix: what stays, c.grad u - pi(c.grad u), is then of second order, as the elements
ask for. (With a cell's mean in place of the linear function it is of first: on a coarse mesh vortices behind a cylinder
were measured to lose half of their lift.)
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import cg

from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.elements import LagrangeSpace, ReferenceElement

Array = NDArray[np.float64]

_TOLERANCE = 1e-8


class ConvectionSubscale:
    """Made once for a domain, asked in every step."""

    def __init__(self, domain: FlowDomain, space: LagrangeSpace) -> None:
        """Lay out the reference cell's tensors and the linear functions' mass matrix."""
        dimension = domain.dimension
        self._cells, self._vertices = space.cells, domain.tetrahedra
        self._inverse, self._volumes = domain.inverse_jacobians, domain.volumes
        fine = ReferenceElement.make(dimension, space.order)
        linear = ReferenceElement.make(dimension, 1, 3 * space.order)
        scale = 1.0 / fine.weights.sum()
        mass = np.einsum("q,qb,qe->be", scale * fine.weights, linear.values, linear.values)
        # int psi_b d_l phi_a over a cell of volume 1: (b, a, l).
        self._tested = np.einsum("q,qb,qal->bal", scale * fine.weights, linear.values, fine.slopes)
        corners = dimension + 1
        rows = np.repeat(self._vertices, corners, axis=1).ravel()
        columns = np.tile(self._vertices, (1, corners)).ravel()
        values = (self._volumes[:, None] * mass.ravel()).ravel()
        count = len(domain.points)
        self._mass = sp.csr_matrix((values, (rows, columns)), shape=(count, count))
        self._diagonal = sp.diags(1.0 / self._mass.diagonal())
        self._lumped = 1.0 / np.asarray(self._mass.sum(axis=1)).ravel()
        each = np.arange(self._vertices.size + 1)
        self._to_vertices = sp.csr_matrix((np.ones(self._vertices.size), self._vertices.ravel(), each)).T.tocsr()
        each = np.arange(self._cells.size + 1)
        self._to_nodes = sp.csr_matrix((np.ones(self._cells.size), self._cells.ravel(), each)).T.tocsr()

    def load(self, along: Array, now: Array, before: Array, ahead: Array, weight: Array) -> Array:
        """(v, d) the sum over cells of weight (pi(a.grad u), a.grad v) with u = now + ahead (now - before).

        Args:
            along: (m, d) a.
            now: (v, d).
            before: (v, d).
            ahead: (m,) how far the velocity is extrapolated, in each cell.
            weight: (m,).
        """
        direction = np.einsum("elk,ek->el", self._inverse, along)
        u = now[self._cells]
        u = u + ahead[:, None, None] * (u - before[self._cells])
        # (m, b, a): integral of psi_b a.grad phi_a.
        moved = np.tensordot(direction, self._tested, axes=(1, 2)) * self._volumes[:, None, None]
        right = self._to_vertices @ (moved @ u).reshape(-1, u.shape[2])
        # Begun from the lumped projection, which is known alone from the present state: so are runs that are resumed.
        projected = right * self._lumped[:, None]
        for axis, load in enumerate(right.T):
            projected[:, axis], _ = cg(self._mass, load, projected[:, axis], rtol=_TOLERANCE, M=self._diagonal)
        tested = np.swapaxes(moved, 1, 2) @ projected[self._vertices]
        return self._to_nodes @ (tested * weight[:, None, None]).reshape(-1, u.shape[2])
