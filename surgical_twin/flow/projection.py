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

An elastic wall (`elastic_wall`) makes room for blood as the pressure wants it, w = beta (C' p^(n+1) + s): its term -C w
adds C beta C' to alpha K. That depends on the step's length, so that there is a factorization for each of the lengths
that recur. Such a wall also rings, at some hundred hertz, and the subscales answer the last pressure a step late: of an
oscillation that lags by half a step against what damps, and was measured to feed the ringing until the flow was noise.
What enters there is therefore w + c ((grad p - pi(grad p)) / rho - w / tau) / (1 / dt + 1 / tau), the same in a steady
flow. It damps where c cos(omega dt) > 1/2, and the pressure stays stable up to c = 5/6 (the roots of its recursion).
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.assembly import ConstantMatrices, boundary_flux
from surgical_twin.flow.bdf import Bdf2
from surgical_twin.flow.beds import Affine, BedStates
from surgical_twin.flow.conditions import GivenVelocities
from surgical_twin.flow.domain import WALL_TAG, FlowDomain, FlowPort
from surgical_twin.flow.elastic_wall import WallMotion
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.linear_solvers import MPI, PressureSolver

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Projected:
    """What the mass balance gives."""

    pressure: Array
    """(p,) Pa"""
    bed_state: Array
    """stored pressures of the beds, Pa"""
    open_flow: Array
    """(open ports,) m^3/s out of the domain"""
    wall_speed: Array
    """(k,) m/s of the nodes of a moving wall; empty where there is none"""


class _System:
    """The pressure's matrix, factored, with what the open ports do in it."""

    def __init__(self, matrix: sp.csr_matrix, open_nodes: list[Indices], comm: MPI.Comm, load: Array) -> None:
        self.matrix = matrix
        self.solver = PressureSolver(matrix, open_nodes, comm, load)
        self.responses = self.solver.unit_responses()
        """(p, open ports) pressures that are 1 on one of them and 0 on the others"""
        count = len(open_nodes)
        self.of_ports = np.array([(matrix[nodes] @ self.responses).sum(axis=0) for nodes in open_nodes]).reshape(
            count, count
        )


DIRECT_SUBSCALE = 0.6
"""See the module: c of a wall that moves."""

MOST_SYSTEMS = 6
"""Lengths of steps that a moving wall's matrix is kept for."""


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
        wall_moves: bool = False,
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
            wall_moves: whether `solve` gets a wall.

        Raises:
            InputError: a wall moves and no port is open, so that nothing holds the pressure.
        """
        if wall_moves and not open_ports:
            raise InputError(
                "An elastic wall needs a port whose pressure is held, by a bed or as it is; all ports' flows are given."
            )
        self._matrices, self._density, self._comm = matrices, density, comm
        self._boundary_flux = boundary_flux(domain, space, [WALL_TAG, *(port.tag for port in given.ports)])
        self._nodes = [domain.port_nodes(port) for port in open_ports]
        self._rigid = _System(matrices.pressure_stiffness, self._nodes, comm, matrices.pressure_load)
        self.responses = self._rigid.responses
        """(p, open ports) harmonic pressures that are 1 on one of them and 0 on the others."""
        self._systems: OrderedDict[float, _System] = OrderedDict()
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
        wall: WallMotion | None = None,
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
            wall: that moves, at the step's beginning.

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
        system, speed = self._rigid, np.empty(0)
        if wall is not None:
            beta = wall.admittance(bdf)
            still = wall.memory(bdf) - wall.areas * wall.wall.reference_pressure
            known -= wall.coupling @ (beta * still)
            system = self._with_wall(wall.coupling, beta / alpha)
        guess = np.array([pressure[nodes[0]] for nodes in self._nodes])
        solved = system.solver.solve(known / alpha, guess, pressure)
        flow = np.empty(0)
        bed_state = beds.now
        if len(guess):
            residual = known - alpha * (system.matrix @ solved)
            flow = np.array([residual[nodes].sum() for nodes in self._nodes])
            # P = impedance Q + stored of every circuit, and Q = flow + response dP of the 3D flow.
            relations: list[Affine] = beds.affine(bdf.rates, time)
            impedance = np.array([relation.impedance for relation in relations])
            stored = np.array([relation.stored for relation in relations])
            response = -alpha * system.of_ports
            closed = np.eye(len(guess)) - impedance[:, None] * response
            change = np.linalg.solve(closed, impedance * flow + stored - guess)
            flow = flow + response @ change
            solved = solved + system.responses @ change
            bed_state = beds.advanced(relations, flow)
        if wall is not None:
            speed = wall.speed_under(solved, bdf)
        return Projected(solved, bed_state, flow, speed)

    def _with_wall(self, coupling: sp.csr_matrix, weights: Array) -> _System:
        """The system with a wall's nodes (k,) of these weights."""
        key = float(f"{weights.sum():.9e}")
        system = self._systems.get(key)
        if system is None:
            matrix = self._matrices.pressure_stiffness + coupling @ sp.diags(weights) @ coupling.T
            system = _System(matrix.tocsr(), self._nodes, self._comm, self._matrices.pressure_load)
            self._systems[key] = system
            if len(self._systems) > MOST_SYSTEMS:
                self._systems.popitem(last=False)
        self._systems.move_to_end(key)
        return system
