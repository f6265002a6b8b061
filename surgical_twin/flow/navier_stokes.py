"""Incompressible flow in a rigid lumen with lumped circuits at its ports, in three dimensions (or two).

    rho (du/dt + u.grad u) - div(2 mu D(u)) + grad p = f,   div u = 0,
    u = 0 on the wall,  u given on some ports,  p = P_i on the others, where P_i and the flow Q_i obey a circuit
    (`beds`)

Linear elements for velocity and pressure (order 1), or quadratic ones for the velocity (order 2, Taylor-Hood). BDF2 in
time with steps of changing length (`bdf`), one step being

1.  the momentum equation with convection by the extrapolated velocity and the old pressure's gradient (`momentum`);
2.  the pressure's correction, which makes the velocity keep mass, closed together with the circuits (`projection`);
3.  order 1: u^(n+1) = u* - alpha grad(p^(n+1) - p^n), lumped. Order 2: u* itself is the velocity, and the increments of
    the last two pressures enter the next momentum equation in its place (Guermond & Shen, SIAM J. Numer. Anal. 41
    (2003) 112-134): no mass matrix has to be solved.

Why a fractional step: per step it solves one scalar matrix for the velocity, dominated by mass, and one
constant matrix for the pressure, where a coupled scheme solves a saddle point some times over. What it costs is an
error of second order in the time step (of first order in the pressure beside walls). Order 1 gives the most steps per
second, and its pressure and flow at ports are what planning needs; order 2 costs some five times as much on the same
mesh and is for wall shear and for verification: at equal error it is the cheaper one wherever the flow is smooth.

Time step. Extrapolation of the convecting velocity wants blood to cross few cells in a step: a step is cut into
equal parts in which the largest CFL number stays below `max_cfl`, and into more where a part fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.assembly import boundary_flux, constant_matrices
from surgical_twin.flow.bdf import Bdf2
from surgical_twin.flow.beds import BedStates
from surgical_twin.flow.conditions import (
    RAMP_BEATS,
    GivenVelocities,
    PortCondition,
    is_open,
    port_conditions,
    starting_pressures,
)
from surgical_twin.flow.domain import WALL_TAG, FlowDomain
from surgical_twin.flow.elastic_wall import ElasticWall, WallMotion
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.linear_solvers import MPI, SolverFailed
from surgical_twin.flow.momentum import Momentum
from surgical_twin.flow.projection import DIRECT_SUBSCALE, Projection
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.waveform import PeriodicWaveform

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

MAX_CFL = 4.0
"""Steps are cut so that blood crosses at most this many cells in one. In a stenosis of half the diameter the error of
the pressure drop in systole was measured as 1 %, in a stenosed bifurcation of 80,000 tetrahedra as 0.2 %. The laminar
jet of FDA's nozzle is the same at 2 and 4, and breaks up early at 8."""

MAX_SHEAR = 1.0
"""At order 2 the largest velocity gradient times a step as well: beyond some 2 it is unstable."""

MOST_PARTS = 256
"""A step that would need more parts than this is one of a flow that diverges."""

RETRIES = 3
"""A step that fails is tried again in twice as many parts, so many times."""

FASTEST = 50.0
"""m/s: beyond any flow of blood."""

_STATE = (
    "velocity",
    "velocity_before",
    "pressure",
    "increment",
    "increment_before",
    "pressure_subscale",
    "port_flow",
    "port_pressure",
)
_WALL_STATE = ("displacement", "displacement_before", "speed", "speed_before")


class FlowDiverged(RuntimeError):
    """The solution grew beyond all bounds; says when and where. The solver keeps its last good state."""


@dataclass(frozen=True)
class _Part:
    """What one part of a step leaves behind."""

    velocity: Array
    acceleration: Array
    pressure: Array
    increment: Array
    pressure_subscale: Array
    bed_state: Array
    open_flow: Array
    wall_speed: Array
    bdf: Bdf2
    cfl: float


class NavierStokes:
    """The flow in a domain from rest on, step by step. SI units; nodes in the order of the domain's points.

    Attributes:
        time: s.
        velocity: (v, d) m/s; the first n nodes are the domain's points, at order 2 the edges' middles follow.
        acceleration: (v, d) m/s^2, its derivative in time as the scheme has it.
        pressure: (n,) Pa.
        port_flow: (ports,) m^3/s, into the inlets and out of the outlets.
        port_pressure: (ports,) Pa, mean over each port's area.
        wall: where the wall is, and how fast it moves; None of a rigid one.
        mass_error: largest net inflow of any step, relative to the flow.
        max_cfl: largest CFL number of any part of a step.
        parts: how many parts all steps had together.
    """

    def __init__(
        self,
        domain: FlowDomain,
        *,
        inflow: PeriodicWaveform | Mapping[str, PortCondition],
        outlets: Mapping[str, PortCondition],
        time_step: float,
        density: float = 1060.0,
        rheology: Newtonian | CarreauYasuda | None = None,
        initial_capacitor_pressure: Mapping[str, float] | None = None,
        order: int = 1,
        max_cfl: float = MAX_CFL,
        body_force: Callable[[Array, float], Array] | None = None,
        ramp: bool = True,
        wall: ElasticWall | None = None,
        comm: MPI.Comm | None = None,
    ) -> None:
        """Set up the flow at rest.

        Args:
            domain: where.
            inflow: flow through the one inlet, or the condition of each inlet by name.
            outlets: the condition of each outlet by name.
            time_step: s.
            density: kg/m^3.
            rheology: 3.5 mPa s where None.
            initial_capacitor_pressure: Pa, the first stored pressure of each bed that has one; that of the mean flow
                where None.
            order: of the velocity's elements, 1 or 2.
            max_cfl: see above; infinite to take the steps as they are.
            body_force: takes points (v, d) [m] and a time [s], gives (v, d) N/m^3.
            ramp: whether given flows grow from rest over a tenth of a beat.
            wall: what an elastic wall is made of; a rigid one where None. Of order 1 only.
            comm: processes that share the work, each holding the same domain; this one alone where None.

        Raises:
            InputError: a condition is missing or names no port, or the time step or density is not positive.
        """
        if not (time_step > 0 and density > 0 and max_cfl > 0 and np.isfinite([time_step, density]).all()):
            raise InputError(f"Time step ({time_step:g} s) and density ({density:g} kg/m^3) must be positive.")
        if order not in (1, 2):
            raise InputError(f"The order of the elements is 1 or 2; it is {order}.")
        if wall is not None and order == 2:
            raise InputError("An elastic wall is solved with elements of order 1; set order to 1.")
        comm = comm or MPI.COMM_SELF
        self.domain, self.density, self.time_step = domain, float(density), float(time_step)
        self.rheology = rheology or Newtonian()
        self.max_cfl_allowed = max_cfl
        self.conditions = conditions = port_conditions(domain, inflow, outlets)
        self.space = space = LagrangeSpace(domain.points, domain.tetrahedra, order)
        flows = [condition for condition in conditions.values() if isinstance(condition, GivenFlow)]
        self.period = flows[0].waveform.period if flows else 1.0
        self._flow_scale = sum(abs(condition.waveform.mean) for condition in flows)
        kinematic = self.rheology.high_shear_viscosity / density
        self._given = given = GivenVelocities(
            domain, space, conditions, kinematic, RAMP_BEATS * self.period if ramp else 0.0, wall is not None
        )
        self.open_ports = open_ports = [port for port in domain.ports if is_open(conditions[port.name])]
        self._open_places = [domain.ports.index(port) for port in open_ports]
        self._given_places = [domain.ports.index(port) for port in given.ports]
        self._port_fluxes = [boundary_flux(domain, space, [port.tag]) for port in given.ports]
        self._port_loads = np.stack([domain.port_load(port) for port in domain.ports])
        self._port_areas = self._port_loads.sum(axis=1)
        self.matrices = matrices = constant_matrices(domain, space)
        tags = [port.tag for port in open_ports]
        self._momentum = Momentum(
            domain, space, matrices, given, tags, self.density, self.rheology, body_force, comm,
            wall_moves=wall is not None,
        )  # fmt: skip
        self._projection = Projection(
            domain, space, matrices, given, open_ports, self.density, comm, wall_moves=wall is not None
        )
        self.transport, self.viscosity = self._momentum.transport, self._momentum.viscosity

        self.time, self.steps, self.parts = 0.0, 0, 0
        self.last_part = 0.0
        self.velocity, self.velocity_before = np.zeros_like(space.points), np.zeros_like(space.points)
        self.acceleration = np.zeros_like(space.points)
        circuits = {port.name: conditions[port.name].circuit() for port in open_ports}  # type: ignore[union-attr]
        stored = starting_pressures(domain, conditions, circuits, initial_capacitor_pressure)
        self.beds = BedStates(tuple(circuits.values()), np.concatenate([np.empty(0), *stored]))
        # At rest the pressure is that of the open ports, blended harmonically where they differ.
        start = [
            float(circuit.reading @ part + circuit.offset(0.0))
            for circuit, part in zip(circuits.values(), stored, strict=True)
        ]
        self.pressure = self._projection.responses @ np.array(start)
        self.wall = (
            None
            if wall is None
            else WallMotion(
                domain, wall, matrices, boundary_flux(domain, space, [WALL_TAG]), self.density, self.pressure
            )
        )
        self.increment, self.increment_before = np.zeros_like(self.pressure), np.zeros_like(self.pressure)
        linear = self._momentum.linear
        self.pressure_subscale = np.empty(0) if linear is None else linear.no_subscale()
        self.port_flow = np.zeros(len(domain.ports))
        self.port_pressure = self._mean_pressure()
        self.max_cfl = 0.0
        self.mass_error = 0.0
        self.fastest = FASTEST

    @property
    def capacitor_pressure(self) -> Array:
        """(outlets,) Pa: the first stored pressure of each outlet's bed; the port's own where it stores none."""
        places = {port.name: place for place, port in enumerate(self.open_ports)}
        values = []
        for port in self.domain.outlets:
            part = self.beds.slices[places[port.name]] if port.name in places else slice(0, 0)
            stored = self.beds.now[part]
            values.append(stored[0] if len(stored) else self.port_pressure[self.domain.ports.index(port)])
        return np.array(values)

    @property
    def lumped_mass(self) -> Array:
        """(n,) integrals of the pressure's shape functions, m^3."""
        return self.matrices.pressure_load

    # One step

    def start(self, velocity: Array, before: Array | None = None, pressure: Array | None = None) -> None:
        """Begin from a known flow instead of rest: velocity (v, d) now and a time step before, pressure (n,) now."""
        self.velocity = np.array(velocity, dtype=float)
        if before is not None:
            self.velocity_before, self.last_part = np.array(before, dtype=float), self.time_step
        if pressure is not None:
            self.pressure = np.array(pressure, dtype=float)
            self.port_pressure = self._mean_pressure()

    def step(self) -> None:
        """Advance by one time step, in as many parts as the CFL number asks for.

        Raises:
            FlowDiverged: the solution is not finite, or its velocity beyond any flow of blood, however short the parts.
                The solver keeps the state from before the step.
        """
        saved = self.state()
        end = (self.steps + 1) * self.time_step
        parts = self._parts_needed()
        for _ in range(RETRIES + 1):
            failure = self._in_parts(parts)
            if failure is None:
                self.time, self.steps = end, self.steps + 1
                return
            self.restore(saved)
            parts *= 2
            if parts > MOST_PARTS:
                break
            log.info("step %d is tried again in %d parts: %s", self.steps + 1, parts, failure)
        raise FlowDiverged(
            f"The flow diverged in step {self.steps + 1} at {end:.4f} s, {failure}; take a smaller time step or "
            "a finer mesh there."
        )

    def _parts_needed(self) -> int:
        """Into how many parts a step has to be cut, by its velocity now and as it will be if it goes on so; MOST_PARTS
        at most."""
        if not np.isfinite(self.max_cfl_allowed):
            return 1
        ahead = self.velocity
        if self.last_part > 0.0:
            ahead = ahead + (self.time_step / self.last_part) * (ahead - self.velocity_before)
        number = max(self._cfl(self.velocity)[0], self._cfl(ahead)[0]) / self.max_cfl_allowed
        if self.space.order == 2:
            jacobian = self.transport.jacobian(self.velocity)
            shear = float(np.sqrt(np.einsum("ekc,ekc->e", jacobian, jacobian).max()))
            number = max(number, shear * self.time_step / MAX_SHEAR)
        if not np.isfinite(number):
            return 1
        return int(np.clip(np.ceil(number - 1e-9), 1, MOST_PARTS))

    def _cfl(self, velocity: Array) -> tuple[float, int]:
        """Largest CFL number of a whole time step at a velocity, and the cell that has it."""
        rate, cell = self._momentum.crossing(velocity)
        return rate * self.time_step, cell

    def _in_parts(self, parts: int) -> str | None:
        """Advance by a time step in so many parts; what went wrong, None if nothing."""
        length = self.time_step / parts
        for _ in range(parts):
            try:
                part = self._part(length)
            except SolverFailed as error:
                cfl, cell = self._cfl(self.velocity)
                return f"{error}, at a CFL number of {cfl / parts:.0f} near {self._place(cell)}"
            wrong = self._wrong(part)
            if wrong is not None:
                return wrong
            self._commit(part, length)
        return None

    def _place(self, cell: int) -> str:
        return _millimetres(self.domain.points[self.domain.tetrahedra[cell]].mean(axis=0))

    def _wrong(self, part: _Part) -> str | None:
        speed = np.einsum("nd,nd->n", part.velocity, part.velocity)
        finite = np.isfinite(speed)
        if not finite.all():
            return f"where the velocity is not finite, near {_millimetres(self.space.points[~finite][0])}"
        if not np.isfinite(part.pressure).all():
            bad = self.domain.points[~np.isfinite(part.pressure)][0]
            return f"where the pressure is not finite, near {_millimetres(bad)}"
        fastest = int(speed.argmax())
        if speed[fastest] > self.fastest**2:
            return f"with {np.sqrt(speed[fastest]):.3g} m/s near {_millimetres(self.space.points[fastest])}"
        return None

    def _commit(self, part: _Part, length: float) -> None:
        self.velocity_before, self.velocity = self.velocity, part.velocity
        self.increment_before, self.increment = self.increment, part.increment
        self.pressure_subscale = part.pressure_subscale
        self.beds.before, self.beds.now = self.beds.now, part.bed_state
        self.pressure, self.acceleration = part.pressure, part.acceleration
        self.time += length
        self.last_part = length
        self.parts += 1
        self.max_cfl = max(self.max_cfl, part.cfl)
        flows = np.empty(len(self.domain.ports))
        flows[self._open_places] = part.open_flow
        for place, flux in zip(self._given_places, self._port_fluxes, strict=True):
            flows[place] = sum(float((matrix @ part.velocity[:, axis]).sum()) for axis, matrix in enumerate(flux))
        net, exchanged = flows.sum(), np.abs(flows).sum()
        if self.wall is not None:
            self.wall.advance(part.wall_speed, part.bdf)
            net += self.wall.outflow
            exchanged += self.wall.areas @ np.abs(self.wall.speed)
        scale = max(exchanged / 2.0, 0.1 * self._flow_scale)
        self.mass_error = max(self.mass_error, abs(net) / max(scale, 1e-300))
        signs = np.array([-1.0 if port.role == "inlet" else 1.0 for port in self.domain.ports])
        self.port_flow = signs * flows
        self.port_pressure = self._mean_pressure()

    def _part(self, length: float) -> _Part:
        """The state a time ``length`` [s] from now."""
        bdf, time, order = Bdf2.after(self.last_part, length), self.time + length, self.space.order
        boundary = self._given.at(time)
        driving = self.pressure
        if order == 2:
            driving = driving - self.density * bdf.known(self.increment, self.increment_before)
        foretold = boundary
        if self.wall is not None:
            foretold = boundary.copy()
            foretold[self.wall.nodes] = self.wall.speed_under(self.pressure, bdf)[:, None] * self.wall.normals
        guess = self._momentum.solve(self.velocity, self.velocity_before, driving, foretold, bdf, time)
        if self.wall is not None:
            guess.velocity[self.wall.nodes] = 0.0
        alpha = 1.0 / (bdf.rates[0] * self.density)
        linear = self._momentum.linear
        subscale, tested = self.pressure_subscale, None
        if linear is not None:
            subscale, tested = linear.pressure_subscale(
                self.pressure, subscale, length, 0.0 if self.wall is None else DIRECT_SUBSCALE
            )
        projected = self._projection.solve(
            guess.velocity, boundary, self.pressure, tested, self.beds, bdf, time, self.wall
        )
        increment = alpha * (projected.pressure - self.pressure)
        velocity = guess.velocity
        if order == 1:
            correction = self.matrices.tested_gradient(increment) / self.matrices.pressure_load[:, None]
            correction[self._given.fixed] = 0.0
            velocity = velocity - correction
        if self.wall is not None:
            velocity[self.wall.nodes] = projected.wall_speed[:, None] * self.wall.normals
        return _Part(
            velocity=velocity,
            acceleration=bdf.rates[0] * velocity + bdf.known(self.velocity, self.velocity_before),
            pressure=projected.pressure,
            increment=increment,
            pressure_subscale=subscale,
            bed_state=projected.bed_state,
            open_flow=projected.open_flow,
            wall_speed=projected.wall_speed,
            bdf=bdf,
            cfl=guess.cfl,
        )

    def _mean_pressure(self) -> Array:
        return self._port_loads @ self.pressure / self._port_areas

    # Going on later

    def state(self) -> dict[str, Array]:
        """Everything a later run needs to go on from here."""
        numbers = np.array([self.time, self.steps, self.max_cfl, self.mass_error, self.last_part, self.parts])
        fields = {name: getattr(self, name) for name in _STATE}
        if self.wall is not None:
            fields |= {f"wall_{name}": getattr(self.wall, name) for name in _WALL_STATE}
        return {"numbers": numbers, "bed_state": self.beds.now, "bed_state_before": self.beds.before, **fields}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go back to a state that `state` gave.

        Raises:
            InputError: it is of another mesh or of other ports.
        """
        for name, present in self.state().items():
            if name not in state or np.shape(state[name]) != np.shape(present):
                raise InputError(
                    f"The checkpoint's {name} is of another mesh or other ports; delete the checkpoint and run again."
                )
        for name in _STATE:
            setattr(self, name, np.array(state[name], dtype=float))
        if self.wall is not None:
            for name in _WALL_STATE:
                setattr(self.wall, name, np.array(state[f"wall_{name}"], dtype=float))
        self.beds.now = np.array(state["bed_state"], dtype=float)
        self.beds.before = np.array(state["bed_state_before"], dtype=float)
        numbers = [float(value) for value in state["numbers"]]
        self.time, self.max_cfl, self.mass_error, self.last_part = numbers[0], *numbers[2:5]
        self.steps, self.parts = int(numbers[1]), int(numbers[5])


def _millimetres(point: Array) -> str:
    return "(" + ", ".join(f"{1e3 * value:.1f}" for value in point) + ") mm"
