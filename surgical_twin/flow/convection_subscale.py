"""The load of convection's orthogonal subscales on quadratic elements: (tau pi(c.grad u), c.grad v).

With the cell's mean of c, c.grad u is linear in each cell, and pi is its L2 projection onto continuous linear
functions with the consistent mass matrix: what stays, c.grad u - pi(c.grad u), is then of second order, as the elements
ask for. (With a cell's mean in place of the linear function it is of first: on a coarse mesh vortices behind a cylinder
were measured to lose half of their lift.)
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.elements import LagrangeSpace, ReferenceElement

Array = NDArray[np.float64]

_BOUNDS = {2: (0.5, 2.0), 3: (0.5, 2.5)}
"""Of the eigenvalues of a linear mass matrix over its diagonal, by dimension (Wathen, IMA J. Numer. Anal. 7 (1987)
449-457): Chebyshev's iteration needs no more, and takes the same number of steps whatever it is begun from."""

_ITERATIONS = 14
"""To one part in a million."""


class ConvectionSubscale:
    """Made once for a domain, asked in every step. Arrays of cells have the cells last, for products of large rows."""

    def __init__(self, domain: FlowDomain, space: LagrangeSpace) -> None:
        """Lay out the reference cell's tensors and the linear functions' mass matrix."""
        dimension = domain.dimension
        corners, vertices = dimension + 1, domain.tetrahedra
        self._cells, self._vertices = np.ascontiguousarray(space.cells.T), np.ascontiguousarray(vertices.T)
        self._inverse = np.ascontiguousarray(np.moveaxis(domain.inverse_jacobians, 0, -1))
        self._volumes = domain.volumes
        fine = ReferenceElement.make(dimension, space.order)
        linear = ReferenceElement.make(dimension, 1, 3 * space.order)
        weights = fine.weights / fine.weights.sum()
        mass = np.einsum("q,qb,qe->be", weights, linear.values, linear.values)
        # Integral of psi_b d_l phi_a over a cell of volume 1: (b l, a).
        self._tested = np.einsum("q,qb,qal->bla", weights, linear.values, fine.slopes).reshape(corners * dimension, -1)
        entries = np.repeat(vertices, corners, axis=1).ravel(), np.tile(vertices, (1, corners)).ravel()
        count = len(domain.points)
        self._mass = sp.csr_matrix(((self._volumes[:, None] * mass.ravel()).ravel(), entries), shape=(count, count))
        self._diagonal = self._mass.diagonal()[:, None]
        self._bounds = _BOUNDS[dimension]

    def load(self, along: Array, now: Array, before: Array, ahead: Array, weight: Array) -> Array:
        """(v, d) the sum over cells of weight (pi(a.grad u), a.grad v) with u = now + ahead (now - before).

        Args:
            along: (m, d) a.
            now: (v, d).
            before: (v, d).
            ahead: (m,) how far the velocity is extrapolated, in each cell.
            weight: (m,).
        """
        dimension, (corners, size) = along.shape[1], self._vertices.shape
        direction = np.einsum("lkm,mk->lm", self._inverse, along) * self._volumes
        right = np.empty((len(self._diagonal), dimension))
        for axis in range(dimension):
            u = now[:, axis][self._cells]
            u += ahead * (u - before[:, axis][self._cells])
            slopes = (self._tested @ u).reshape(corners, dimension, size)
            convected = np.einsum("lm,blm->bm", direction, slopes)
            right[:, axis] = np.bincount(self._vertices.ravel(), convected.ravel(), minlength=len(right))
        projected = self._projected(right)
        direction = direction * weight
        load = np.empty_like(now)
        for axis in range(dimension):
            flux = projected[:, axis][self._vertices][:, None] * direction
            tested = self._tested.T @ flux.reshape(corners * dimension, size)
            load[:, axis] = np.bincount(self._cells.ravel(), tested.ravel(), minlength=len(load))
        return load

    def _projected(self, right: Array) -> Array:
        """(p, d) the linear functions with these integrals (p, d) against the hat functions: Chebyshev's iteration."""
        low, high = self._bounds
        middle, radius = 0.5 * (high + low), 0.5 * (high - low)
        result = right / (self._diagonal * middle)
        residual = right - self._mass @ result
        step = residual / (self._diagonal * middle)
        gain = radius / middle
        for _ in range(_ITERATIONS):
            result = result + step
            residual = residual - self._mass @ step
            before, gain = gain, 1.0 / (2.0 * middle / radius - gain)
            step = gain * before * step + (2.0 * gain / radius) * residual / self._diagonal
        return result + step
