"""Linear systems of the flow solver, solved with PETSc."""

import dolfinx_solver  # noqa: F401  # isort: skip  (finds PETSc's libraries; must come before petsc4py)
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from petsc4py import PETSc

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

DIRECT_LIMIT = 60_000
"""Up to this many unknowns a factorization, made once, beats iterating: its solve costs some milliseconds."""


def petsc_matrix(matrix: sp.csr_matrix) -> PETSc.Mat:
    """A PETSc matrix of its own from a SciPy one."""
    indices = (matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType), matrix.data.copy())
    made = PETSc.Mat().createAIJ(matrix.shape, csr=indices, comm=PETSc.COMM_SELF)
    made.assemble()
    return made


class PressureSolver:
    """K p = b with the pressure given on the outlets; K never changes.

    MUMPS's Cholesky factorization while it fits, else conjugate gradients with algebraic multigrid.
    """

    def __init__(self, stiffness: sp.csr_matrix, outlet_nodes: list[Indices]) -> None:
        count = stiffness.shape[0]
        self._outlet_nodes = outlet_nodes
        self._free = np.setdiff1d(np.arange(count), np.concatenate(outlet_nodes))
        self._lift = [stiffness[self._free][:, nodes] @ np.ones(len(nodes)) for nodes in outlet_nodes]
        inner = stiffness[self._free][:, self._free].tocsr()
        self._matrix = petsc_matrix(inner)
        self._matrix.setOption(PETSc.Mat.Option.SPD, True)
        self._solver = PETSc.KSP().create(PETSc.COMM_SELF)
        self._solver.setOperators(self._matrix)
        conditioner = self._solver.getPC()
        if len(self._free) <= DIRECT_LIMIT:
            self._solver.setType("preonly")
            conditioner.setType("cholesky")
            conditioner.setFactorSolverType("mumps")
        else:
            self._solver.setType("cg")
            conditioner.setType("gamg")
            self._solver.setTolerances(rtol=1e-10, max_it=500)
            self._solver.setInitialGuessNonzero(True)
        self._solver.setUp()
        self._right, self._left = self._matrix.createVecs()

    def solve(self, right: Array, outlet_pressure: Array) -> Array:
        """(n,) the solution, with one pressure given per outlet."""
        load = right[self._free].copy()
        for value, lift in zip(outlet_pressure, self._lift, strict=True):
            load -= value * lift
        self._right.array[:] = load
        self._solver.solve(self._right, self._left)
        if self._solver.getConvergedReason() < 0:
            raise RuntimeError(f"the pressure solver failed (PETSc reason {self._solver.getConvergedReason()})")
        solution = np.empty(len(right))
        solution[self._free] = self._left.array
        for value, nodes in zip(outlet_pressure, self._outlet_nodes, strict=True):
            solution[nodes] = value
        return solution

    def unit_responses(self) -> Array:
        """(n, outlets) harmonic fields that are 1 on one outlet and 0 on the others."""
        count = len(self._free) + sum(len(nodes) for nodes in self._outlet_nodes)
        outlets = len(self._outlet_nodes)
        return np.stack([self.solve(np.zeros(count), unit) for unit in np.eye(outlets)], axis=1)


class TransportSolver:
    """A u = b for three components at once with one nonsymmetric matrix that changes in every step.

    BiCGSTAB with an incomplete factorization: mass dominates the matrix at usual time steps, so some ten
    iterations from the extrapolated velocity reach 1e-9.
    """

    def __init__(self, pattern: sp.csr_matrix, fixed: Indices) -> None:
        """Take the sparsity pattern (sorted CSR) and the nodes whose velocity is given."""
        self._fixed = fixed
        rows = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
        is_fixed = np.zeros(pattern.shape[0], dtype=bool)
        is_fixed[fixed] = True
        self._row_fixed = is_fixed[rows]
        self._fixed_diagonal = self._row_fixed & (rows == pattern.indices)
        self._indptr = pattern.indptr.astype(PETSc.IntType)
        self._indices = pattern.indices.astype(PETSc.IntType)
        self._matrix = petsc_matrix(pattern)
        self._solver = PETSc.KSP().create(PETSc.COMM_SELF)
        self._solver.setType("bcgs")
        self._solver.getPC().setType("ilu")
        self._solver.setTolerances(rtol=1e-9, atol=1e-30, max_it=500)
        self._solver.setInitialGuessNonzero(True)
        self._right, self._left = self._matrix.createVecs()

    def solve(self, values: Array, load: Array, boundary: Array, guess: Array) -> Array:
        """(n, 3) the solution.

        Args:
            values: (nnz,) of the matrix.
            load: (n, 3).
            boundary: (n, 3) velocity, used where it is given.
            guess: (n, 3) to begin from.
        """
        values = np.where(self._row_fixed, 0.0, values)
        # Rows of given velocities keep the size of their neighbors' diagonal, for the sake of conditioning.
        values[self._fixed_diagonal] = 1.0
        self._matrix.setValuesCSR(self._indptr, self._indices, values)
        self._matrix.assemble()
        self._solver.setOperators(self._matrix)
        load = load.copy()
        load[self._fixed] = boundary[self._fixed]
        solution = np.empty_like(load)
        for axis in range(3):
            self._right.array[:] = load[:, axis]
            self._left.array[:] = guess[:, axis]
            self._left.array[self._fixed] = boundary[self._fixed, axis]
            self._solver.solve(self._right, self._left)
            if self._solver.getConvergedReason() < 0:
                raise RuntimeError(f"the velocity solver failed (PETSc reason {self._solver.getConvergedReason()})")
            solution[:, axis] = self._left.array
        return solution
