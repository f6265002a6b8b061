"""The mass balance of one step: the pressure, and with it what flows through the open ports.

Incremental pressure correction (van Kan 1986; Guermond, Minev & Shen, Comput. Methods Appl. Mech. Engrg. 195 (2006)
6011-6045) with one constant stiffness matrix K, factored once; alpha = dt / (a0 rho).

    alpha K (p^(n+1) - p^n) = (u*, grad q) - <u_in.n, q> - (w^(n+1), grad q).

The last term, at order 1 only (order 2 is inf-sup stable), is the pressure's orthogonal subscales w (Codina, J. Comput.
Phys. 170 (2001) 112-140), a velocity of each cell that has a memory (dynamic subscales: Codina, Principe, Guasch &
Badia, Comput. Methods Appl. Mech. Engrg. 196 (2007) 2413-2430):

    dw/dt + w / tau = (grad p - pi(grad p)) / rho,

by backward Euler, with the last pressure on the right: no matrix is needed. In a steady flow w is tau times the right
side whatever the step, and however short the step, the pressure stays smooth. Both are lost without the memory, where
only tau_p = min(tau, dt) keeps the explicit term stable: the drop of a stenosis was measured to change by 5 % between
steps of 2.5 and of 0.2 ms, with the memory by 0.6 %. With it any tau is stable: on what the velocity does not feel,
p and w form an oscillator that decays by sqrt(1 + dt / tau) a step. With alpha rho for tau, as is often done to save a
matrix, mass leaks out of jets once a step crosses several cells, and the drop of a stenosis at a CFL number of 10 was
measured to come out double. (The rotational form of order 2, which subtracts mu div u* from the pressure, was measured
to be unstable from a CFL number of some 20 on. An extrapolated pressure in the momentum equation halves the error in
time where it is stable, which it is not at the CFL numbers that steps are cut to.)

Implicit ports. The pressure is linear in the ports' values: p = p0 + sum_j phi_j dP_j with harmonic phi_j
computed once. The flow through an open port is the sum of its nodes' residuals in the weak mass balance, so that inflow
and outflows balance to rounding; it is linear in dP too. A dense system of as many unknowns as open ports then
closes pressures, flows and circuits together: no limit on the time step comes from them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.flow.assembly import ConstantMatrices, boundary_flux
from surgical_twin.flow.bdf import Bdf2
from surgical_twin.flow.beds import Affine, BedStates
from surgical_twin.flow.conditions import GivenVelocities
from surgical_twin.flow.domain import WALL_TAG, FlowDomain, FlowPort
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.linear_solvers import MPI, PressureSolver

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Projected:
    """What the mass balance gives."""

    pressure: Array
    """(p,) Pa"""
    bed_state: Array
    """stored pressures of the beds, Pa"""
    open_flow: Array
    """(open ports,) m^3/s out of the domain"""


class Projection:
    """The mass balance of a domain; made once, solved in every step."""

    def __init__(
        self,
        domain: FlowDomain,
        space: LagrangeSpace,
        matrices: ConstantMatrices,
        given: GivenVelocities,
        open_ports: list[FlowPort],
        density: float,
        comm: MPI.Comm,
    ) -> None:
        """Factor the pressure's matrix.

        Args:
            domain: where.
            space: of the velocity.
            matrices: that never change.
            given: where the velocity is given.
            open_ports: through which blood flows freely.
            density: kg/m^3.
            comm: processes that share the work.
        """
        self._matrices, self._density = matrices, density
        self._boundary_flux = boundary_flux(domain, space, [WALL_TAG, *(port.tag for port in given.ports)])
        self._nodes = [domain.port_nodes(port) for port in open_ports]
        stiffness = matrices.pressure_stiffness
        self._solver = PressureSolver(stiffness, self._nodes, comm, matrices.pressure_load)
        self.responses = self._solver.unit_responses()
        """(p, open ports) harmonic pressures that are 1 on one of them and 0 on the others."""
        count = len(self._nodes)
        self._stiffness_of_ports = np.array(
            [(stiffness[nodes] @ self.responses).sum(axis=0) for nodes in self._nodes]
        ).reshape(count, count)
        self._divergence = tuple(gradient.T.tocsr() for gradient in matrices.gradient)

    def solve(
        self,
        tentative: Array,
        boundary: Array,
        pressure: Array,
        subscale: Array | None,
        beds: BedStates,
        bdf: Bdf2,
        time: float,
    ) -> Projected:
        """Pressure, stored pressures and flows at the end of a step.

        Args:
            tentative: (v, d) velocity.
            boundary: (v, d) the given velocities.
            pressure: (p,) at the step's beginning.
            subscale: (p,) (w, grad q) at the step's end, m^3/s; None where there is none.
            beds: behind the open ports.
            bdf: the step.
            time: at its end, s.

        Raises:
            SolverFailed: the pressure's matrix cannot be solved.
        """
        alpha = 1.0 / (bdf.rates[0] * self._density)
        stiffness = self._matrices.pressure_stiffness
        mass = sum(matrix @ tentative[:, axis] for axis, matrix in enumerate(self._divergence))
        mass = mass - sum(matrix @ boundary[:, axis] for axis, matrix in enumerate(self._boundary_flux))
        if not self._nodes:
            # Given velocities of a discrete boundary do not quite balance; at one node the rest would be a point sink.
            load = self._matrices.pressure_load
            mass = mass - load * (mass.sum() / load.sum())
        known = alpha * (stiffness @ pressure) + mass
        if subscale is not None:
            known -= subscale
        guess = np.array([pressure[nodes[0]] for nodes in self._nodes])
        solved = self._solver.solve(known / alpha, guess, pressure)
        if not len(guess):
            return Projected(solved, beds.now, np.empty(0))
        residual = known - alpha * (stiffness @ solved)
        flow = np.array([residual[nodes].sum() for nodes in self._nodes])
        # P = impedance Q + stored of every circuit, and Q = flow + response dP of the 3D flow.
        relations: list[Affine] = beds.affine(bdf.rates, time)
        impedance = np.array([relation.impedance for relation in relations])
        stored = np.array([relation.stored for relation in relations])
        response = -alpha * self._stiffness_of_ports
        system = np.eye(len(guess)) - impedance[:, None] * response
        change = np.linalg.solve(system, impedance * flow + stored - guess)
        flow = flow + response @ change
        return Projected(solved + self.responses @ change, beds.advanced(relations, flow), flow)
