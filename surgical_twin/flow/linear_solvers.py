"""Linear systems of the flow solver, solved with PETSc.

With several processes each holds a contiguous share of a matrix's rows; vectors are whole on every process. A lumen's
vectors are some megabytes, which processes of one machine exchange in less time than it takes to assemble anything.
"""

import dolfinx_solver  # noqa: F401  # isort: skip  (finds PETSc's libraries; must come before petsc4py)
import numpy as np
import scipy.sparse as sp
from mpi4py import MPI
from numpy.typing import NDArray
from petsc4py import PETSc
from scipy.sparse.csgraph import reverse_cuthill_mckee

from surgical_twin.flow.assembly import TransportPattern

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

DIRECT_LIMIT = 60_000
"""Up to this many unknowns a factorization, made once, beats iterating: its solve costs some milliseconds."""

VELOCITY_TOLERANCE = 1e-7
"""Of the load. What it leaves is a hundred-thousandth of what a step's extrapolation is off by; mass is kept by the
pressure, whatever the velocity's residual."""

PRESSURE_TOLERANCE = 1e-10


class SolverFailed(RuntimeError):
    """A linear solver did not converge: the flow's matrix is no longer one of a flow."""


class RowShare:
    """Rows of a square system that this process holds, and the exchange of whole vectors."""

    def __init__(self, comm: MPI.Comm, size: int) -> None:
        bounds = np.linspace(0, size, comm.size + 1).astype(np.int64)
        self.comm, self.size = comm, size
        self.first, self.last = int(bounds[comm.rank]), int(bounds[comm.rank + 1])
        self._counts = [int(count) for count in np.diff(bounds)]

    def matrix(self, rows: sp.csr_matrix) -> PETSc.Mat:
        """A PETSc matrix from the rows that each process holds."""
        indices = (rows.indptr.astype(PETSc.IntType), rows.indices.astype(PETSc.IntType), rows.data.copy())
        height = self.last - self.first
        made = PETSc.Mat().createAIJ(((height, self.size), (height, self.size)), csr=indices, comm=self.comm)
        made.assemble()
        return made

    def gather(self, vector: PETSc.Vec) -> Array:
        """(size,) the whole vector on every process."""
        if self.comm.size == 1:
            return vector.array.copy()
        whole = np.empty(self.size)
        self.comm.Allgatherv(vector.array, (whole, self._counts))
        return whole


class PressureSolver:
    """K p = b with the pressure given on open ports; K never changes.

    MUMPS's Cholesky factorization while it fits, else conjugate gradients with algebraic multigrid. Where there is no
    open port the pressure is found but for a constant: its mean is zero.
    """

    def __init__(self, stiffness: sp.csr_matrix, open_nodes: list[Indices], comm: MPI.Comm, load: Array) -> None:
        """Factor.

        Args:
            stiffness: (p, p).
            open_nodes: nodes of each open port.
            comm: processes to share the work.
            load: (p,) integrals of the shape functions.
        """
        count = stiffness.shape[0]
        self._open_nodes = open_nodes
        self._load = load
        self._pinned = open_nodes or [np.array([0])]
        free = np.setdiff1d(np.arange(count), np.concatenate(self._pinned))
        inner = stiffness[free][:, free].tocsr()
        order = reverse_cuthill_mckee(inner, symmetric_mode=True)
        self._free = free[order]
        self._share = RowShare(comm, len(free))
        mine = self._free[self._share.first : self._share.last]
        self._matrix = self._share.matrix(stiffness[mine][:, self._free].tocsr())
        self._lift = [stiffness[self._free][:, nodes] @ np.ones(len(nodes)) for nodes in open_nodes]
        self._matrix.setOption(PETSc.Mat.Option.SPD, True)
        self._solver = PETSc.KSP().create(comm)
        self._solver.setOperators(self._matrix)
        conditioner = self._solver.getPC()
        if len(free) <= DIRECT_LIMIT:
            self._solver.setType("preonly")
            conditioner.setType("cholesky")
            conditioner.setFactorSolverType("mumps")
        else:
            self._solver.setType("cg")
            conditioner.setType("gamg")
            self._solver.setTolerances(rtol=PRESSURE_TOLERANCE, max_it=500)
            self._solver.setInitialGuessNonzero(True)
        self._solver.setUp()
        self._right, self._left = self._matrix.createVecs()

    def solve(self, right: Array, port_pressure: Array, guess: Array | None = None) -> Array:
        """(p,) the solution, with one pressure given per open port.

        Raises:
            SolverFailed: it did not converge.
        """
        load = right[self._free].copy()
        for value, lift in zip(port_pressure, self._lift, strict=True):
            load -= value * lift
        mine = slice(self._share.first, self._share.last)
        self._right.array[:] = load[mine]
        if guess is not None:
            self._left.array[:] = guess[self._free[mine]]
        self._solver.solve(self._right, self._left)
        if self._solver.getConvergedReason() < 0:
            raise SolverFailed(f"the pressure solver failed (PETSc reason {self._solver.getConvergedReason()})")
        solution = np.zeros(len(right))
        solution[self._free] = self._share.gather(self._left)
        for value, nodes in zip(port_pressure, self._open_nodes, strict=True):
            solution[nodes] = value
        if not self._open_nodes:
            solution -= (self._load @ solution) / self._load.sum()
        return solution

    def unit_responses(self) -> Array:
        """(p, ports) harmonic fields that are 1 on one open port and 0 on the others."""
        count = len(self._load)
        ports = len(self._open_nodes)
        if not ports:
            return np.zeros((count, 0))
        return np.stack([self.solve(np.zeros(count), unit) for unit in np.eye(ports)], axis=1)


class TransportSolver:
    """A u = b for the components of a velocity, one after another, with one nonsymmetric matrix that changes.

    BiCGSTAB with an incomplete factorization: mass dominates the matrix at usual time steps, so two or three
    iterations from the extrapolated velocity are enough.
    """

    def __init__(self, pattern: TransportPattern, comm: MPI.Comm) -> None:
        """Take the entries that the matrix will have."""
        self._pattern = pattern
        self._share = RowShare(comm, len(pattern.free))
        inner, self._given = pattern.parts(np.zeros(pattern.entries))
        self._matrix = self._share.matrix(inner)
        self._indptr = inner.indptr.astype(PETSc.IntType)
        self._indices = inner.indices.astype(PETSc.IntType)
        self._solver = PETSc.KSP().create(comm)
        self._solver.setType("bcgs")
        self._solver.getPC().setType("ilu" if comm.size == 1 else "bjacobi")
        self._solver.setTolerances(rtol=VELOCITY_TOLERANCE, atol=1e-30, max_it=500)
        self._solver.setInitialGuessNonzero(True)
        self._right, self._left = self._matrix.createVecs()
        self.iterations = 0

    def solve(self, values: Array, load: Array, given: Array, guess: Array) -> Array:
        """(v, d) the solution.

        Args:
            values: (entries + 1,) of the matrix.
            load: (v, d).
            given: (v, d) velocity, used where it is given.
            guess: (v, d) to begin from.

        Raises:
            SolverFailed: it did not converge.
        """
        pattern, share = self._pattern, self._share
        inner, outer = pattern.parts(values[:-1])
        self._matrix.setValuesCSR(self._indptr, self._indices, inner.data)
        self._matrix.assemble()
        self._solver.setOperators(self._matrix)
        mine = pattern.free[share.first : share.last]
        right = load[mine]
        if len(pattern.given):
            right = right - outer @ given[pattern.given]
        solution = given.copy()
        for axis in range(load.shape[1]):
            self._right.array[:] = right[:, axis]
            self._left.array[:] = guess[mine, axis]
            self._solver.solve(self._right, self._left)
            self.iterations += self._solver.getIterationNumber()
            if self._solver.getConvergedReason() < 0:
                raise SolverFailed(f"the velocity solver failed (PETSc reason {self._solver.getConvergedReason()})")
            solution[pattern.free, axis] = share.gather(self._left)
        return solution
