"""Time integration of the port model (see `port_model` for the circuit and its equations).

Two-stage Radau IIA, order 3. It is B-stable: two solutions with equal inflow, which approach each other in
the equations, do so in the method for every step length (Hairer & Wanner, Solving Ordinary Differential
Equations II, sections IV.5 and IV.12), and it damps what is much faster than the step. The stages are solved
by Newton's method for the N - 1 free flows; Windkessels and memory are eliminated from them in closed form.
The constants of a step are made in `port_constants`; the steps themselves are `port_lanes` and `port_kernel`. SI units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.port_kernel import States
from surgical_twin.flow.port_lanes import best_advance
from surgical_twin.flow.port_state import PortParameters, PortState

if TYPE_CHECKING:
    from surgical_twin.flow.port_model import PortModel

Array = NDArray[np.float64]


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
        constants = model.step_constants(self.time_step)
        self._tree = constants.tree
        self._members = constants.members(parameters)

    def step(self, state: PortState, inflow: ArrayLike, inflow_derivative: ArrayLike) -> PortState:
        """The state one step later.

        ``inflow`` and ``inflow_derivative`` are at the end of the step, (members,) or one number. Within the
        step the inflow is the parabola through the sum of the old flows that ends with these two.
        """
        return self.advance(state, np.reshape(inflow, (1, -1)), np.reshape(inflow_derivative, (1, -1)))

    def advance(self, state: PortState, inflow: ArrayLike, inflow_derivative: ArrayLike) -> PortState:
        """The state after as many steps as ``inflow`` has rows: (steps, members) or (steps, 1), as in `step`."""
        return self._state(self._run(state, inflow, inflow_derivative, all_times=False), 0)

    def states(self, state: PortState, inflow: ArrayLike, inflow_derivative: ArrayLike) -> list[PortState]:
        """The states at the end of every one of these steps, as in `advance`."""
        run = self._run(state, inflow, inflow_derivative, all_times=True)
        return [self._state(run, index) for index in range(len(run.flow))]

    def trajectory(self, state: PortState, inflow: ArrayLike, inflow_derivative: ArrayLike) -> States:
        """The same as arrays with a leading axis of time."""
        return self._run(state, inflow, inflow_derivative, all_times=True)

    def _run(self, state: PortState, inflow: ArrayLike, rate: ArrayLike, *, all_times: bool) -> States:
        members = self.parameters.members
        ends, rates = (
            np.ascontiguousarray(np.broadcast_to(values, (len(values), members)))
            for values in (np.asarray(inflow, dtype=float), np.asarray(rate, dtype=float))
        )
        out = States.room(
            len(ends) if all_times else min(1, len(ends)),
            members,
            len(self.model.outlets),
            len(self.model.time_constants),
        )
        arrays = (state.flow, state.capacitor_pressure, state.lagged_flow, state.flow_derivative)
        start = States(*(one[None] for one in _contiguous(*arrays, state.inlet_pressure, state.outlet_pressure)))
        best_advance()(self._tree, self._members, self.time_step, start, ends, rates, out)
        return out

    def _state(self, run: States, index: int) -> PortState:
        return PortState(
            flow=run.flow[index],
            capacitor_pressure=run.capacitor_pressure[index],
            lagged_flow=run.lagged_flow[index],
            flow_derivative=run.flow_derivative[index],
            inlet_pressure=run.inlet_pressure[index],
            outlet_pressure=run.outlet_pressure[index],
            drop_factor=self.parameters.drop,
        )


def _contiguous(*arrays: Array) -> list[Array]:
    """What the compiled steps are compiled for: floats, one after another."""
    return [np.ascontiguousarray(array, dtype=float) for array in arrays]


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
    first = model.complete(flow, capacitor_pressure, rates[0], parameters, lagged_flow)
    later = stepper.trajectory(first, inflows[1:].reshape(len(steps), -1), rates[1:].reshape(len(steps), -1))
    names = ("flow", "capacitor_pressure", "lagged_flow", "flow_derivative", "inlet_pressure", "outlet_pressure")
    joined = {name: np.concatenate([getattr(first, name)[None], getattr(later, name)]) for name in names}
    return PortTrajectory(time=times, **joined)
