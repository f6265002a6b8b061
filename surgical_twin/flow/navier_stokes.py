"""Incompressible flow in a rigid lumen with Windkessels at its outlets, in three dimensions.

    rho (du/dt + u.grad u) - div(2 mu D(u)) + grad p = 0,   div u = 0,
    u = 0 on the wall,  u given on the inlet,  p = P_i on outlet i with  P_i = Pc_i + Rp_i Q_i,
    C_i dPc_i/dt = Q_i - (Pc_i - Pd_i) / Rd_i

Linear elements for velocity and pressure, BDF2 in time, one step being

1.  momentum with convection linearized by the extrapolated velocity c = 2 u^n - u^(n-1) and treated implicitly, in
    skew-symmetric form with backflow stabilization (`assembly`), and the old pressure's gradient. All three components
    share one scalar matrix. Convection is stabilized along streamlines by orthogonal subscales, tau (c.grad u -
    pi(c.grad u), c.grad v), pi being the lumped L2 projection of the extrapolated velocity's convection (Codina,
    Comput. Methods Appl. Mech. Engrg. 191 (2002) 4295-4321): consistent to second order, where plain streamline
    diffusion is of first;
2.  incremental pressure correction (van Kan 1986; Guermond, Minev & Shen 2006) with orthogonal subscales for
    the pressure, whose parameter is set to the projection's own alpha = dt / (a0 rho), a0 = 3/2 (Codina, J. Comput.
    Phys. 170 (2001) 112-140):   2 alpha K p^(n+1) = alpha (K p^n + B' pi(grad p^n)) + (u*, grad q) - <u_in.n, q>,
    with one constant stiffness matrix K, factored once;
3.  u^(n+1) = u* - alpha grad(p^(n+1) - p^n), lumped.

Implicit outlets. The pressure is linear in the outlets' values: p = p0 + sum_j phi_j dP_j with harmonic phi_j
computed once. The flow through an outlet is the sum of its nodes' residuals in the weak mass balance, so that inflow
and outflows balance to rounding; it is linear in dP too. A dense system of as many unknowns as outlets then
closes pressures, flows and Windkessels together: no limit on the time step comes from the outlets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.assembly import TransportAssembler, constant_matrices
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.linear_solvers import PressureSolver, TransportSolver
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

RAMP_BEATS = 0.1
"""Inflow grows smoothly from rest over this part of the first beat."""

_STATE = (
    "velocity",
    "velocity_before",
    "pressure",
    "capacitor_pressure",
    "capacitor_before",
    "port_flow",
    "port_pressure",
)


class FlowDiverged(RuntimeError):
    """The solution grew beyond all bounds; says when and where."""


class NavierStokes:
    """The flow in a domain from rest on, step by step. SI units; nodes in the order of the domain's points.

    Attributes:
        time: s.
        velocity: (n, 3) m/s.
        pressure: (n,) Pa.
        port_flow: (ports,) m^3/s, into the inlet and out of the outlets.
        port_pressure: (ports,) Pa, mean over each port's area.
        capacitor_pressure: (outlets,) Pa.
    """

    def __init__(
        self,
        domain: FlowDomain,
        *,
        inflow: PeriodicWaveform,
        outlets: Mapping[str, Windkessel],
        time_step: float,
        density: float = 1060.0,
        rheology: Newtonian | CarreauYasuda | None = None,
        initial_capacitor_pressure: Mapping[str, float] | None = None,
    ) -> None:
        """Set up the flow at rest.

        Args:
            domain: where.
            inflow: flow through the inlet.
            outlets: the Windkessel of each outlet, by name.
            time_step: s.
            density: kg/m^3.
            rheology: 3.5 mPa s where None.
            initial_capacitor_pressure: Pa, of each outlet; that of the mean flow where None.

        Raises:
            InputError: a Windkessel is missing or names no outlet, or the time step or density is not positive.
        """
        names = [port.name for port in domain.outlets]
        if set(outlets) != set(names):
            raise InputError(
                f"Windkessels are given for {sorted(outlets)}, and the mesh has the outlets {sorted(names)}."
            )
        if not (time_step > 0 and density > 0 and np.isfinite([time_step, density]).all()):
            raise InputError(f"Time step ({time_step:g} s) and density ({density:g} kg/m^3) must be positive.")
        self.domain, self.density, self.time_step = domain, float(density), float(time_step)
        self.rheology = rheology or Newtonian()
        self.inflow = inflow
        beds = [outlets[name] for name in names]
        self._proximal = np.array([bed.proximal_resistance for bed in beds])
        self._distal = np.array([bed.distal_resistance for bed in beds])
        self._compliance = np.array([bed.compliance for bed in beds])
        self._distal_pressure = np.array([bed.distal_pressure for bed in beds])

        self._mass, self._stiffness, self._gradient = constant_matrices(domain)
        self._lumped = np.asarray(self._mass.sum(axis=1)).ravel()
        self._transport = TransportAssembler(domain, self._mass)
        self._profile = domain.inflow_profile()[:, None] * -domain.inlet.normal
        self._inlet_load = domain.port_load(domain.inlet) * domain.inflow_profile()
        self._port_loads = np.stack([domain.port_load(port) for port in domain.ports])
        self._port_areas = self._port_loads.sum(axis=1)
        self._outlet_nodes = [domain.port_nodes(port) for port in domain.outlets]
        inlet_nodes = domain.port_nodes(domain.inlet)
        self._fixed = np.union1d(domain.wall_nodes, inlet_nodes)
        self._pressure_solver = PressureSolver(self._stiffness, self._outlet_nodes)
        self._transport_solver = TransportSolver(self._mass, self._fixed)
        self._responses = self._pressure_solver.unit_responses()
        self._outlet_stiffness = np.stack(
            [(self._stiffness[nodes] @ self._responses).sum(axis=0) for nodes in self._outlet_nodes]
        )

        count = len(domain.points)
        self.time, self.steps = 0.0, 0
        self.velocity, self.velocity_before = np.zeros((count, 3)), np.zeros((count, 3))
        share = (1.0 / self._distal) / (1.0 / self._distal).sum()
        start = self._distal_pressure + inflow.mean * share * self._distal
        if initial_capacitor_pressure is not None:
            start = np.array([initial_capacitor_pressure[name] for name in names])
        self.capacitor_pressure, self.capacitor_before = start.copy(), start.copy()
        # At rest the pressure is that of the outlets, blended harmonically where they differ.
        self.pressure = self._responses @ start
        self.port_flow = np.zeros(len(domain.ports))
        self.port_pressure = self._mean_pressure()
        self.max_cfl = 0.0
        self.mass_error = 0.0
        self._energy_scale = 0.0

    def step(self) -> None:
        """Advance by one time step.

        Raises:
            FlowDiverged: the solution is not finite, or its velocity beyond any flow of blood.
        """
        dt, first = self.time_step, self.steps == 0
        a0, a1, a2 = (1.0, -1.0, 0.0) if first else (1.5, -2.0, 0.5)
        alpha = dt / (a0 * self.density)
        time = self.time + dt
        inflow = self._inflow(time)
        extrapolated = self.velocity if first else 2.0 * self.velocity - self.velocity_before
        history = (a1 * self.velocity + a2 * self.velocity_before) / dt

        tentative = self._momentum(extrapolated, history, a0 / dt, inflow)
        pressure, capacitor, flows = self._project(tentative, inflow, alpha, (a0, a1, a2))

        correction = (
            alpha
            * np.column_stack([gradient @ (pressure - self.pressure) for gradient in self._gradient])
            / self._lumped[:, None]
        )
        correction[self._fixed] = 0.0
        self.velocity_before, self.velocity = self.velocity, tentative - correction
        self.capacitor_before, self.capacitor_pressure = self.capacitor_pressure, capacitor
        self.pressure = pressure
        self.port_flow = np.concatenate([[inflow], flows])
        self.port_pressure = self._mean_pressure()
        self.time, self.steps = time, self.steps + 1
        self._watch(inflow)

    def _inflow(self, time: float) -> float:
        ramp = min(1.0, time / (RAMP_BEATS * self.inflow.period))
        return float(self.inflow.value(time)) * ramp * ramp * (3.0 - 2.0 * ramp)

    def _momentum(self, extrapolated: Array, history: Array, rate: float, inflow: float) -> Array:
        """The tentative velocity (n, 3)."""
        domain, rho = self.domain, self.density
        centre = extrapolated[domain.tetrahedra].mean(axis=1)
        speed = np.linalg.norm(centre, axis=1)
        length = domain.element_length
        viscosity, transposed = self._viscosity(extrapolated)
        kinematic = np.max(viscosity) / rho
        tau = 1.0 / np.sqrt((2.0 * speed / length) ** 2 + (12.0 * kinematic / length**2) ** 2 + rate**2)
        streamline, along = self._transport.streamline(centre, rho * tau)
        values = rho * rate * self._mass.data + rho * self._transport.convection(extrapolated) + streamline
        if isinstance(self.rheology, Newtonian):
            values += self.rheology.viscosity * self._stiffness.data
        else:
            values += self._transport.viscous(viscosity)

        load = -rho * (self._mass @ history)
        load -= np.column_stack([gradient @ self.pressure for gradient in self._gradient])
        convected = np.einsum("ej,ejd->ed", along, extrapolated[domain.tetrahedra])
        projected = self._transport.nodal_sum(
            np.repeat((convected * (domain.volumes / 4.0)[:, None])[:, None], 4, axis=1)
        )
        projected /= self._lumped[:, None]
        subscale = projected[domain.tetrahedra].mean(axis=1) * (rho * tau * domain.volumes)[:, None]
        load += self._transport.nodal_sum(along[:, :, None] * subscale[:, None, :])
        if transposed is not None:
            load -= transposed
        self.max_cfl = max(self.max_cfl, float((speed * self.time_step / length).max()))
        boundary = self._profile * inflow
        return self._transport_solver.solve(values, load, boundary, extrapolated)

    def _viscosity(self, velocity: Array) -> tuple[Array, Array | None]:
        """Viscosity per cell (e,), and for shear-thinning blood the load (n, 3) of its transposed gradient.

        div(2 mu D(u)) = div(mu grad u) + grad(u)' grad(mu): with a viscosity that varies, the second part does not
        vanish. It is taken from the extrapolated velocity, as ((mu - mu_inf) grad(u)', grad v), so that outlets keep
        the condition mu_inf du/dn = 0 of a Newtonian fluid.
        """
        if isinstance(self.rheology, Newtonian):
            return np.full(len(self.domain.tetrahedra), self.rheology.viscosity), None
        gradients = self.domain.gradients
        jacobian = np.einsum("ecd,eck->edk", velocity[self.domain.tetrahedra], gradients)  # d u_d / d x_k
        strain = 0.5 * (jacobian + np.swapaxes(jacobian, 1, 2))
        viscosity = self.rheology.at(np.sqrt(2.0 * np.einsum("eij,eij->e", strain, strain)))
        weight = (viscosity - self.rheology.high_shear_viscosity) * self.domain.volumes
        local = np.einsum("e,elk,ecl->eck", weight, jacobian, gradients)
        return viscosity, self._transport.nodal_sum(local)

    def _project(
        self, tentative: Array, inflow: float, alpha: float, bdf: tuple[float, float, float]
    ) -> tuple[Array, Array, Array]:
        """Pressure (n,), capacitor pressures (outlets,) and outlet flows (outlets,) at the end of the step."""
        a0, a1, a2 = bdf
        dt = self.time_step
        mass = sum(self._gradient[axis].T @ tentative[:, axis] for axis in range(3))
        mass = mass + self._inlet_load * inflow
        slopes = [(gradient @ self.pressure) / self._lumped for gradient in self._gradient]
        smooth = sum(self._gradient[axis].T @ slopes[axis] for axis in range(3))
        known = alpha * (self._stiffness @ self.pressure + smooth) + mass
        guess = np.array([self.pressure[nodes[0]] for nodes in self._outlet_nodes])
        pressure = self._pressure_solver.solve(known / (2.0 * alpha), guess)
        residual = known - 2.0 * alpha * (self._stiffness @ pressure)
        flow = np.array([residual[nodes].sum() for nodes in self._outlet_nodes])

        # Windkessels by the same BDF: Pc = stored + charge Q, hence P = (charge + Rp) Q + stored.
        history = self._compliance * (a1 * self.capacitor_pressure + a2 * self.capacitor_before) / dt
        admittance = self._compliance * a0 / dt + 1.0 / self._distal
        charge = 1.0 / admittance
        stored = (self._distal_pressure / self._distal - history) / admittance
        impedance = charge + self._proximal
        response = -2.0 * alpha * self._outlet_stiffness
        system = np.eye(len(guess)) - impedance[:, None] * response
        change = np.linalg.solve(system, impedance * flow + stored - guess)
        flow = flow + response @ change
        return pressure + self._responses @ change, charge * flow + stored, flow

    def _mean_pressure(self) -> Array:
        return self._port_loads @ self.pressure / self._port_areas

    def _watch(self, inflow: float) -> None:
        """Keep the mass error, and stop a run that has blown up."""
        scale = max(abs(inflow), 0.1 * self.inflow.mean)
        self.mass_error = max(self.mass_error, abs(inflow - self.port_flow[1:].sum()) / scale)
        speed = np.einsum("nd,nd->n", self.velocity, self.velocity)
        if not np.isfinite(speed).all() or speed.max() > 50.0**2:
            bad = np.flatnonzero(~np.isfinite(speed)) if not np.isfinite(speed).all() else [int(speed.argmax())]
            where = ", ".join(f"{1e3 * value:.1f}" for value in self.domain.points[bad[0]])
            raise FlowDiverged(
                f"The flow diverged in step {self.steps} at {self.time:.4f} s, near ({where}) mm; take a smaller "
                f"time step or "
                "a finer mesh there."
            )

    def state(self) -> dict[str, Array]:
        """Everything a later run needs to go on from here."""
        numbers = np.array([self.time, self.steps, self.max_cfl, self.mass_error])
        return {"numbers": numbers, **{name: getattr(self, name) for name in _STATE}}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go back to a state that `state` gave.

        Raises:
            InputError: it is of another mesh or of other ports.
        """
        for name in _STATE:
            if np.shape(state[name]) != np.shape(getattr(self, name)):
                raise InputError(f"The checkpoint's {name} is of another mesh; delete the checkpoint and run again.")
            setattr(self, name, np.array(state[name], dtype=float))
        time, steps, self.max_cfl, self.mass_error = (float(value) for value in state["numbers"])
        self.time, self.steps = time, int(steps)


def save_state(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a checkpoint under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as stream:
        np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
    temporary.replace(path)
