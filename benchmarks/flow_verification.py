"""The 3D flow solver against numbers from outside: exact solutions, published benchmarks, another solver, experiments.

Each case says where its truth is from. `--only NAME ...` runs some of them; `--quick` takes coarser meshes where a
case has them and leaves out what takes minutes. Real data are read from `../shared/data` where it is there.
"""

from __future__ import annotations

import argparse
import json
import re
import time as clock
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flow_meshes import (
    CYLINDER,
    WIDTH,
    box,
    channel_domain,
    cylinder_channel,
    extruded,
    nozzle,
    read_svfsi,
    tube,
)
from numpy.typing import NDArray
from rich.console import Console
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.special import jv

from surgical_twin.flow.beds import GivenPressure
from surgical_twin.flow.energy import EnergyMeter, energy_gap
from surgical_twin.flow.inflow import GivenFlow, GivenVelocity
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.run import run_flow
from surgical_twin.flow.wall_shear import BodyForce, WallShear
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

Array = NDArray[np.float64]
Figures = dict[str, dict[str, Any]]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
console = Console(width=120)


def figure(value: float | None, goal: str, unit: str, why: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"value": None if value is None else round(float(value), 9), "goal": goal, "unit": unit}
    if why:
        made["why"] = why
    return made


def percent(value: float, exact: float) -> float:
    return 100 * abs(value / exact - 1)


# Exact solutions with the velocity given all around


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


# Tubes

RHO, MU = 1060.0, 3.5e-3


def poiseuille(quick: bool) -> Figures:
    """Hagen and Poiseuille's pressure drop in a meshed tube, ports and entrance included."""
    radius, length, flow = 3e-3, 30e-3, 3e-6
    found: Figures = {}
    for order, rings, layers in ((1, 16, 12), (2, 6, 6)):
        domain = tube(rings, np.linspace(0, length, layers + 1), radius, same_area=True)
        wave = PeriodicWaveform.constant(flow, 0.5)
        solver = NavierStokes(domain, inflow=wave, outlets={"outlet": GivenPressure(0.0)}, time_step=0.02, order=order,
                              rheology=Newtonian(MU), density=RHO, ramp=False)  # fmt: skip
        for _ in range(40):
            solver.step()
        drop = solver.port_pressure[0] - solver.port_pressure[1]
        exact = 8 * MU * flow * length / (np.pi * radius**4)
        stress = np.linalg.norm(WallShear(solver).stress(), axis=1)
        z = domain.points[domain.wall_nodes, 2]
        inside = (z > 0.25 * length) & (z < 0.75 * length)
        shear = stress[inside].mean()
        console.print(f"Poiseuille, order {order}, {len(domain.tetrahedra)} cells: drop {drop:.3f} of {exact:.3f} Pa, "
                      f"wall shear {shear:.4f} of {4 * MU * flow / (np.pi * radius**3):.4f} Pa")  # fmt: skip
        found[f"poiseuille_drop_order_{order}"] = figure(percent(drop, exact), "<= 0.5", "%")
        found[f"poiseuille_wall_shear_order_{order}"] = figure(
            percent(shear, 4 * MU * flow / (np.pi * radius**3)), "<= 2", "%"
        )
    return found


def womersley(quick: bool) -> Figures:
    """Womersley's oscillating flow: velocity over the section and wall shear, as complex amplitudes."""
    radius, length = 3e-3, 12e-3
    found: Figures = {}
    rings = 6 if quick else 8
    # Finer towards the wall: at alpha = 10 its layer is a seventh of the radius.
    domain = tube(rings, np.linspace(0, length, 7), radius, lambda s: np.sin(0.5 * np.pi * s), same_area=True)
    for alpha in (2.0, 5.0, 10.0):
        omega = alpha**2 * MU / RHO / radius**2
        period = 2 * np.pi / omega
        amplitude = 1e-7
        wave = PeriodicWaveform.from_fourier([0.0, amplitude], [0.0, 0.0], period)
        steps = (64 if quick else 128) * (2 if alpha < 4 else 1)
        solver = NavierStokes(
            domain,
            inflow={"inlet": GivenFlow(wave, "womersley")},
            order=2,
            density=RHO,
            outlets={"outlet": GivenPressure(0.0)},
            time_step=period / steps,
            rheology=Newtonian(MU),
        )
        shear = WallShear(solver)
        velocity, stress = [], []
        settle = 1 if alpha < 4 else 3
        for step in range((settle + 1) * steps):
            solver.step()
            if step >= settle * steps:
                phase = np.exp(-1j * omega * solver.time)
                velocity.append(solver.velocity[:, 2] * phase)
                stress.append(shear.stress()[:, 2] * phase)
        beta = 1j**1.5 * alpha
        area = np.pi * radius**2
        bulk = 1 - 2 * jv(1, beta) / (beta * jv(0, beta))
        place = np.linalg.norm(solver.space.points[:, :2], axis=1) / radius
        exact = amplitude / area * (1 - jv(0, beta * np.minimum(place, 1.0)) / jv(0, beta)) / bulk
        middle = np.abs(solver.space.points[:, 2] - 0.4 * length) < 0.2 * length
        numeric = 2 * np.mean(velocity, axis=0)
        error = np.sqrt(np.mean(np.abs(numeric - exact)[middle] ** 2) / np.mean(np.abs(exact)[middle] ** 2))
        wall = MU * amplitude / area / radius * beta * jv(1, beta) / jv(0, beta) / bulk
        inside = np.abs(domain.points[shear.nodes, 2] - 0.4 * length) < 0.2 * length
        shears = -2 * np.mean(stress, axis=0)[inside]
        # The stress points along the flow where the shear is positive; mean over the nodes as for the velocity.
        sign = 1.0 if abs((shears - wall).mean()) < abs((shears + wall).mean()) else -1.0
        wall_error = np.sqrt(np.mean(np.abs(shears - sign * wall) ** 2)) / abs(wall)
        console.print(f"Womersley alpha {alpha:g}: velocity {100 * error:.2f} %, wall shear {100 * wall_error:.2f} %")
        found[f"womersley_{alpha:g}_velocity"] = figure(100 * error, "<= 2", "%")
        found[f"womersley_{alpha:g}_wall_shear"] = figure(100 * wall_error, "<= 2", "%")
    return found


def windkessel(quick: bool) -> Figures:
    """A tube's Windkessel against SciPy's integration of its equation under the flow that the tube let through."""
    wave = PeriodicWaveform.named("peripheral", mean=5e-6, period=0.8)
    bed = Windkessel(2e8, 2.2e9, 3e-10)
    run = run_flow(tube(4, np.linspace(0, 20e-3, 11), 3e-3), inflow=wave, outlets={"outlet": bed}, duration=1.6,
                   time_step=0.0025)  # fmt: skip
    flow = CubicSpline(run.time, run.port_flow[:, 1])
    exact = solve_ivp(lambda t, c: (flow(t) - c / 2.2e9) / 3e-10, (0, run.time[-1]), run.capacitor_pressure[0],
                      t_eval=run.time, max_step=0.002, rtol=1e-9)  # fmt: skip
    pressure = exact.y[0] + 2e8 * run.port_flow[:, 1]
    error = 100 * np.abs(run.port_pressure[40:, 1] - pressure[40:]).max() / pressure[40:].mean()
    console.print(f"Windkessel: {error:.4f} % of the mean pressure; mass {run.figures['mass_error']:.1e}")
    return {
        "windkessel": figure(error, "<= 0.1", "%"),
        "mass_per_step": figure(run.figures["mass_error"], "<= 1e-6", "relative"),
    }


def energy(quick: bool) -> Figures:
    """The balance of energy in pulsatile flow through a tube of Reynolds number 300, over a beat."""
    wave = PeriodicWaveform.named("peripheral", mean=3e-6, period=0.8)
    domain = tube(6 if quick else 8, np.linspace(0, 20e-3, 9), 3e-3)
    gaps = {}
    for order in (1, 2):
        solver = NavierStokes(domain, inflow=wave, outlets={"outlet": Windkessel(2e8, 2.2e9, 3e-10)}, time_step=0.005,
                              order=order)  # fmt: skip
        meter = EnergyMeter(solver)
        times, rows = [], []
        for step in range(320):
            solver.step()
            if step >= 159:
                times.append(solver.time)
                rows.append(meter.measure())
        gap, loss = energy_gap(np.array(times), np.array(rows))
        work = float(np.abs(np.array(rows)[:, 2]).mean())
        gaps[order] = gap
        console.print(f"energy, order {order}: {100 * gap:.2f} % of the dissipation is not accounted for "
                      f"({100 * gap * loss / work:.4f} % of the work at the inlet)")  # fmt: skip
    return {f"energy_balance_order_{order}": figure(100 * abs(gap), "<= 1", "%") for order, gap in gaps.items()}


# Published benchmarks


def cylinder(
    case: str, around: int, layers: int, along: int, dt: float, duration: float, order: int = 2, deep: int = 10
) -> Array:
    """Flow around a cylinder (Schaefer & Turek 1996): (steps, 4) time, drag, lift, pressure difference."""
    three = case.startswith("3D")
    upstream = 0.3 if three else 0.0
    points, cells = cylinder_channel(around, layers, along, upstream=upstream)
    if three:
        points, cells = extruded(points, cells, np.linspace(0, WIDTH, deep + 1))
    center = 0.2 + upstream
    domain, on_cylinder = channel_domain(points, cells, center)
    fastest = {"2D-1": 0.3, "2D-2": 1.5, "2D-3": 1.5, "3D-1Z": 0.45}[case]

    def inflow(places: Array, time: float) -> Array:
        speed = fastest * 4 * places[:, 1] * (WIDTH - places[:, 1]) / WIDTH**2
        if three:
            speed = speed * 4 * places[:, 2] * (WIDTH - places[:, 2]) / WIDTH**2
        if case == "2D-3":
            speed = speed * np.sin(np.pi * time / 8)
        return np.column_stack([speed, *[np.zeros(len(places))] * (places.shape[1] - 1)])

    solver = NavierStokes(
        domain, inflow={"inlet": GivenVelocity(inflow)}, outlets={"outlet": GivenPressure(0.0)}, time_step=dt,
        density=1.0, rheology=Newtonian(1e-3), order=order, max_cfl=np.inf,
    )  # fmt: skip
    force = BodyForce(solver, on_cylinder)
    mean = fastest * (4 / 9 if three else 2 / 3)
    scale = 2 / (mean**2 * 2 * CYLINDER * (WIDTH if three else 1.0))
    middle = [WIDTH / 2] if three else []
    ends = [np.argmin(np.linalg.norm(points - np.array([center + side * CYLINDER, 0.2, *middle]), axis=1))
            for side in (-1, 1)]  # fmt: skip
    rows, begin = [], clock.perf_counter()
    for _ in range(round(duration / dt)):
        solver.step()
        drag, lift = force.force()[:2] * scale
        rows.append((solver.time, drag, lift, solver.pressure[ends[0]] - solver.pressure[ends[1]]))
    spent = clock.perf_counter() - begin
    console.print(f"{case}: {len(domain.tetrahedra)} cells, order {order}, {len(rows)} steps, {spent:.0f} s")
    return np.array(rows)


def dfg_2d1(quick: bool) -> Figures:
    """Steady, Re 20."""
    _, drag, lift, gap = cylinder("2D-1", 64 if quick else 96, 12 if quick else 16, 24 if quick else 32, 0.02, 10.0)[-1]
    console.print(f"2D-1: drag {drag:.5f} (5.57954), lift {lift:.6f} (0.010619), pressure {gap:.5f} (0.11752)")
    return {
        "dfg_2d1_drag": figure(drag, "in 5.57 5.59", ""),
        "dfg_2d1_lift": figure(lift, "in 0.0104 0.0110", ""),
        "dfg_2d1_pressure": figure(gap, "in 0.1172 0.1176", ""),
    }


def dfg_2d2(quick: bool) -> Figures:
    """Vortices, Re 100, over the last period."""
    rows = cylinder("2D-2", 96, 24, 90, 0.00125, 7.5)
    late = rows[rows[:, 0] > 6.0]
    lift = late[:, 2]
    up = np.flatnonzero((lift[:-1] < 0) & (lift[1:] >= 0))
    crossing = late[up, 0] - lift[up] * (late[up + 1, 0] - late[up, 0]) / (lift[up + 1] - lift[up])
    strouhal = 0.1 / np.diff(crossing).mean()
    period = slice(up[-2], up[-1])
    half = int(np.argmin(np.abs(late[:, 0] - (late[up[-2] + np.argmax(lift[period]), 0] + 0.5 * 0.1 / strouhal))))
    console.print(f"2D-2: drag {late[period, 1].max():.4f}, lift {lift[period].max():.4f}, Strouhal {strouhal:.4f}, "
                  f"pressure {late[half, 3]:.4f}")  # fmt: skip
    return {
        "dfg_2d2_drag_max": figure(late[period, 1].max(), "in 3.22 3.24", ""),
        "dfg_2d2_lift_max": figure(lift[period].max(), "in 0.99 1.01", ""),
        "dfg_2d2_strouhal": figure(strouhal, "in 0.295 0.305", ""),
        "dfg_2d2_pressure": figure(late[half, 3], "in 2.46 2.50", "", "half a period after the largest lift"),
    }


def dfg_2d3(quick: bool) -> Figures:
    """Re rises to 100 and falls, 8 s."""
    rows = cylinder("2D-3", 96, 20, 60, 0.0025, 8.0)
    drag, lift = rows[:, 1], rows[:, 2]
    console.print(
        f"2D-3: drag {drag.max():.5f} at {rows[drag.argmax(), 0]:.4f} s (2.95092), lift "
        f"{lift.max():.5f} at {rows[lift.argmax(), 0]:.4f} s (0.47795), pressure {rows[-1, 3]:.5f}"
    )
    return {
        "dfg_2d3_drag_max": figure(drag.max(), "in 2.93 2.97", ""),
        "dfg_2d3_lift_max": figure(lift.max(), "in 0.47 0.49", ""),
        "dfg_2d3_pressure_8s": figure(rows[-1, 3], "in -0.115 -0.105", ""),
    }


def dfg_3d1z(quick: bool) -> Figures:
    """Steady in three dimensions, Re 20."""
    if quick:
        why = "takes minutes; run without --quick"
        return {name: figure(None, goal, "", why) for name, goal in _DFG_3D.items()}
    _, drag, lift, gap = cylinder("3D-1Z", 48, 9, 14, 0.04, 8.0, deep=8)[-1]
    console.print(f"3D-1Z: drag {drag:.5f} (6.18533), lift {lift:.6f} (0.009401), pressure {gap:.5f}")
    values = drag, lift, gap
    return {name: figure(value, goal, "") for (name, goal), value in zip(_DFG_3D.items(), values, strict=True)}


_DFG_3D = {"dfg_3d1z_drag": "in 6.05 6.25", "dfg_3d1z_lift": "in 0.008 0.01", "dfg_3d1z_pressure": "in 0.165 0.175"}


# Another solver, and an experiment


def svfsi(quick: bool) -> Figures:
    """The pipe with a Windkessel of svFSI's tests, on its own mesh: the last cycle of its stored result."""
    folder = DATA / "svfsi_pipe_rcr" / "04-fluid" / "01-pipe3D_RCR"
    goals = {
        name: "<= 1" for name in ("svfsi_inlet_pressure", "svfsi_outlet_pressure", "svfsi_flow", "svfsi_wall_shear")
    }
    if not folder.is_dir():
        return {name: figure(None, goal, "%", f"{folder} is not here") for name, goal in goals.items()}
    table = np.loadtxt(folder / "lumen_inlet.flow", skiprows=1)
    inflow = PeriodicWaveform.from_table(table[:, 0], -table[:, 1] * 1e-6)
    domain = read_svfsi(folder)
    bed = Windkessel(121e5, 1212e5, 1.5e-4 * 1e-5, 0.0)
    begin = clock.perf_counter()
    run = run_flow(domain, inflow=inflow, outlets={"outlet": bed}, duration=4.0, time_step=0.005, density=1060.0,
                   rheology=Newtonian(0.004), wall_shear=True, snapshot_every=1, last_beat_only=True,
                   initial_capacitor_pressure={"outlet": 1e-3})  # fmt: skip
    spent = clock.perf_counter() - begin
    theirs = {name: np.array([[float(v) for v in line.split()] for line in
                              (folder / "16-procs" / f"B_NS_{name}.txt").read_text().splitlines()
                              if re.match(r"^[\s\d.eE+-]+$", line) and line.strip()])
              for name in ("Pressure_average", "Velocity_flux", "WSS_average")}  # fmt: skip
    return _compare_svfsi(run, domain, theirs, folder, spent)


def _compare_svfsi(run: Any, domain: Any, theirs: dict[str, Array], folder: Path, spent: float) -> Figures:
    header = (folder / "16-procs" / "B_NS_Pressure_average.txt").read_text().splitlines()[:3]
    console.print("svFSI's columns:", header[:2])
    last = slice(-200, None)
    names = re.findall(r"lumen_\w+", " ".join(header))
    order = {name: place for place, name in enumerate(names[:3])} or {
        "lumen_inlet": 0,
        "lumen_outlet": 1,
        "lumen_wall": 2,
    }
    pressure, flux = theirs["Pressure_average"][last], theirs["Velocity_flux"][last]
    ours = slice(-200, None)
    scale = 0.1  # dyn/cm^2 in Pa
    found: Figures = {}
    for name, column, place in (("inlet", order["lumen_inlet"], 0), ("outlet", order["lumen_outlet"], 1)):
        reference = pressure[:, column] * scale
        error = 100 * np.sqrt(np.mean((run.port_pressure[ours, place] - reference) ** 2) / np.mean(reference**2))
        console.print(
            f"svFSI {name} pressure {reference.min():.1f}..{reference.max():.1f} Pa, ours "
            f"{run.port_pressure[ours, place].min():.1f}..{run.port_pressure[ours, place].max():.1f}: {error:.2f} %"
        )
        found[f"svfsi_{name}_pressure"] = figure(error, "<= 1", "%", "root mean square over the last cycle")
    reference = flux[:, order["lumen_outlet"]] * 1e-6
    error = 100 * np.sqrt(np.mean((run.port_flow[ours, 1] - reference) ** 2) / np.mean(reference**2))
    found["svfsi_flow"] = figure(error, "<= 1", "%")
    shear = theirs["WSS_average"][last][:, order["lumen_wall"]] * scale
    triangles = domain.triangles[domain.triangle_tags == 0]
    areas = domain.triangle_areas(triangles)
    # The stored value is of the gradient in the cells behind the wall, as a vector averaged at the wall's nodes by
    # area, of which the magnitude is averaged over the wall. Compared is like with like; three cells across the radius
    # do not resolve the layer, and the stress proper (from the balance of forces) is several times as large.
    proper = np.linalg.norm(run.wall_shear[-200:], axis=2)
    places = np.searchsorted(domain.wall_nodes, triangles)
    proper_mean = (proper[:, places].mean(axis=2) * areas).sum(axis=1) / areas.sum()
    chosen = domain.triangle_tags == 0
    owners, normals = domain.boundary_cells[chosen], domain.outward[chosen] / areas[:, None]
    mean = np.empty(200)
    share = np.bincount(places.ravel(), weights=np.repeat(areas / 3, 3))
    for step, velocity in enumerate(run.velocity[-200:]):
        jacobian = np.einsum("fck,fcd->fkd", domain.gradients[owners], velocity[domain.tetrahedra[owners]])
        traction = 0.004 * np.einsum("fkd,fk->fd", jacobian + np.swapaxes(jacobian, 1, 2), normals)
        traction -= np.einsum("fd,fd->f", traction, normals)[:, None] * normals
        at_nodes = np.zeros((len(domain.wall_nodes), 3))
        np.add.at(at_nodes, places, (traction * areas[:, None] / 3)[:, None])
        magnitude = np.linalg.norm(at_nodes / share[:, None], axis=1)
        mean[step] = (magnitude[places].mean(axis=1) * areas).sum() / areas.sum()
    console.print(f"wall shear proper {proper_mean.min():.3f}..{proper_mean.max():.3f} Pa")
    error = 100 * np.sqrt(np.mean((mean - shear) ** 2) / np.mean(shear**2))
    console.print(
        f"svFSI flow {found['svfsi_flow']['value']:.3f} %, wall shear {shear.min():.3f}..{shear.max():.3f}, "
        f"ours {mean.min():.3f}..{mean.max():.3f}: {error:.2f} %; {spent:.0f} s, 800 steps, one core"
    )
    found["svfsi_wall_shear"] = figure(error, "<= 1", "%", "the gradient in the cells behind the wall, as stored")
    found["svfsi_seconds_for_1600_steps"] = figure(2 * spent, "<= 108", "s", "its own: 108 s on 16 processes")
    return found


def fda(quick: bool) -> Figures:
    """FDA's nozzle at Re 500: velocity on the axis within the five data sets of three laboratories."""
    stations = {"-0.088": (0.083, 0.093), "0": (0.709, 0.753), "0.024": (0.651, 0.677), "0.08": (0.417, 0.513)}
    goals = {f"fda_axis_{place}": f"in {low} {high}" for place, (low, high) in stations.items()}
    if quick:
        return {name: figure(None, goal, "m/s", "takes minutes; run without --quick") for name, goal in goals.items()}
    domain = nozzle()
    flow = PeriodicWaveform.constant(5.20624e-6, 1.0)
    solver = NavierStokes(domain, inflow=flow, outlets={"outlet": GivenPressure(0.0)}, time_step=0.002, density=1056.0,
                          rheology=Newtonian(3.5e-3))  # fmt: skip
    begin = clock.perf_counter()
    for _ in range(500):
        solver.step()
    console.print(
        f"FDA: {len(domain.tetrahedra)} tetrahedra, {solver.parts} steps, {clock.perf_counter() - begin:.0f} s"
    )
    on_axis = np.linalg.norm(domain.points[:, :2], axis=1) < 1e-9
    place = np.argsort(domain.points[on_axis, 2])
    z, speed = domain.points[on_axis, 2][place], solver.velocity[on_axis, 2][place]
    found = {}
    for (name, goal), station in zip(goals.items(), stations, strict=True):
        value = float(np.interp(float(station), z, speed))
        console.print(f"FDA axis at {station} m: {value:.4f} m/s ({goal})")
        found[name] = figure(value, goal, "m/s")
    return found


def measured_axis() -> dict[str, Array]:
    """The laboratories' own axial velocities at Re 500, by file: (n, 2) z [m], velocity [m/s]; empty where not here."""
    archive = DATA / "fda_nozzle" / "Nozzle" / "Data" / "SE_exp_0500.zip"
    found = {}
    if archive.is_file():
        with zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                text = files.read(name).decode("latin-1")
                block = re.search(r"plot-z-distribution-axial-velocity\s*\n(?:\d+\s*\n)?((?:[\s\d.eE+-]+\n)+)", text)
                if block:
                    rows = [line.split() for line in block.group(1).splitlines() if len(line.split()) == 2]
                    found[name] = np.array(rows, dtype=float)
    return found


CASES: dict[str, Callable[[bool], Figures]] = {
    "orders": orders,
    "poiseuille": poiseuille,
    "womersley": womersley,
    "windkessel": windkessel,
    "energy": energy,
    "svfsi": svfsi,
    "dfg_2d1": dfg_2d1,
    "dfg_2d2": dfg_2d2,
    "dfg_2d3": dfg_2d3,
    "dfg_3d1z": dfg_3d1z,
    "fda": fda,
}
SLOW = ("dfg_2d2", "dfg_2d3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=None)
    options = parser.parse_args()
    figures: Figures = {}
    for name, case in CASES.items():
        if options.only is not None and name not in options.only:
            continue
        if options.quick and name in SLOW and options.only is None:
            continue
        figures |= case(options.quick)
    print(json.dumps({"benchmark": "flow_verification", "figures": figures}))


if __name__ == "__main__":
    main()
