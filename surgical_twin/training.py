"""3D runs as independent jobs: what drives one, and how several are done beside each other.

Each job reads a mesh and writes a run, so that it can be done in any process on any machine: on the cores of this one,
or on the workers of a `dask.distributed` scheduler, to which the mesh is sent and from which the run comes back, so
that nothing has to be shared but the network. Which runs are made is in `training_design`.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meshes.files import read_lumen_mesh
from meshes.tetrahedra import LumenMesh
from surgical_twin.errors import InputError
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.navier_stokes import FlowDiverged
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.run import FlowRun, run_flow
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.units import METRES_PER_MM

POLL_S = 0.25
CONNECT_S = 10


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
    wall_shear: bool = False
    """whether the wall's shear stress is kept with the snapshots"""


def planned_windkessels(manifest_flow: dict[str, Any]) -> dict[str, Windkessel]:
    """The Windkessels that the manifest holds."""
    return {name: Windkessel(**values) for name, values in manifest_flow["windkessels"].items()}


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


def solve(mesh: LumenMesh, job: RunJob, say: Callable[[float], None] | None, checkpoint: Path | None) -> FlowRun:
    """Do one run; goes on from its checkpoint where there is one.

    Raises:
        InputError: it blew up.
    """
    conditions = job.conditions
    try:
        return run_flow(
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
            checkpoint=checkpoint,
            wall_shear=job.wall_shear,
        )
    except FlowDiverged as error:
        raise InputError(
            f"The 3D run {job.result.name} blew up ({error}) Take a shorter flow.time_step or a finer mesh in "
            "plan.toml and plan again; until then the case has the estimate from its anatomy."
        ) from error


def _run(index: int, job: RunJob) -> None:
    """Do one run in a worker process."""

    def say(fraction: float) -> None:
        if _progress is not None:
            _progress[index] = fraction

    job.result.parent.mkdir(parents=True, exist_ok=True)
    solve(read_lumen_mesh(job.mesh), job, say, job.result.with_suffix(".checkpoint.npz")).save(job.result)
    say(1.0)


def run_jobs(jobs: Sequence[RunJob], say: Callable[[float], None], *, scheduler: str | None = None) -> None:
    """Do the runs, as many at a time as there are cores here or workers at a scheduler.

    Args:
        jobs: whose results are written.
        say: takes the share that is done.
        scheduler: the address of a dask scheduler ("tcp://host:8786"); the runs are done here where None.

    Raises:
        InputError: the scheduler cannot be reached, or `dask.distributed` is not installed.

    Runs that were interrupted here resume from their checkpoints. The first error of any run is raised.
    """
    if scheduler is not None:
        run_on_cluster(jobs, say, scheduler)
        return
    context = multiprocessing.get_context("spawn")  # MPI and PETSc do not survive a fork
    progress = context.Array("d", len(jobs), lock=False)
    workers = max(1, min(len(jobs), cores()))
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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_on_cluster(jobs: Sequence[RunJob], say: Callable[[float], None], scheduler: str) -> None:
    """Do the runs on the workers of a dask scheduler; each is written here as it comes back."""
    client_of, as_completed = _dask()
    try:
        client = client_of(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No dask scheduler answers at {scheduler} ({error or 'no answer'}); start one with `dask scheduler` and "
            "workers with `dask worker`, or leave --scheduler out."
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise InputError(f"The dask scheduler at {scheduler} has no workers; start some with `dask worker`.")
        meshes = {path: client.scatter(read_lumen_mesh(path)) for path in {job.mesh for job in jobs}}
        waiting = {client.submit(solve, meshes[job.mesh], job, None, None, pure=False): job for job in jobs}
        for count, future in enumerate(as_completed(list(waiting), loop=client.loop), start=1):
            result = waiting[future].result
            result.parent.mkdir(parents=True, exist_ok=True)
            future.result().save(result)
            say(count / len(jobs))


def _dask() -> tuple[Any, Any]:
    """Dask's client and its `as_completed`."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise InputError(
            "--scheduler needs dask.distributed, which is not installed: pip install 'surgical-twin[cluster]'."
        ) from None
    return Client, as_completed
