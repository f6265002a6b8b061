"""The DFG benchmarks of flow around a cylinder (Schaefer & Turek, Notes Numer. Fluid Mech. 52 (1996) 547-566)."""

from __future__ import annotations

import time as clock

import numpy as np
from flow_figures import Figures, console, figure
from flow_meshes import CYLINDER, WIDTH, channel_domain, cylinder_channel, extruded
from numpy.typing import NDArray

from surgical_twin.flow.beds import GivenPressure
from surgical_twin.flow.inflow import GivenVelocity
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.wall_shear import BodyForce

Array = NDArray[np.float64]


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
