"""Fits the lumped port model to 3D flow runs: bounded, lightly regularized least squares.

Every unknown enters the tree's pressure drop linearly (see `port_model`), and the physics is a bound on
each: resistances, losses and junction losses are not negative, inertances positive. With ``R`` and ``L``
written as sums over segments, ``R = B diag(r) B' + rho 1 1'`` as for a tree of pipes, those bounds make ``R``
passive and ``L`` symmetric positive definite by construction, and the number of unknowns grows with the
number of segments rather than with its square. The inflow waves of a rigid tree excite few directions; bounds
and ridge settle the rest towards zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import lsq_linear

from surgical_twin.errors import InputError
from surgical_twin.flow.port_model import PortModel

if TYPE_CHECKING:  # the solver behind a run is heavy, and the reduced model must run without it
    from surgical_twin.flow.run import FlowRun

Array = NDArray[np.float64]

# Part of a period left out at the start of a run. From rest, jets need most of a beat to establish themselves:
# trained from a quarter of the beat on, the field's error on an unseen run is twice as large.
START_UP = 0.75

_FLOOR_OF_INERTANCE = 1e-3
_TIME_CONSTANTS = np.geomspace(0.01, 1.0, 11)  # of memory, in periods


@dataclass(frozen=True)
class PortSamples:
    """Flows, their derivatives and pressures at the ports of one run, SI units; outlet flow leaves."""

    time: Array
    """(nt,)"""
    flow: Array
    """(nt, N)"""
    flow_derivative: Array
    """(nt, N)"""
    inflow: Array
    """(nt,) the flow prescribed at the inlet"""
    inflow_derivative: Array
    """(nt,)"""
    inlet_pressure: Array
    """(nt,)"""
    outlet_pressure: Array
    """(nt, N)"""
    lagged_flow: Array
    """(nt, K, N)"""

    @classmethod
    def of(cls, run: FlowRun, time: Array | None = None, time_constants: Array | None = None) -> PortSamples:
        """The run's ports at its own times, or by cubic splines at the given ones.

        ``time_constants`` (K,) s are those of the memories; without any, K is zero.

        Raises `InputError` for a run with fewer than four times, with values that are not finite, or whose
        inlet and outlet flows do not balance.
        """
        own = np.asarray(run.time, dtype=float)
        flow, pressure = np.asarray(run.port_flow, dtype=float), np.asarray(run.port_pressure, dtype=float)
        if len(own) < 4 or (np.diff(own) <= 0.0).any():
            raise InputError("A flow run needs four or more increasing times to train the reduced model.")
        if not (np.isfinite(flow).all() and np.isfinite(pressure).all()):
            raise InputError("The flow run's port flows or pressures are not finite; run the solver again.")
        imbalance = np.abs(flow[:, 0] - flow[:, 1:].sum(axis=1)).max() / np.abs(flow).max(initial=1e-300)
        if imbalance > 0.02:
            raise InputError(
                f"The flow run loses {100.0 * imbalance:.1f} % of its flow between inlet and outlets; "
                "refine the mesh or the time step and run the solver again."
            )
        flow_spline, pressure_spline = CubicSpline(own, flow), CubicSpline(own, pressure)
        at = own if time is None else np.asarray(time, dtype=float)
        lagged = lagged_flows(own, flow[:, 1:], np.zeros(0) if time_constants is None else time_constants)
        flows, rates, pressures = flow_spline(at), flow_spline(at, 1), pressure_spline(at)
        return cls(
            time=at,
            flow=flows[:, 1:],
            flow_derivative=rates[:, 1:],
            inflow=flows[:, 0],
            inflow_derivative=rates[:, 0],
            inlet_pressure=pressures[:, 0],
            outlet_pressure=pressures[:, 1:],
            lagged_flow=lagged if time is None else CubicSpline(own, lagged)(at),
        )


def lagged_flows(time: Array, flow: Array, time_constants: Array) -> Array:
    """(nt, K, N) solutions of tau dlambda/dt = Q - lambda for flows (nt, N), starting from lambda = Q.

    Exact for flows that are linear between the times.
    """
    tau = np.asarray(time_constants, dtype=float)[:, None]
    out = np.empty((len(time), len(tau), flow.shape[1]))
    out[0] = flow[0]
    for i, step in enumerate(np.diff(time)):
        kept = np.exp(-step / tau)
        ramp = 1.0 - tau / step * (1.0 - kept)
        out[i + 1] = kept * out[i] + (1.0 - kept - ramp) * flow[i] + ramp * flow[i + 1]
    return out


def settled(run: FlowRun, time: Array, fraction: float) -> NDArray[np.bool_]:
    """Which times are later than the run's start, which is no physiology, by ``fraction`` of a period.

    Raises `InputError` for a run that ends before.
    """
    kept: NDArray[np.bool_] = time >= run.time[0] + fraction * run.period - 1e-12
    if not kept.any():
        raise InputError(
            f"The flow run lasts {(run.time[-1] - run.time[0]) / run.period:.2f} of its periods, and the first "
            f"{fraction:g} are not used because flow starts from rest; run it for longer."
        )
    return kept


def fit_port_model(
    runs: Sequence[FlowRun],
    *,
    shared: Sequence[Sequence[str]] = (),
    memories: int = 2,
    ridge: float = 1e-6,
    skip: float = START_UP,
) -> PortModel:
    """The port model that explains the pressure drops of all runs best.

    ``shared`` names, for each branch of the tree that feeds several but not all outlets, those outlets; the
    trunk and the branch to each single outlet are always there. ``memories`` is how many time constants of
    memory the model has; those that explain the runs best are chosen from a grid. ``ridge`` is the penalty
    relative to the data, on unknowns scaled by their share in the drop. ``skip`` is the part of a period left
    out at each start. Raises `InputError` for runs of different ports or for names that are not outlets.
    """
    outlets = outlets_of(runs)
    segments = segment_incidence(outlets, shared)
    rows, values = [], []
    candidates = _TIME_CONSTANTS * float(np.mean([run.period for run in runs])) if memories else np.zeros(0)
    lags = []
    for run in runs:
        samples = PortSamples.of(run, time_constants=candidates)
        keep = settled(run, samples.time, skip)
        drop = samples.inlet_pressure[:, None] - samples.outlet_pressure
        rows.append(_columns(samples.flow[keep], samples.flow_derivative[keep], segments))
        lags.append(_memory_columns(samples.flow[keep], samples.lagged_flow[keep], segments))
        values.append(drop[keep].reshape(-1))
    problem = _BoundedFit(np.concatenate(rows), np.concatenate(lags, axis=1), np.concatenate(values), segments)
    tried = [
        (problem.solve(list(chosen), ridge), chosen)
        for chosen in itertools.combinations(range(len(candidates)), memories)
    ]
    (_, solution), chosen = min(tried, key=lambda one: one[0][0])
    return _assemble(outlets, segments, solution, candidates[list(chosen)])


def outlets_of(runs: Sequence[FlowRun]) -> tuple[str, ...]:
    """The outlets that all runs share, in their order; `InputError` when they differ."""
    if not runs:
        raise InputError("Training the reduced model needs at least one flow run.")
    names = runs[0].port_names
    for run in runs[1:]:
        if run.port_names != names:
            raise InputError(f"The flow runs have different ports: {names} and {run.port_names}.")
    return tuple(names[1:])


def segment_incidence(outlets: Sequence[str], shared: Sequence[Sequence[str]]) -> Array:
    """(N, S): one column per outlet, then one per shared branch; 1 where the segment feeds the outlet."""
    columns = [np.eye(len(outlets))]
    for group in shared:
        unknown = [name for name in group if name not in outlets]
        if unknown:
            raise InputError(f"The shared branch names {', '.join(unknown)}, which is no outlet; there are {outlets}.")
        if 1 < len(set(group)) < len(outlets):
            columns.append(np.array([[float(name in group)] for name in outlets]))
    return np.concatenate(columns, axis=1)


def _columns(flow: Array, rate: Array, segments: Array) -> Array:
    """Rows (nt * N) of the drop's dependence on [r, rho, l, lambda, kappa, mu, nu]."""
    nt, n = flow.shape
    inflow, inrate = flow.sum(axis=1), rate.sum(axis=1)
    q, dq = flow @ segments, rate @ segments
    everywhere = np.ones((n, 1))
    blocks = [
        q[:, None] * segments,
        inflow[:, None, None] * everywhere,
        dq[:, None] * segments,
        inrate[:, None, None] * everywhere,
        (q * np.abs(q))[:, None] * segments,
        (q * np.abs(inflow)[:, None])[:, None] * segments,
        (inflow * np.abs(inflow))[:, None, None] * np.eye(n),
    ]
    return np.concatenate(blocks, axis=2).reshape(nt * n, -1)


def _memory_columns(flow: Array, lagged: Array, segments: Array) -> Array:
    """(K, nt * N, S + 1): the drop's dependence on each memory's share of the segments and of the trunk."""
    nt, n = flow.shape
    recalled = (flow[:, None] - lagged).transpose(1, 0, 2)  # (K, nt, N)
    by_segment = (recalled @ segments)[:, :, None, :] * segments
    trunk = np.broadcast_to(recalled.sum(axis=2)[:, :, None, None], (*by_segment.shape[:3], 1))
    return np.concatenate([by_segment, trunk], axis=3).reshape(len(recalled), nt * n, segments.shape[1] + 1)


class _BoundedFit:
    """The least-squares problem with all candidates of memory, solved for a choice of them."""

    def __init__(self, matrix: Array, lags: Array, target: Array, segments: Array) -> None:
        n, s = segments.shape
        self.memory_width = s + 1
        self.own = matrix.shape[1]
        everything = np.concatenate([matrix, *lags], axis=1)
        scale = np.sqrt((everything**2).mean(axis=0))
        self.size = float(np.sqrt((target**2).mean()))
        if self.size == 0.0 or not (scale[:n] > 0.0).all():
            raise InputError("The flow runs carry no flow or no pressure drop; there is nothing to train on.")
        self.scale = np.where(scale > 0.0, scale, 1.0)
        self.lower = np.zeros(everything.shape[1])
        self.lower[s + 1 : 2 * s + 1] = _FLOOR_OF_INERTANCE
        self.lower[self.own - n : self.own] = -np.inf
        self.upper = np.full_like(self.lower, np.inf)
        if n == 1:  # one outlet is its own trunk: what would double its terms is switched off
            self.upper[[1, 3, 5]] = 1e-12
            self.upper[self.own + 1 :: 2] = 1e-12
        # Reduced by QR first, so that the bounded solver sees a handful of rows instead of all samples.
        scaled = np.column_stack([everything / self.scale, target / self.size]) / np.sqrt(len(target))
        self.triangle = np.linalg.qr(scaled, mode="r")

    def solve(self, memories: list[int], ridge: float) -> tuple[float, Array]:
        """Penalized misfit and the unknowns, with these of the candidates of memory."""
        width = self.memory_width
        chosen = [np.arange(self.own)] + [self.own + k * width + np.arange(width) for k in memories]
        columns = np.concatenate(chosen)
        lower, upper = self.lower[columns], self.upper[columns]
        left = np.concatenate([self.triangle[:, columns], np.sqrt(ridge) * np.eye(len(columns))])
        right = np.concatenate([self.triangle[:, -1], np.zeros(len(columns))])
        answer = lsq_linear(left, right, bounds=(lower, upper), method="bvls", tol=1e-12, max_iter=2000)
        solution = np.clip(answer.x, lower, upper) * self.size / self.scale[columns]
        return float(answer.cost), solution


def _assemble(outlets: tuple[str, ...], segments: Array, solution: Array, time_constants: Array) -> PortModel:
    n, s = segments.shape
    sizes = [s, 1, s, 1, s, s, n] + [s, 1] * len(time_constants)
    parts = np.split(solution, np.cumsum(sizes)[:-1])
    r, rho, inertance, trunk, kappa, mu, nu = parts[:7]

    def tree(values: Array, common: Array) -> Array:
        return segments @ (values[:, None] * segments.T) + common

    memory = [tree(parts[k], parts[k + 1]) for k in range(7, len(parts), 2)]
    return PortModel(
        outlets=outlets,
        resistance=tree(r, rho),
        inertance=tree(inertance, trunk),
        segments=segments,
        loss=kappa,
        junction_loss=mu,
        recovery=nu,
        memory=np.array(memory).reshape(-1, n, n),
        time_constants=time_constants,
    )
