"""Force of the blood on the wall: shear stress, its means over a beat, and the whole force on a part of the boundary.

The shear stress is what the momentum balance tested with the hat functions of the wall's own nodes leaves over,

    R_i = (rho du/dt + rho u.grad u + grad p, phi_i) + (mu grad u, grad phi_i) = <mu du/dn, phi_i>  on the wall,

divided by the node's share of the wall: it converges with second order, where the gradient in the cell behind the wall
is of first and lies at that cell's middle (Gresho, Lee, Sani, Maslanik & Eaton, Int. J. Numer. Meth. Fluids 7 (1987)
1111-1145), and its sum over the wall is the force that the flow feels, whatever the mesh. The same balance gives the
force on a body without taking a derivative at its surface (John, Int. J. Numer. Meth. Fluids 44 (2004) 777-788).

    TAWSS = 1/T int |tau| dt,   OSI = 1/2 (1 - |int tau dt| / int |tau| dt),   RRT = 1 / ((1 - 2 OSI) TAWSS)

(Ku, Giddens, Zarins & Glagov, Arteriosclerosis 5 (1985) 293-302; Himburg et al., Ann. Biomed. Eng. 32 (2004)
1108-1115.)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from surgical_twin.flow.domain import WALL_TAG
from surgical_twin.flow.elements import EDGES, ReferenceElement

if TYPE_CHECKING:
    from surgical_twin.flow.navier_stokes import NavierStokes

Array = NDArray[np.float64]


class _Balance:
    """The momentum balance of chosen nodes of a solver."""

    def __init__(self, solver: NavierStokes, nodes: NDArray[np.int64]) -> None:
        self.solver, self.nodes = solver, nodes
        space, domain = solver.space, solver.domain
        place = np.full(len(space), -1, dtype=np.int64)
        place[nodes] = np.arange(len(nodes))
        local = place[space.cells]
        self._cells = np.flatnonzero((local >= 0).any(axis=1))
        local = local[self._cells]
        kept = local.ravel() >= 0
        self._kept, self._places = kept, local.ravel()[kept]
        self._inverse = domain.inverse_jacobians[self._cells]
        self._scale = domain.volumes[self._cells] * factorial(domain.dimension)
        self._mass = solver.matrices.mass[nodes]
        self._gradient = [gradient[nodes] for gradient in solver.matrices.gradient]
        self._stiffness = solver.matrices.stiffness[nodes]

    def residual(self) -> Array:
        """(nodes, d) R_i [N] of the present state."""
        solver, reference = self.solver, self.solver.space.reference
        rho, velocity = solver.density, solver.velocity
        residual = rho * (self._mass @ solver.acceleration)
        residual += np.column_stack([gradient @ solver.pressure for gradient in self._gradient])
        jacobian = solver.transport.jacobian(velocity)
        viscosity, flux = solver.viscosity(jacobian)
        corners = velocity[solver.space.cells[self._cells]]
        values = np.einsum("qa,ead->eqd", reference.values, corners)
        slopes = np.einsum("qal,elk->eqak", reference.slopes, self._inverse)
        local = np.einsum("eqk,eqak,eac->eqc", values, slopes, corners, optimize=True)
        tested = rho * np.einsum(
            "e,q,qi,eqc->eic", self._scale, reference.weights, reference.values, local, optimize=True
        )
        if flux is None:
            residual += float(np.max(viscosity)) * (self._stiffness @ velocity)
        else:
            mu = np.broadcast_to(viscosity, (len(solver.domain.volumes),))[self._cells]
            whole = mu[:, None, None] * jacobian[self._cells] + flux[self._cells]
            mean = np.einsum("q,qal,elk->eak", reference.weights, reference.slopes, self._inverse)
            tested += np.einsum("e,eik,ekc->eic", self._scale, mean, whole)
        flat = tested.reshape(-1, velocity.shape[1])[self._kept]
        for axis in range(velocity.shape[1]):
            residual[:, axis] += np.bincount(self._places, weights=flat[:, axis], minlength=len(self.nodes))
        return residual


class WallShear:
    """The shear stress on the wall of a solver; made once, asked whenever it is wanted."""

    def __init__(self, solver: NavierStokes) -> None:
        domain = solver.domain
        chosen = domain.triangle_tags == WALL_TAG
        triangles, vectors = domain.triangles[chosen], domain.outward[chosen]
        self.nodes = domain.wall_nodes
        """(w,) the wall's nodes, in the order of the stress."""
        self._places = np.searchsorted(self.nodes, triangles)
        areas = np.linalg.norm(vectors, axis=1)
        corners = triangles.shape[1]
        count = len(self.nodes)
        self._load = np.bincount(self._places.ravel(), np.repeat(areas / corners, corners), minlength=count)
        normal = np.stack(
            [np.bincount(self._places.ravel(), np.repeat(vectors[:, k], corners), minlength=count)
             for k in range(domain.dimension)],
            axis=1,
        )  # fmt: skip
        self.normals = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        # Tested with the linear hat functions: at order 2 each is its vertex's function and half of those of the
        # edges that meet there.
        space = solver.space
        facets = space.facet_nodes(triangles)
        nodes = np.unique(facets)
        self._balance = _Balance(solver, nodes)
        weights = [(triangles[:, k], facets[:, k], 1.0) for k in range(corners)]
        for place, ends in enumerate(EDGES[corners - 1] if space.order == 2 else ()):
            weights += [(triangles[:, end], facets[:, corners + place], 0.5) for end in ends]
        rows = np.searchsorted(self.nodes, np.concatenate([vertex for vertex, _, _ in weights]))
        columns = np.searchsorted(nodes, np.concatenate([node for _, node, _ in weights]))
        values = np.concatenate([np.full(len(vertex), value) for vertex, _, value in weights])
        entries, first = np.unique(rows * len(nodes) + columns, return_index=True)
        self._hats = sp.csr_matrix(
            (values[first], (entries // len(nodes), entries % len(nodes))), shape=(count, len(nodes))
        )

    def stress(self) -> Array:
        """(w, d) Pa: the blood's force on the wall along it, per area."""
        stress = -(self._hats @ self._balance.residual()) / self._load[:, None]
        normal_part = np.einsum("wd,wd->w", stress, self.normals)
        return stress - normal_part[:, None] * self.normals


@dataclass(frozen=True)
class ShearMeans:
    """Over one beat, at each of the wall's nodes (w,)."""

    mean_magnitude: Array
    """TAWSS, Pa"""
    oscillation: Array
    """OSI, 0 to 0.5"""
    residence: Array
    """RRT, 1/Pa"""


def shear_means(time: Array, stress: Array) -> ShearMeans:
    """TAWSS, OSI and RRT from the stress over one beat.

    Args:
        time: (s,) s; the last one period after the first.
        stress: (s, w, d) Pa.
    """
    span = float(time[-1] - time[0])
    stress = np.asarray(stress, dtype=float)
    magnitude = np.asarray(np.trapezoid(np.linalg.norm(stress, axis=2), time, axis=0)) / span
    vector = np.linalg.norm(np.trapezoid(stress, time, axis=0), axis=1) / span
    steady = np.divide(vector, magnitude, out=np.ones_like(vector), where=magnitude > 0)
    with np.errstate(divide="ignore"):
        residence = 1.0 / vector
    return ShearMeans(magnitude, 0.5 * (1.0 - np.minimum(steady, 1.0)), residence)


class BodyForce:
    """The whole force of the flow on a part of the boundary, such as a cylinder in a channel."""

    def __init__(self, solver: NavierStokes, facets: NDArray[np.bool_]) -> None:
        """Choose the part by its facets, (k,) of the domain's boundary."""
        domain, space = solver.domain, solver.space
        triangles = domain.triangles[facets]
        self._balance = _Balance(solver, np.unique(space.facet_nodes(triangles)))
        self._solver, self._triangles = solver, triangles
        linear = ReferenceElement.make(domain.dimension - 1, 1)
        self._share = linear.weights @ linear.values * factorial(domain.dimension - 1)
        self._vectors = domain.outward[facets]

    def force(self) -> Array:
        """(d,) N"""
        pressure = self._solver.pressure[self._triangles] @ self._share
        return pressure @ self._vectors - self._balance.residual().sum(axis=0)
