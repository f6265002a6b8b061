"""Time integration of the port model (see `port_model` for the circuit and its equations).

Two-stage Radau IIA, order 3. It is B-stable: two solutions with equal inflow, which approach each other in
the equations, do so in the method for every step length (Hairer & Wanner, Solving Ordinary Differential
Equations II, sections IV.5 and IV.12), and it damps what is much faster than the step. The stages are solved
by Newton's method for the N - 1 free flows; Windkessels and memory are eliminated from them in closed form.
All arrays are vectorized over ensemble members, the first axis. SI units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.port_state import PortParameters, PortState

if TYPE_CHECKING:
    from surgical_twin.flow.port_model import PortModel

Array = NDArray[np.float64]

# Radau IIA with two stages: nodes 1/3 and 1, the inverse of its matrix of coefficients, and its row sums.
_FIRST_NODE = 1.0 / 3.0
_RADAU_INVERSE = np.array([[1.5, 0.5], [-4.5, 2.5]])
_RADAU_INVERSE_ROW_SUM = _RADAU_INVERSE.sum(axis=1)

_NEWTON_LIMIT = 60
_NEWTON_TOLERANCE = 1e-5  # Newton's method squares it: what is left is 1e-10 of the flows


class Stepper:
    """Advances an ensemble by one fixed step (s); make a new one when step or parameters change.

    Raises `InputError` for Windkessels of another number of outlets and for a step that is not positive.
    """

    def __init__(self, model: PortModel, parameters: PortParameters, time_step: float) -> None:
        n = len(model.outlets)
        if parameters.proximal_resistance.shape[1] != n:
            raise InputError(
                f"The port model has {n} outlets ({', '.join(model.outlets)}) and the Windkessels are for "
                f"{parameters.proximal_resistance.shape[1]}."
            )
        if not (np.isfinite(time_step) and time_step > 0.0):
            raise InputError(f"The time step of the port model must be positive; it is {time_step} s.")
        self.model = model
        self.parameters = parameters
        self.time_step = float(time_step)
        reduced = model.elimination
        m = parameters.members

        # Windkessels at the stages: E Pc = Q + Pd/Rd + (C/dt) A^-1 1 Pc0, E = (C/dt) A^-1 + 1/Rd (2 x 2 per
        # outlet). Kept free of divisions by C, so that an outlet may be a pure resistance.
        capacity = parameters.compliance / self.time_step
        conductance = 1.0 / parameters.distal_resistance
        e00 = _RADAU_INVERSE[0, 0] * capacity + conductance
        e11 = _RADAU_INVERSE[1, 1] * capacity + conductance
        e01, e10 = _RADAU_INVERSE[0, 1] * capacity, _RADAU_INVERSE[1, 0] * capacity
        inverse = np.empty((m, 2, 2, n))
        inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 0], inverse[:, 1, 1] = e11, -e01, -e10, e00
        inverse /= (e00 * e11 - e01 * e10)[:, None, None, :]
        self._bed_from_flow = inverse
        ones = inverse.sum(axis=2)
        self._bed_from_pressure = capacity[:, None] * (
            inverse[:, :, 0] * _RADAU_INVERSE_ROW_SUM[0] + inverse[:, :, 1] * _RADAU_INVERSE_ROW_SUM[1]
        )
        self._bed_constant = ones * (parameters.distal_pressure * conductance)[:, None]

        # Rp enters as a resistance at its own stage.
        impedance = inverse.copy()
        impedance[:, 0, 0] += parameters.proximal_resistance
        impedance[:, 1, 1] += parameters.proximal_resistance

        # The stage equations' constant Jacobian, (m, stage, n-1, stage, n-1), and the inflow's place in them.
        k = n - 1
        z_last = impedance[..., n - 1]
        jacobian = np.empty((m, 2, k, 2, k))
        jacobian[:] = z_last[:, :, None, :, None]
        for a in range(k):
            jacobian[:, :, a, :, a] += impedance[..., a]
        jacobian += np.einsum("st,ab->satb", _RADAU_INVERSE / self.time_step, reduced.mass)
        self._factor = parameters.drop
        for stage in range(2):
            jacobian[:, stage, :, stage, :] += self._factor[:, None, None] * reduced.linear
        self._jacobian = jacobian
        inflow_part = (impedance[..., :k] * reduced.share[:k] - (z_last * reduced.share[k])[..., None]).copy()
        inflow_part[:, 0, 0] += self._factor[:, None] * reduced.linear_inflow
        inflow_part[:, 1, 1] += self._factor[:, None] * reduced.linear_inflow
        self._inflow_part = inflow_part

        # Memory at the stages: E lambda = Q + (tau/dt) A^-1 1 lambda0 where E = (tau/dt) A^-1 + 1.
        ratio = model.time_constants / self.time_step
        recall = np.linalg.inv(ratio[:, None, None] * _RADAU_INVERSE + np.eye(2))  # (K, 2, 2)
        self._recall_flow = recall
        self._recall_past = ratio[:, None] * (recall @ _RADAU_INVERSE_ROW_SUM)
        for k, memory in enumerate(reduced.memory):
            jacobian += np.einsum("st,ab->satb", np.eye(2) - recall[k], memory)
            inflow_part += np.einsum("st,a->sta", np.eye(2) - recall[k], reduced.memory_inflow[k])
        past = np.einsum("ks,kna->knsa", self._recall_past, reduced.memory_past)
        self._memory_past = past.reshape(len(model.memory) * n, 2 * (n - 1))
        self._start_part = np.einsum("s,ab->sab", _RADAU_INVERSE_ROW_SUM / self.time_step, reduced.mass)

    def step(self, state: PortState, inflow: ArrayLike, inflow_derivative: ArrayLike) -> PortState:
        """The state one step later.

        ``inflow`` and ``inflow_derivative`` are at the end of the step, (members,) or one number. Within the
        step the inflow is the parabola through the sum of the old flows that ends with these two.
        """
        model, reduced, dt = self.model, self.model.elimination, self.time_step
        members = self.parameters.members
        end = np.broadcast_to(np.asarray(inflow, dtype=float), (members,))
        rate = np.broadcast_to(np.asarray(inflow_derivative, dtype=float), (members,))
        start = state.flow.sum(axis=1)
        rest = 1.0 - _FIRST_NODE
        middle = end - rest * dt * rate + rest**2 * (start - end + dt * rate)
        through = np.stack([middle, end], axis=1)  # (m, 2)

        k = len(model.outlets) - 1
        flow = through[:, :, None] * reduced.share
        if k:
            y = self._solve_stages(state, start, through)
            flow[:, :, :k] += y
            flow[:, :, k] -= y.sum(axis=2)
        last = self._bed_from_flow[:, 1]
        pressure = last[:, 0] * flow[:, 0] + last[:, 1] * flow[:, 1]
        pressure += self._bed_from_pressure[:, 1] * state.capacitor_pressure
        pressure += self._bed_constant[:, 1]
        lagged = self._recall_past[:, 1, None] * state.lagged_flow
        lagged += self._recall_flow[:, 1] @ flow
        return model.complete(flow[:, 1], pressure, rate, self.parameters, lagged)

    def _solve_stages(self, state: PortState, start: Array, through: Array) -> Array:
        """Newton's method on both stages; returns y (m, 2, N-1)."""
        model, reduced = self.model, self.model.elimination
        m, k = len(start), len(model.outlets) - 1
        before = state.flow[:, :k] - start[:, None] * reduced.share[:k]
        beds = self._bed_from_pressure * state.capacitor_pressure[:, None] + self._bed_constant
        size = np.abs(through)
        weight = size * self._factor[:, None]
        right = before @ self._start_part.transpose(0, 2, 1)  # (2, m, k)
        right = right.transpose(1, 0, 2) - (beds[..., :k] - beds[..., k:])
        right -= self._inflow_part[:, :, 0] * through[:, :1, None]
        right -= self._inflow_part[:, :, 1] * through[:, 1:, None]
        right -= (through * weight)[..., None] * reduced.forcing
        if len(model.memory):
            right += (state.lagged_flow.reshape(m, -1) @ self._memory_past).reshape(m, 2, k)
        fixed = self._jacobian.copy()
        if model.junction_loss.any():
            fixed[:, 0, :, 0] += weight[:, 0, None, None] * reduced.junction
            fixed[:, 1, :, 1] += weight[:, 1, None, None] * reduced.junction

        # Where the flows' derivatives lead: from there one iteration less is needed than from where they are. A step
        # that is long against the tree's time constants must not be led away by them.
        rate = state.flow_derivative.sum(axis=1)
        lead = self.time_step * (state.flow_derivative[:, :k] - rate[:, None] * reduced.share[:k])
        most = 0.2 * size.max(axis=1, keepdims=True)
        y = before[:, None] + np.array([_FIRST_NODE, 1.0])[:, None] * np.clip(lead, -most, most)[:, None]
        if not model.loss.any():
            return _solve(fixed, right)
        affine = through[..., None] * reduced.segment_share  # (m, 2, S)
        ones = np.ones(2 * k)
        per_size = None
        for _ in range(_NEWTON_LIMIT):
            q = affine + y @ reduced.segment_basis.T
            slope = (2.0 * model.loss) * np.abs(q) * self._factor[:, None, None]
            # kappa q|q| is linearized about q_old to kappa (2 |q_old| q - |q_old| q_old).
            known = right + (slope * (0.5 * q - affine)) @ reduced.segment_basis
            block = (slope @ reduced.outer).reshape(m, 2, k, k)
            system = fixed.copy()
            system[:, 0, :, 0] += block[:, 0]
            system[:, 1, :, 1] += block[:, 1]
            new = _solve(system, known)
            if per_size is None:
                total = size[:, 1] + np.abs(before) @ ones[:k] + np.abs(new).reshape(m, -1) @ ones
                per_size = (1.0 / (total + np.finfo(float).tiny))[:, None, None]
            change = np.abs(new - y)
            change *= per_size
            y = new
            if change.max() <= _NEWTON_TOLERANCE:
                break
        return y


def _solve(matrix: Array, right: Array) -> Array:
    """Solves (m, 2, k, 2, k) x = (m, 2, k) for every member."""
    m, _, k = right.shape
    if k == 1:  # two by two: Cramer's rule is several times faster than a call of LAPACK per member
        a, b = matrix[:, 0, 0, 0, 0], matrix[:, 0, 0, 1, 0]
        c, d = matrix[:, 1, 0, 0, 0], matrix[:, 1, 0, 1, 0]
        f, g = right[:, 0, 0], right[:, 1, 0]
        determinant = a * d - b * c
        out = np.empty_like(right)
        out[:, 0, 0] = (d * f - b * g) / determinant
        out[:, 1, 0] = (a * g - c * f) / determinant
        return out
    return np.linalg.solve(matrix.reshape(m, 2 * k, 2 * k), right.reshape(m, 2 * k, 1)).reshape(m, 2, k)


@dataclass(frozen=True)
class PortTrajectory:
    """What `simulate` returns: a `PortState` with a leading axis of time. SI units."""

    time: Array
    """(nt,)"""
    flow: Array
    """(nt, members, N)"""
    capacitor_pressure: Array
    """(nt, members, N)"""
    lagged_flow: Array
    """(nt, members, K, N)"""
    flow_derivative: Array
    """(nt, members, N)"""
    inlet_pressure: Array
    """(nt, members)"""
    outlet_pressure: Array
    """(nt, members, N)"""


def simulate(
    model: PortModel,
    parameters: PortParameters,
    time: ArrayLike,
    inflow: ArrayLike,
    inflow_derivative: ArrayLike,
    *,
    flow: Array | None = None,
    capacitor_pressure: Array | None = None,
    lagged_flow: Array | None = None,
) -> PortTrajectory:
    """Integrates over evenly spaced times (nt,) with an inflow (nt,) or (nt, members) and its derivative.

    Starts from the given flow and capacitor pressure (members, N), else from the steady state of the first
    inflow; from the given lagged flow (members, K, N), else as after long steady flow. Raises `InputError`
    for times that are not evenly spaced.
    """
    times, inflows = np.asarray(time, dtype=float), np.asarray(inflow, dtype=float)
    rates = np.asarray(inflow_derivative, dtype=float)
    steps = np.diff(times)
    if len(steps) == 0 or not np.allclose(steps, steps.mean(), rtol=1e-6, atol=0.0) or steps[0] <= 0.0:
        raise InputError("The port model needs two or more evenly spaced, increasing times.")
    if flow is None or capacitor_pressure is None:
        begin = model.steady_state(parameters, inflows[0])
        flow = begin.flow if flow is None else flow
        capacitor_pressure = begin.capacitor_pressure if capacitor_pressure is None else capacitor_pressure
    stepper = model.stepper(parameters, float(steps.mean()))
    states = [model.complete(flow, capacitor_pressure, rates[0], parameters, lagged_flow)]
    for value, rate in zip(inflows[1:], rates[1:], strict=True):
        states.append(stepper.step(states[-1], value, rate))
    return PortTrajectory(
        time=times,
        flow=np.stack([state.flow for state in states]),
        capacitor_pressure=np.stack([state.capacitor_pressure for state in states]),
        lagged_flow=np.stack([state.lagged_flow for state in states]),
        flow_derivative=np.stack([state.flow_derivative for state in states]),
        inlet_pressure=np.stack([state.inlet_pressure for state in states]),
        outlet_pressure=np.stack([state.outlet_pressure for state in states]),
    )
