"""Flow in tubes against exact solutions: Poiseuille, Womersley, the Windkessel's equation, the balance of energy."""

from __future__ import annotations

import numpy as np
from flow_figures import Figures, console, figure, percent
from flow_meshes import tube
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.special import jv

from surgical_twin.flow.beds import GivenPressure
from surgical_twin.flow.energy import EnergyMeter, energy_gap
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.run import run_flow
from surgical_twin.flow.wall_shear import WallShear
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

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
