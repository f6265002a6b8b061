"""Flow in elastic tubes: Womersley's wave in a tethered tube, and a carotid artery that others have solved.

The artery is that of Boileau et al. (Int. J. Numer. Meth. Biomed. Engng. 31 (2015) e02732), whose 1D codes agree within
a per cent; the waveforms it is held against are openBF's own. Its tube law is linear in the radius, from the radius
without pressure; here the mesh has the radius of the mean pressure, and rings as stiff.
"""

from __future__ import annotations

import numpy as np
from flow_figures import DATA, Figures, console, figure
from flow_meshes import tube
from numpy.typing import NDArray
from scipy.special import jv

from surgical_twin.flow.beds import Resistance
from surgical_twin.flow.elastic_wall import ElasticWall
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

RHO, MU = 1060.0, 4e-3
ARTERY = DATA / "openbf_1d"


def near_wall(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rings that are finer towards the wall."""
    return np.asarray(np.sin(0.5 * np.pi * share))


def wave(quick: bool) -> Figures:
    """A travelling pulse, reflected at its end: complex amplitudes of the inlet's pressure and the outlet's flow.

    The port's rims do not move, which takes away a layer's compliance; the error goes with a layer's length.
    """
    radius, length, period, amplitude, bed = 3e-3, 60e-3, 0.2, 1e-6, 3.8e8
    wall = ElasticWall(youngs_modulus=4e5, thickness=3e-4, radius=radius)
    omega, area = 2 * np.pi / period, np.pi * radius**2
    beta = 1j**1.5 * radius * np.sqrt(omega * RHO / MU)
    series = 1j * omega * RHO / (area * (1 - 2 * jv(1, beta) / (beta * jv(0, beta))))
    shunt = 1j * omega * 2 * np.pi * radius / (wall.stiffness - omega**2 * wall.inertia)
    turn, own = np.sqrt(series * shunt) * length, np.sqrt(series / shunt)
    outflow = amplitude / (np.sinh(turn) / own * bed + np.cosh(turn))
    inlet = (np.cosh(turn) * bed + own * np.sinh(turn)) * outflow
    layers, steps = (32, 100) if quick else (64, 200)
    domain = tube(6, np.linspace(0, length, layers + 1), radius, near_wall, same_area=True)
    given = GivenFlow(PeriodicWaveform.from_fourier([0.0, amplitude], [0.0, 0.0], period), "womersley")
    solver = NavierStokes(domain, inflow={"inlet": given}, outlets={"outlet": Resistance(bed)}, density=RHO,
                          time_step=period / steps, rheology=Newtonian(MU), wall=wall)  # fmt: skip
    found = np.zeros(2, dtype=complex)
    for step in range(2 * steps):
        solver.step()
        if step >= steps:
            turned = 2.0 / steps * np.exp(-1j * omega * solver.time)
            found += turned * np.array([solver.port_pressure[0], solver.port_flow[1]])
    errors = 100 * np.abs(found / np.array([inlet, outflow]) - 1)
    console.print(f"Womersley's wave, {len(domain.tetrahedra)} cells: inlet pressure {errors[0]:.2f} %, outlet flow "
                  f"{errors[1]:.2f} % (a rigid tube: {100 * abs(amplitude / outflow - 1):.0f} %)")  # fmt: skip
    return {
        "elastic_wave_pressure": figure(errors[0], "<= 2", "%"),
        "elastic_wave_flow": figure(errors[1], "<= 2", "%"),
        "elastic_mass_per_step": figure(solver.mass_error, "<= 1e-6", "relative"),
    }


def artery(quick: bool) -> Figures:
    """The common carotid artery, over the periodic beat; the root of the mean square error over the pulse."""
    names = ("inlet_pressure", "outlet_pressure", "outlet_flow")
    if not ARTERY.is_dir():
        return {f"carotid_{name}": figure(None, "<= 1", "% of the pulse", f"needs {ARTERY}") for name in names}
    with np.load(ARTERY / "cca_reference.npz") as data:
        flow, pressure = data["00_Q"], data["02_P"]
    time = pressure[:, 0] - pressure[0, 0]
    mean = float(np.trapezoid(pressure[:, 3], time) / time[-1])
    stiffness = 700e3 * 0.24e-3 / (0.75 * 2.6485e-3**2)
    radius = 2.6485e-3 + mean / stiffness
    wall = ElasticWall(stiffness * 0.75 * radius**2 / 0.24e-3, 0.24e-3, radius, reference_pressure=mean)
    inlet = np.loadtxt(ARTERY / "models/boileau2015/cca/cca_inlet.dat")
    rings, layers = (4, 60) if quick else (6, 80)
    domain = tube(rings, np.linspace(0, 126e-3, layers + 1), radius, near_wall, same_area=True)
    beats, steps = 6, 440
    solver = NavierStokes(
        domain, inflow=PeriodicWaveform.from_table(inlet[:, 0], inlet[:, 1]), time_step=1.1 / steps, density=RHO,
        outlets={"outlet": Windkessel(2.4875e8, 1.8697e9, 1.7529e-10)}, rheology=Newtonian(MU), wall=wall,
        initial_capacitor_pressure={"outlet": 12.2e3},
    )  # fmt: skip
    rows = []
    for _ in range(beats * steps):
        solver.step()
        rows.append([solver.time - (beats - 1) * 1.1, *solver.port_pressure, solver.port_flow[1]])
    last = np.array(rows[-steps:])
    figures: Figures = {}
    for column, (name, expected) in enumerate(zip(names, (pressure[:, 1], pressure[:, 5], flow[:, 5]), strict=True), 1):
        off = np.interp(time, last[:, 0], last[:, column], period=1.1) - expected
        error = 100 * float(np.sqrt(np.mean(off**2)) / np.ptp(expected))
        console.print(f"carotid artery, {name}: {error:.2f} % of the pulse")
        figures[f"carotid_{name}"] = figure(error, "<= 1", "% of the pulse")
    return figures
