"""What a run that was interrupted goes on from."""

import hashlib
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.navier_stokes import NavierStokes

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

_HISTORY = "history_"


def fingerprint(solver: NavierStokes, snapshot_every: int, steps: int) -> str:
    """What a checkpoint must agree in with the run that goes on from it."""
    domain = solver.domain
    digest = hashlib.sha256()
    for array in (domain.points, domain.tetrahedra, domain.triangles, domain.triangle_tags):
        digest.update(np.ascontiguousarray(array).tobytes())
    times = np.linspace(0.0, solver.period, 17)
    described: list[Any] = [solver.time_step, solver.density, solver.rheology, solver.space.order, steps]
    described += [solver.max_cfl_allowed, snapshot_every]
    for name, condition in solver.conditions.items():
        if isinstance(condition, GivenFlow):
            described += [name, condition.profile, [condition.waveform.value(time) for time in times]]
    for circuit in solver.beds.circuits:
        described += [circuit.rates.tolist(), circuit.charge.tolist(), circuit.resistance]
        described += [[circuit.offset(time), circuit.source(time).tolist()] for time in times]
    if solver.wall is not None:
        wall = solver.wall.wall
        described += [wall.youngs_modulus, wall.poisson_ratio, wall.density, wall.reference_pressure]
        for values in (wall.thickness, wall.radius):
            digest.update(np.asarray(values, dtype=float).tobytes())
    digest.update(repr(described).encode())
    return digest.hexdigest()


def keep(solver: NavierStokes, history: Mapping[str, list[Array]], path: Path, mark: str) -> None:
    """Write a solver's state, what was recorded up to it, and the run's fingerprint.

    Raises:
        InputError: the disk is full or cannot be written to; the checkpoint before is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked = {f"{_HISTORY}{name}": np.array(values) for name, values in history.items()}
    save_arrays(path, {**solver.state(), **stacked, "fingerprint": np.array(mark)})


def resume(solver: NavierStokes, history: dict[str, list[Array]], path: Path, mark: str) -> None:
    """Go on from what `keep` wrote.

    Raises:
        InputError: it cannot be read, or is of another mesh or other conditions.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["fingerprint"]) != mark:
                raise InputError(
                    f"{path} is of a run on another mesh or with other conditions; delete it and run again."
                )
            solver.restore({name: data[name] for name in data.files if not name.startswith((_HISTORY, "fingerprint"))})
            for name in history:
                history[name] = list(data[f"{_HISTORY}{name}"])
    except InputError:
        raise
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be resumed from ({error}); delete it and run again.") from error
    log.info("resumed at step %d", solver.steps)


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays (.npz) under a temporary name and rename it.

    Raises:
        InputError: the disk is full or cannot be written to; nothing is left half-written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); make room or name another place, and run again: what was "
            "saved before is kept."
        ) from error
