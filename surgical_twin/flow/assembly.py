"""Matrices of the flow solver.

The constant ones (mass, stiffness, gradient) are assembled once by DOLFINx. The one that changes in every
step is assembled here, by contraction of the reference cell's tensors for all cells at once (`elements`), straight
into the entries that the linear solver keeps: on linear tetrahedra that takes a quarter of the time of a loop
over quadrature points. All matrices are in the order of the space's nodes.
"""

import dolfinx_solver  # noqa: F401  # isort: skip  (finds PETSc's libraries; must come before dolfinx)
from dataclasses import dataclass
from math import factorial

import basix.ufl
import numpy as np
import scipy.sparse as sp
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from numpy.typing import NDArray
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.spatial import cKDTree

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.elements import LagrangeSpace, ReferenceElement

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_CHUNK = 40_000
"""Cells whose matrices are computed at a time: more would not stay in the processor's cache."""


@dataclass(frozen=True)
class ConstantMatrices:
    """What does not change from step to step; v are the velocity's nodes, p the pressure's (the mesh's vertices)."""

    mass: sp.csr_matrix
    """(v, v) (phi_i, phi_j)"""
    stiffness: sp.csr_matrix
    """(v, v) (grad phi_i, grad phi_j)"""
    gradient: tuple[sp.csr_matrix, ...]
    """d of (v, p) (phi_i, d_k psi_j)"""
    pressure_stiffness: sp.csr_matrix
    """(p, p) (grad psi_i, grad psi_j)"""
    pressure_load: Array
    """(p,) (psi_i, 1)"""

    def tested_gradient(self, pressure: Array) -> Array:
        """(v, d) (grad p, phi_i) of a pressure (p,)."""
        return np.column_stack([gradient @ pressure for gradient in self.gradient])


def constant_matrices(domain: FlowDomain, space: LagrangeSpace) -> ConstantMatrices:
    """Assemble them with DOLFINx.

    Raises:
        InputError: two nodes of the mesh are in the same place.
    """
    dimension = domain.dimension
    kind = "tetrahedron" if dimension == 3 else "triangle"
    coordinate = basix.ufl.element("Lagrange", kind, 1, shape=(dimension,))
    grid = mesh.create_mesh(MPI.COMM_SELF, domain.tetrahedra, coordinate, domain.points)
    velocity = fem.functionspace(grid, ("Lagrange", space.order))
    pressure = fem.functionspace(grid, ("Lagrange", 1)) if space.order > 1 else velocity
    tolerance = 1e-3 * domain.element_length.min()
    to_velocity = _order(space.points, velocity, tolerance)
    to_pressure = _order(domain.points, pressure, tolerance)
    trial, test = ufl.TrialFunction(velocity), ufl.TestFunction(velocity)
    scalar, weight = ufl.TrialFunction(pressure), ufl.TestFunction(pressure)

    def assembled(form: ufl.Form, rows: Indices, columns: Indices) -> sp.csr_matrix:
        entries = fem.assemble_matrix(fem.form(form)).to_scipy().tocoo()
        shape = len(rows), len(columns)
        matrix = sp.csr_matrix((entries.data, (rows[entries.row], columns[entries.col])), shape=shape)
        matrix.sort_indices()
        return matrix

    stiffness = assembled(ufl.inner(ufl.grad(trial), ufl.grad(test)) * ufl.dx, to_velocity, to_velocity)
    corners = dimension + 1
    return ConstantMatrices(
        mass=assembled(ufl.inner(trial, test) * ufl.dx, to_velocity, to_velocity),
        stiffness=stiffness,
        gradient=tuple(assembled(test * scalar.dx(k) * ufl.dx, to_velocity, to_pressure) for k in range(dimension)),
        pressure_stiffness=stiffness
        if space.order == 1
        else assembled(ufl.inner(ufl.grad(scalar), ufl.grad(weight)) * ufl.dx, to_pressure, to_pressure),
        pressure_load=np.bincount(
            domain.tetrahedra.ravel(),
            weights=np.repeat(domain.volumes / corners, corners),
            minlength=len(domain.points),
        ),
    )


def _order(points: Array, space: fem.FunctionSpace, tolerance: float) -> Indices:
    """(n,) which of our nodes each of DOLFINx's is: it numbers them anew, and their places tell."""
    places = space.tabulate_dof_coordinates()[:, : points.shape[1]]
    distance, order = cKDTree(points).query(places)
    if distance.max() > tolerance or len(np.unique(order)) != len(points):
        raise InputError("Two nodes of the mesh are in the same place; mesh again.")
    return order


class TransportPattern:
    """Which entries of a velocity matrix are kept, and where.

    Rows are the free nodes (all but those of given velocity), in an order that keeps neighbors together (reverse
    Cuthill-McKee). Columns are the free nodes (part ``free``) and the nodes of given, not vanishing velocity (part
    ``given``). With several processes each keeps a contiguous share of the rows.

    Attributes:
        number: (v,) place of each node among the columns; -1 of those whose velocity vanishes.
        cells: those that touch rows which are kept.
        positions: where the entries of these cells' matrices go, one cell after another; `entries` if nowhere.
        entries: how many are kept.
    """

    def __init__(self, space: LagrangeSpace, fixed: Indices, given: Indices, comm: MPI.Comm) -> None:
        """Lay out the entries.

        Args:
            space: of the velocity.
            fixed: nodes whose velocity is given.
            given: those among them where it does not vanish.
            comm: processes that share the rows.
        """
        count, cells = len(space), space.cells
        corners = cells.shape[1]
        is_free = np.ones(count, dtype=bool)
        is_free[fixed] = False
        free = np.flatnonzero(is_free)
        ones = np.ones(cells.size, dtype=np.int8)
        incidence = sp.csr_matrix((ones, cells.ravel(), np.arange(0, cells.size + 1, corners)), (len(cells), count))
        inner = incidence[:, free]
        graph = (inner.T @ inner).tocsr()
        self.free = free[reverse_cuthill_mckee(graph, symmetric_mode=True)]
        self.given = np.asarray(given, dtype=np.int64)
        size = len(self.free)
        number = np.full(count, -1, dtype=np.int64)
        number[self.free] = np.arange(size)
        number[self.given] = size + np.arange(len(self.given))
        shares = np.linspace(0, size, comm.size + 1).astype(np.int64)
        self.first, self.last = int(shares[comm.rank]), int(shares[comm.rank + 1])
        local = number[cells]
        self.cells = np.flatnonzero(((local >= self.first) & (local < self.last)).any(axis=1))
        local = local[self.cells]
        rows = np.repeat(local, corners, axis=1).ravel()
        columns = np.tile(local, (1, corners)).ravel()
        kept = (rows >= self.first) & (rows < self.last) & (columns >= 0)
        # Free columns before given ones, each part in the order of CSR.
        height, width = self.last - self.first, max(size, len(self.given))
        of_given = columns >= size
        keys = ((of_given * height) + rows - self.first) * width + np.where(of_given, columns - size, columns)
        entries, inverse = np.unique(keys[kept], return_inverse=True)
        self.positions: Indices = np.full(len(rows), len(entries), dtype=np.int64)
        self.positions[kept] = inverse
        self.entries = len(entries)
        entry_rows = entries // width
        self._split = int(np.searchsorted(entry_rows, height))
        self.indices = entries % width
        self.pointers = np.searchsorted(entry_rows[: self._split], np.arange(height + 1))
        self._given_pointers = np.searchsorted(entry_rows[self._split :] - height, np.arange(height + 1))
        self._shape = height, size, len(self.given)
        self._corner_entries = corners * corners
        self.number = number
        self._width = width
        self._keys = entries

    def add(self, local: Array, begin: int, into: Array) -> None:
        """Add element matrices (e, c, c) of the kept cells from ``begin`` on to values (entries + 1,)."""
        positions = self.positions[begin * self._corner_entries :][: local.size]
        into += np.bincount(positions, weights=local.ravel(), minlength=self.entries + 1)

    def scatter(self, nodes: Indices) -> Indices:
        """Where the entries of element matrices with these nodes (f, c) go: (f c c,), the last place if nowhere."""
        corners = nodes.shape[1]
        local = self.number[nodes]
        rows = np.repeat(local, corners, axis=1).ravel()
        columns = np.tile(local, (1, corners)).ravel()
        height, size, _ = self._shape
        kept = (rows >= self.first) & (rows < self.last) & (columns >= 0)
        of_given = columns >= size
        keys = ((of_given * height) + rows - self.first) * self._width + np.where(of_given, columns - size, columns)
        positions = np.full(len(rows), self.entries, dtype=np.int64)
        positions[kept] = np.searchsorted(self._keys, keys[kept])
        return positions

    def parts(self, values: Array) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Values (entries,) as the matrices of the free and the given columns."""
        height, size, given = self._shape
        split = self._split
        return (
            sp.csr_matrix((values[:split], self.indices[:split], self.pointers), shape=(height, size)),
            sp.csr_matrix((values[split:], self.indices[split:], self._given_pointers), shape=(height, given)),
        )


class TransportAssembler:
    """The matrix of convection, streamline stabilization and viscosity for a given advecting velocity."""

    def __init__(
        self, domain: FlowDomain, space: LagrangeSpace, pattern: TransportPattern, open_tags: list[int]
    ) -> None:
        """Set up.

        Args:
            domain: where.
            space: of the velocity.
            pattern: the entries to fill.
            open_tags: of the ports through which blood may flow freely.
        """
        self.domain, self.space, self.pattern = domain, space, pattern
        dimension = domain.dimension
        reference = space.reference
        corners = space.cells.shape[1]
        self._scale = domain.volumes * factorial(dimension)  # determinant of the Jacobian
        convection = reference.skew_convection().reshape(corners * dimension, -1)
        stiffness = reference.stiffness()
        pairs = [(row, column) for row in range(dimension) for column in range(row, dimension)]
        symmetric = [
            stiffness[row, column] + (stiffness[column, row] if row != column else 0.0) for row, column in pairs
        ]
        self._pairs = pairs
        self._tensor = np.concatenate([convection, np.array(symmetric).reshape(len(pairs), -1)])
        self._kept_cells = np.ascontiguousarray(space.cells[pattern.cells].T)
        self._kept_inverse = inverse = np.ascontiguousarray(np.moveaxis(domain.inverse_jacobians[pattern.cells], 0, -1))
        self._kept_scale = self._scale[pattern.cells]
        self._metric = self._kept_scale * np.stack(
            [(inverse[row] * inverse[column]).sum(axis=0) for row, column in pairs]
        )
        weights = reference.weights * factorial(dimension)
        means = np.tile(weights @ reference.values, len(space.cells))
        self._mean = sp.csr_matrix(
            (means, space.cells.ravel(), np.arange(0, means.size + 1, corners)), shape=(len(space.cells), len(space))
        )
        slopes = np.einsum("q,qal->al", weights, reference.slopes)
        # Mean derivatives in each cell: (m d, v), the d derivatives of a cell in consecutive rows.
        derivatives = np.einsum("al,elk->eka", slopes, domain.inverse_jacobians)
        count = len(space.cells) * dimension
        self.derivative = sp.csr_matrix(
            (
                derivatives.ravel(),
                np.repeat(space.cells, dimension, axis=0).ravel(),
                np.arange(0, count * corners + 1, corners),
            ),
            shape=(count, len(space)),
        )
        self._transposed = self.derivative.T.tocsr()
        vertices = domain.tetrahedra
        simplex = dimension + 1
        self._average = sp.csr_matrix(
            (np.full(vertices.size, 1.0 / simplex), vertices.ravel(), np.arange(0, vertices.size + 1, simplex)),
            shape=(len(vertices), len(domain.points)),
        )
        volume = np.bincount(vertices.ravel(), weights=np.repeat(domain.volumes / simplex, simplex))
        # Lumped projection of what is constant in cells onto continuous linear functions.
        self._project = (sp.diags(1.0 / volume) @ self._average.T @ sp.diags(domain.volumes)).tocsr()
        self._mass_values = self._constant(reference.mass().reshape(1, -1), self._kept_scale[:, None])
        self._set_faces(open_tags)

    def _set_faces(self, tags: list[int]) -> None:
        domain, space = self.domain, self.space
        chosen = np.isin(domain.triangle_tags, tags)
        self._face_nodes = space.facet_nodes(domain.triangles[chosen])
        self._face_vectors = domain.outward[chosen] * factorial(domain.dimension - 1)
        reference = space.facet_reference
        products = np.einsum("q,qi,qj->qij", reference.weights, reference.values, reference.values)
        self._face_tensor = products.reshape(len(reference.weights), -1)
        self._face_positions = self.pattern.scatter(self._face_nodes)

    def _constant(self, tensor: Array, coefficients: Array) -> Array:
        """(entries + 1,) sum of the element matrices coefficients (e, k) times tensor (k, c c)."""
        values = np.zeros(self.pattern.entries + 1)
        for begin in range(0, len(coefficients), _CHUNK):
            self.pattern.add(coefficients[begin : begin + _CHUNK] @ tensor, begin, values)
        return values

    @property
    def mass_values(self) -> Array:
        """(entries + 1,) of the mass matrix."""
        return self._mass_values

    def cell_mean(self, field: Array) -> Array:
        """(m, d) mean of a nodal field (v, d) in each cell."""
        return self._mean @ field

    def jacobian(self, field: Array) -> Array:
        """(m, d, c) mean of d u_c / d x_k in each cell, k first."""
        dimension = self.domain.dimension
        return (self.derivative @ field).reshape(-1, dimension, field.shape[1])

    def tested_with_gradient(self, flux: Array) -> Array:
        """(v, c) sum over the cells of (flux_kc, d_k phi_i) for a flux (m, d, c) that is constant in each."""
        weighted = flux * self.domain.volumes[:, None, None]
        return self._transposed @ weighted.reshape(-1, flux.shape[2])

    def smoothed(self, values: Array) -> Array:
        """(m, c) means in the cells of the lumped projection of cell values (m, c) onto linear functions."""
        return self._average @ (self._project @ values)

    def values(self, velocity: Array, density: float, along: Array, weight: Array, viscosity: Array | float) -> Array:
        """(entries + 1,) of rho convection + weight (a.grad u, a.grad v) + (mu grad u, grad v).

        Convection is in skew-symmetric form, which does no work whatever c is:
        1/2 [(c.grad u, v) - (c.grad v, u)] + 1/2 <max(c.n, 0) u, v> on the open ports. Integrating the first part
        by parts leaves 1/2 <c.n u, v> on the ports, which feeds energy in where c.n < 0: that part is removed
        (backflow stabilization with beta = 1; Bertoglio et al., Int. J. Numer. Meth. Biomed. Engng. 34 (2018) e2918),
        so that the scheme is energy stable for any backflow.

        Args:
            velocity: (v, d) c.
            density: rho.
            along: (m, d) a, the direction of the stabilization.
            weight: (m,) its strength.
            viscosity: mu, of each cell (m,) or of all.
        """
        dimension = self.domain.dimension
        kept = self.pattern.cells
        values = np.zeros(self.pattern.entries + 1)
        corners = len(self._kept_cells)
        components = np.ascontiguousarray(velocity.T)
        for begin in range(0, len(kept), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            cells = kept[part]
            inverse = self._kept_inverse[:, :, part]
            scale = self._kept_scale[part]
            # One row per coefficient: rows of consecutive numbers are what the processor multiplies fastest.
            coefficients = np.empty((len(self._tensor), len(cells)))
            convecting = coefficients[: corners * dimension].reshape(corners, dimension, len(cells))
            nodal = components[:, self._kept_cells[:, part]]
            for row in range(dimension):
                np.multiply(nodal[0], inverse[row, 0] * (density * scale), out=convecting[:, row])
                for axis in range(1, dimension):
                    convecting[:, row] += nodal[axis] * (inverse[row, axis] * (density * scale))
            direction = [
                sum(inverse[row, axis] * along[cells, axis] for axis in range(dimension)) for row in range(dimension)
            ]
            strength = weight[cells] * scale
            for place, (row, column) in enumerate(self._pairs, start=corners * dimension):
                coefficients[place] = strength * direction[row] * direction[column]
            if np.ndim(viscosity) == 0:
                coefficients[corners * dimension :] += viscosity * self._metric[:, part]
            else:
                coefficients[corners * dimension :] += np.asarray(viscosity)[cells] * self._metric[:, part]
            self.pattern.add(coefficients.T @ self._tensor, begin, values)
        self.add_backflow(velocity, density, values)
        return values

    def add_backflow(self, velocity: Array, density: float, values: Array) -> None:
        """Add 1/2 rho <max(c.n, 0) u, v> on the open ports to values (entries + 1,) for a velocity c (v, d)."""
        if len(self._face_nodes):
            nodal = velocity[self._face_nodes]
            outward = np.einsum("fad,fd->fa", nodal, self._face_vectors) @ self.space.facet_reference.values.T
            local = (0.5 * density * np.maximum(outward, 0.0)) @ self._face_tensor
            np.add.at(values, self._face_positions, local.ravel())


def boundary_flux(domain: FlowDomain, space: LagrangeSpace, tags: list[int]) -> tuple[sp.csr_matrix, ...]:
    """d matrices (p, v) of <psi_i n_k, phi_j> over a part of the boundary: the net flow of a velocity."""
    chosen = np.isin(domain.triangle_tags, tags)
    facets = domain.triangles[chosen]
    nodes = space.facet_nodes(facets)
    dimension = domain.dimension
    fine = ReferenceElement.make(dimension - 1, space.order, 3)
    coarse = ReferenceElement.make(dimension - 1, 1, 3)
    local = np.einsum("q,qi,qj->ij", fine.weights, coarse.values, fine.values)
    vectors = domain.outward[chosen] * factorial(dimension - 1)
    rows = np.repeat(facets, nodes.shape[1], axis=1).ravel()
    columns = np.tile(nodes, (1, facets.shape[1])).ravel()
    shape = len(domain.points), len(space)
    return tuple(
        sp.csr_matrix(((vectors[:, axis, None] * local.ravel()).ravel(), (rows, columns)), shape=shape)
        for axis in range(dimension)
    )
