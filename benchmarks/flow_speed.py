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
from surgical_twin.flow.windkessel import tune_windkessels
from surgical_twin.training import flow_domain

HERE = Path(__file__).resolve().parent
console = Console(width=120)
DRAG = 6.18533
TOLERANCE = 1e-6
LIMIT = 240


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
    mpiexec = str(Path(sys.prefix) / "bin" / "mpiexec")
    results: dict[str, Any] = {}
    for order in (1, 2):
        for count in (1, 2):
            results[f"ours_{order}_{count}"] = started(
                [mpiexec, "-n", str(count), sys.executable, __file__, "--worker", str(path), str(order), str(step),
                 str(steps)]
            )  # fmt: skip
    for name in ("kratos", "ngsolve"):
        results[name] = started([peers, "flow_peers.py", name, str(path), str(step), str(steps), "2"], threads=2)
    for name, values in results.items():
        if "why" in values:
            console.print(f"{name}: {values['why']}")
        else:
            console.print(f"{name}: {values['seconds_per_step']:.4f} s a step, drag {values['drag']:.4f} "
                          f"({100 * abs(values['drag'] / DRAG - 1):.2f} % off)")  # fmt: skip
    return results


def beat(quick: bool) -> dict[str, Any]:
    """A pulsatile bifurcation: a beat, its temporal error against a third of the step, and where the time goes."""
    image = stenosed_bifurcation(seed=1).image
    level_set = segment_lumen(image).level_set
    centerline = extract_centerline(level_set)
    trimmed = trim_to_centerline(level_set, centerline)
    ports, _ = find_ports(trimmed, centerline)
    domain = flow_domain(
        mesh_lumen(trimmed, ports, edges_across=7.0 if quick else 10.0, max_tetrahedra=25_000 if quick else 100_000)
    )
    wave = PeriodicWaveform.named("peripheral", mean=0.15 * domain.inlet.area, period=0.8)
    radii = {port.name: port.radius for port in domain.outlets}
    beds = tune_windkessels(wave, radii, mean_pressure=93 * 133.322, pulse_pressure=40 * 133.322)

    def run(step: float) -> tuple[Any, float]:
        begin = time.perf_counter()
        done = run_flow(domain, inflow=wave, outlets=beds, duration=0.8, time_step=step, snapshot_every=8)
        return done, time.perf_counter() - begin

    profiler = cProfile.Profile()
    profiler.enable()
    done, spent = run(0.0025)
    profiler.disable()
    fine, _ = run(0.0025 / 3)
    drops = [one.port_pressure[:, :1] - one.port_pressure[:, 1:] for one in (done, fine)]
    places = np.searchsorted(fine.time, done.time - 1e-9)
    late = slice(40, None)
    error = np.abs(drops[0] - drops[1][places])[late].max(axis=0) / np.abs(drops[1]).max(axis=0)
    whole = np.abs(done.port_pressure - fine.port_pressure[places])[late].max() / fine.port_pressure.mean()
    shares = _shares(profiler, spent)
    console.print(f"bifurcation of {len(domain.tetrahedra)} tetrahedra: {spent:.1f} s for a beat on one core, "
                  f"{done.figures['parts']:.0f} steps, CFL {done.figures['max_cfl']:.1f}; error in time: pressure "
                  f"{100 * whole:.2f} %, pressure drops {np.round(100 * error, 2)} %; {shares}")  # fmt: skip
    return {
        "seconds": spent,
        "error": 100 * whole,
        "drop": 100 * error.max(),
        "cells": len(domain.tetrahedra),
        **shares,
    }


def _shares(profiler: cProfile.Profile, spent: float) -> dict[str, float]:
    """Parts of the time [%]."""
    names = {
        ("assembly.py", "values"): "assembly",
        ("linear_solvers.py", "solve"): "solves",
        ("navier_stokes.py", "_project"): "projection",
        ("run.py", "take"): "output",
    }
    found = dict.fromkeys(names.values(), 0.0)
    for (file, line, function), row in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        for (wanted, name), key in names.items():
            if file.endswith(wanted) and function == name:
                found[key] = found[key] + 100 * row[3] / spent if key == "solves" else 100 * row[3] / spent
        _ = line
    return {f"share_{name}": round(value, 1) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--worker", nargs=4, default=None)
    options = parser.parse_args()
    if options.worker:
        path, order, step, steps = options.worker
        found = ours(Path(path), int(order), float(step), int(steps))
        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(found))
        return
    results = comparison(options.peers, options.quick)
    figures: dict[str, Any] = {}

    def put(name: str, value: float | None, goal: str, unit: str, why: str = "") -> None:
        figures[name] = {"value": value, "goal": goal, "unit": unit, **({"why": why} if why else {})}

    for name, values in results.items():
        put(f"{name}_seconds_per_step", values.get("seconds_per_step"), "> 0", "s", values.get("why", ""))
        drag = values.get("drag")
        error = None if drag is None else 100 * abs(drag / DRAG - 1)
        put(f"{name}_drag_error", error, ">= 0", "%", values.get("why", ""))
    for peer, order in (("kratos", 1), ("ngsolve", 2)):
        us, them = results[f"ours_{order}_2"].get("seconds_per_step"), results[peer].get("seconds_per_step")
        ratio = them / us if us and them else None
        put(f"times_faster_than_{peer}", ratio, ">= 1.5", "ratio", results[peer].get("why", ""))
    for order in (1, 2):
        one, two = (results[f"ours_{order}_{count}"].get("seconds_per_step") for count in (1, 2))
        put(f"speed_up_of_two_processes_order_{order}", one / two if one and two else None, "> 1", "ratio")
    pulse = beat(options.quick)
    put("beat_seconds", pulse["seconds"], "<= 90", "s", f"{pulse['cells']} tetrahedra, one core")
    put("beat_temporal_error", pulse["error"], "<= 1", "%", "largest error of a port's pressure, of the mean pressure")
    put("beat_temporal_error_of_drop", pulse["drop"], "<= 1", "%", "of the largest pressure drop")
    for name in ("share_assembly", "share_solves", "share_projection", "share_output"):
        put(f"beat_{name}", pulse[name], ">= 0", "%")
    print(json.dumps({"benchmark": "flow_speed", "figures": figures}))


if __name__ == "__main__":
    main()
