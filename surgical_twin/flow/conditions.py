"""The conditions of a domain's ports: which there are, and the velocity where it is given."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.beds import Bed, LinearCircuit
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.inflow import GivenFlow, GivenVelocity, PortVelocity
from surgical_twin.flow.waveform import PeriodicWaveform

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

PortCondition = GivenFlow | GivenVelocity | Bed

RAMP_BEATS = 0.1
"""Inflow grows smoothly from rest over this part of the first beat."""


def port_conditions(
    domain: FlowDomain,
    inflow: PeriodicWaveform | Mapping[str, PortCondition],
    outlets: Mapping[str, PortCondition],
) -> dict[str, PortCondition]:
    """The condition of each port.

    Raises:
        InputError: one is missing, or is of a port that is not there; or all ports' flows are given, and what flows in
            does not flow out.
    """
    names = [port.name for port in domain.outlets]
    if set(outlets) != set(names):
        raise InputError(f"Conditions are given for {sorted(outlets)}, and the mesh has the outlets {sorted(names)}.")
    inlets: Mapping[str, PortCondition]
    if isinstance(inflow, PeriodicWaveform):
        if len(domain.inlets) != 1:
            listed = ", ".join(port.name for port in domain.inlets)
            raise InputError(f"The mesh has the inlets {listed}; give each its own condition.")
        inlets = {domain.inlet.name: GivenFlow(inflow)}
    else:
        inlets = inflow
    names = [port.name for port in domain.inlets]
    if set(inlets) != set(names):
        raise InputError(f"Conditions are given for {sorted(inlets)}, and the mesh has the inlets {sorted(names)}.")
    conditions = {**inlets, **outlets}
    _check_balance(domain, conditions)
    return conditions


def _check_balance(domain: FlowDomain, conditions: Mapping[str, PortCondition]) -> None:
    """Blood cannot be compressed: flows that are given at all ports have to balance at every time.

    Raises:
        InputError: they do not.
    """
    flows: list[tuple[float, PeriodicWaveform]] = []
    for port in domain.ports:
        condition = conditions[port.name]
        if not isinstance(condition, GivenFlow):
            return
        flows.append((1.0 if port.role == "inlet" else -1.0, condition.waveform))
    times = np.linspace(0.0, flows[0][1].period, 201)
    values = np.array([[sign * wave.value(time) for time in times] for sign, wave in flows])
    gap, largest = values.sum(axis=0), np.abs(values).max()
    if np.abs(gap).max() > 1e-3 * largest:
        worst = int(np.abs(gap).argmax())
        raise InputError(
            f"The flows of all ports are given and do not balance: at {times[worst]:.3g} s {1e6 * gap[worst]:.3g} mL/s "
            "more flow in than out; give one port a pressure, a resistance or a Windkessel instead."
        )


def is_open(condition: PortCondition) -> bool:
    """Whether blood flows freely through a port of this condition: a circuit holds its pressure, not its velocity."""
    return not isinstance(condition, GivenFlow | GivenVelocity)


class GivenVelocities:
    """The velocity on the wall, where it vanishes, and on the ports where it is given.

    Attributes:
        ports: those whose velocity is given.
        nodes: of the velocity, where it is given and does not vanish for good.
        fixed: these, and those on the wall.
    """

    def __init__(
        self,
        domain: FlowDomain,
        space: LagrangeSpace,
        conditions: Mapping[str, PortCondition],
        kinematic_viscosity: float,
        ramp: float,
        wall_moves: bool = False,
    ) -> None:
        """Find the nodes and the shapes.

        Args:
            domain: where.
            space: of the velocity.
            conditions: of all ports.
            kinematic_viscosity: m^2/s, for the shape of pulsatile flow.
            ramp: s in which given flows grow from rest; 0 where they do not.
            wall_moves: whether the wall's velocity is given as well, and does not vanish.
        """
        self._shape, self._ramp = space.points.shape, ramp
        self.ports = [port for port in domain.ports if not is_open(conditions[port.name])]
        wall = np.unique(space.facet_nodes(domain.triangles[domain.triangle_tags == 0]))
        self._parts = [
            self._part(domain, space, port, conditions[port.name], kinematic_viscosity, wall) for port in self.ports
        ]
        self.nodes: Indices = np.unique(
            np.concatenate([np.empty(0, dtype=np.int64), *(part[0] for part in self._parts)])
        )
        self.fixed = np.union1d(wall, self.nodes)
        if wall_moves:
            self.nodes = self.fixed

    def _part(
        self,
        domain: FlowDomain,
        space: LagrangeSpace,
        port: FlowPort,
        condition: PortCondition,
        kinematic_viscosity: float,
        wall: Indices,
    ) -> tuple[Indices, Callable[[float], Array]]:
        """A port's nodes, and their velocity (nodes, d) at a time."""
        if isinstance(condition, GivenFlow):
            shape = PortVelocity(domain, space, port, condition, kinematic_viscosity)
            return shape.nodes, lambda time: shape.at(time) * self._grown(time)
        assert isinstance(condition, GivenVelocity)
        nodes = np.setdiff1d(np.unique(space.facet_nodes(domain.port_triangles(port))), wall)
        points, field = space.points[nodes], condition.field
        return nodes, lambda time: field(points, time)

    def _grown(self, time: float) -> float:
        part = 1.0 if self._ramp == 0.0 else min(1.0, time / self._ramp)
        return part * part * (3.0 - 2.0 * part)

    def at(self, time: float) -> Array:
        """(v, d) m/s; zero where it is not given, and on the wall."""
        values = np.zeros(self._shape)
        for nodes, velocity in self._parts:
            values[nodes] = velocity(time)
        return values


def starting_pressures(
    domain: FlowDomain,
    conditions: Mapping[str, PortCondition],
    circuits: Mapping[str, LinearCircuit],
    given: Mapping[str, float] | None,
) -> list[Array]:
    """The stored pressures [Pa] of each circuit under the mean inflow, shared between them by their resistances.

    Args:
        domain: where.
        conditions: of all ports.
        circuits: those of the open ports.
        given: the first stored pressure of some of them, by name, in place of that.
    """
    resistances = np.array([_total_resistance(circuit) for circuit in circuits.values()])
    share = 1.0 / np.maximum(resistances, 1e-300)
    share /= share.sum() if len(share) else 1.0
    inflow = sum(
        condition.waveform.mean * (1.0 if port.role == "inlet" else -1.0)
        for port in domain.ports
        if isinstance(condition := conditions[port.name], GivenFlow)
    )
    states = []
    for (name, circuit), part in zip(circuits.items(), share, strict=True):
        state = circuit.steady(inflow * part)
        if given is not None and name in given and len(state):
            state[0] = given[name]
        states.append(state)
    return states


def _total_resistance(circuit: LinearCircuit) -> float:
    """Pa s / m^3 under a steady flow."""
    return circuit.resistance + float(circuit.reading @ (circuit.steady(1.0) - circuit.steady(0.0)))
