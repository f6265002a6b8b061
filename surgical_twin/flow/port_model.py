"""Lumped model of a rigid vessel tree: one inlet with prescribed flow, N outlets with Windkessels.

Circuit, for outlet ``i`` of ``N`` (all segments rigid, so the tree itself stores no blood)::

                    pressure drop of the tree                Rp_i              Rd_i
    P_in o----[ R, L, losses: see below ]----o P_i --/\\/\\/\\--o Pc_i --/\\/\\/\\--o Pd_i
    Q_in -->                                 Q_i -->         |
                                                            === C_i
                                                             |
                                                             o  0

Governing equations::

    P_in - P_i  = sum_j R_ij Q_j + sum_j L_ij dQ_j/dt
                  + sum_s B_is (kappa_s q_s |q_s| + mu_s q_s |Q_in|) + nu_i Q_in |Q_in|      q = B' Q
                  + sum_k sum_j M^k_ij (Q_j - lambda^k_j)
    tau_k dlambda^k_j/dt = Q_j - lambda^k_j
    P_i         = Pc_i + Rp_i Q_i
    C_i dPc_i/dt = Q_i - (Pc_i - Pd_i) / Rd_i
    sum_i Q_i   = Q_in                                                 (conservation of volume)

Each member of an ensemble may multiply the first line's resistance and the second line by a factor of its own, by which
the patient's losses differ from those of the model (``drop_factor``).

``B`` (N, S) says which outlets a segment feeds: one segment per outlet, and one per shared branch. The
``kappa`` term is loss at an expansion (Young & Tsai, J. Biomech. 6, 1973), ``mu`` and ``nu`` are the part of
junction losses and of Bernoulli's pressure recovery which grows with the total flow. ``R`` must be passive,
``L`` symmetric positive definite, ``kappa`` and ``mu`` non-negative; ``nu`` is free, because ``Q_in`` is
prescribed and the term therefore cannot feed on itself.

The last term of the drop is the fluid's memory. Pulsatile flow in a tube is not a resistance and an
inertance: the boundary layer of Womersley's solution (J. Physiol. 127, 1955) makes friction depend on the
past second of flow. In the frequency domain the term is a ladder of resistances parallel to inertances,
``M i w tau / (1 + i w tau)``, and one or two rungs bring the error of a tube's pressure drop from 6-8 % to
below 1 % for the pulse of a carotid artery. ``M^k`` is symmetric and not negative, so memory is passive.

The inlet pressure is the Lagrange multiplier of the last equation (a differential-algebraic system of
index 2). It is eliminated exactly: with ``e = L^-1 1 / (1' L^-1 1)`` and ``Z`` a basis of the flows that sum
to zero, ``Q = e Q_in + Z y`` satisfies conservation whatever ``y`` is, and ``Z' L e = 0``, so a jump of the
inflow distributes over the outlets as inertia wants it. What is left is an ordinary differential equation for
``y`` (N - 1 flows) and ``Pc``, which is contractive: with equal inflow, two solutions approach each other in
the norm ``y' Z'LZ y + sum_i C_i Pc_i^2 + sum_k tau_k lambda^k' M^k lambda^k``.

How it is integrated in time is in `port_stepper`. Everything is vectorized over ensemble members (first
axis). SI units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.port_constants import StepConstants
from surgical_twin.flow.port_state import PortParameters, PortState
from surgical_twin.flow.port_stepper import PortTrajectory, Stepper, simulate

__all__ = ["PortModel", "PortParameters", "PortState", "PortTrajectory", "Stepper", "simulate"]

Array = NDArray[np.float64]

MOST_STEP_LENGTHS = 8
"""A session steps with two lengths; the search for a steady state has one of its own each time."""


@dataclass(frozen=True)
class PortModel:
    """The tree's own constants; see the module for the circuit and the equations. SI units.

    ``resistance`` and ``inertance`` are (N, N), ``segments`` is the incidence (N, S), ``loss`` (kappa) and
    ``junction_loss`` (mu) are (S,), ``recovery`` (nu) is (N,), ``memory`` (M) is (K, N, N) with its
    ``time_constants`` (tau) (K,), s; K may be zero. Raises `InputError` where a constant is not
    physical, so that every model that exists can be integrated with every step length.
    """

    outlets: tuple[str, ...]
    resistance: Array
    inertance: Array
    segments: Array
    loss: Array
    junction_loss: Array
    recovery: Array
    memory: Array
    time_constants: Array

    def __post_init__(self) -> None:
        n = len(self.outlets)
        if n == 0:
            raise InputError("A port model needs at least one outlet.")
        count = self.segments.shape[1] if self.segments.ndim == 2 else -1
        shapes = {
            "resistance": (n, n),
            "inertance": (n, n),
            "segments": (n, count),
            "loss": (count,),
            "junction_loss": (count,),
            "recovery": (n,),
            "memory": (len(self.time_constants), n, n),
            "time_constants": (self.time_constants.size,),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise InputError(
                    f"The port model's {name} must be finite with the shape {shape}; it has {values.shape}."
                )
        scale = np.abs(self.resistance).max()
        if np.linalg.eigvalsh(self.resistance + self.resistance.T)[0] < -1e-9 * scale:
            raise InputError("The port model's resistance is not passive: it would feed energy to some flow.")
        scale = np.abs(self.inertance).max()
        if (
            not np.allclose(self.inertance, self.inertance.T, rtol=1e-9, atol=1e-12 * scale)
            or np.linalg.eigvalsh(self.inertance)[0] <= 1e-13 * scale
        ):
            raise InputError("The port model's inertance must be symmetric and positive definite.")
        if min(self.loss.min(initial=0.0), self.junction_loss.min(initial=0.0)) < 0.0:
            raise InputError("The port model's loss coefficients must not be negative.")
        if not (self.time_constants > 0.0).all():
            raise InputError("The port model's time constants of memory must be positive.")
        for one in self.memory:
            scale = np.abs(one).max()
            if not np.allclose(one, one.T, rtol=1e-9, atol=1e-12 * scale) or np.linalg.eigvalsh(one)[0] < -1e-9 * scale:
                raise InputError("The port model's memory must be symmetric and must not feed energy to a flow.")

    @cached_property
    def elimination(self) -> Elimination:
        """The constants of the system without the inlet pressure."""
        return Elimination.of(self)

    def step_constants(self, time_step: float) -> StepConstants:
        """What all members share in a step of this length (s); the last few lengths' are kept."""
        kept = self._step_constants
        if time_step not in kept:
            if len(kept) >= MOST_STEP_LENGTHS:
                kept.pop(next(iter(kept)))
            kept[time_step] = StepConstants.of(self, time_step)
        return kept[time_step]

    @cached_property
    def _step_constants(self) -> dict[float, StepConstants]:
        return {}

    @property
    def inertial_share(self) -> Array:
        """(N,) how a sudden change of the inflow splits over the outlets; sums to one."""
        return self.elimination.share

    def stepper(self, parameters: PortParameters, time_step: float) -> Stepper:
        """The time integrator of these members with this step (s); make a new one when either changes."""
        return Stepper(self, parameters, time_step)

    def steady_state(self, parameters: PortParameters, inflow: ArrayLike) -> PortState:
        """The state that a constant inflow (members,) ends in."""
        flow_in = np.broadcast_to(np.asarray(inflow, dtype=float), (parameters.members,))
        flow = flow_in[:, None] * self.inertial_share
        bed_pressure = parameters.distal_pressure + parameters.distal_resistance * flow
        state = self.complete(flow, bed_pressure, 0.0, parameters)
        # An L-stable method forgets its start within one step that is long against every time constant.
        beds = float((parameters.distal_resistance * parameters.compliance).max(initial=1.0))
        stepper = self.stepper(parameters, 1e4 * max(beds, float(self.time_constants.max(initial=1.0))))
        for _ in range(3):
            state = stepper.step(state, flow_in, 0.0)
        return state

    def complete(
        self,
        flow: Array,
        capacitor_pressure: Array,
        inflow_derivative: ArrayLike,
        parameters: PortParameters,
        lagged_flow: Array | None = None,
    ) -> PortState:
        """The whole state from flow and capacitor pressure (members, N), as after a filter's update.

        The inflow is the sum of ``flow``; its derivative is (members,) or one number, m^3/s^2.
        ``lagged_flow`` is (members, K, N); without it the flow is taken to have been steady for long. After
        a filter's update pass the old one moved by the flow's change, so that the memory stays what it was.
        """
        reduced = self.elimination
        inflow = flow.sum(axis=1)
        q = flow @ self.segments
        lost = q * (self.loss * np.abs(q) + np.abs(inflow)[:, None] * self.junction_loss)
        outlet_pressure = capacitor_pressure + parameters.proximal_resistance * flow
        drive = flow @ self.resistance.T + lost @ self.segments.T
        drive += (inflow * np.abs(inflow))[:, None] * self.recovery
        drive *= parameters.drop[:, None]
        drive += outlet_pressure
        if lagged_flow is None:
            lagged_flow = np.repeat(flow[:, None], len(self.time_constants), axis=1)
        if len(self.memory):
            drive += (flow[:, None] - lagged_flow).reshape(len(flow), -1) @ self.memory.reshape(-1, flow.shape[1])
        rate = np.broadcast_to(np.asarray(inflow_derivative, dtype=float), inflow.shape)
        flow_derivative = drive @ reduced.flow_from_drive + rate[:, None] * reduced.share
        return PortState(
            flow=flow,
            capacitor_pressure=capacitor_pressure,
            lagged_flow=lagged_flow,
            flow_derivative=flow_derivative,
            inlet_pressure=drive @ reduced.share + rate * reduced.inertance,
            outlet_pressure=outlet_pressure,
            drop_factor=parameters.drop,
        )

    def pressure_drop(self, flow: Array, flow_derivative: Array, lagged_flow: Array) -> Array:
        """P_in - P_i (t, N) at given flows, their derivatives (t, N) and lagged flows (t, K, N)."""
        inflow = np.abs(flow.sum(axis=1, keepdims=True))
        q = flow @ self.segments
        lost = q * (self.loss * np.abs(q) + self.junction_loss * inflow)
        recovered = flow.sum(axis=1, keepdims=True) * inflow * self.recovery
        recalled = np.einsum("tkj,kji->ti", flow[:, None] - lagged_flow, self.memory)
        linear = flow @ self.resistance.T + flow_derivative @ self.inertance.T
        return linear + lost @ self.segments.T + recovered + recalled


@dataclass(frozen=True)
class Elimination:
    """What follows from the tree's constants alone once the inlet pressure is eliminated."""

    share: Array  # e (N,): how inertia splits a change of the inflow
    inertance: float  # 1 / (1' L^-1 1): of the whole tree as the inlet feels it
    basis: Array  # Z (N, N-1)
    mass: Array  # Z' L Z
    linear: Array  # Z' R Z
    linear_inflow: Array  # Z' R e
    segment_basis: Array  # T = B' Z (S, N-1)
    segment_share: Array  # b = B' e (S,)
    outer: Array  # (S, (N-1)^2): T_sa T_sb
    junction: Array  # T' diag(mu) T
    forcing: Array  # Z' nu + T' diag(mu) b
    memory: Array  # (K, N-1, N-1): Z' M Z
    memory_inflow: Array  # (K, N-1): Z' M e
    memory_past: Array  # (K, N, N-1): M Z
    flow_from_drive: Array  # (N, N): -(Z M^-1 Z')', turns R Q + losses + P_i into dQ/dt

    @classmethod
    def of(cls, model: PortModel) -> Elimination:
        """From the tree's constants; see the module for the mathematics."""
        n = len(model.outlets)
        solved = np.linalg.solve(model.inertance, np.ones(n))
        share = solved / solved.sum()
        basis = np.vstack([np.eye(n - 1), -np.ones((1, n - 1))])
        mass = basis.T @ model.inertance @ basis
        segment_basis = model.segments.T @ basis
        segment_share = model.segments.T @ share
        return cls(
            share=share,
            inertance=float(1.0 / solved.sum()),
            basis=basis,
            mass=mass,
            linear=basis.T @ model.resistance @ basis,
            linear_inflow=basis.T @ model.resistance @ share,
            segment_basis=segment_basis,
            segment_share=segment_share,
            outer=np.einsum("sa,sb->sab", segment_basis, segment_basis).reshape(len(model.loss), (n - 1) ** 2),
            junction=segment_basis.T @ (model.junction_loss[:, None] * segment_basis),
            forcing=basis.T @ model.recovery + segment_basis.T @ (model.junction_loss * segment_share),
            memory=basis.T @ model.memory @ basis,
            memory_inflow=model.memory @ share @ basis,
            memory_past=model.memory @ basis,
            flow_from_drive=-(basis @ np.linalg.solve(mass, basis.T)).T,
        )
