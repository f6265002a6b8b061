"""Matrices of the flow solver on linear tetrahedra.

The constant ones (mass, stiffness, gradient) are assembled once by DOLFINx. The one that changes in every
step is assembled here with NumPy into the same sparsity pattern: on linear tetrahedra all gradients are constant, so
its entries are closed forms in the nodal velocities, and a scatter with positions found beforehand takes the place of
quadrature. All matrices are in the order of the input points.
"""

import dolfinx_solver  # noqa: F401  # isort: skip  (finds PETSc's libraries; must come before dolfinx)
import basix.ufl
import numpy as np
import scipy.sparse as sp
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import FlowDomain

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def constant_matrices(domain: FlowDomain) -> tuple[sp.csr_matrix, sp.csr_matrix, tuple[sp.csr_matrix, ...]]:
    """Mass (phi_i, phi_j), stiffness (grad phi_i, grad phi_j) and gradient (phi_i, d_k phi_j) matrices, (n, n) each."""
    coordinate = basix.ufl.element("Lagrange", "tetrahedron", 1, shape=(3,))
    grid = mesh.create_mesh(MPI.COMM_SELF, domain.tetrahedra, coordinate, domain.points)
    space = fem.functionspace(grid, ("Lagrange", 1))
    # DOLFINx numbers the nodes anew; their places tell which is which.
    distance, order = cKDTree(domain.points).query(space.tabulate_dof_coordinates())
    if distance.max() > 1e-3 * domain.element_length.min() or len(np.unique(order)) != len(domain.points):
        raise InputError("Two nodes of the mesh are in the same place; mesh again.")
    trial, test = ufl.TrialFunction(space), ufl.TestFunction(space)
    forms = [ufl.inner(trial, test) * ufl.dx, ufl.inner(ufl.grad(trial), ufl.grad(test)) * ufl.dx]
    forms += [test * trial.dx(axis) * ufl.dx for axis in range(3)]
    matrices = []
    for form in forms:
        assembled = fem.assemble_matrix(fem.form(form))
        entries = assembled.to_scipy().tocoo()
        count = len(domain.points)
        matrices.append(sp.csr_matrix((entries.data, (order[entries.row], order[entries.col])), shape=(count, count)))
    for matrix in matrices:
        matrix.sort_indices()
    return matrices[0], matrices[1], tuple(matrices[2:])


class Scatter:
    """Adds element matrices into the values of a fixed sparsity pattern."""

    def __init__(self, pattern: sp.csr_matrix, elements: Indices) -> None:
        """Find where each entry of the (e, c, c) element matrices goes.

        Args:
            pattern: sorted CSR matrix that has all their entries.
            elements: (e, c) node numbers.
        """
        corners = elements.shape[1]
        rows = np.repeat(elements, corners, axis=1).ravel()
        columns = np.tile(elements, (1, corners)).ravel()
        count = pattern.shape[1]
        keys = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr)) * count + pattern.indices
        self._positions = np.searchsorted(keys, rows * count + columns)
        self._size = pattern.nnz

    def values(self, local: Array) -> Array:
        """(nnz,) the sum of the element matrices (e, c, c)."""
        return np.bincount(self._positions, weights=local.ravel(), minlength=self._size)


class TransportAssembler:
    """The matrix of convection, streamline stabilization and viscosity for a given advecting velocity."""

    def __init__(self, domain: FlowDomain, pattern: sp.csr_matrix) -> None:
        self.domain = domain
        self._cells = Scatter(pattern, domain.tetrahedra)
        outlets = np.concatenate([domain.port_triangles(port) for port in domain.outlets])
        self._outlet_triangles = outlets
        self._outlet_normals = np.concatenate(
            [np.tile(port.normal, (len(domain.port_triangles(port)), 1)) for port in domain.outlets]
        )
        self._outlet_areas = domain.triangle_areas(outlets)
        self._faces = Scatter(pattern, outlets)
        self._face_mass = (np.ones((3, 3)) + np.eye(3)) / 12.0

    def convection(self, velocity: Array) -> Array:
        """(nnz,) 1/2 [(c.grad u, v) - (c.grad v, u)] + 1/2 <max(c.n, 0) u, v> on the outlets.

        The skew-symmetric form does no work whatever c is. Integrating it by parts leaves 1/2 <c.n u, v> on the
        outlets, which feeds energy in where c.n < 0: that part is removed (backflow stabilization with beta = 1;
        Bertoglio et al., Int. J. Numer. Meth. Biomed. Engng. 34 (2018) e2918), so that the scheme is energy stable for
        any backflow.
        """
        domain = self.domain
        corners = velocity[domain.tetrahedra]
        weighted = (corners.sum(axis=1, keepdims=True) + corners) * (domain.volumes / 20.0)[:, None, None]
        local = np.einsum("eid,ejd->eij", weighted, domain.gradients)
        skew = 0.5 * (local - np.swapaxes(local, 1, 2))
        outward = np.einsum("tcd,td->t", velocity[self._outlet_triangles], self._outlet_normals) / 3.0
        leaving = 0.5 * np.maximum(outward, 0.0) * self._outlet_areas
        faces = leaving[:, None, None] * self._face_mass
        return self._cells.values(skew) + self._faces.values(faces)

    def streamline(self, mean_velocity: Array, weight: Array) -> tuple[Array, Array]:
        """(nnz,) values and the (e, 4) directional derivatives of sum_e weight (c.grad u, c.grad v), c per cell (e,
        3)."""
        along = np.einsum("ed,ejd->ej", mean_velocity, self.domain.gradients)
        local = (weight * self.domain.volumes)[:, None, None] * along[:, :, None] * along[:, None, :]
        return self._cells.values(local), along

    def viscous(self, viscosity: Array) -> Array:
        """(nnz,) values of (mu grad u, grad v) with mu per cell (e,)."""
        gradients = self.domain.gradients
        local = np.einsum("eid,ejd->eij", gradients, gradients) * (viscosity * self.domain.volumes)[:, None, None]
        return self._cells.values(local)

    def nodal_sum(self, values: Array) -> Array:
        """(n, ...) each node's sum of what its cells' corners (e, 4, ...) give it."""
        count = len(self.domain.points)
        index = self.domain.tetrahedra.ravel()
        flat = values.reshape(len(index), -1)
        summed = np.stack(
            [np.bincount(index, weights=flat[:, column], minlength=count) for column in range(flat.shape[1])], axis=1
        )
        return summed.reshape(count, *values.shape[2:])
