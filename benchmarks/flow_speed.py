"""Seconds per step of the 3D solver beside Kratos and NGSolve, where its time goes, and how long a beat takes.

All solve the DFG benchmark 3D-1Z on the same mesh with the same time step, linear tolerance and two threads or
processes each, in the same run, one after another: our order 1 and Kratos with linear elements, our order 2 and
NGSolve with Taylor-Hood elements. The peers run by the interpreter that has them: give it with `--peers` (this one
where it is not given); they are the extra `bench`.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pickle
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from flow_meshes import WIDTH, channel_domain, cylinder_channel, extruded
from mpi4py import MPI
from rich.console import Console

from meshes.phantom import stenosed_bifurcation
from meshes.ports import find_ports
from meshes.segmentation import segment_lumen
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline
from surgical_twin.flow import linear_solvers
from surgical_twin.flow.beds import GivenPressure
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.inflow import GivenVelocity
from surgical_twin.flow.navier_stokes import NavierStokes
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.run import run_flow
from surgical_twin.flow.wall_shear import BodyForce
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel, tune_windkessels
from surgical_twin.training import flow_domain

HERE = Path(__file__).resolve().parent
console = Console(width=120)
DRAG = 6.18533
TOLERANCE = 1e-6
LIMIT = 480
MPIEXEC = str(Path(sys.prefix) / "bin" / "mpiexec")
BEAT, STEP, LATE = 0.8, 0.0025, 0.1
"""s: a heart beat, the time step, and from when on errors count: before, the flow grows from rest"""


def channel(around: int, layers: int, along: int, deep: int) -> tuple[FlowDomain, np.ndarray]:
    points, cells = cylinder_channel(around, layers, along, upstream=0.3)
    points, cells = extruded(points, cells, np.linspace(0, WIDTH, deep + 1))
    return channel_domain(points, cells, 0.5)


def ours(path: Path, order: int, step: float, steps: int) -> dict[str, float]:
    """Our solver on a stored mesh, by all processes of the world; the first one's answer counts."""
    linear_solvers.VELOCITY_TOLERANCE = TOLERANCE
    with np.load(path) as data:
        size = [int(value) for value in data["size"]]
    domain, on_cylinder = channel(*size)

    def inflow(places: np.ndarray, now: float) -> np.ndarray:
        y, z = places[:, 1], places[:, 2]
        speed = 16 * 0.45 * y * z * (WIDTH - y) * (WIDTH - z) / WIDTH**4
        return np.column_stack([speed, 0 * speed, 0 * speed])

    comm = MPI.COMM_WORLD
    solver = NavierStokes(
        domain, inflow={"inlet": GivenVelocity(inflow)}, outlets={"outlet": GivenPressure(0.0)}, time_step=step,
        density=1.0, rheology=Newtonian(1e-3), order=order, max_cfl=np.inf, comm=comm if comm.size > 1 else None,
    )  # fmt: skip
    clocks = []
    for _ in range(steps):
        solver.step()
        clocks.append(time.perf_counter())
    drag = BodyForce(solver, on_cylinder).force()[0] * 2 / (0.2**2 * 0.1 * WIDTH)
    return {"seconds_per_step": float(np.median(np.diff(clocks))), "steps": steps, "drag": float(drag)}


def started(words: list[str], threads: int = 1) -> dict[str, Any]:
    """What a process prints last, as JSON; the end of its complaint under "why" where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent)}
    try:
        done = subprocess.run(
            words, capture_output=True, encoding="utf-8", env=environment, check=False, cwd=HERE, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return {"why": f"not done after {LIMIT} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"why": (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1][:200]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def comparison(peers: str, quick: bool) -> dict[str, Any]:
    """Ours with one and two processes, and the peers with two threads."""
    size = (32, 6, 12, 8) if quick else (48, 9, 16, 10)
    step, steps = 0.02, 100 if quick else 200
    domain, on_cylinder = channel(*size)
    tags = domain.triangle_tags.copy()
    tags[on_cylinder] = 3
    path = Path(tempfile.mkdtemp()) / "channel.npz"
    np.savez(
        path, points=domain.points, cells=domain.tetrahedra, facets=domain.triangles, tags=tags, size=np.array(size)
    )
    console.print(f"{len(domain.tetrahedra)} tetrahedra, {len(domain.points)} nodes, {steps} steps of {step} s")
    results: dict[str, Any] = {}
    for order in (1, 2):
        for count in (1, 2):
            results[f"ours_{order}_{count}"] = started(
                [MPIEXEC, "-n", str(count), sys.executable, __file__, "--worker", str(path), str(order), str(step),
                 str(steps)]
            )  # fmt: skip
    for name in ("kratos", "ngsolve"):
        results[name] = started([peers, "flow_peers.py", name, str(path), str(step), str(steps), "2"], threads=2)
    for name, values in results.items():
        if values.get("drag") is None:
            console.print(f"{name}: {values['why']}; {values.get('seconds_per_step')} s a step")
        else:
            console.print(f"{name}: {values['seconds_per_step']:.4f} s a step, drag {values['drag']:.4f} "
                          f"({100 * abs(values['drag'] / DRAG - 1):.2f} % off)")  # fmt: skip
    return results


def bifurcation(quick: bool) -> tuple[FlowDomain, PeriodicWaveform, dict[str, Windkessel]]:
    """A stenosed bifurcation as planning meshes it, its inflow, and its outlets' Windkessels."""
    image = stenosed_bifurcation(seed=1).image
    level_set = segment_lumen(image).level_set
    centerline = extract_centerline(level_set)
    trimmed = trim_to_centerline(level_set, centerline)
    ports, _ = find_ports(trimmed, centerline)
    domain = flow_domain(
        mesh_lumen(trimmed, ports, edges_across=7.0 if quick else 10.0, max_tetrahedra=25_000 if quick else 100_000)
    )
    wave = PeriodicWaveform.named("peripheral", mean=0.15 * domain.inlet.area, period=BEAT)
    radii = {port.name: port.radius for port in domain.outlets}
    return domain, wave, tune_windkessels(wave, radii, mean_pressure=93 * 133.322, pulse_pressure=40 * 133.322)


def beat_of(path: Path, step: float) -> dict[str, Any]:
    """One beat of a stored bifurcation by all processes of the world: its time, where it goes, the ports' pressures."""
    with path.open("rb") as stream:
        domain, wave, beds = pickle.load(stream)
    comm = MPI.COMM_WORLD
    profiler = cProfile.Profile()
    profiler.enable()
    begin, begun = time.perf_counter(), time.process_time()
    done = run_flow(domain, inflow=wave, outlets=beds, duration=BEAT, time_step=step, snapshot_every=8,
                    comm=comm if comm.size > 1 else None)  # fmt: skip
    spent = time.perf_counter() - begin
    profiler.disable()
    return {
        "seconds": spent,
        "processor_seconds": time.process_time() - begun,
        "parts": done.figures["parts"],
        "max_cfl": done.figures["max_cfl"],
        "time": done.time.tolist(),
        "pressure": done.port_pressure.tolist(),
        "shares": _shares(profiler, spent),
    }


SHARES = {
    "setup": ("navier_stokes.py", "__init__"),
    "assembly": ("linear_cells.py", "equation"),
    "velocity_solve": ("linear_solvers.py TransportSolver", "solve"),
    "pressure_solve": ("linear_solvers.py PressureSolver", "solve"),
    "pressure_subscales": ("linear_cells.py", "pressure_subscale"),
    "output": ("run.py", "take"),
}


def _shares(profiler: cProfile.Profile, spent: float) -> dict[str, float]:
    """Parts of the time [%]; no mass matrix is solved."""
    lines = {
        function.__code__.co_firstlineno: name
        for name, function in (
            ("TransportSolver", linear_solvers.TransportSolver.solve),
            ("PressureSolver", linear_solvers.PressureSolver.solve),
        )
    }
    found = dict.fromkeys(SHARES, 0.0)
    for (file, line, function), row in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        place = Path(file).name
        if place == "linear_solvers.py":
            place = f"{place} {lines.get(line, '')}"
        for name, wanted in SHARES.items():
            if (place, function) == wanted:
                found[name] += 100 * row[3] / spent
    return {name: round(value, 1) for name, value in found.items()}


def beat(quick: bool) -> dict[str, Any]:
    """A pulsatile bifurcation on one and two processes: a beat, its temporal error against a third of the step."""
    domain, wave, beds = bifurcation(quick)
    path = Path(tempfile.mkdtemp()) / "bifurcation.pickle"
    with path.open("wb") as stream:
        pickle.dump((domain, wave, beds), stream)

    def run(processes: int, step: float) -> dict[str, Any]:
        return started([MPIEXEC, "-n", str(processes), sys.executable, __file__, "--beat", str(path), str(step)])

    one, two, fine = run(1, STEP), run(2, STEP), run(1, STEP / 3)
    found: dict[str, Any] = {"cells": len(domain.tetrahedra), "one": one, "two": two, "fine": fine}
    if "why" in one or "why" in fine:
        return found
    time_now, time_fine = np.array(one["time"]), np.array(fine["time"])
    now, exact = np.array(one["pressure"]), np.array(fine["pressure"])
    exact = exact[np.searchsorted(time_fine, time_now - 1e-9)]
    late = time_now > LATE
    drops = [pressure[:, :1] - pressure[:, 1:] for pressure in (now, exact)]
    found["drop"] = 100 * float((np.abs(drops[0] - drops[1])[late].max(axis=0) / np.abs(drops[1]).max(axis=0)).max())
    found["error"] = 100 * float(np.abs(now - exact)[late].max() / exact.mean())
    console.print(f"bifurcation of {len(domain.tetrahedra)} tetrahedra: {one['seconds']:.1f} s for a beat on one core, "
                  f"{two.get('seconds', np.nan):.1f} s on two, {one['parts']:.0f} steps, CFL {one['max_cfl']:.1f}; "
                  f"error in time: pressure {found['error']:.2f} %, drop {found['drop']:.2f} %; "
                  f"{one['shares']}")  # fmt: skip
    return found


def figure(value: float | None, goal: str, unit: str, why: str = "") -> dict[str, Any]:
    return {"value": value, "goal": goal, "unit": unit, **({"why": why} if why else {})}


def peers_figures(results: dict[str, Any]) -> dict[str, Any]:
    """Seconds per step and error of each, and how many times faster than the peers ours is."""
    figures: dict[str, Any] = {}
    for name, values in results.items():
        why = values.get("why", "")
        figures[f"{name}_seconds_per_step"] = figure(values.get("seconds_per_step"), "> 0", "s", why)
        drag = values.get("drag")
        error = None if drag is None else 100 * abs(drag / DRAG - 1)
        figures[f"{name}_drag_error"] = figure(error, ">= 0", "%", why)
    for peer, order in (("kratos", 1), ("ngsolve", 2)):
        us, them = results[f"ours_{order}_2"].get("seconds_per_step"), results[peer].get("seconds_per_step")
        ratio = them / us if us and them else None
        figures[f"times_faster_than_{peer}"] = figure(ratio, ">= 1.5", "ratio", results[peer].get("why", ""))
    for order in (1, 2):
        one, two = (results[f"ours_{order}_{count}"].get("seconds_per_step") for count in (1, 2))
        ratio = one / two if one and two else None
        figures[f"speed_up_of_two_processes_order_{order}"] = figure(ratio, "> 1", "ratio")
    return figures


def beat_figures(pulse: dict[str, Any]) -> dict[str, Any]:
    """Of the pulsatile bifurcation."""
    one, two = pulse["one"], pulse["two"]
    cells = f"{pulse['cells']} tetrahedra"
    figures = {
        "beat_seconds": figure(two.get("seconds"), "<= 90", "s", two.get("why", f"{cells}, two processes")),
        "beat_seconds_one_process": figure(one.get("seconds"), "<= 90", "s", one.get("why", cells)),
        "beat_processor_seconds_one_process": figure(
            one.get("processor_seconds"), "<= 90", "s", one.get("why", f"{cells}; others' load does not count")
        ),
        "beat_temporal_error": figure(
            pulse.get("error"), "<= 1", "%", "largest error of a port's pressure, of the mean pressure"
        ),
        "beat_temporal_error_of_drop": figure(pulse.get("drop"), "<= 1", "%", "of the largest pressure drop"),
    }
    for name, value in one.get("shares", {}).items():
        figures[f"beat_share_{name}"] = figure(value, ">= 0", "%")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--worker", nargs=4, default=None)
    parser.add_argument("--beat", nargs=2, default=None)
    parser.add_argument("--only", choices=("beat", "peers"), default=None)
    options = parser.parse_args()
    if options.beat:
        spent = beat_of(Path(options.beat[0]), float(options.beat[1]))
        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(spent))
        return
    if options.worker:
        path, order, step, steps = options.worker
        found = ours(Path(path), int(order), float(step), int(steps))
        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(found))
        return
    figures: dict[str, Any] = {}
    if options.only != "beat":
        figures |= peers_figures(comparison(options.peers, options.quick))
    if options.only != "peers":
        figures |= beat_figures(beat(options.quick))
    print(json.dumps({"benchmark": "flow_speed", "figures": figures}))


if __name__ == "__main__":
    main()
