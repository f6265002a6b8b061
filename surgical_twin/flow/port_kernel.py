"""The port model's steps, compiled: every member of an ensemble through many steps without a call in between.

What is computed, and why, is in `port_stepper`. An ensemble is a few dozen members with a few outlets each: matrices of
ten rows, for which a call of an array library costs more than the arithmetic. Numba compiles the loops (and keeps the
result beside the module); additions stay in the order written, so that the same input gives the same output to the bit.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

FIRST_NODE = 1.0 / 3.0
"""Radau IIA with two stages has the nodes 1/3 and 1."""

NEWTON_LIMIT = 60
NEWTON_TOLERANCE = 1e-7
"""Newton's method squares it: what is left is 1e-14 of the flows."""

LARGEST_LEAD = 0.2
"""The first guess may leave the old flows by this share of the inflow at most."""


class Tree(NamedTuple):
    """What all members share; see `port_model.Elimination` and `port_stepper.Stepper`."""

    share: Array
    """(N,)"""
    segment_share: Array
    """(S,)"""
    segment_basis: Array
    """(S, N - 1)"""
    junction: Array
    """(N - 1, N - 1)"""
    forcing: Array
    """(N - 1,)"""
    start_part: Array
    """(2, N - 1, N - 1)"""
    memory_past: Array
    """(K, N, 2, N - 1)"""
    recall_flow: Array
    """(K, 2, 2)"""
    recall_past: Array
    """(K, 2)"""
    segments: Array
    """(N, S)"""
    loss: Array
    """(S,)"""
    junction_loss: Array
    """(S,)"""
    recovery: Array
    """(N,)"""
    resistance: Array
    """(N, N)"""
    memory: Array
    """(K, N, N)"""
    flow_from_drive: Array
    """(N, N)"""
    inertance: Array
    """(1,)"""


class Members(NamedTuple):
    """What each member has of its own."""

    factor: Array
    """(m,) on the tree's losses"""
    proximal_resistance: Array
    """(m, N)"""
    bed_from_flow: Array
    """(m, 2, 2, N)"""
    bed_from_pressure: Array
    """(m, 2, N)"""
    bed_constant: Array
    """(m, 2, N)"""
    jacobian: Array
    """(m, 2, N - 1, 2, N - 1)"""
    inflow_part: Array
    """(m, 2, 2, N - 1)"""


class States(NamedTuple):
    """States of the members at some times, as `port_state.PortState` with a leading axis of time."""

    flow: Array
    """(nt, m, N)"""
    capacitor_pressure: Array
    """(nt, m, N)"""
    lagged_flow: Array
    """(nt, m, K, N)"""
    flow_derivative: Array
    """(nt, m, N)"""
    inlet_pressure: Array
    """(nt, m)"""
    outlet_pressure: Array
    """(nt, m, N)"""

    @classmethod
    def room(cls, times: int, members: int, outlets: int, memories: int) -> "States":
        """Arrays to be filled."""
        ports = (times, members, outlets)
        return cls(
            np.empty(ports),
            np.empty(ports),
            np.empty((times, members, memories, outlets)),
            np.empty(ports),
            np.empty((times, members)),
            np.empty(ports),
        )


@njit(cache=True)
def advance(
    tree: Tree, members: Members, time_step: float, start: States, inflow: Array, rate: Array, out: States
) -> None:
    """Take the members from the first time of ``start`` through steps of ``time_step`` s.

    Args:
        tree: shared constants.
        members: each one's.
        time_step: s, of which the constants are.
        start: one time.
        inflow: (steps, m) m^3/s at the end of each step.
        rate: (steps, m) m^3/s^2, its derivative there.
        out: filled with the states at the ends of all steps, or of the last one where it has room for one.
    """
    steps, count = inflow.shape
    outlets = tree.share.shape[0]
    free = outlets - 1
    memories = tree.memory.shape[0]
    stages = np.zeros((2, outlets))
    through = np.zeros(2)
    guess = np.zeros((2, free))
    right = np.zeros((2, free))
    system = np.zeros((2 * free, 2 * free))
    fixed = np.zeros((2 * free, 2 * free))
    known = np.zeros(2 * free)
    drive = np.zeros(outlets)
    flow = np.zeros(outlets)
    pressure = np.zeros(outlets)
    lagged = np.zeros((memories, outlets))
    derivative = np.zeros(outlets)
    rest = 1.0 - FIRST_NODE
    for i in range(count):
        flow[:] = start.flow[0, i]
        pressure[:] = start.capacitor_pressure[0, i]
        lagged[:] = start.lagged_flow[0, i]
        derivative[:] = start.flow_derivative[0, i]
        for t in range(steps):
            before = flow.sum()
            end, slope = inflow[t, i], rate[t, i]
            through[0] = end - rest * time_step * slope + rest**2 * (before - end + time_step * slope)
            through[1] = end
            for s in range(2):
                for n in range(outlets):
                    stages[s, n] = through[s] * tree.share[n]
            if free:
                _solve_stages(
                    tree, members, i, time_step, flow, pressure, lagged, derivative, before, through, guess, right,
                    fixed, system, known,
                )  # fmt: skip
                for s in range(2):
                    for a in range(free):
                        stages[s, a] += guess[s, a]
                        stages[s, free] -= guess[s, a]
            for n in range(outlets):
                pressure[n] = (
                    members.bed_from_flow[i, 1, 0, n] * stages[0, n]
                    + members.bed_from_flow[i, 1, 1, n] * stages[1, n]
                    + members.bed_from_pressure[i, 1, n] * pressure[n]
                    + members.bed_constant[i, 1, n]
                )
                for k in range(memories):
                    lagged[k, n] = (
                        tree.recall_past[k, 1] * lagged[k, n]
                        + tree.recall_flow[k, 1, 0] * stages[0, n]
                        + tree.recall_flow[k, 1, 1] * stages[1, n]
                    )
                flow[n] = stages[1, n]
            inlet = _complete(tree, members, i, flow, pressure, lagged, slope, drive, derivative)
            if out.flow.shape[0] == steps or t == steps - 1:
                row = t if out.flow.shape[0] == steps else 0
                out.flow[row, i] = flow
                out.capacitor_pressure[row, i] = pressure
                out.lagged_flow[row, i] = lagged
                out.flow_derivative[row, i] = derivative
                out.inlet_pressure[row, i] = inlet
                for n in range(outlets):
                    out.outlet_pressure[row, i, n] = pressure[n] + members.proximal_resistance[i, n] * flow[n]


@njit(cache=True)
def _complete(
    tree: Tree,
    members: Members,
    i: int,
    flow: Array,
    pressure: Array,
    lagged: Array,
    slope: float,
    drive: Array,
    derivative: Array,
) -> float:
    """`PortModel.complete` of one member: fills the flows' derivatives, returns the inlet's pressure."""
    outlets, segments = tree.segments.shape
    inflow = flow.sum()
    for n in range(outlets):
        total = 0.0
        for j in range(outlets):
            total += tree.resistance[n, j] * flow[j]
        drive[n] = total + inflow * abs(inflow) * tree.recovery[n]
    for s in range(segments):
        through = 0.0
        for n in range(outlets):
            through += tree.segments[n, s] * flow[n]
        lost = through * (tree.loss[s] * abs(through) + abs(inflow) * tree.junction_loss[s])
        for n in range(outlets):
            drive[n] += tree.segments[n, s] * lost
    for n in range(outlets):
        drive[n] = drive[n] * members.factor[i] + pressure[n] + members.proximal_resistance[i, n] * flow[n]
    for k in range(tree.memory.shape[0]):
        for j in range(outlets):
            recalled = flow[j] - lagged[k, j]
            for n in range(outlets):
                drive[n] += recalled * tree.memory[k, j, n]
    inlet = slope * tree.inertance[0]
    for n in range(outlets):
        inlet += drive[n] * tree.share[n]
        total = slope * tree.share[n]
        for j in range(outlets):
            total += drive[j] * tree.flow_from_drive[j, n]
        derivative[n] = total
    return inlet


@njit(cache=True)
def _solve_stages(
    tree: Tree,
    members: Members,
    i: int,
    time_step: float,
    flow: Array,
    pressure: Array,
    lagged: Array,
    derivative: Array,
    start: float,
    through: Array,
    y: Array,
    right: Array,
    fixed: Array,
    system: Array,
    known: Array,
) -> None:
    """Newton's method on both stages of one member; the last outlet's flow is what the others leave. Fills y."""
    free = y.shape[1]
    segments = tree.loss.shape[0]
    factor = members.factor[i]
    largest = max(abs(through[0]), abs(through[1]))
    rate = derivative.sum()
    size = abs(through[1])
    for a in range(free):
        old = flow[a] - start * tree.share[a]
        size += abs(old)
        # Where the flows' derivatives lead: from there one iteration less is needed than from where they are. A step
        # that is long against the tree's time constants must not be led away by them.
        lead = time_step * (derivative[a] - rate * tree.share[a])
        lead = min(max(lead, -LARGEST_LEAD * largest), LARGEST_LEAD * largest)
        y[0, a] = old + FIRST_NODE * lead
        y[1, a] = old + lead
    for s in range(2):
        weight = abs(through[s]) * factor
        last = members.bed_from_pressure[i, s, free] * pressure[free] + members.bed_constant[i, s, free]
        for a in range(free):
            total = last - members.bed_from_pressure[i, s, a] * pressure[a] - members.bed_constant[i, s, a]
            for b in range(free):
                total += tree.start_part[s, a, b] * (flow[b] - start * tree.share[b])
            total -= members.inflow_part[i, s, 0, a] * through[0] + members.inflow_part[i, s, 1, a] * through[1]
            total -= through[s] * weight * tree.forcing[a]
            for k in range(lagged.shape[0]):
                for n in range(free + 1):
                    total += lagged[k, n] * tree.memory_past[k, n, s, a]
            right[s, a] = total
            for r in range(2):
                for b in range(free):
                    fixed[s * free + a, r * free + b] = members.jacobian[i, s, a, r, b]
            for b in range(free):
                fixed[s * free + a, s * free + b] += weight * tree.junction[a, b]
    per_size = 0.0
    for iteration in range(NEWTON_LIMIT):
        system[:] = fixed
        known[:free] = right[0]
        known[free:] = right[1]
        linear = True
        for s in range(2):
            for j in range(segments):
                loss = tree.loss[j]
                if loss == 0.0:
                    continue
                linear = False
                affine = through[s] * tree.segment_share[j]
                q = affine
                for a in range(free):
                    q += tree.segment_basis[j, a] * y[s, a]
                # kappa q|q| is linearized about q_old to kappa (2 |q_old| q - |q_old| q_old).
                slope = 2.0 * loss * abs(q) * factor
                for a in range(free):
                    own = slope * tree.segment_basis[j, a]
                    if own == 0.0:
                        continue
                    known[s * free + a] += own * (0.5 * q - affine)
                    for b in range(free):
                        system[s * free + a, s * free + b] += own * tree.segment_basis[j, b]
        _eliminate(system, known)
        if iteration == 0:
            for r in range(2 * free):
                size += abs(known[r])
            per_size = 1.0 / (size + 1e-300)
        change = 0.0
        for s in range(2):
            for a in range(free):
                new = known[s * free + a]
                change = max(change, abs(new - y[s, a]) * per_size)
                y[s, a] = new
        if linear or change <= NEWTON_TOLERANCE:
            break


@njit(cache=True)
def _eliminate(matrix: Array, right: Array) -> None:
    """Solves a small dense system by Gaussian elimination with partial pivoting: ``right`` becomes the solution."""
    n = len(right)
    for c in range(n):
        pivot = c
        for r in range(c + 1, n):
            if abs(matrix[r, c]) > abs(matrix[pivot, c]):
                pivot = r
        if pivot != c:
            for j in range(c, n):
                matrix[c, j], matrix[pivot, j] = matrix[pivot, j], matrix[c, j]
            right[c], right[pivot] = right[pivot], right[c]
        inverse = 1.0 / matrix[c, c]
        for r in range(c + 1, n):
            ratio = matrix[r, c] * inverse
            if ratio != 0.0:
                for j in range(c + 1, n):
                    matrix[r, j] -= ratio * matrix[c, j]
                right[r] -= ratio * right[c]
    for c in range(n - 1, -1, -1):
        total = right[c]
        for j in range(c + 1, n):
            total -= matrix[c, j] * right[j]
        right[c] = total / matrix[c, c]
