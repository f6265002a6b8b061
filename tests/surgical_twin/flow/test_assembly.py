"""Assembly by tensors against DOLFINx's quadrature, and the orders of the elements on an exact solution."""

import basix.ufl
import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from scipy.spatial import cKDTree

from surgical_twin.errors import InputError
from surgical_twin.flow.assembly import TransportAssembler, TransportPattern
from surgical_twin.flow.bdf import Bdf2
from surgical_twin.flow.beds import Resistance
from surgical_twin.flow.compiled import library
from surgical_twin.flow.convection_subscale import ConvectionSubscale
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.inflow import GivenVelocity
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian


@pytest.mark.parametrize("order", [1, 2])
def test_the_transport_matrix_is_that_of_dolfinx(tube, order):
    """The same form by code generation and quadrature, on a tube with one open port."""
    domain = tube(3e-3, 9e-3, 2, 3)
    space = LagrangeSpace(domain.points, domain.tetrahedra, order)
    fixed = np.unique(space.facet_nodes(domain.triangles[domain.triangle_tags != 2]))
    pattern = TransportPattern(space, fixed, fixed[::3], MPI.COMM_SELF)
    assembler = TransportAssembler(domain, space, pattern, [2])
    random = np.random.default_rng(1)
    velocity = random.normal(size=(len(space), 3))
    velocity[:, 2] += 1.0
    along = random.normal(size=(len(domain.tetrahedra), 3))
    weight = random.uniform(1, 2, len(domain.tetrahedra))
    values = assembler.values(velocity, 1060.0, along, weight, 3.5e-3) + 7.0 * assembler.mass_values
    inner, outer = pattern.parts(values[:-1])

    grid = mesh.create_mesh(
        MPI.COMM_SELF,
        domain.tetrahedra,
        basix.ufl.element("Lagrange", "tetrahedron", 1, shape=(3,)),
        domain.points,
    )
    scalar = fem.functionspace(grid, ("Lagrange", order))
    vector = fem.functionspace(grid, ("Lagrange", order, (3,)))
    cellwise = fem.functionspace(grid, ("DG", 0))
    cell_vector = fem.functionspace(grid, ("DG", 0, (3,)))
    _, to_ours = cKDTree(space.points).query(scalar.tabulate_dof_coordinates())
    _, cells = cKDTree(domain.points[domain.tetrahedra].mean(axis=1)).query(cellwise.tabulate_dof_coordinates())
    c, a, w = fem.Function(vector), fem.Function(cell_vector), fem.Function(cellwise)
    c.x.array[:] = velocity[to_ours].ravel()
    a.x.array[:] = along[cells].ravel()
    w.x.array[:] = weight[cells]
    u, v = ufl.TrialFunction(scalar), ufl.TestFunction(scalar)
    end = mesh.locate_entities_boundary(grid, 2, lambda x: np.isclose(x[2], 9e-3))
    ds = ufl.Measure(
        "ds", domain=grid, subdomain_data=mesh.meshtags(grid, 2, np.sort(end), np.ones(len(end), np.int32))
    )
    n = ufl.FacetNormal(grid)
    # The mean over quadrature points of max(c.n, 0): the same points as ours, of the same degree.
    form = 1060.0 * 0.5 * (ufl.dot(c, ufl.grad(u)) * v - ufl.dot(c, ufl.grad(v)) * u) * ufl.dx
    form += w * ufl.dot(a, ufl.grad(u)) * ufl.dot(a, ufl.grad(v)) * ufl.dx
    form += 3.5e-3 * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + 7.0 * u * v * ufl.dx
    form += 1060.0 * 0.5 * ufl.max_value(ufl.dot(c, n), 0) * u * v * ds(1, degree=3 * order)
    matrix = fem.assemble_matrix(fem.form(form)).to_scipy().tocsr()
    place = np.empty(len(space), dtype=int)
    place[to_ours] = np.arange(len(space))
    rows = matrix[place[pattern.free]]
    size = np.abs(matrix.data).max()
    assert abs(rows[:, place[pattern.free]] - inner).max() < 1e-12 * size
    assert abs(rows[:, place[pattern.given]] - outer).max() < 1e-12 * size


def cube(cells):
    """(-1, 1)^3 with one port all around."""
    axis = np.linspace(-1, 1, cells + 1)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    step = np.array([(cells + 1) ** 2, cells + 1, 1])
    low = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ step
    tetrahedra = []
    for path in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        corners = [low]
        for direction in path:
            corners.append(corners[-1] + step[direction])
        tetrahedra.append(np.column_stack(corners))
    cells_all = np.concatenate(tetrahedra)
    edges = points[cells_all[:, 1:]] - points[cells_all[:, :1]]
    flip = np.linalg.det(edges) < 0
    cells_all[flip, :2] = cells_all[flip, 1::-1]
    facets = np.concatenate([np.delete(cells_all, corner, axis=1) for corner in range(4)])
    _, first, times = np.unique(np.sort(facets, axis=1), axis=0, return_index=True, return_counts=True)
    outer = facets[first[times == 1]]
    port = FlowPort("around", "inlet", 1, np.zeros(3), np.array([1.0, 0, 0]), 1.0, 1.0)
    return FlowDomain.build(points, cells_all, outer, np.ones(len(outer), np.int32), [port], enclosed=True)


def square(cells):
    """(0, 1)^2 in triangles, with one port all around."""
    axis = np.linspace(0, 1, cells + 1)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    low = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    right = low + cells + 1
    triangles = np.concatenate([np.column_stack([low, right, right + 1]), np.column_stack([low, right + 1, low + 1])])
    facets = np.concatenate([np.delete(triangles, corner, axis=1) for corner in range(3)])
    _, first, times = np.unique(np.sort(facets, axis=1), axis=0, return_index=True, return_counts=True)
    outer = facets[first[times == 1]]
    port = FlowPort("around", "inlet", 1, np.zeros(2), np.array([1.0, 0]), 1.0, 1.0)
    return FlowDomain.build(points, triangles, outer, np.ones(len(outer), np.int32), [port], enclosed=True)


def ethier_steinman(points, time, a=np.pi / 4, d=np.pi / 2):
    """An exact solution of the Navier-Stokes equations (Int. J. Numer. Meth. Fluids 19 (1994) 369-375), nu = 1."""
    components = []
    for k in range(3):
        x, y, z = (points[:, (k + shift) % 3] for shift in range(3))
        components.append(
            -a * (np.exp(a * x) * np.sin(a * y + d * z) + np.exp(a * z) * np.cos(a * x + d * y)) * np.exp(-d * d * time)
        )
    return np.column_stack(components)


def ethier_steinman_pressure(points, time, a=np.pi / 4, d=np.pi / 2):
    total = np.exp(2 * a * points).sum(axis=1)
    for k in range(3):
        x, y, z = (points[:, (k + shift) % 3] for shift in range(3))
        total += 2 * np.sin(a * x + d * y) * np.cos(a * z + d * x) * np.exp(a * (y + z))
    return -0.5 * a * a * total * np.exp(-2 * d * d * time)


@pytest.mark.parametrize(("order", "coarse"), [(1, 5), (2, 3)])
def test_velocity_and_pressure_converge_at_the_rate_of_their_elements(order, coarse):
    errors = []
    for cells in (coarse, 2 * coarse):
        domain = cube(cells)
        dt = 0.004
        solver = NavierStokes(
            domain,
            inflow={"around": GivenVelocity(ethier_steinman)},
            outlets={},
            time_step=dt,
            density=1.0,
            rheology=Newtonian(1.0),
            order=order,
            max_cfl=np.inf,
        )
        points = solver.space.points
        solver.start(ethier_steinman(points, 0.0), ethier_steinman(points, -dt))
        for _ in range(15):
            solver.step()
        off = solver.velocity - ethier_steinman(points, solver.time)
        gap = solver.pressure - ethier_steinman_pressure(domain.points, solver.time)
        gap -= solver.lumped_mass @ gap / solver.lumped_mass.sum()
        errors.append([np.sqrt(np.sum(off * (solver.matrices.mass @ off))), np.sqrt(solver.lumped_mass @ gap**2)])
    rates = np.log2(np.divide(*errors))
    assert rates[0] > order + 1 - 0.2
    assert rates[1] > 2 - 0.2


def test_in_time_the_velocity_converges_at_second_order():
    """Against the same mesh's solution with a step eight times shorter: only the error in time is left."""
    domain = cube(4)

    def run(dt):
        solver = NavierStokes(
            domain,
            inflow={"around": GivenVelocity(ethier_steinman)},
            outlets={},
            time_step=dt,
            density=1.0,
            rheology=Newtonian(1.0),
            order=2,
            max_cfl=np.inf,
        )
        points = solver.space.points
        solver.start(ethier_steinman(points, 0.0), ethier_steinman(points, -dt))
        for _ in range(round(0.2 / dt)):
            solver.step()
        return solver

    fine = run(0.2 / 64)
    errors = []
    for steps in (8, 16):
        off = run(0.2 / steps).velocity - fine.velocity
        errors.append(np.sqrt(np.sum(off * (fine.matrices.mass @ off))))
    assert 1.8 < np.log2(errors[0] / errors[1]) < 2.6


@pytest.mark.parametrize("law", [Newtonian(), CarreauYasuda()], ids=["newtonian", "shear thinning"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_the_compiled_cells_give_the_equation_of_the_tensors(tube, dimension, law):
    """Two implementations of one equation: loops over cells in C, and products of whole arrays that serve any order."""
    domain, outlets = (tube(3e-3, 9e-3, 2, 3), {"outlet_1": Resistance(1e8)}) if dimension == 3 else (square(7), {})
    inflow = {domain.inlet.name: GivenVelocity(lambda points, time: np.ones_like(points))}
    solver = NavierStokes(domain, inflow=inflow, outlets=outlets, time_step=1e-3, rheology=law)
    momentum = solver._momentum
    random = np.random.default_rng(3)
    now, before = random.normal(size=(2, len(domain.points), dimension))
    pressure = random.normal(size=len(domain.points))
    bdf = Bdf2.after(2e-3, 1e-3)
    values, load, cfl = momentum.linear.equation(now, before, pressure, bdf)
    solver.transport.add_backflow(bdf.ahead(now, before), solver.density, values)
    whole_values, whole_load, whole_cfl = momentum.equation(now, before, pressure, bdf)
    free = momentum.transport.pattern.free
    assert cfl == pytest.approx(whole_cfl, rel=1e-12)
    np.testing.assert_allclose(values[:-1], whole_values[:-1], atol=1e-12 * np.abs(whole_values).max())
    np.testing.assert_allclose(load[free], whole_load[free], atol=1e-12 * np.abs(whole_load).max())
    rate, cell = momentum.linear.crossing(now)
    rates = np.linalg.norm(solver.transport.cell_mean(now), axis=1) / domain.element_length
    assert (rate, cell) == (pytest.approx(rates.max(), rel=1e-12), int(rates.argmax()))
    slope = solver.transport.jacobian(pressure[:, None])[:, :, 0]
    rough = slope - solver.transport.smoothed(slope)
    # From rest one step of backward Euler: w = (grad p - pi(grad p)) / rho / (1 / dt + 1 / tau).
    jacobian = solver.transport.jacobian(bdf.ahead(now, before))
    along = solver.transport.cell_mean(bdf.ahead(now, before))
    size = domain.element_length
    kinematic = momentum.viscosity(jacobian)[0] / solver.density
    rate = np.sqrt(
        (2 * np.linalg.norm(along, axis=1) / size) ** 2
        + (12 * kinematic / size**2) ** 2
        + np.einsum("ekc,ekc->e", jacobian, jacobian)
    )
    rest = momentum.linear.no_subscale()
    flux = rough / solver.density / (1 / bdf.length + rate)[:, None]
    tested = solver.transport.tested_with_gradient(flux[:, :, None])[:, 0]
    first, load = momentum.linear.pressure_subscale(pressure, rest, bdf.length)
    np.testing.assert_allclose(load, tested, atol=1e-12 * np.abs(tested).max())
    flux = (flux / bdf.length + rough / solver.density) / (1 / bdf.length + rate)[:, None]
    tested = solver.transport.tested_with_gradient(flux[:, :, None])[:, 0]
    load = momentum.linear.pressure_subscale(pressure, first, bdf.length)[1]
    np.testing.assert_allclose(load, tested, atol=1e-12 * np.abs(tested).max())


def test_on_quadratic_elements_convection_that_is_linear_is_not_stabilized(tube):
    """tau (a.grad u - pi(a.grad u), a.grad v) vanishes for a quadratic u: pi reproduces linear functions exactly."""
    domain = tube(3e-3, 9e-3, 2, 3)
    space = LagrangeSpace(domain.points, domain.tetrahedra, 2)
    fixed = np.unique(space.facet_nodes(domain.triangles[domain.triangle_tags == 1]))
    pattern = TransportPattern(space, fixed, fixed, MPI.COMM_SELF)
    assembler = TransportAssembler(domain, space, pattern, [])
    random = np.random.default_rng(4)
    x = space.points / 3e-3
    now, before = ((x**2) @ random.normal(size=(3, 3)) + x @ random.normal(size=(3, 3)) for _ in range(2))
    along = np.tile(random.normal(size=3), (len(domain.tetrahedra), 1))
    weight = random.uniform(1, 2, len(domain.tetrahedra))
    values = assembler.values(np.zeros_like(x), 1.0, along, weight, 0.0)
    inner, outer = pattern.parts(values[:-1])
    ahead = np.full(len(weight), 0.7)
    u = now + 0.7 * (now - before)
    load = ConvectionSubscale(domain, space).load(along, now, before, ahead, weight)[pattern.free]
    np.testing.assert_allclose(load, inner @ u[pattern.free] + outer @ u[fixed], atol=1e-6 * np.abs(load).max())


def test_without_a_compiler_it_is_said_in_a_sentence(tmp_path, monkeypatch):
    source = tmp_path / "some.c"
    source.write_text("int one(void) { return 1; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(InputError, match="needs a C compiler, and no-such-compiler cannot be run"):
        library(source)
    monkeypatch.setenv("CC", "cc")
    assert library(source).one() == 1
    monkeypatch.setenv("CC", "no-such-compiler")
    assert [path.suffix for path in (tmp_path / "cache" / "surgical-twin").iterdir()] == [".so"]
    source.write_text("int one(void) {")
    monkeypatch.setenv("CC", "cc")
    with pytest.raises(InputError, match=r"fails on .*some\.c"):
        library(source, "ONE=1")
