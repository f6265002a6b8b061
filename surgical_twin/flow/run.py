"""One 3D flow run: from conditions to port histories and snapshots, with checkpoints."""

import json
import logging
import time as clock
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.checkpoint import fingerprint, keep, resume, save_arrays
from surgical_twin.flow.conditions import PortCondition
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.elastic_wall import ElasticWall
from surgical_twin.flow.energy import EnergyMeter
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.linear_solvers import MPI
from surgical_twin.flow.navier_stokes import MAX_CFL, FlowDiverged, NavierStokes
from surgical_twin.flow.periodicity import beat_change
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.wall_shear import WallShear
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
log = logging.getLogger(__name__)

CHECKPOINT_STEPS = 50

_FORMAT = "surgical-twin flow run 1"


@dataclass(frozen=True)
class FlowRun:
    """Result of a 3D run; SI. Inlet flow is positive into the domain, outlet flow out of it."""

    port_names: tuple[str, ...]
    """inlets first"""
    time: Array
    """(nt,) s"""
    port_flow: Array
    """(nt, ports) m^3/s"""
    port_pressure: Array
    """(nt, ports) Pa"""
    capacitor_pressure: Array
    """(nt, outlets) Pa"""
    snapshot_time: Array
    """(ns,) s"""
    pressure: Array32
    """(ns, n) Pa"""
    velocity: Array32
    """(ns, n, 3) m/s"""
    windkessels: dict[str, Windkessel]
    """of the outlets that have one"""
    period: float
    figures: dict[str, float]
    """Reynolds and Womersley number, largest CFL number, mass error, seconds per step, ..."""
    wall_shear: Array32 = field(default_factory=lambda: np.empty((0, 0, 3), dtype=np.float32))
    """(ns, w, 3) Pa: the force of the blood on the wall along it, per area, at the wall's nodes; if it was asked for"""
    displacement: Array32 = field(default_factory=lambda: np.empty((0, 0, 3), dtype=np.float32))
    """(ns, w, 3) m, of an elastic wall's nodes"""
    energy: Array = field(default_factory=lambda: np.empty((0, 0)))
    """(nt, 2 + ports): kinetic energy [J], viscous dissipation [W], power into the domain through each port [W] (and
    through an elastic wall); if it was asked for"""

    def save(self, path: Path) -> None:
        """Write one .npz under a temporary name and rename it."""
        beds = {name: asdict(bed) for name, bed in self.windkessels.items()}
        save_arrays(
            path,
            {
                "format": np.array(_FORMAT),
                "port_names": np.array(self.port_names),
                "windkessels": np.array(json.dumps(beds)),
                "figures": np.array(json.dumps(self.figures)),
                "period": np.array(self.period),
                **{name: getattr(self, name) for name in _ARRAYS},
            },
        )

    @classmethod
    def load(cls, path: Path) -> "FlowRun":
        """Read what `save` wrote.

        Raises:
            InputError: it is missing, damaged or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                if str(data["format"]) != _FORMAT:
                    raise InputError(f"{path} is no flow run of this version; run it again.")
                beds = json.loads(str(data["windkessels"]))
                return cls(
                    port_names=tuple(str(name) for name in data["port_names"]),
                    windkessels={name: Windkessel(**bed) for name, bed in beds.items()},
                    period=float(data["period"]),
                    figures=json.loads(str(data["figures"])),
                    **{name: data[name] for name in _ARRAYS if name in data.files},
                )
        except InputError:
            raise
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as a flow run ({error}); delete it and run again.") from error


_ARRAYS = (
    "time",
    "port_flow",
    "port_pressure",
    "capacitor_pressure",
    "snapshot_time",
    "pressure",
    "velocity",
    "wall_shear",
    "displacement",
    "energy",
)
_OF_SNAPSHOTS = ("snapshot_time", "pressure", "velocity", "wall_shear", "displacement")


def run_flow(
    domain: FlowDomain,
    *,
    inflow: PeriodicWaveform | Mapping[str, PortCondition],
    outlets: Mapping[str, PortCondition],
    duration: float,
    time_step: float,
    snapshot_every: int = 2,
    density: float = 1060.0,
    rheology: Newtonian | CarreauYasuda | None = None,
    initial_capacitor_pressure: Mapping[str, float] | None = None,
    progress: Callable[[float], None] | None = None,
    checkpoint: Path | None = None,
    keep_checkpoint: bool = False,
    order: int = 1,
    max_cfl: float = MAX_CFL,
    periodic_within: float | None = None,
    wall_shear: bool = False,
    energy: bool = False,
    last_beat_only: bool = False,
    wall: ElasticWall | None = None,
    comm: MPI.Comm | None = None,
) -> FlowRun:
    """Run the flow from rest for a while.

    Args:
        domain: where.
        inflow: flow through the one inlet, or each inlet's condition by name.
        outlets: each outlet's condition, by name.
        duration: s; the steps are shortened a little so that they fit.
        time_step: s, at most.
        snapshot_every: steps between snapshots of the fields.
        density: kg/m^3.
        rheology: of the blood.
        initial_capacitor_pressure: Pa, by outlet.
        progress: takes the share that is done.
        checkpoint: where to keep what a run that was interrupted goes on from; deleted at the end. Resuming gives the
            same result as running through.
        keep_checkpoint: leave it at the end, until what the run gave is safe.
        order: of the velocity's elements.
        max_cfl: steps are cut into parts of at most this CFL number.
        periodic_within: stop at the end of the first beat that is this near to the periodic state (`beat_change`),
            0.01 for one percent; run all of the duration where None. Steps are then such that a beat is a whole number
            of them.
        wall_shear: keep the wall's shear stress in the snapshots.
        energy: measure the energy in every step.
        last_beat_only: keep the snapshots of the last beat only.
        wall: what an elastic wall is made of; rigid where None.
        comm: processes that share the work; the first of them writes the checkpoint.

    Raises:
        InputError: conditions that cannot be, a checkpoint of another run, or a disk that is full.
        FlowDiverged: the solution blew up; the last good state is in the checkpoint.
    """
    if not (np.isfinite(duration) and duration > 0 and snapshot_every >= 1):
        raise InputError(f"A flow run needs a positive duration; got {duration:g} s.")
    period = _period(inflow, outlets)
    if periodic_within is None and not last_beat_only:
        steps = max(1, int(np.ceil(duration / time_step - 1e-9)))
        length = duration / steps
    else:
        in_beat = max(1, int(np.ceil(period / time_step - 1e-9)))
        length = period / in_beat
        steps = max(1, round(duration / length))
    solver = NavierStokes(
        domain,
        inflow=inflow,
        outlets=outlets,
        time_step=length,
        density=density,
        rheology=rheology,
        initial_capacitor_pressure=initial_capacitor_pressure,
        order=order,
        max_cfl=max_cfl,
        wall=wall,
        comm=comm,
    )
    numbers = _sanity(solver)
    log.info("flow run of %d steps: %s", steps, numbers)
    recorder = _Recorder(solver, wall_shear, energy, period if last_beat_only else None)
    mark = fingerprint(solver, snapshot_every, steps)
    writes = comm is None or comm.rank == 0
    if checkpoint is not None and checkpoint.is_file():
        resume(solver, recorder.history, checkpoint, mark)
    else:
        recorder.take(snapshot=True)
    change = np.inf
    spent, counted = 0.0, 0
    begin = clock.perf_counter()
    try:
        while solver.steps < steps:
            solver.step()
            counted += 1
            recorder.take(snapshot=solver.steps % snapshot_every == 0)
            if progress is not None:
                progress(solver.steps / steps)
            if periodic_within is not None and solver.steps % in_beat == 0:
                change = beat_change(recorder.array("port_flow"), recorder.array("port_pressure"), in_beat)
                log.info("after %d beats %.2g from the periodic state", solver.steps // in_beat, change)
                if change <= periodic_within:
                    break
            if checkpoint is not None and solver.steps % CHECKPOINT_STEPS == 0 and solver.steps < steps:
                _keep(solver, recorder, checkpoint, mark, comm)
    except FlowDiverged as error:
        if checkpoint is None:
            raise
        _keep(solver, recorder, checkpoint, mark, comm)
        raise FlowDiverged(f"{error} The last good state, of {solver.time:.4f} s, is in {checkpoint}.") from error
    spent = clock.perf_counter() - begin
    if checkpoint is not None and writes and not keep_checkpoint:
        checkpoint.unlink(missing_ok=True)
    figures = {
        **numbers,
        "max_cfl": solver.max_cfl,
        "mass_error": solver.mass_error,
        "steps": float(solver.steps),
        "parts": float(solver.parts),
        "seconds_per_step": spent / max(1, counted),
    }
    if np.isfinite(change):
        figures["beat_change"] = float(change)
    return FlowRun(
        port_names=tuple(port.name for port in domain.ports),
        windkessels={name: bed for name, bed in outlets.items() if isinstance(bed, Windkessel)},
        period=period,
        figures=figures,
        **{name: recorder.array(name) for name in _ARRAYS},
    )


def _keep(solver: NavierStokes, recorder: "_Recorder", checkpoint: Path, mark: str, comm: MPI.Comm | None) -> None:
    """Write the checkpoint in the first process; where it cannot be written all raise it, and none waits for another.

    Raises:
        InputError: the disk is full or cannot be written to.
    """
    failure = None
    if comm is None or comm.rank == 0:
        try:
            keep(solver, recorder.history, checkpoint, mark)
        except InputError as error:
            failure = error
    if comm is not None:
        failure = comm.bcast(failure)
    if failure is not None:
        raise failure


def _period(inflow: PeriodicWaveform | Mapping[str, PortCondition], outlets: Mapping[str, PortCondition]) -> float:
    """The beat's length, s.

    Raises:
        InputError: the ports' waveforms differ in it.
    """
    if isinstance(inflow, PeriodicWaveform):
        return inflow.period
    found: dict[str, float] = {}
    for name, condition in {**inflow, **outlets}.items():
        for key in ("waveform", "pressure", "distal_pressure", "myocardial_pressure"):
            value = getattr(condition, key, None)
            if isinstance(value, PeriodicWaveform):
                found[name] = value.period
    if found and np.ptp(list(found.values())) > 1e-9 * max(found.values()):
        listed = ", ".join(f"{name} {value:g} s" for name, value in found.items())
        raise InputError(f"The ports' waveforms differ in their period ({listed}); give all the same.")
    return next(iter(found.values())) if found else 1.0


def _sanity(solver: NavierStokes) -> dict[str, float]:
    """The numbers that say what kind of flow this is."""
    domain = solver.domain
    kinematic = solver.rheology.high_shear_viscosity / solver.density
    numbers = {"nodes": float(len(domain.points)), "tetrahedra": float(len(domain.tetrahedra))}
    for port in domain.inlets:
        condition = solver.conditions[port.name]
        if isinstance(condition, GivenFlow):
            inflow, area = condition.waveform, port.area
            diameter = 2.0 * float(np.sqrt(area / np.pi))
            peak = max(inflow.value(time) for time in np.linspace(0.0, inflow.period, 201))
            numbers |= {
                "reynolds_mean": inflow.mean / area * diameter / kinematic,
                "reynolds_peak": peak / area * diameter / kinematic,
                "womersley": 0.5 * diameter * float(np.sqrt(2.0 * np.pi / (inflow.period * kinematic))),
            }
            break
    if solver.wall is not None:
        numbers["wave_speed_m_s"] = solver.wall.wall.wave_speed(solver.density)
    return numbers


class _Recorder:
    """Collects what a run is to give."""

    def __init__(self, solver: NavierStokes, wall_shear: bool, energy: bool, last: float | None) -> None:
        self._solver, self._last = solver, last
        self._shear = WallShear(solver) if wall_shear else None
        self._energy = EnergyMeter(solver) if energy else None
        self.history: dict[str, list[Array]] = {name: [] for name in _ARRAYS}
        self._empty = {
            "wall_shear": np.empty((0, 0, 3), dtype=np.float32),
            "displacement": np.empty((0, 0, 3), dtype=np.float32),
            "energy": np.empty((0, 0)),
        }

    def take(self, *, snapshot: bool) -> None:
        """Keep the present state; with a snapshot its fields too."""
        solver, history = self._solver, self.history
        history["time"].append(np.array(solver.time))
        history["port_flow"].append(solver.port_flow.copy())
        history["port_pressure"].append(solver.port_pressure.copy())
        history["capacitor_pressure"].append(solver.capacitor_pressure.copy())
        if self._energy is not None:
            history["energy"].append(self._energy.measure())
        if snapshot:
            history["snapshot_time"].append(np.array(solver.time))
            history["pressure"].append(solver.pressure.astype(np.float32))
            history["velocity"].append(solver.velocity[: len(solver.domain.points)].astype(np.float32))
            if self._shear is not None:
                history["wall_shear"].append(self._shear.stress().astype(np.float32))
            if solver.wall is not None:
                history["displacement"].append(solver.wall.displacement_field().astype(np.float32))
            while self._last is not None and history["snapshot_time"][0] < solver.time - 1.0001 * self._last:
                for name in _OF_SNAPSHOTS:
                    del history[name][:1]

    def array(self, name: str) -> Any:
        """All of one quantity so far."""
        values = self.history[name]
        return np.array(values) if values else self._empty[name]
