"""The reduced flow model of one patient: port model, field decoder, and how wrong they are.

Trained on 3D flow runs of this patient, and judged on runs that it has not seen: there it integrates by
itself from the run's first state, driven by the run's inflow and Windkessels alone. The errors measured that
way are stored with the model and are what a filter takes as its model error. One ``.npz`` file, tied to its
mesh by a hash. SI units.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from surgical_twin.errors import InputError
from surgical_twin.flow.field_decoder import (
    DecoderSettings,
    FieldDecoder,
    ModalMap,
    SnapshotStates,
    fit_field_decoder,
    nodal_volumes,
)
from surgical_twin.flow.port_fit import START_UP, PortSamples, fit_port_model, settled
from surgical_twin.flow.port_model import PortModel, simulate
from surgical_twin.flow.port_state import PortParameters, PortState

if TYPE_CHECKING:
    from surgical_twin.flow.run import FlowRun

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_FORMAT = "surgical-twin reduced flow model 1"
_HASH_RESOLUTION = 1e-7  # m


@dataclass(frozen=True)
class Evaluation:
    """Errors on one run that the model was not trained on. Relative errors are fractions, not percent.

    Ports: errors of the model's own integration, per beat and port, over the port's range in the run.
    Fields: over the run's settled snapshots, weighted by volume.
    """

    port_names: tuple[str, ...]
    """inlet first"""
    port_pressure_rms: Array
    """(beats, ports)"""
    port_pressure_max: Array
    """(beats, ports)"""
    port_flow_rms: Array
    """(beats, outlets)"""
    port_flow_max: Array
    """(beats, outlets)"""
    port_pressure_error: Array
    """(ports,) Pa, root mean square over all settled times"""
    port_flow_error: Array
    """(outlets,) m^3/s, root mean square over all settled times"""
    pressure_error: float
    """error of pressure, relative to the variation of pressure over time and space"""
    drop_error: float
    """error of p - P_in, relative to p - P_in itself: what the flow does inside the lumen"""
    decoded_drop_error: float
    """the same when the decoder is given the run's own port flows: the decoder's part of it"""
    velocity_error: float
    """error of velocity, relative to velocity"""
    decoded_velocity_error: float
    """the same when the decoder is given the run's own port flows"""
    snapshot_pressure_rms: Array
    """(ns,) Pa, of each settled snapshot"""
    vertex_bias: Array
    """(nv,) Pa, mean error of pressure"""
    vertex_rms: Array
    """(nv,) Pa, root mean square error of pressure"""

    def summary(self) -> dict[str, float]:
        """The worst figures of this run, by name."""
        return {
            "port_pressure_rms": float(self.port_pressure_rms.max()),
            "port_pressure_max": float(self.port_pressure_max.max()),
            "port_flow_rms": float(self.port_flow_rms.max()),
            "port_flow_max": float(self.port_flow_max.max()),
            "pressure_error": self.pressure_error,
            "drop_error": self.drop_error,
            "decoded_drop_error": self.decoded_drop_error,
            "velocity_error": self.velocity_error,
            "decoded_velocity_error": self.decoded_velocity_error,
            "snapshot_pressure_rms_pa": float(self.snapshot_pressure_rms.max()),
        }


@dataclass(frozen=True)
class ReducedModel:
    """Port model, decoder, their errors on held-out runs, and the range of the training."""

    ports: PortModel
    decoder: FieldDecoder
    inlet: str
    range_lower: Array
    """(2 N + 1,) lowest of [Q, Q_in, dQ/dt] in training"""
    range_upper: Array
    """(2 N + 1,)"""
    port_pressure_error: Array
    """(N + 1,) Pa, root mean square on held-out runs, inlet first"""
    port_flow_error: Array
    """(N,) m^3/s, root mean square on held-out runs"""
    pressure_error_bias: Array
    """(nv,) Pa, mean error (model minus 3D) on held-out runs"""
    pressure_error_std: Array
    """(nv,) Pa, root mean square error on held-out runs; bias included, for a filter does not remove it"""
    held_out: tuple[dict[str, float], ...] = field(default=())
    """`Evaluation.summary` of each held-out run"""
    estimated: bool = False
    """whether it comes from the anatomy alone, before any 3D run"""

    @classmethod
    def train(
        cls,
        runs: Sequence[FlowRun],
        points: Array,
        tetrahedra: Indices,
        *,
        held_out: Sequence[FlowRun] = (),
        shared: Sequence[Sequence[str]] = (),
        settings: DecoderSettings | None = None,
    ) -> ReducedModel:
        """Trains on ``runs`` of the mesh ``points`` (nv, 3) m, ``tetrahedra`` (nc, 4).

        The errors come from the ``held_out`` runs; without any, each run is predicted by a model trained on
        the others, and the model returned is trained on all. ``shared``: see `fit_port_model`. Raises
        `InputError` when no run is left to judge on, or the runs are of other ports or another mesh.
        """
        if not held_out and len(runs) < 2:
            raise InputError("A reduced model needs two or more flow runs, or one held out, for its error to be known.")
        model = cls._untested(runs, points, tetrahedra, shared, settings)
        if held_out:
            judged = [model.evaluate(run) for run in held_out]
        else:
            judged = []
            for i, run in enumerate(runs):
                others = [other for j, other in enumerate(runs) if j != i]
                judged.append(cls._untested(others, points, tetrahedra, shared, settings).evaluate(run))
        return model.with_errors(judged)

    @classmethod
    def _untested(
        cls,
        runs: Sequence[FlowRun],
        points: Array,
        tetrahedra: Indices,
        shared: Sequence[Sequence[str]],
        settings: DecoderSettings | None,
    ) -> ReducedModel:
        chosen = settings or DecoderSettings()
        ports = fit_port_model(runs, shared=shared, skip=chosen.skip)
        decoder = fit_field_decoder(runs, points, tetrahedra, time_constants=ports.time_constants, settings=chosen)
        seen = []
        for run in runs:
            samples = PortSamples.of(run)
            keep = settled(run, samples.time, chosen.skip)
            seen.append(range_variables(samples.flow[keep], samples.flow_derivative[keep]))
        all_seen, n = np.concatenate(seen), len(ports.outlets)
        return cls(
            ports=ports,
            decoder=decoder,
            inlet=runs[0].port_names[0],
            range_lower=all_seen.min(axis=0),
            range_upper=all_seen.max(axis=0),
            port_pressure_error=np.full(n + 1, np.inf),
            port_flow_error=np.full(n, np.inf),
            pressure_error_bias=np.zeros(len(points)),
            pressure_error_std=np.full(len(points), np.inf),
        )

    def with_errors(self, evaluations: Sequence[Evaluation]) -> ReducedModel:
        """This model with the errors of these held-out runs, each run counting alike."""

        def pooled(values: list[Array]) -> Array:
            return np.asarray(np.sqrt(np.mean(np.square(values), axis=0)))

        return ReducedModel(
            ports=self.ports,
            decoder=self.decoder,
            inlet=self.inlet,
            range_lower=self.range_lower,
            range_upper=self.range_upper,
            port_pressure_error=pooled([e.port_pressure_error for e in evaluations]),
            port_flow_error=pooled([e.port_flow_error for e in evaluations]),
            pressure_error_bias=np.mean([e.vertex_bias for e in evaluations], axis=0),
            pressure_error_std=pooled([e.vertex_rms for e in evaluations]),
            held_out=tuple(e.summary() for e in evaluations),
        )

    def in_range(self, state: PortState) -> Array:
        """(m,) how far flows and their derivatives are outside the range of training; zero inside.

        In widths of that range, of the worst variable: at 0.1 a flow is a tenth of its range beyond it.
        """
        values = range_variables(state.flow, state.flow_derivative)
        width = np.maximum(self.range_upper - self.range_lower, np.finfo(float).tiny)
        beyond = np.maximum(self.range_lower - values, values - self.range_upper) / width
        return np.maximum(beyond.max(axis=1), 0.0)

    def evaluate(self, run: FlowRun, *, skip: float = START_UP) -> Evaluation:
        """Predicts ``run`` from its first state, inflow and Windkessels, and compares."""
        names = (self.inlet, *self.ports.outlets)
        if run.port_names != names:
            raise InputError(f"The flow run has the ports {run.port_names} and the reduced model {names}.")
        vertices = len(self.decoder.points)
        if run.pressure.shape[1] != vertices:
            raise InputError(f"The flow run has {run.pressure.shape[1]} nodes and the reduced model's mesh {vertices}.")
        own = np.asarray(run.time, dtype=float)
        grid = np.linspace(own[0], own[-1], round((own[-1] - own[0]) / float(np.median(np.diff(own)))) + 1)
        truth = PortSamples.of(run, grid)
        parameters = PortParameters.of(run.windkessels, self.ports.outlets)
        predicted = simulate(
            self.ports,
            parameters,
            grid,
            truth.inflow,
            truth.inflow_derivative,
            flow=np.asarray(run.port_flow[:1, 1:], dtype=float),
            capacitor_pressure=np.asarray(run.capacitor_pressure[:1], dtype=float),
        )
        pressure = np.column_stack([predicted.inlet_pressure, predicted.outlet_pressure[:, 0]])
        true_pressure = np.column_stack([truth.inlet_pressure, truth.outlet_pressure])
        keep = settled(run, grid, skip)
        pressure_off, flow_off = pressure - true_pressure, predicted.flow[:, 0] - truth.flow
        pressure_rms, pressure_max = _per_beat(pressure_off[keep], true_pressure[keep], grid[keep], run.period)
        flow_rms, flow_max = _per_beat(flow_off[keep], truth.flow[keep], grid[keep], run.period)

        given = SnapshotStates.of(run, self.ports.time_constants, skip)
        when = np.asarray(run.snapshot_time, dtype=float)[given.kept]
        reached = SnapshotStates(
            kept=given.kept,
            flow=CubicSpline(grid, predicted.flow[:, 0])(when),
            flow_derivative=CubicSpline(grid, predicted.flow_derivative[:, 0])(when),
            lagged_flow=CubicSpline(grid, predicted.lagged_flow[:, 0])(when),
            inlet_pressure=CubicSpline(grid, predicted.inlet_pressure[:, 0])(when),
        )
        return Evaluation(
            port_names=names,
            port_pressure_rms=pressure_rms,
            port_pressure_max=pressure_max,
            port_flow_rms=flow_rms,
            port_flow_max=flow_max,
            port_pressure_error=np.sqrt((pressure_off[keep] ** 2).mean(axis=0)),
            port_flow_error=np.sqrt((flow_off[keep] ** 2).mean(axis=0)),
            **self._field_errors(run, given, reached),
        )

    def _field_errors(self, run: FlowRun, given: SnapshotStates, reached: SnapshotStates) -> dict[str, Any]:
        volumes = nodal_volumes(self.decoder.points, self.decoder.tetrahedra)
        weights = volumes / volumes.sum()
        true = np.asarray(run.pressure, dtype=float)[given.kept]
        true_drop = true - given.inlet_pressure[:, None]
        off = self.decoder.pressure(reached) - true
        drop = self.decoder.pressure(reached) - reached.inlet_pressure[:, None]
        decoded = self.decoder.pressure(given) - given.inlet_pressure[:, None]
        velocity = np.asarray(run.velocity, dtype=float)[given.kept]

        def power(values: Array) -> float:
            return float(((values**2).reshape(len(values), len(weights), -1).sum(axis=2) @ weights).sum())

        def relative(error: Array, reference: Array) -> float:
            return float(np.sqrt(power(error) / power(reference)))

        return {
            "pressure_error": relative(off, true - (true @ weights).mean()),
            "drop_error": relative(drop - true_drop, true_drop),
            "decoded_drop_error": relative(decoded - true_drop, true_drop),
            "velocity_error": relative(self.decoder.velocity(reached) - velocity, velocity),
            "decoded_velocity_error": relative(self.decoder.velocity(given) - velocity, velocity),
            "snapshot_pressure_rms": np.sqrt(off**2 @ weights),
            "vertex_bias": off.mean(axis=0),
            "vertex_rms": np.sqrt((off**2).mean(axis=0)),
        }

    def save(self, path: Path) -> None:
        """Writes one ``.npz``; the mesh itself is not in it, only its hash."""
        arrays: dict[str, Any] = {
            "format": np.array(_FORMAT),
            "mesh": np.array(mesh_hash(self.decoder.points, self.decoder.tetrahedra)),
            "names": np.array([self.inlet, *self.ports.outlets]),
            "held_out": np.array(json.dumps(list(self.held_out))),
            "estimated": np.array(self.estimated),
            "pressure_modes": self.decoder.pressure_part.modes,
            "pressure_map": self.decoder.pressure_part.map,
            "velocity_modes": self.decoder.velocity_part.modes,
            "velocity_map": self.decoder.velocity_part.map,
        }
        arrays |= {name: getattr(self.ports, name) for name in _PORT_ARRAYS}
        arrays |= {name: getattr(self, name) for name in _ERROR_ARRAYS}
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            with temporary.open("wb") as stream:
                np.savez_compressed(stream, **arrays)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path, points: Array, tetrahedra: Indices) -> ReducedModel:
        """Reads what `save` wrote, for the mesh given (m).

        Raises `InputError` for a file that is missing, damaged, of another kind, or of another mesh.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                data = {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            raise InputError(f"There is no reduced model at {path}; plan the case first.") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a readable reduced model ({error}); plan the case again.") from None
        if str(data.get("format")) != _FORMAT:
            raise InputError(f"{path} is not a reduced model of this version; plan the case again.")
        if str(data["mesh"]) != mesh_hash(points, tetrahedra):
            raise InputError(f"{path} was trained on another mesh than the case's; plan the case again.")
        inlet, *outlets = (str(name) for name in data["names"])
        return cls(
            ports=PortModel(tuple(outlets), **{name: data[name] for name in _PORT_ARRAYS}),
            decoder=FieldDecoder(
                points=np.asarray(points, dtype=float),
                tetrahedra=np.asarray(tetrahedra, dtype=np.int64),
                outlets=tuple(outlets),
                pressure_part=ModalMap(data["pressure_modes"], data["pressure_map"]),
                velocity_part=ModalMap(data["velocity_modes"], data["velocity_map"]),
            ),
            inlet=inlet,
            held_out=tuple(json.loads(str(data["held_out"]))),
            estimated=bool(data.get("estimated", False)),
            **{name: data[name] for name in _ERROR_ARRAYS},
        )


_PORT_ARRAYS = (
    "resistance",
    "inertance",
    "segments",
    "loss",
    "junction_loss",
    "recovery",
    "memory",
    "time_constants",
)
_ERROR_ARRAYS = (
    "range_lower",
    "range_upper",
    "port_pressure_error",
    "port_flow_error",
    "pressure_error_bias",
    "pressure_error_std",
)


def mesh_hash(points: Array, tetrahedra: Indices) -> str:
    """SHA-256 of a mesh: its points (m) to a tenth of a micrometer, and its cells, in their order."""
    digest = hashlib.sha256()
    rounded = np.round(np.asarray(points, dtype=float) / _HASH_RESOLUTION).astype("<i8")
    digest.update(np.ascontiguousarray(rounded).tobytes())
    digest.update(np.ascontiguousarray(tetrahedra, dtype="<i8").tobytes())
    return digest.hexdigest()


def range_variables(flow: Array, flow_derivative: Array) -> Array:
    """(m, 2 N + 1) what the range is of: [Q, Q_in, dQ/dt]."""
    return np.concatenate([flow, flow.sum(axis=1, keepdims=True), flow_derivative], axis=1)


def _per_beat(error: Array, truth: Array, time: Array, period: float) -> tuple[Array, Array]:
    """RMS and largest error (beats, columns) over each column's range; a last, partial beat counts as one."""
    beat = np.floor((time - time[0]) / period * (1.0 - 1e-9)).astype(int)
    span = np.maximum(truth.max(axis=0) - truth.min(axis=0), np.finfo(float).tiny)
    parts = [np.abs(error[beat == i]) / span for i in np.unique(beat)]
    return (
        np.array([np.sqrt((part**2).mean(axis=0)) for part in parts]),
        np.array([part.max(axis=0) for part in parts]),
    )
