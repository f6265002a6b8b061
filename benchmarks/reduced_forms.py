"""A reduced model of another form, to be held against ours: operator inference on the velocity's modes.

Peherstorfer & Willcox, Comput. Methods Appl. Mech. Engng. 306 (2016) 196-215, as the package ``opinf`` has it. The
state is the amplitudes ``a`` of the velocity field's proper orthogonal modes; their equation is inferred from the same
runs::

    da/dt = c + A a + H (a x a) + B u,        u = [Q_in, dQ_in/dt, P_j - mean P]

the outlets' flows are read from ``a`` (they are linear in the velocity), their Windkessels are integrated with it as
they are, and the pressure field is a quadratic map of ``a`` and ``u``. Of several penalties and numbers of modes those
are taken with which each training run, left out, integrated from its first state, comes out best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from surgical_twin.flow.field_decoder import nodal_volumes
from surgical_twin.flow.port_fit import START_UP, settled
from surgical_twin.flow.run import FlowRun

Array = NDArray[np.float64]
MODES = (3, 5, 8, 12)
PENALTIES = (1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3)
LARGEST = 50.0
"""An amplitude of so many times its size in training is a model that has blown up."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of a run; SI. Times are those of the run's snapshots after its start."""

    pressure: Array
    """(ns, n)"""
    velocity: Array
    """(ns, n, 3)"""
    port_pressure: Array
    """(ns, ports)"""
    port_flow: Array
    """(ns, ports)"""


class OperatorInference:
    """The model, trained on runs."""

    def __init__(self, runs: Sequence[FlowRun], points: Array, tetrahedra: NDArray[Any], modes: int) -> None:
        import opinf

        self.opinf = opinf
        volumes = nodal_volumes(points, tetrahedra)
        self.root = np.sqrt(np.repeat(volumes, 3))
        kept = [settled(run, run.snapshot_time, START_UP) for run in runs]
        snapshots = np.concatenate([run.velocity[keep] for run, keep in zip(runs, kept, strict=True)])
        flat = snapshots.reshape(len(snapshots), -1) * self.root
        energies, vectors = np.linalg.eigh(flat @ flat.T)
        vectors, energies = vectors[:, ::-1][:, :modes], energies[::-1][:modes]
        self.modes = flat.T @ (vectors / np.sqrt(energies))
        self.size = np.sqrt(energies / len(flat))
        self.flow_size = float(np.mean([run.port_flow[:, 0].mean() for run in runs]))
        self.pressure_size = 1333.0
        parts = [self._data(run, keep) for run, keep in zip(runs, kept, strict=True)]
        states, rates, inputs, flows = (np.concatenate([part[i] for part in parts], axis=0) for i in range(4))
        pressure = np.concatenate(
            [run.pressure[keep] - self._reference(run, keep)[:, None] for run, keep in zip(runs, kept, strict=True)]
        )
        ports = np.concatenate(
            [
                self._at(run, run.port_pressure, keep)[:, :1] - self._reference(run, keep)[:, None]
                for run, keep in zip(runs, kept, strict=True)
            ]
        )
        self.to_flow = np.linalg.lstsq(states, flows, rcond=None)[0]
        features = self._features(states, inputs)
        self.to_pressure = _ridge(features, np.column_stack([ports, pressure]))
        owner = np.repeat(np.arange(len(runs)), [int(keep.sum()) for keep in kept])
        best, chosen = np.inf, PENALTIES[0]
        for penalty in PENALTIES:
            error = 0.0
            for number, (run, keep) in enumerate(zip(runs, kept, strict=True)):
                others = owner != number
                self.model = self._fitted(states[others], rates[others], inputs[others], penalty)
                error += self._misfit(run, keep)
            if error < best:
                best, chosen = error, penalty
        self.model = self._fitted(states, rates, inputs, chosen)
        # Of the velocity's energy: what the trajectories miss, and what the modes leave out.
        self.misfit = best + float((flat**2).sum() - energies.sum())

    def _fitted(self, states: Array, rates: Array, inputs: Array, penalty: float) -> Any:
        solver = self.opinf.lstsq.L2Solver(regularizer=penalty)
        return self.opinf.models.ContinuousModel("cAHB", solver=solver).fit(states.T, rates.T, inputs=inputs.T)

    @classmethod
    def best(cls, runs: Sequence[FlowRun], points: Array, tetrahedra: NDArray[Any]) -> OperatorInference:
        """That number of modes with which runs left out come out best.

        Raises `RuntimeError` where every one blows up.
        """
        tried = [cls(runs, points, tetrahedra, modes) for modes in MODES]
        found = min(tried, key=lambda one: one.misfit)
        if not np.isfinite(found.misfit):
            raise RuntimeError("it is unstable with every penalty and number of modes")
        return found

    def _at(self, run: FlowRun, values: Array, keep: NDArray[np.bool_], order: int = 0) -> Array:
        return np.asarray(CubicSpline(run.time, values)(run.snapshot_time[keep], order))

    def _reference(self, run: FlowRun, keep: NDArray[np.bool_]) -> Array:
        return np.asarray(self._at(run, run.port_pressure[:, 1:], keep).mean(axis=1))

    def _amplitudes(self, velocity: Array) -> Array:
        return np.asarray((velocity.reshape(len(velocity), -1) * self.root) @ self.modes / self.size)

    def _data(self, run: FlowRun, keep: NDArray[np.bool_]) -> tuple[Array, Array, Array, Array]:
        states = self._amplitudes(run.velocity[keep])
        rates = CubicSpline(run.snapshot_time[keep], states)(run.snapshot_time[keep], 1)
        flow = self._at(run, run.port_flow, keep)
        rate = self._at(run, run.port_flow[:, 0], keep, 1)
        pressure = self._at(run, run.port_pressure[:, 1:], keep)
        return states, rates, self._inputs(flow[:, 0], rate, pressure), flow[:, 1:]

    def _inputs(self, inflow: Array, rate: Array, outlet_pressure: Array) -> Array:
        contrast = outlet_pressure - outlet_pressure.mean(axis=-1, keepdims=True)
        heads = np.stack([inflow / self.flow_size, 0.1 * rate / self.flow_size], axis=-1)
        return np.concatenate([heads, contrast / self.pressure_size], axis=-1)

    def _features(self, states: Array, inputs: Array) -> Array:
        row, column = np.triu_indices(states.shape[1])
        return np.column_stack([np.ones(len(states)), states, states[:, row] * states[:, column], inputs])

    def _trajectory(self, run: FlowRun, keep: NDArray[np.bool_]) -> tuple[Array, Array] | None:
        """Amplitudes and capacitor pressures at the snapshots, from the first of them on; None where they blow up."""
        when = run.snapshot_time[keep]
        inflow = CubicSpline(run.time, run.port_flow[:, 0])
        names = run.port_names[1:]
        beds = [run.windkessels[name] for name in names]
        proximal, distal, compliance, behind = (
            np.array([getattr(bed, name) for bed in beds])
            for name in ("proximal_resistance", "distal_resistance", "compliance", "distal_pressure")
        )
        r = len(self.size)

        def slope(t: float, y: Array) -> Array:
            a, pc = np.clip(y[:r], -LARGEST, LARGEST), y[r:]
            flow = a @ self.to_flow
            flow = flow + (inflow(t) - flow.sum()) / len(flow)
            u = self._inputs(inflow(t), inflow(t, 1), pc + proximal * flow)
            rate = self.model.rhs(t, a, lambda _t: u)
            return np.concatenate([rate, (flow - (pc - behind) / distal) / compliance])

        start = np.concatenate(
            [
                self._amplitudes(run.velocity[keep][:1])[0],
                CubicSpline(run.time, run.capacitor_pressure)(when[0]),
            ]
        )
        answer = solve_ivp(slope, (when[0], when[-1]), start, t_eval=when, rtol=1e-4, atol=1e-6, method="LSODA")
        if not answer.success or answer.y.shape[1] != len(when) or np.abs(answer.y[:r]).max() > LARGEST:
            return None
        return answer.y[:r].T, answer.y[r:].T

    def _misfit(self, run: FlowRun, keep: NDArray[np.bool_]) -> float:
        found = self._trajectory(run, keep)
        if found is None:
            return float("inf")
        return float((((found[0] - self._amplitudes(run.velocity[keep])) * self.size) ** 2).sum())

    def predict(self, run: FlowRun) -> Prediction | None:
        """The run from its state at the end of its start-up, its inflow and Windkessels; None where it blows up."""
        keep = settled(run, run.snapshot_time, START_UP)
        found = self._trajectory(run, keep)
        if found is None:
            return None
        states, capacitors = found
        inflow, rate = self._at(run, run.port_flow[:, 0], keep), self._at(run, run.port_flow[:, 0], keep, 1)
        flow = states @ self.to_flow
        flow += (inflow - flow.sum(axis=1))[:, None] / flow.shape[1]
        proximal = np.array([run.windkessels[name].proximal_resistance for name in run.port_names[1:]])
        outlet = capacitors + proximal * flow
        fields = self._features(states, self._inputs(inflow, rate, outlet)) @ self.to_pressure
        fields += outlet.mean(axis=1)[:, None]
        velocity = (states * self.size) @ self.modes.T / self.root
        return Prediction(
            pressure=fields[:, 1:],
            velocity=velocity.reshape(len(states), -1, 3),
            port_pressure=np.column_stack([fields[:, 0], outlet]),
            port_flow=np.column_stack([inflow, flow]),
        )


def _ridge(features: Array, targets: Array, penalty: float = 1e-6) -> Array:
    gram = features.T @ features
    return np.asarray(
        np.linalg.solve(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)), features.T @ targets)
    )
