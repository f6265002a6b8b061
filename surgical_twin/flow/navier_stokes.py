"""Incompressible flow in a rigid lumen with lumped circuits at its ports, in three dimensions (or two).

    rho (du/dt + u.grad u) - div(2 mu D(u)) + grad p = f,   div u = 0,
    u = 0 on the wall,  u given on some ports,  p = P_i on the others, where P_i and the flow Q_i obey a circuit
    (`beds`)

Linear elements for velocity and pressure (order 1), or quadratic ones for the velocity (order 2, Taylor-Hood). BDF2 in
time with steps of changing length, one step being

1.  momentum with convection linearized by the extrapolated velocity c = (1 + r) u^n - r u^(n-1) (r the ratio of
    this step to the last) and treated implicitly, in skew-symmetric form with backflow stabilization (`assembly`), and
    the old pressure's gradient. All components share one scalar matrix. Convection is stabilized along streamlines by
    orthogonal subscales, tau (c.grad u - pi(c.grad u), c.grad v), pi being the lumped L2 projection of the
    extrapolated velocity's convection onto linear functions (Codina, Comput. Methods Appl. Mech. Engrg. 191 (2002)
    4295-4321): consistent to the elements' order, where plain streamline diffusion is of first. With
    tau^-2 = (2 |c| / h)^2 + (12 nu / h^2)^2 + |grad c|^2; without the last part slow cells beside a jet's wall
    would be stabilized as if nothing changed across them;
2.  incremental pressure correction (van Kan 1986; Guermond, Minev & Shen, Comput. Methods Appl. Mech. Engrg. 195 (2006)
    6011-6045) with one constant stiffness matrix K, factored once; alpha = dt / (a0 rho).

        alpha K (p^(n+1) - p^n) = (u*, grad q) - <u_in.n, q> - (tau_p (grad p^n - pi(grad p^n)), grad q).

    The last term, at order 1 only (order 2 is inf-sup stable), is the pressure's orthogonal subscales (Codina, J.
    Comput. Phys. 170 (2001) 112-140) with their own time tau_p = min(tau, alpha rho): with alpha rho in its place, as
    is often done to save a matrix, mass leaks out of jets once a step crosses several cells, and the drop of a
    stenosis at a CFL number of 10 was measured to come out double. Taken from the last pressure it needs no matrix,
    and is stable since tau_p <= alpha rho. (The rotational form of order 2, which subtracts mu div u* from the
    pressure, was measured to be unstable from a CFL number of some 20 on.)
3.  order 1: u^(n+1) = u* - alpha grad(p^(n+1) - p^n), lumped. Order 2: u* itself is the velocity, and the increments of
    the last two pressures enter the next momentum equation in its place (Guermond & Shen, SIAM J. Numer. Anal. 41
    (2003) 112-134): no mass matrix has to be solved.

Why a fractional step: per step it solves one scalar matrix for the velocity, dominated by mass, and one
constant matrix for the pressure, where a coupled scheme solves a saddle point some times over. What it costs is an
error of second order in the time step (of first order in the pressure beside walls). Order 1 gives the most steps per
second, and its pressure and flow at ports are what planning needs; order 2 costs some five times as much on the same
mesh and is for wall shear and for verification: at equal error it is the cheaper one wherever the flow is smooth.

Implicit ports. The pressure is linear in the ports' values: p = p0 + sum_j phi_j dP_j with harmonic phi_j
computed once. The flow through an open port is the sum of its nodes' residuals in the weak mass balance, so that inflow
and outflows balance to rounding; it is linear in dP too. A dense system of as many unknowns as open ports then
closes pressures, flows and circuits together: no limit on the time step comes from them.

Time step. The projection pi is explicit. Extrapolated to second order it is unstable at large CFL numbers: a smooth
mode exp(ikx) grows by 1 + O(sqrt(ck dt / delta)) a step once delta = tau (ck)^2 dt passes 1. Taken from the last step
it is not, and of first order. So it is extrapolated where a cell is crossed in half a step or more, and less and less
beyond. Extrapolation of the convecting velocity still wants blood to cross few cells in a step: a step is cut into
equal parts in which the largest CFL number stays below `max_cfl`, and into more where a part fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.assembly import TransportAssembler, TransportPattern, boundary_flux, constant_matrices
from surgical_twin.flow.beds import Affine, Bed, BedStates, LinearCircuit
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.inflow import GivenFlow, GivenVelocity, PortVelocity
from surgical_twin.flow.linear_solvers import MPI, PressureSolver, SolverFailed, TransportSolver
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.waveform import PeriodicWaveform

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

RAMP_BEATS = 0.1
"""Inflow grows smoothly from rest over this part of the first beat."""

MAX_CFL = 4.0
"""Steps are cut so that blood crosses at most this many cells in one. In a stenosis of half the diameter at a Reynolds
number of 800 the error of the pressure drop at systole was measured as 1 % at a CFL number of 3, 2 % at 5, and 15 % at
10."""

MAX_SHEAR = 1.0
"""At order 2 the largest velocity gradient times a step as well: beyond some 2 it is unstable."""

LAG_CFL = 2.0
"""In cells that are crossed faster, the subscales' projection is extrapolated less: see `NavierStokes`."""

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
    "port_flow",
    "port_pressure",
)


class FlowDiverged(RuntimeError):
    """The solution grew beyond all bounds; says when and where. The solver keeps its last good state."""


@dataclass(frozen=True)
class _Part:
    """What one part of a step leaves behind."""

    velocity: Array
    acceleration: Array
    pressure: Array
    increment: Array
    bed_state: Array
    open_flow: Array
    cfl: float


PortCondition = GivenFlow | GivenVelocity | Bed


class NavierStokes:
    """The flow in a domain from rest on, step by step. SI units; nodes in the order of the domain's points.

    Attributes:
        time: s.
        velocity: (v, d) m/s; the first n nodes are the domain's points, at order 2 the edges' middles follow.
        acceleration: (v, d) m/s^2, its derivative in time as the scheme has it.
        pressure: (n,) Pa.
        port_flow: (ports,) m^3/s, into the inlets and out of the outlets.
        port_pressure: (ports,) Pa, mean over each port's area.
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
            comm: processes that share the work, each holding the same domain; this one alone where None.

        Raises:
            InputError: a condition is missing or names no port, or the time step or density is not positive.
        """
        if not (time_step > 0 and density > 0 and max_cfl > 0 and np.isfinite([time_step, density]).all()):
            raise InputError(f"Time step ({time_step:g} s) and density ({density:g} kg/m^3) must be positive.")
        if order not in (1, 2):
            raise InputError(f"The order of the elements is 1 or 2; it is {order}.")
        comm = comm or MPI.COMM_SELF
        self.domain, self.density, self.time_step = domain, float(density), float(time_step)
        self.rheology = rheology or Newtonian()
        self.max_cfl_allowed, self.body_force, self.ramp = max_cfl, body_force, ramp
        self.conditions = _conditions(domain, inflow, outlets)
        self.space = space = LagrangeSpace(domain.points, domain.tetrahedra, order)
        self.open_ports = [port for port in domain.ports if _is_open(self.conditions[port.name])]
        self._open_places = [domain.ports.index(port) for port in self.open_ports]
        self._given_ports = [port for port in domain.ports if port not in self.open_ports]
        flows = [condition for condition in self.conditions.values() if isinstance(condition, GivenFlow)]
        self.period = flows[0].waveform.period if flows else 1.0
        self._flow_scale = sum(abs(condition.waveform.mean) for condition in flows)

        self.matrices = matrices = constant_matrices(domain, space)
        wall = np.unique(space.facet_nodes(domain.triangles[domain.triangle_tags == 0]))
        self._given = self._given_velocities(wall)
        given_nodes = np.concatenate([np.empty(0, dtype=np.int64), *(nodes for nodes, _ in self._given)])
        self._fixed = np.union1d(wall, given_nodes)
        self.pattern = TransportPattern(space, self._fixed, np.unique(given_nodes), comm)
        self.transport = TransportAssembler(domain, space, self.pattern, [port.tag for port in self.open_ports])
        closed = [0, *(port.tag for port in self._given_ports)]
        self._boundary_flux = boundary_flux(domain, space, closed)
        self._port_fluxes = [boundary_flux(domain, space, [port.tag]) for port in self._given_ports]
        self._port_loads = np.stack([domain.port_load(port) for port in domain.ports])
        self._port_areas = self._port_loads.sum(axis=1)
        self._open_nodes = [domain.port_nodes(port) for port in self.open_ports]
        self._pressure_solver = PressureSolver(
            matrices.pressure_stiffness, self._open_nodes, comm, matrices.pressure_load
        )
        self._transport_solver = TransportSolver(self.pattern, comm)
        self._responses = self._pressure_solver.unit_responses()
        self._open_stiffness = np.array(
            [(matrices.pressure_stiffness[nodes] @ self._responses).sum(axis=0) for nodes in self._open_nodes]
        ).reshape(len(self._open_nodes), len(self._open_nodes))
        self._divergence = tuple(gradient.T.tocsr() for gradient in matrices.gradient)

        count, dimension = len(space), domain.dimension
        self.time, self.steps, self.parts = 0.0, 0, 0
        self.last_part = 0.0
        self.velocity, self.velocity_before = np.zeros((count, dimension)), np.zeros((count, dimension))
        self.acceleration = np.zeros((count, dimension))
        self.beds = BedStates(self._circuits(), self._starting_beds(initial_capacitor_pressure))
        # At rest the pressure is that of the open ports, blended harmonically where they differ.
        start = np.array([self._rest_pressure(place) for place in range(len(self.open_ports))])
        self.pressure = self._responses @ start if len(start) else np.zeros(len(domain.points))
        self.increment, self.increment_before = np.zeros_like(self.pressure), np.zeros_like(self.pressure)
        self.port_flow = np.zeros(len(domain.ports))
        self.port_pressure = self._mean_pressure()
        self.max_cfl = 0.0
        self.mass_error = 0.0
        self.fastest = FASTEST

    # Ports

    def _circuits(self) -> tuple[LinearCircuit, ...]:
        return tuple(self.conditions[port.name].circuit() for port in self.open_ports)  # type: ignore[union-attr]

    def _given_velocities(self, wall: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], Callable[[float], Array]]]:
        """Of each port of given velocity its nodes, and their velocity (nodes, d) at a time."""
        kinematic = self.rheology.high_shear_viscosity / self.density
        found: list[tuple[NDArray[np.int64], Callable[[float], Array]]] = []
        for port in self._given_ports:
            condition = self.conditions[port.name]
            if isinstance(condition, GivenFlow):
                shape = PortVelocity(self.domain, self.space, port, condition, kinematic)
                found.append((shape.nodes, lambda time, shape=shape: shape.at(time) * self._ramp(time)))  # type: ignore[misc]
            elif isinstance(condition, GivenVelocity):
                nodes = np.unique(self.space.facet_nodes(self.domain.port_triangles(port)))
                nodes = np.setdiff1d(nodes, wall)
                points = self.space.points[nodes]
                found.append((nodes, lambda time, points=points, field=condition.field: field(points, time)))  # type: ignore[misc]
        return found

    def _ramp(self, time: float) -> float:
        if not self.ramp:
            return 1.0
        part = min(1.0, time / (RAMP_BEATS * self.period))
        return part * part * (3.0 - 2.0 * part)

    def _boundary(self, time: float) -> Array:
        """(v, d) the given velocities, zero elsewhere."""
        values = np.zeros_like(self.velocity)
        for nodes, velocity in self._given:
            values[nodes] = velocity(time)
        return values

    def _starting_beds(self, given: Mapping[str, float] | None) -> Array:
        """The stored pressures under the mean inflow, shared between the open ports by their resistances."""
        circuits = self._circuits()
        resistances = np.array([_total_resistance(circuit) for circuit in circuits])
        share = 1.0 / np.maximum(resistances, 1e-300)
        share /= share.sum() if len(share) else 1.0
        inflow = sum(
            condition.waveform.mean * (1.0 if port.role == "inlet" else -1.0)
            for port in self.domain.ports
            if isinstance(condition := self.conditions[port.name], GivenFlow)
        )
        states = [circuit.steady(inflow * part) for circuit, part in zip(circuits, share, strict=True)]
        if given is not None:
            for port, state in zip(self.open_ports, states, strict=True):
                if len(state) and port.name in given:
                    state[0] = given[port.name]
        return np.concatenate([np.empty(0), *states])

    def _rest_pressure(self, place: int) -> float:
        circuit, part = self.beds.circuits[place], self.beds.slices[place]
        return float(circuit.reading @ self.beds.now[part] + circuit.offset(self.time))

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
        speed = np.linalg.norm(self.transport.cell_mean(velocity), axis=1)
        rate = speed / self.domain.element_length * self.space.order
        cell = int(np.argmax(rate))
        return float(rate[cell]) * self.time_step, cell

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
        self.beds.before, self.beds.now = self.beds.now, part.bed_state
        self.pressure, self.acceleration = part.pressure, part.acceleration
        self.time += length
        self.last_part = length
        self.parts += 1
        self.max_cfl = max(self.max_cfl, part.cfl)
        flows = np.empty(len(self.domain.ports))
        flows[self._open_places] = part.open_flow
        for port, flux in zip(self._given_ports, self._port_fluxes, strict=True):
            out = sum(float((matrix @ part.velocity[:, axis]).sum()) for axis, matrix in enumerate(flux))
            flows[self.domain.ports.index(port)] = out
        scale = max(np.abs(flows).sum() / 2.0, 0.1 * self._flow_scale)
        self.mass_error = max(self.mass_error, abs(flows.sum()) / max(scale, 1e-300))
        signs = np.array([-1.0 if port.role == "inlet" else 1.0 for port in self.domain.ports])
        self.port_flow = signs * flows
        self.port_pressure = self._mean_pressure()

    def _part(self, length: float) -> _Part:
        """The state a time ``length`` [s] from now."""
        if self.last_part == 0.0:
            ratio, (a0, a1, a2) = 0.0, (1.0, -1.0, 0.0)
        else:
            ratio = length / self.last_part
            a0, a1, a2 = (1.0 + 2.0 * ratio) / (1.0 + ratio), -(1.0 + ratio), ratio * ratio / (1.0 + ratio)
        bdf = a0 / length, a1 / length, a2 / length
        time = self.time + length
        boundary = self._boundary(time)
        extrapolated = (1.0 + ratio) * self.velocity - ratio * self.velocity_before
        tentative, tau, cfl = self._momentum(extrapolated, ratio, bdf, boundary, time)
        alpha = 1.0 / (bdf[0] * self.density)
        pressure, bed_state, flows = self._project(tentative, tau, boundary, alpha, bdf, time)
        history = bdf[1] * self.velocity + bdf[2] * self.velocity_before
        change = pressure - self.pressure
        if self.space.order == 1:
            correction = (alpha / self.matrices.pressure_load)[:, None] * self._gradient_of(change)
            correction[self._fixed] = 0.0
            velocity = tentative - correction
            return _Part(velocity, bdf[0] * velocity + history, pressure, self.increment, bed_state, flows, cfl)
        return _Part(tentative, bdf[0] * tentative + history, pressure, alpha * change, bed_state, flows, cfl)

    def _gradient_of(self, pressure: Array) -> Array:
        """(v, d) (grad p, phi_i)."""
        return np.column_stack([gradient @ pressure for gradient in self.matrices.gradient])

    def _momentum(
        self, extrapolated: Array, ratio: float, bdf: tuple[float, float, float], boundary: Array, time: float
    ) -> tuple[Array, Array, float]:
        """The tentative velocity (v, d), the subscales' time (m,) [s], and the CFL number."""
        domain, rho, transport = self.domain, self.density, self.transport
        length = time - self.time
        along = transport.cell_mean(extrapolated)
        speed = np.sqrt(np.einsum("ed,ed->e", along, along))
        size = domain.element_length / self.space.order
        slopes = transport.jacobian(np.column_stack([self.velocity, self.velocity_before]))
        now, before = slopes[:, :, : domain.dimension], slopes[:, :, domain.dimension :]
        jacobian = (1.0 + ratio) * now - ratio * before
        viscosity, transposed = self.viscosity(jacobian)
        kinematic = np.max(viscosity) / rho
        shear = np.einsum("ekc,ekc->e", jacobian, jacobian)
        tau = 1.0 / np.sqrt((2.0 * speed / size) ** 2 + (12.0 * kinematic / size**2) ** 2 + shear)
        values = transport.values(extrapolated, rho, along, rho * tau, viscosity)
        values += (rho * bdf[0]) * transport.mass_values

        load = (-rho) * (self.matrices.mass @ (bdf[1] * self.velocity + bdf[2] * self.velocity_before))
        known = self.pressure
        if self.space.order == 2:
            known = known - rho * (bdf[1] * self.increment + bdf[2] * self.increment_before)
        load -= self._gradient_of(known)
        if self.body_force is not None:
            load += self.matrices.mass @ self.body_force(self.space.points, time)
        lagged = (1.0 / np.maximum(1.0, speed * length / (LAG_CFL * size)) ** 2)[:, None, None]
        convected = np.einsum("ek,ekc->ec", along, now + (ratio * lagged) * (now - before))
        subscale = transport.smoothed(convected) * (rho * tau)[:, None]
        flux = along[:, :, None] * subscale[:, None, :]
        if transposed is not None:
            flux -= transposed
        load += transport.tested_with_gradient(flux)
        cfl = float((speed / size).max()) * length
        return self._transport_solver.solve(values, load, boundary, extrapolated), tau, cfl

    def viscosity(self, jacobian: Array) -> tuple[Array | float, Array | None]:
        """Viscosity (of each cell where it differs), and for shear-thinning blood the flux (m, d, d) of its transposed
        gradient.

        div(2 mu D(u)) = div(mu grad u) + grad(u)' grad(mu): with a viscosity that varies, the second part does not
        vanish. It is taken from the extrapolated velocity, as ((mu - mu_inf) grad(u)', grad v), so that outlets keep
        the condition mu_inf du/dn = 0 of a Newtonian fluid.
        """
        if isinstance(self.rheology, Newtonian):
            return self.rheology.viscosity, None
        transposed = np.swapaxes(jacobian, 1, 2)
        strain = 0.5 * (jacobian + transposed)
        viscosity = self.rheology.at(np.sqrt(2.0 * np.einsum("eij,eij->e", strain, strain)))
        return viscosity, (viscosity - self.rheology.high_shear_viscosity)[:, None, None] * transposed

    def _project(
        self,
        tentative: Array,
        tau: Array,
        boundary: Array,
        alpha: float,
        bdf: tuple[float, float, float],
        time: float,
    ) -> tuple[Array, Array, Array]:
        """Pressure (n,), stored pressures of the beds, and flows out of the open ports at the end of the step."""
        stiffness = self.matrices.pressure_stiffness
        mass = sum(matrix @ tentative[:, axis] for axis, matrix in enumerate(self._divergence))
        mass = mass - sum(matrix @ boundary[:, axis] for axis, matrix in enumerate(self._boundary_flux))
        known = alpha * (stiffness @ self.pressure) + mass
        if self.space.order == 1:
            slope = self.transport.jacobian(self.pressure[:, None])
            rough = slope[:, :, 0] - self.transport.smoothed(slope[:, :, 0])
            known -= self.transport.tested_with_gradient(
                (rough * np.minimum(tau / self.density, alpha)[:, None])[:, :, None]
            )[:, 0]
        guess = np.array([self.pressure[nodes[0]] for nodes in self._open_nodes])
        pressure = self._pressure_solver.solve(known / alpha, guess, self.pressure)
        if not len(guess):
            return pressure, self.beds.now, np.empty(0)
        residual = known - alpha * (stiffness @ pressure)
        flow = np.array([residual[nodes].sum() for nodes in self._open_nodes])
        # P = impedance Q + stored of every circuit, and Q = flow + response dP of the 3D flow.
        relations: list[Affine] = self.beds.affine(bdf, time)
        impedance = np.array([relation.impedance for relation in relations])
        stored = np.array([relation.stored for relation in relations])
        response = -alpha * self._open_stiffness
        system = np.eye(len(guess)) - impedance[:, None] * response
        change = np.linalg.solve(system, impedance * flow + stored - guess)
        flow = flow + response @ change
        return pressure + self._responses @ change, self.beds.advanced(relations, flow), flow

    def _mean_pressure(self) -> Array:
        return self._port_loads @ self.pressure / self._port_areas

    # Going on later

    def state(self) -> dict[str, Array]:
        """Everything a later run needs to go on from here."""
        numbers = np.array([self.time, self.steps, self.max_cfl, self.mass_error, self.last_part, self.parts])
        fields = {name: getattr(self, name) for name in _STATE}
        return {"numbers": numbers, "bed_state": self.beds.now, "bed_state_before": self.beds.before, **fields}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go back to a state that `state` gave.

        Raises:
            InputError: it is of another mesh or of other ports.
        """
        for name in ("bed_state", *_STATE):
            present = self.beds.now if name == "bed_state" else getattr(self, name)
            if name not in state or np.shape(state[name]) != np.shape(present):
                raise InputError(
                    f"The checkpoint's {name} is of another mesh or other ports; delete the checkpoint and run again."
                )
        for name in _STATE:
            setattr(self, name, np.array(state[name], dtype=float))
        self.beds.now = np.array(state["bed_state"], dtype=float)
        self.beds.before = np.array(state["bed_state_before"], dtype=float)
        numbers = [float(value) for value in state["numbers"]]
        self.time, self.max_cfl, self.mass_error, self.last_part = numbers[0], *numbers[2:5]
        self.steps, self.parts = int(numbers[1]), int(numbers[5])


def _is_open(condition: PortCondition) -> bool:
    return not isinstance(condition, GivenFlow | GivenVelocity)


def _total_resistance(circuit: LinearCircuit) -> float:
    """Pa s / m^3 under a steady flow."""
    return circuit.resistance + float(circuit.reading @ (circuit.steady(1.0) - circuit.steady(0.0)))


def _millimetres(point: Array) -> str:
    return "(" + ", ".join(f"{1e3 * value:.1f}" for value in point) + ") mm"


def _conditions(
    domain: FlowDomain,
    inflow: PeriodicWaveform | Mapping[str, PortCondition],
    outlets: Mapping[str, PortCondition],
) -> dict[str, PortCondition]:
    """The condition of each port.

    Raises:
        InputError: one is missing, or is of a port that is not there.
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
    return {**inlets, **outlets}


def port_named(domain: FlowDomain, name: str) -> FlowPort:
    """A port by its name.

    Raises:
        InputError: the domain has none of it.
    """
    for port in domain.ports:
        if port.name == name:
            return port
    raise InputError(f'The mesh has no port "{name}"; its ports are {", ".join(port.name for port in domain.ports)}.')


def save_state(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a checkpoint under a temporary name and rename it.

    Raises:
        InputError: the disk is full or cannot be written to; nothing is left half-written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); make room or name another place, and run again: what was "
            "saved before is kept."
        ) from error
