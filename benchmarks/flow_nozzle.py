"""FDA's nozzle at Re 500: the axis beside five measurements, and beside the laminar flow itself."""

from __future__ import annotations

import time as clock

import numpy as np
from flow_axisymmetric import laminar_axis
from flow_figures import Figures, console, figure
from flow_meshes import nozzle

from surgical_twin.flow.beds import GivenPressure
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.waveform import PeriodicWaveform

STATIONS = {"-0.088": (0.083, 0.093), "0": (0.709, 0.753), "0.024": (0.651, 0.677), "0.08": (0.417, 0.513)}
"""z [m], and the range of the axial velocity on the axis [m/s] over five data sets of three laboratories"""

FLOW, DENSITY, VISCOSITY = 5.20624e-6, 1056.0, 3.5e-3


def fda(quick: bool) -> Figures:
    """Velocity on the axis within the five data sets, and beside the laminar flow of the ideal geometry."""
    goals = {f"fda_axis_{place}": f"in {low} {high}" for place, (low, high) in STATIONS.items()}
    if quick:
        return {name: figure(None, goal, "m/s", "takes minutes; run without --quick") for name, goal in goals.items()}
    stations = np.array([float(station) for station in STATIONS])
    laminar = np.interp(stations, *laminar_axis(FLOW, DENSITY, VISCOSITY))
    domain = nozzle()
    solver = NavierStokes(
        domain, inflow=PeriodicWaveform.constant(FLOW, 1.0), outlets={"outlet": GivenPressure(0.0)}, time_step=0.002,
        density=DENSITY, rheology=Newtonian(VISCOSITY),
    )  # fmt: skip
    begin = clock.perf_counter()
    for _ in range(500):
        solver.step()
    console.print(
        f"FDA: {len(domain.tetrahedra)} tetrahedra, {solver.parts} steps, {clock.perf_counter() - begin:.0f} s"
    )
    on_axis = np.linalg.norm(domain.points[:, :2], axis=1) < 1e-9
    place = np.argsort(domain.points[on_axis, 2])
    values = np.interp(stations, domain.points[on_axis, 2][place], solver.velocity[on_axis, 2][place])
    found = {}
    for (name, goal), station, value, exact in zip(goals.items(), STATIONS, values, laminar, strict=True):
        console.print(f"FDA axis at {station} m: {value:.4f} m/s ({goal}); laminar and axisymmetric {exact:.4f}")
        found[name] = figure(value, goal, "m/s", f"the laminar flow of the ideal geometry has {exact:.4f}")
    gap = 100 * float(np.abs(values / laminar - 1).max())
    found["fda_axis_against_laminar"] = figure(gap, "<= 1", "%", "largest difference at the four places")
    return found
