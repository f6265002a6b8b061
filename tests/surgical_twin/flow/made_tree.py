"""A made tree, its beds and its inflow, and the same equations integrated by SciPy; for the tests of the port model."""

from dataclasses import dataclass, field

import numpy as np
from scipy.integrate import solve_ivp

from surgical_twin.flow.port_model import PortModel, PortParameters

PERIOD = 0.8


@dataclass
class Run:
    """The fields of a flow run that the fit reads."""

    port_names: tuple[str, ...]
    time: np.ndarray
    port_flow: np.ndarray
    port_pressure: np.ndarray
    period: float = PERIOD
    windkessels: dict = field(default_factory=dict)


@dataclass
class Bed:
    proximal_resistance: float
    distal_resistance: float
    compliance: float
    distal_pressure: float = 0.0


def a_model(n, seed=0, loss=1.0):
    rng = np.random.default_rng(seed)
    groups = [np.eye(n)]
    if n > 2:
        groups.append(np.array([[1.0], [1.0]] + [[0.0]] * (n - 2)))
    segments = np.hstack(groups)
    s = segments.shape[1]
    r, inertance = rng.uniform(0.5, 2.0, s) * 2e7, rng.uniform(0.5, 2.0, s) * 2e6
    return PortModel(
        outlets=tuple(f"outlet_{i + 1}" for i in range(n)),
        resistance=segments @ np.diag(r) @ segments.T + 1e7,
        inertance=segments @ np.diag(inertance) @ segments.T + 1e6,
        segments=segments,
        loss=loss * rng.uniform(0.5, 2.0, s) * 3e12,
        junction_loss=loss * rng.uniform(0.0, 1.0, s) * 5e11,
        recovery=loss * rng.normal(0.0, 1.0, n) * 2e11,
        memory=np.array(
            [segments @ np.diag(rng.uniform(0.0, 2.0, s) * size) @ segments.T + size for size in (3e7, 1e7)]
        ),
        time_constants=np.array([0.02, 0.15]),
    )


def some_parameters(n, members=1, seed=1):
    rng = np.random.default_rng(seed)
    return PortParameters(
        proximal_resistance=rng.uniform(0.5, 2.0, (members, n)) * 1e8,
        distal_resistance=rng.uniform(0.5, 2.0, (members, n)) * 1.2e9,
        compliance=rng.uniform(0.5, 2.0, (members, n)) * 6e-10,
        distal_pressure=rng.uniform(0.0, 1.0, (members, n)) * 500.0,
    )


def inflow(t, scale=1.0):
    """A pulse with early diastolic backflow, m^3/s, and its derivative."""
    w = 2.0 * np.pi / PERIOD
    amplitudes, phases = np.array([7.0, 5.0, 2.0]) * 1e-6, np.array([0.3, 1.2, 2.0])
    k = np.arange(1, 4)
    angle = w * k * np.asarray(t)[..., None] - phases
    value = 6e-6 + (amplitudes * np.cos(angle)).sum(-1)
    rate = (-amplitudes * w * k * np.sin(angle)).sum(-1)
    return scale * value, scale * rate


def tree_drop_without_inertia(model, q):
    total = q.sum()
    out = np.zeros(len(q))
    for i in range(len(q)):
        for j in range(len(q)):
            out[i] += model.resistance[i, j] * q[j]
        for s in range(model.segments.shape[1]):
            if model.segments[i, s]:
                through = sum(model.segments[j, s] * q[j] for j in range(len(q)))
                out[i] += model.loss[s] * through * abs(through) + model.junction_loss[s] * through * abs(total)
        out[i] += model.recovery[i] * total * abs(total)
    return out


def steady_past(q0):
    return np.tile(q0, 2)


def reference(model, p, times, q0, pc0, scale=1.0):
    """The differential-algebraic system, its inlet pressure solved for at every instant, by scipy."""
    n = len(model.outlets)

    def unknowns(t, state):
        q, pc = state[:n], state[n : 2 * n]
        drive = tree_drop_without_inertia(model, q) + p.proximal_resistance[0] * q + pc
        for k in range(2):
            drive = drive + model.memory[k] @ (q - state[(2 + k) * n : (3 + k) * n])
        system = np.block([[model.inertance, -np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
        answer = np.linalg.solve(system, np.concatenate([-drive, [inflow(t, scale)[1]]]))
        return answer[:n], answer[n]

    def slope(t, state):
        q, pc = state[:n], state[n : 2 * n]
        storage = (q - (pc - p.distal_pressure[0]) / p.distal_resistance[0]) / p.compliance[0]
        recalled = [(q - state[(2 + k) * n : (3 + k) * n]) / model.time_constants[k] for k in range(2)]
        return np.concatenate([unknowns(t, state)[0], storage, *recalled])

    start = np.concatenate([q0, pc0, steady_past(q0)])
    answer = solve_ivp(slope, (times[0], times[-1]), start, t_eval=times, rtol=1e-10, atol=1e-16, method="DOP853")
    inlet = np.array([unknowns(t, s)[1] for t, s in zip(times, answer.y.T, strict=True)])
    return answer.y[:n].T, answer.y[n : 2 * n].T, inlet
