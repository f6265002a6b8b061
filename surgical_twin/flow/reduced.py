"""The reduced flow model of one patient: port model, field decoder, and how wrong they are.

Trained on 3D flow runs of this patient, and judged on runs that it has not seen: there it integrates by
itself from the run's first state, driven by the run's inflow and Windkessels alone. The errors measured that
way are stored with the model and are what a filter takes as its model error. One ``.npz`` file, tied to its
mesh by a hash. SI units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from surgical_twin.errors import InputError
from surgical_twin.flow.error_model import ErrorModel
from surgical_twin.flow.evaluation import Evaluation, per_beat
from surgical_twin.flow.field_decoder import (
    DecoderSettings,
    FieldDecoder,
    SnapshotStates,
    WallShape,
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


@dataclass(frozen=True)
class PortError:
    """The error of port pressures and flows, model minus 3D, in m states; M = 2 N + 1: P_in, P_1 .. P_N, Q_1 .. Q_N."""

    bias: Array
    """(m, M) Pa and m^3/s"""
    covariance: Array
    """(m, M, M)"""
    scale: Array
    """(m,) by how much its standard deviation is larger than on average over the held-out runs; for fields as well"""
    outside: Array
    """(m,) how far the state lies outside of the trained range, in widths of it (`ReducedModel.in_range`)"""


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
    errors: ErrorModel | None = None
    """bias and covariance at the ports as functions of the state; None where no run was held out"""

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
        wall: WallShape | None = None,
    ) -> ReducedModel:
        """Trains on ``runs`` of the mesh ``points`` (nv, 3) m, ``tetrahedra`` (nc, 4).

        The errors come from the ``held_out`` runs; without any, each run is predicted by a model trained on
        the others, and the model returned is trained on all. ``shared``: see `fit_port_model`. ``wall``: where the
        runs' wall shear stress is. Raises
        `InputError` when no run is left to judge on, or the runs are of other ports or another mesh.
        """
        if not held_out and len(runs) < 2:
            raise InputError("A reduced model needs two or more flow runs, or one held out, for its error to be known.")
        model = cls._untested(runs, points, tetrahedra, shared, settings, wall)
        if held_out:
            judged = [model.evaluate(run) for run in held_out]
        else:
            without = cls.leave_one_out(runs, points, tetrahedra, shared=shared, settings=settings, wall=wall)
            judged = [other.evaluate(run) for other, run in zip(without, runs, strict=True)]
        return model.with_errors(judged)

    @classmethod
    def leave_one_out(
        cls,
        runs: Sequence[FlowRun],
        points: Array,
        tetrahedra: Indices,
        *,
        shared: Sequence[Sequence[str]] = (),
        settings: DecoderSettings | None = None,
        wall: WallShape | None = None,
    ) -> list[ReducedModel]:
        """For each run the model of all the others; their errors are not known (`train`)."""
        return [
            cls._untested([run for j, run in enumerate(runs) if j != i], points, tetrahedra, shared, settings, wall)
            for i in range(len(runs))
        ]

    @classmethod
    def _untested(
        cls,
        runs: Sequence[FlowRun],
        points: Array,
        tetrahedra: Indices,
        shared: Sequence[Sequence[str]],
        settings: DecoderSettings | None,
        wall: WallShape | None,
    ) -> ReducedModel:
        chosen = settings or DecoderSettings()
        ports = fit_port_model(runs, shared=shared, skip=chosen.skip)
        decoder = fit_field_decoder(
            runs, points, tetrahedra, time_constants=ports.time_constants, settings=chosen, wall=wall
        )
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
            errors=ErrorModel.fit(
                [e.inflow for e in evaluations],
                [e.inflow_derivative for e in evaluations],
                [e.port_errors for e in evaluations],
                float(np.mean([e.period for e in evaluations])),
            ),
        )

    def port_error(self, state: PortState) -> PortError:
        """What is known of the model's error in these states (m members).

        Raises `InputError` where no run was held out, as for an estimate from the anatomy.
        """
        if self.errors is None:
            raise InputError("This flow model's error is not known as a function of the state: no 3D run was held out.")
        inflow, rate, outside = state.inflow, state.flow_derivative.sum(axis=1), self.in_range(state)
        return PortError(
            bias=self.errors.bias(inflow, rate),
            covariance=self.errors.covariance_at(inflow, rate, outside),
            scale=self.errors.scale(inflow, rate, outside),
            outside=outside,
        )

    def in_range(self, state: PortState) -> Array:
        """(m,) how far flows and their derivatives are outside the range of training; zero inside.

        In widths of that range, of the worst variable: at 0.1 a flow is a tenth of its range beyond it.
        """
        return self._beyond(range_variables(state.flow, state.flow_derivative))

    def range_excess(self, run: FlowRun, *, skip: float = START_UP) -> float:
        """How far a run goes outside the range of training, in widths of it (`in_range`), at its worst."""
        samples = PortSamples.of(run)
        keep = settled(run, samples.time, skip)
        values = range_variables(samples.flow[keep], samples.flow_derivative[keep])
        return float(self._beyond(values).max())

    def _beyond(self, values: Array) -> Array:
        """(m,) by how many widths the worst variable of (m, 2 N + 1) leaves the range."""
        width = np.maximum(self.range_upper - self.range_lower, np.finfo(float).tiny)
        beyond = np.maximum(self.range_lower - values, values - self.range_upper) / width
        return np.asarray(np.maximum(beyond.max(axis=1), 0.0))

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
        pressure_rms, pressure_max = per_beat(pressure_off[keep], true_pressure[keep], grid[keep], run.period)
        flow_rms, flow_max = per_beat(flow_off[keep], truth.flow[keep], grid[keep], run.period)

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
            port_errors=np.column_stack([pressure_off[keep], flow_off[keep]]),
            inflow=truth.inflow[keep],
            inflow_derivative=truth.inflow_derivative[keep],
            period=float(run.period),
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
            "wall_shear_error": self._wall_shear_error(run, reached),
            "velocity_error": relative(self.decoder.velocity(reached) - velocity, velocity),
            "decoded_velocity_error": relative(self.decoder.velocity(given) - velocity, velocity),
            "snapshot_pressure_rms": np.sqrt(off**2 @ weights),
            "vertex_bias": off.mean(axis=0),
            "vertex_rms": np.sqrt((off**2).mean(axis=0)),
        }

    def _wall_shear_error(self, run: FlowRun, reached: SnapshotStates) -> float:
        if self.decoder.wall_shear_part is None or not getattr(run, "wall_shear", np.empty(0)).size:
            return float("nan")
        true = np.asarray(run.wall_shear, dtype=float)[reached.kept]
        areas = self.decoder.wall_areas
        off = ((self.decoder.wall_shear(reached) - true) ** 2).sum(axis=2) @ areas
        return float(np.sqrt(off.sum() / ((true**2).sum(axis=2) @ areas).sum()))

    def save(self, path: Path) -> None:
        """Writes one ``.npz``; the mesh itself is not in it, only its hash."""
        from surgical_twin.flow.reduced_file import write_model

        write_model(self, path)

    @classmethod
    def load(cls, path: Path, points: Array, tetrahedra: Indices) -> ReducedModel:
        """Reads what `save` wrote, for the mesh given (m).

        Raises `InputError` for a file that is missing, damaged, of another kind, or of another mesh.
        """
        from surgical_twin.flow.reduced_file import read_model

        return read_model(path, points, tetrahedra)


def range_variables(flow: Array, flow_derivative: Array) -> Array:
    """(m, 2 N + 1) what the range is of: [Q, Q_in, dQ/dt]."""
    return np.concatenate([flow, flow.sum(axis=1, keepdims=True), flow_derivative], axis=1)
