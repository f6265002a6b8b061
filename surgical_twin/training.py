"""The 3D runs that the reduced model is trained on and held against.

Three runs of the patient's own geometry span the range that a procedure may visit: the planned state, one with more
flow, a faster heart and resistances shifted between the outlets, and one with less flow, a slower heart and the
opposite shift. The reduced model's error is measured on a run it has not seen.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from meshes.files import read_lumen_mesh
from meshes.tetrahedra import LumenMesh
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.run import run_flow
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.units import METRES_PER_MM

POLL_S = 0.25


@dataclass(frozen=True)
class FlowConditions:
    """What one 3D run is driven by; SI."""

    waveform: str
    mean_flow: float
    period: float
    windkessels: dict[str, Windkessel]
    density: float
    rheology: Newtonian | CarreauYasuda
    time_step: float
    duration: float
    harmonic: float = 0.0
    """Amplitude, relative to the mean flow, of a second harmonic added to the waveform's shape."""


@dataclass(frozen=True)
class RunJob:
    """One 3D run as a job of its own: what it reads, how it is driven, where it writes."""

    mesh: Path
    conditions: FlowConditions
    result: Path
    snapshot_every: int = 3
    capacitor_pressure: dict[str, float] | None = None
    """Pa, each outlet's at the start; the solver's own choice where None."""


def planned_windkessels(manifest_flow: dict[str, Any]) -> dict[str, Windkessel]:
    """The Windkessels that the manifest holds."""
    return {name: Windkessel(**values) for name, values in manifest_flow["windkessels"].items()}


def shifted(windkessels: dict[str, Windkessel], factors: Sequence[float]) -> dict[str, Windkessel]:
    """Windkessels with their resistances multiplied by factors that alternate over the outlets."""
    return {
        name: replace(
            bed,
            proximal_resistance=bed.proximal_resistance * factors[index % len(factors)],
            distal_resistance=bed.distal_resistance * factors[index % len(factors)],
        )
        for index, (name, bed) in enumerate(windkessels.items())
    }


def training_conditions(planned: FlowConditions) -> list[FlowConditions]:
    """The runs of the design; the last is the one held out."""
    beats = planned.duration / planned.period

    def changed(flow: float, period: float, factors: Sequence[float]) -> FlowConditions:
        return replace(
            planned,
            mean_flow=planned.mean_flow * flow,
            period=planned.period * period,
            windkessels=shifted(planned.windkessels, factors),
            duration=planned.period * period * beats,
        )

    return [planned, changed(1.3, 0.85, (0.8, 1.3)), changed(0.75, 1.15, (1.3, 0.8))]


def flow_domain(mesh: LumenMesh) -> FlowDomain:
    """The lumen mesh (mm) as the flow solver's domain (m): the one place where the unit changes."""
    ports = [
        FlowPort(
            name=port.name,
            role=port.role,
            tag=port.tag,
            center=port.center * METRES_PER_MM,
            normal=port.normal,
            radius=port.radius * METRES_PER_MM,
            area=port.area * METRES_PER_MM**2,
        )
        for port in mesh.ports
    ]
    return FlowDomain.build(mesh.points * METRES_PER_MM, mesh.tetrahedra, mesh.triangles, mesh.triangle_tags, ports)


def waveform_of(conditions: FlowConditions) -> PeriodicWaveform:
    """The inflow that drives a run."""
    base = PeriodicWaveform.named(conditions.waveform, mean=conditions.mean_flow, period=conditions.period)
    if conditions.harmonic == 0.0:
        return base
    times = np.linspace(0.0, conditions.period, 129)
    extra = conditions.harmonic * conditions.mean_flow * np.sin(4 * np.pi * times / conditions.period)
    return PeriodicWaveform.from_table(times, np.array([base.value(time) for time in times]) + extra)


_progress: Any = None


def _share_progress(progress: Any) -> None:
    """Give a worker process the array in which it says how far its run is."""
    global _progress
    _progress = progress


def _run(index: int, job: RunJob) -> None:
    """Do one run in a worker process."""
    mesh = read_lumen_mesh(job.mesh)
    conditions = job.conditions

    def say(fraction: float) -> None:
        if _progress is not None:
            _progress[index] = fraction

    run = run_flow(
        flow_domain(mesh),
        density=conditions.density,
        rheology=conditions.rheology,
        inflow=waveform_of(conditions),
        outlets=conditions.windkessels,
        duration=conditions.duration,
        time_step=conditions.time_step,
        snapshot_every=job.snapshot_every,
        initial_capacitor_pressure=job.capacitor_pressure,
        progress=say,
        checkpoint=job.result.with_suffix(".checkpoint.npz"),
    )
    job.result.parent.mkdir(parents=True, exist_ok=True)
    run.save(job.result)
    say(1.0)


def run_jobs(jobs: Sequence[RunJob], say: Callable[[float], None]) -> None:
    """Do the runs in processes of their own, as many at a time as there are cores.

    Interrupted runs resume from their checkpoints. The first error of any run is raised.
    """
    context = multiprocessing.get_context("spawn")  # MPI and PETSc do not survive a fork
    progress = context.Array("d", len(jobs), lock=False)
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_share_progress, initargs=(progress,)) as pool:
        waiting: set[Future[None]] = {pool.submit(_run, index, job) for index, job in enumerate(jobs)}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=POLL_S)
                for future in done:
                    future.result()
                say(float(np.mean(progress[:])))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
