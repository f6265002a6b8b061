"""One 3D flow run: from conditions to port histories and snapshots, with checkpoints."""

import json
import logging
import time as clock
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.navier_stokes import NavierStokes, save_state
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
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
    """inlet first"""
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
    period: float
    figures: dict[str, float]
    """Reynolds and Womersley number, largest CFL number, mass error, seconds per step, ..."""

    def save(self, path: Path) -> None:
        """Write one .npz under a temporary name and rename it."""
        beds = {name: asdict(bed) for name, bed in self.windkessels.items()}
        save_state(
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
                    **{name: data[name] for name in _ARRAYS},
                )
        except InputError:
            raise
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as a flow run ({error}); delete it and run again.") from error


_ARRAYS = ("time", "port_flow", "port_pressure", "capacitor_pressure", "snapshot_time", "pressure", "velocity")


def run_flow(
    domain: FlowDomain,
    *,
    inflow: PeriodicWaveform,
    outlets: Mapping[str, Windkessel],
    duration: float,
    time_step: float,
    snapshot_every: int = 2,
    density: float = 1060.0,
    rheology: Newtonian | CarreauYasuda | None = None,
    initial_capacitor_pressure: Mapping[str, float] | None = None,
    progress: Callable[[float], None] | None = None,
    checkpoint: Path | None = None,
) -> FlowRun:
    """Run the flow from rest for a while.

    Args:
        domain: where.
        inflow: flow through the inlet.
        outlets: each outlet's Windkessel, by name.
        duration: s; the steps are shortened a little so that they fit.
        time_step: s, at most.
        snapshot_every: steps between snapshots of the fields.
        density: kg/m^3.
        rheology: of the blood.
        initial_capacitor_pressure: Pa, by outlet.
        progress: takes the share that is done.
        checkpoint: where to keep what a run that was interrupted goes on from; deleted at the end. Resuming gives the
            same result as running through.

    Raises:
        InputError: conditions that cannot be.
        FlowDiverged: the solution blew up; the last checkpoint is kept.
    """
    if not (duration > 0 and snapshot_every >= 1):
        raise InputError(f"A flow run needs a positive duration; got {duration:g} s.")
    steps = max(1, int(np.ceil(duration / time_step - 1e-9)))
    solver = NavierStokes(
        domain,
        inflow=inflow,
        outlets=outlets,
        time_step=duration / steps,
        density=density,
        rheology=rheology,
        initial_capacitor_pressure=initial_capacitor_pressure,
    )
    numbers = _sanity(solver)
    log.info("flow run of %d steps: %s", steps, numbers)
    history: dict[str, list[Array]] = {name: [] for name in _ARRAYS}
    if checkpoint is not None and checkpoint.is_file():
        _resume(solver, history, checkpoint)
    else:
        _take(solver, history, snapshot=True)
    spent, counted = 0.0, 0
    while solver.steps < steps:
        begin = clock.perf_counter()
        solver.step()
        spent, counted = spent + clock.perf_counter() - begin, counted + 1
        _take(solver, history, snapshot=solver.steps % snapshot_every == 0)
        if progress is not None:
            progress(solver.steps / steps)
        if checkpoint is not None and solver.steps % CHECKPOINT_STEPS == 0 and solver.steps < steps:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            stacked = {f"history_{name}": np.array(values) for name, values in history.items()}
            save_state(checkpoint, {**solver.state(), **stacked})
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    figures = {
        **numbers,
        "max_cfl": solver.max_cfl,
        "mass_error": solver.mass_error,
        "steps": float(steps),
        "seconds_per_step": spent / max(1, counted),
    }
    arrays: dict[str, Any] = {name: np.array(values) for name, values in history.items()}
    names = (domain.inlet.name, *(port.name for port in domain.outlets))
    return FlowRun(
        port_names=names,
        windkessels={name: outlets[name] for name in names[1:]},
        period=inflow.period,
        figures=figures,
        **arrays,
    )


def _sanity(solver: NavierStokes) -> dict[str, float]:
    """The numbers that say what kind of flow this is."""
    domain, inflow = solver.domain, solver.inflow
    area = domain.inlet.area
    diameter = 2.0 * float(np.sqrt(area / np.pi))
    kinematic = solver.rheology.high_shear_viscosity / solver.density
    peak = max(inflow.value(time) for time in np.linspace(0.0, inflow.period, 201))
    return {
        "nodes": float(len(domain.points)),
        "tetrahedra": float(len(domain.tetrahedra)),
        "reynolds_mean": inflow.mean / area * diameter / kinematic,
        "reynolds_peak": peak / area * diameter / kinematic,
        "womersley": 0.5 * diameter * float(np.sqrt(2.0 * np.pi / (inflow.period * kinematic))),
    }


def _take(solver: NavierStokes, history: dict[str, list[Array]], *, snapshot: bool) -> None:
    history["time"].append(np.array(solver.time))
    history["port_flow"].append(solver.port_flow.copy())
    history["port_pressure"].append(solver.port_pressure.copy())
    history["capacitor_pressure"].append(solver.capacitor_pressure.copy())
    if snapshot:
        history["snapshot_time"].append(np.array(solver.time))
        history["pressure"].append(solver.pressure.astype(np.float32))
        history["velocity"].append(solver.velocity.astype(np.float32))


def _resume(solver: NavierStokes, history: dict[str, list[Array]], checkpoint: Path) -> None:
    """Go on from a checkpoint.

    Raises:
        InputError: it cannot be read, or is of another mesh.
    """
    try:
        with np.load(checkpoint, allow_pickle=False) as data:
            solver.restore({name: data[name] for name in data.files if not name.startswith("history_")})
            for name in history:
                history[name] = list(data[f"history_{name}"])
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{checkpoint} cannot be resumed from ({error}); delete it and run again.") from error
    log.info("resumed at step %d", solver.steps)
