"""Orders of convergence on exact solutions with the velocity given all around: Ethier and Steinman's flow, and a
manufactured one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flow_figures import Figures, console, figure
from flow_meshes import box
from numpy.typing import NDArray

from surgical_twin.flow.inflow import GivenVelocity
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import Newtonian

Array = NDArray[np.float64]


def ethier_steinman(points: Array, time: float) -> Array:
    """Ethier & Steinman, Int. J. Numer. Meth. Fluids 19 (1994) 369-375, with nu = 1."""
    a, d = np.pi / 4, np.pi / 2
    parts = []
    for k in range(3):
        x, y, z = (points[:, (k + shift) % 3] for shift in range(3))
        parts.append(-a * (np.exp(a * x) * np.sin(a * y + d * z) + np.exp(a * z) * np.cos(a * x + d * y)))
    return np.column_stack(parts) * np.exp(-d * d * time)


def ethier_steinman_pressure(points: Array, time: float) -> Array:
    a, d = np.pi / 4, np.pi / 2
    total = np.exp(2 * a * points).sum(axis=1)
    for k in range(3):
        x, y, z = (points[:, (k + shift) % 3] for shift in range(3))
        total += 2 * np.sin(a * x + d * y) * np.cos(a * z + d * x) * np.exp(a * (y + z))
    return -0.5 * a * a * total * np.exp(-2 * d * d * time)


def vortices(points: Array, time: float) -> Array:
    """A manufactured planar flow whose force is `vortices_force`."""
    x, y = np.pi * points[:, 0], np.pi * points[:, 1]
    return np.column_stack([np.sin(x) * np.cos(y), -np.cos(x) * np.sin(y)]) * np.cos(3 * time)


def vortices_pressure(points: Array, time: float) -> Array:
    x, y = np.pi * points[:, 0], np.pi * points[:, 1]
    return np.sin(x) * np.sin(y) * np.cos(3 * time)


def vortices_force(points: Array, time: float) -> Array:
    """rho = 1, nu = 0.05: du/dt + u.grad u - nu lap u + grad p of the two above, by hand."""
    x, y = np.pi * points[:, 0], np.pi * points[:, 1]
    shape = np.column_stack([np.sin(x) * np.cos(y), -np.cos(x) * np.sin(y)])
    convection = 0.5 * np.pi * np.column_stack([np.sin(2 * x), np.sin(2 * y)]) * np.cos(3 * time) ** 2
    slope = np.pi * np.column_stack([np.cos(x) * np.sin(y), np.sin(x) * np.cos(y)]) * np.cos(3 * time)
    return -3 * np.sin(3 * time) * shape + convection + 0.05 * 2 * np.pi**2 * np.cos(3 * time) * shape + slope


def enclosed_run(
    cells: int, order: int, dt: float, duration: float, velocity: Callable[[Array, float], Array],
    pressure: Callable[[Array, float], Array], viscosity: float, force: Callable[[Array, float], Array] | None = None,
) -> NavierStokes:  # fmt: skip
    plane = force is not None
    domain = box(cells, 2, 0.0, 1.0) if plane else box(cells, 3, -1.0, 1.0)
    solver = NavierStokes(
        domain, inflow={"around": GivenVelocity(velocity)}, outlets={}, time_step=dt, density=1.0,
        rheology=Newtonian(viscosity), order=order, max_cfl=np.inf, body_force=force,
    )  # fmt: skip
    points = solver.space.points
    solver.start(velocity(points, 0.0), velocity(points, -dt), pressure(domain.points, 0.0))
    for _ in range(round(duration / dt)):
        solver.step()
    return solver


def norms(solver: NavierStokes, velocity: Array, pressure: Array) -> tuple[float, float]:
    """L2 errors of velocity and pressure, the latter's mean taken off."""
    off = solver.velocity - velocity
    load = solver.lumped_mass
    gap = solver.pressure - pressure
    gap = gap - load @ gap / load.sum()
    return float(np.sqrt(np.sum(off * (solver.matrices.mass @ off)))), float(np.sqrt(load @ gap**2))


def orders(quick: bool) -> Figures:
    """Observed orders on Ethier and Steinman's flow and on a manufactured one."""
    found: Figures = {}
    for order, sizes in ((1, (6, 12) if quick else (8, 16)), (2, (3, 6) if quick else (4, 8))):
        errors = []
        for cells in sizes:
            solver = enclosed_run(cells, order, 0.0025, 0.05, ethier_steinman, ethier_steinman_pressure, 1.0)
            exact = ethier_steinman(solver.space.points, solver.time)
            errors.append(norms(solver, exact, ethier_steinman_pressure(solver.domain.points, solver.time)))
        rates = np.log2(np.array(errors[0]) / np.array(errors[1]))
        console.print(f"Ethier-Steinman, order {order}, {sizes} cells an edge: errors {errors}, rates {rates}")
        found[f"space_velocity_order_{order}"] = figure(rates[0], f">= {order + 0.8}", "order")
        found[f"space_pressure_order_{order}"] = figure(rates[1], ">= 0.8" if order == 1 else ">= 1.8", "order")
    for order, sizes in ((1, (16, 32)), (2, (8, 16))):
        errors = []
        for cells in sizes:
            solver = enclosed_run(cells, order, 0.002, 0.1, vortices, vortices_pressure, 0.05, vortices_force)
            exact = vortices(solver.space.points, solver.time)
            errors.append(norms(solver, exact, vortices_pressure(solver.domain.points, solver.time)))
        rates = np.log2(np.array(errors[0]) / np.array(errors[1]))
        console.print(f"manufactured, order {order}, {sizes} cells an edge: errors {errors}, rates {rates}")
        found[f"manufactured_velocity_order_{order}"] = figure(rates[0], f">= {order + 0.8}", "order")
    fine = enclosed_run(12, 2, 0.4 / 256, 0.4, vortices, vortices_pressure, 0.05, vortices_force)
    errors = []
    for steps in (16, 32):
        solver = enclosed_run(12, 2, 0.4 / steps, 0.4, vortices, vortices_pressure, 0.05, vortices_force)
        errors.append(norms(solver, fine.velocity, fine.pressure))
    rates = np.log2(np.array(errors[0]) / np.array(errors[1]))
    console.print(f"in time against the same mesh's solution with 1/16 of the step: errors {errors}, rates {rates}")
    found["time_velocity_order"] = figure(rates[0], "in 1.8 2.3", "order")
    found["time_pressure_order"] = figure(rates[1], ">= 0.8", "order")
    return found
