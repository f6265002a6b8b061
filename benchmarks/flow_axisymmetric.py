"""FDA's nozzle as a steady axisymmetric flow, solved by other means than ours: Newton's method on the coupled equations
in cylindrical coordinates, Taylor-Hood triangles in the half plane, by DOLFINx's own assembly and a direct solver.

It says what the laminar flow of the ideal geometry is, whatever was measured in real ones.
"""

from __future__ import annotations

import dolfinx_solver  # noqa: F401  # isort: skip  (finds the libraries; must come before dolfinx)
from itertools import pairwise

import basix.ufl
import numpy as np
import ufl
from dolfinx import fem, mesh
from dolfinx.fem import petsc
from mpi4py import MPI
from numpy.typing import NDArray
from petsc4py import PETSc

Array = NDArray[np.float64]

BEGIN, END, THROAT, WIDE, NARROW = -0.12, 0.12, -0.04, 6e-3, 2e-3
"""z of both ends and of the throat's beginning, and the radii, m; the sudden expansion is at z = 0"""

CONE = (WIDE - NARROW) / np.tan(np.radians(10.0))


def half_plane(inner: int, outer: int) -> tuple[Array, NDArray[np.int64]]:
    """(n, 2) points z, r and triangles: ``inner`` layers up to the throat's radius, ``outer`` more behind it."""
    before = np.concatenate(
        [
            np.linspace(BEGIN, THROAT - CONE, 20)[:-1],
            np.linspace(THROAT - CONE, THROAT, 24)[:-1],
            np.linspace(THROAT, 0.0, 50),
        ]
    )
    share = np.linspace(0.0, 1.0, 90)
    behind = END * (0.35 * share + 0.65 * share**2)
    bore = np.interp(before, [BEGIN, THROAT - CONE, THROAT, 0.0], [WIDE, WIDE, NARROW, NARROW])
    core = 1.0 - (1.0 - np.linspace(0.0, 1.0, inner + 1)) ** 1.5
    beyond = np.linspace(0.0, 1.0, outer + 1)[1:]
    radii = np.concatenate([NARROW * core, NARROW + (WIDE - NARROW) * (0.35 * beyond + 0.65 * beyond**2)])
    columns = [np.column_stack([np.full(inner + 1, z), radius * core]) for z, radius in zip(before, bore, strict=True)]
    step = np.column_stack([np.zeros(outer), radii[inner + 1 :]])
    columns += [step, *(np.column_stack([np.full(len(radii), z), radii]) for z in behind[1:])]
    first = np.cumsum([0, *(len(column) for column in columns)])
    rows = [first[k] + np.arange(inner + 1) for k in range(len(before))]
    # The expansion's own column is the last before it, and the step's wall.
    rows.append(np.concatenate([rows[-1], first[len(before)] + np.arange(outer)]))
    rows += [first[k] + np.arange(len(radii)) for k in range(len(before) + 1, len(columns))]
    triangles = []
    for near, far in pairwise(rows):
        if len(near) == len(far):  # not over the expansion itself, whose two columns share their nodes
            triangles.append(np.column_stack([near[:-1], far[:-1], far[1:]]))
            triangles.append(np.column_stack([near[:-1], far[1:], near[1:]]))
    return np.concatenate(columns), np.concatenate(triangles)


def laminar_axis(
    flow: float, density: float, viscosity: float, inner: int = 10, outer: int = 14
) -> tuple[Array, Array]:
    """z [m] and the axial velocity [m/s] on the axis; a parabola at the inlet, no traction at the outlet."""
    points, triangles = half_plane(inner, outer)
    grid = mesh.create_mesh(MPI.COMM_SELF, triangles, basix.ufl.element("Lagrange", "triangle", 1, shape=(2,)), points)
    quadratic = basix.ufl.element("Lagrange", "triangle", 2, shape=(2,))
    space = fem.functionspace(grid, basix.ufl.mixed_element([quadratic, basix.ufl.element("Lagrange", "triangle", 1)]))
    state = fem.Function(space)
    (u, p), (v, q) = ufl.split(state), ufl.TestFunctions(space)
    r = ufl.SpatialCoordinate(grid)[1]
    mu = fem.Constant(grid, viscosity)
    inertia = density * ufl.dot(ufl.dot(u, ufl.nabla_grad(u)), v)
    friction = mu * (ufl.inner(ufl.grad(u), ufl.grad(v)) + u[1] * v[1] / (r * r + 1e-18))
    pressure = -p * (ufl.div(v) + v[1] / r) - q * (ufl.div(u) + u[1] / r)
    balance = (inertia + friction + pressure) * 1e6 * r * ufl.dx(metadata={"quadrature_degree": 6})
    velocities, _ = space.sub(0).collapse()
    inlet, rest = fem.Function(velocities), fem.Function(velocities)
    fastest = 2.0 * flow / (np.pi * WIDE**2)
    inlet.interpolate(lambda x: np.vstack([fastest * (1.0 - x[1] ** 2 / WIDE**2), 0.0 * x[0]]))
    across, _ = space.sub(0).sub(1).collapse()

    def edges(where: str) -> NDArray[np.int32]:
        chosen = {
            "inlet": lambda x: x[0] < BEGIN + 1e-9,
            "outlet": lambda x: x[0] > END - 1e-9,
            "axis": lambda x: x[1] < 1e-12,
        }
        return mesh.locate_entities_boundary(grid, 1, chosen[where])

    grid.topology.create_connectivity(1, 2)
    open_edges = np.concatenate([edges("inlet"), edges("outlet"), edges("axis")])
    wall = np.setdiff1d(mesh.exterior_facet_indices(grid.topology), open_edges)
    whole, radial = (space.sub(0), velocities), (space.sub(0).sub(1), across)
    given = [
        fem.dirichletbc(rest, fem.locate_dofs_topological(whole, 1, wall), space.sub(0)),
        fem.dirichletbc(inlet, fem.locate_dofs_topological(whole, 1, edges("inlet")), space.sub(0)),
        fem.dirichletbc(
            fem.Function(across), fem.locate_dofs_topological(radial, 1, edges("axis")), space.sub(0).sub(1)
        ),
    ]
    residual, slope = fem.form(balance), fem.form(ufl.derivative(balance, state))
    for thicker in (10.0, 3.0, 1.5, 1.0):
        mu.value = thicker * viscosity
        for _ in range(25):
            matrix = petsc.assemble_matrix(slope, given)
            matrix.assemble()
            load = petsc.assemble_vector(residual)
            petsc.apply_lifting(load, [slope], [given], x0=[state.x.petsc_vec], alpha=-1.0)
            petsc.set_bc(load, given, state.x.petsc_vec, alpha=-1.0)
            solver = PETSc.KSP().create(MPI.COMM_SELF)
            solver.setOperators(matrix)
            solver.setType("preonly")
            solver.getPC().setType("lu")
            solver.getPC().setFactorSolverType("mumps")
            change = load.duplicate()
            solver.solve(load, change)
            state.x.array[:] -= change.array
            if np.abs(change.array).max() < 1e-9:
                break
        else:
            raise RuntimeError(f"Newton's method did not converge at {thicker} times the viscosity")
    places = velocities.tabulate_dof_coordinates()
    on_axis = np.flatnonzero(places[:, 1] < 1e-12)
    order = on_axis[np.argsort(places[on_axis, 0])]
    return places[order, 0], state.sub(0).collapse().x.array[0::2][order]
