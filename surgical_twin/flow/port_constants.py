"""The constants of a step of the port model: what a tree and a step length fix, and what each member adds.

The equations are those of `port_stepper`: two-stage Radau IIA, of which the Windkessels and the memory are eliminated
in closed form. A live filter changes its members' Windkessels with every observation and its step never: what the
members share is kept, and what they add is one compiled pass over them. SI units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from surgical_twin.flow.port_kernel import Members, Tree

if TYPE_CHECKING:
    from surgical_twin.flow.port_model import PortModel
    from surgical_twin.flow.port_state import PortParameters

Array = NDArray[np.float64]

# Radau IIA with two stages: the inverse of its matrix of coefficients, and its row sums.
_RADAU_INVERSE = np.array([[1.5, 0.5], [-4.5, 2.5]])
_RADAU_INVERSE_ROW_SUM = _RADAU_INVERSE.sum(axis=1)


@dataclass(frozen=True)
class StepConstants:
    """What all members of a tree share in a step of one length; see `of`."""

    time_step: float
    """s"""
    tree: Tree
    jacobian: Array
    """(2, N - 1, 2, N - 1) inertia and memory in the stage equations' Jacobian"""
    inflow_part: Array
    """(2, 2, N - 1) memory in the inflow's place in them"""
    linear: Array
    """(N - 1, N - 1) friction"""
    linear_inflow: Array
    """(N - 1,)"""

    @classmethod
    def of(cls, model: PortModel, time_step: float) -> StepConstants:
        """For a tree and a step length, s > 0."""
        reduced = model.elimination
        k = len(model.outlets) - 1
        # Memory at the stages: E lambda = Q + (tau/dt) A^-1 1 lambda0 where E = (tau/dt) A^-1 + 1.
        ratio = model.time_constants / time_step
        recall = np.linalg.inv(ratio[:, None, None] * _RADAU_INVERSE + np.eye(2))  # (K, 2, 2)
        recall_past = ratio[:, None] * (recall @ _RADAU_INVERSE_ROW_SUM)
        jacobian = np.einsum("st,ab->satb", _RADAU_INVERSE / time_step, reduced.mass)
        inflow_part = np.zeros((2, 2, k))
        for index, memory in enumerate(reduced.memory):
            jacobian += np.einsum("st,ab->satb", np.eye(2) - recall[index], memory)
            inflow_part += np.einsum("st,a->sta", np.eye(2) - recall[index], reduced.memory_inflow[index])
        tree = Tree(
            *_contiguous(
                reduced.share,
                reduced.segment_share,
                reduced.segment_basis,
                reduced.junction,
                reduced.forcing,
                np.einsum("s,ab->sab", _RADAU_INVERSE_ROW_SUM / time_step, reduced.mass),
                np.einsum("ks,kna->knsa", recall_past, reduced.memory_past),
                recall,
                recall_past,
                model.segments,
                model.loss,
                model.junction_loss,
                model.recovery,
                model.resistance,
                model.memory,
                reduced.flow_from_drive,
                np.array([reduced.inertance]),
            )
        )
        return cls(
            time_step, tree, *_contiguous(jacobian, inflow_part, reduced.linear, reduced.linear_inflow)
        )  # fmt: skip

    def members(self, parameters: PortParameters) -> Members:
        """What each member has of its own."""
        count, n = parameters.proximal_resistance.shape
        factor, proximal = _contiguous(parameters.drop, parameters.proximal_resistance)
        made = Members(
            factor=factor,
            proximal_resistance=proximal,
            bed_from_flow=np.empty((count, 2, 2, n)),
            bed_from_pressure=np.empty((count, 2, n)),
            bed_constant=np.empty((count, 2, n)),
            jacobian=np.empty((count, 2, n - 1, 2, n - 1)),
            inflow_part=np.empty((count, 2, 2, n - 1)),
        )
        distal, compliance, behind = _contiguous(
            parameters.distal_resistance, parameters.compliance, parameters.distal_pressure
        )
        _fill(made, distal, compliance, behind, self.tree.share, self.jacobian, self.inflow_part, self.linear,
              self.linear_inflow, self.time_step)  # fmt: skip
        return made


@njit(cache=True)
def _fill(  # pragma: no cover - compiled
    members: Members,
    distal_resistance: Array,
    compliance: Array,
    distal_pressure: Array,
    share: Array,
    jacobian: Array,
    inflow_part: Array,
    linear: Array,
    linear_inflow: Array,
    time_step: float,
) -> None:
    """Fill in the members' constants; Windkessels are (m, N), the rest is `StepConstants`'."""
    count, n = distal_resistance.shape
    free = n - 1
    a00, a01, a10, a11 = 1.5, 0.5, -4.5, 2.5
    impedance = np.empty((2, 2, n))
    for i in range(count):
        factor = members.factor[i]
        for j in range(n):
            # Windkessels at the stages: E Pc = Q + Pd/Rd + (C/dt) A^-1 1 Pc0, E = (C/dt) A^-1 + 1/Rd. Kept free of
            # divisions by C, so that an outlet may be a pure resistance.
            capacity = compliance[i, j] / time_step
            conductance = 1.0 / distal_resistance[i, j]
            e00, e11 = a00 * capacity + conductance, a11 * capacity + conductance
            e01, e10 = a01 * capacity, a10 * capacity
            determinant = e00 * e11 - e01 * e10
            bed = members.bed_from_flow[i]
            bed[0, 0, j] = e11 / determinant
            bed[0, 1, j] = -e01 / determinant
            bed[1, 0, j] = -e10 / determinant
            bed[1, 1, j] = e00 / determinant
            for s in range(2):
                members.bed_from_pressure[i, s, j] = capacity * (
                    bed[s, 0, j] * (a00 + a01) + bed[s, 1, j] * (a10 + a11)
                )
                members.bed_constant[i, s, j] = (bed[s, 0, j] + bed[s, 1, j]) * (distal_pressure[i, j] * conductance)
                for t in range(2):
                    impedance[s, t, j] = bed[s, t, j]
                # Rp enters as a resistance at its own stage.
                impedance[s, s, j] += members.proximal_resistance[i, j]
        # The stage equations' constant Jacobian, and the inflow's place in them.
        for s in range(2):
            for t in range(2):
                last, friction = impedance[s, t, free], factor if s == t else 0.0
                for a in range(free):
                    members.inflow_part[i, s, t, a] = (
                        impedance[s, t, a] * share[a]
                        - last * share[free]
                        + inflow_part[s, t, a]
                        + friction * linear_inflow[a]
                    )
                    for b in range(free):
                        members.jacobian[i, s, a, t, b] = jacobian[s, a, t, b] + last + friction * linear[a, b]
                    members.jacobian[i, s, a, t, a] += impedance[s, t, a]


def _contiguous(*arrays: Array) -> list[Array]:
    """What the compiled steps are compiled for: floats, one after another."""
    return [np.ascontiguousarray(array, dtype=float) for array in arrays]
