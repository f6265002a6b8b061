"""The momentum equation of one step: the tentative velocity under the old pressure.

Convection is linearized by the extrapolated velocity c and treated implicitly, in skew-symmetric form with backflow
stabilization (`assembly`); all components share one scalar matrix.

Convection is stabilized along streamlines by orthogonal subscales, tau (c.grad u - pi(c.grad u), c.grad v), pi being
the L2 projection of the extrapolated velocity's convection onto linear functions (Codina, Comput. Methods Appl. Mech.
Engrg. 191 (2002) 4295-4321), lumped at order 1: consistent to the elements' order, where plain streamline diffusion is
of first.
With tau^-2 = (2 |c| / h)^2 + (12 nu / h^2)^2 + |grad c|^2; without the last part slow cells beside a jet's wall would
be stabilized as if nothing changed across them.

The projection pi is explicit. Extrapolated to second order it is unstable at large CFL numbers: a smooth mode exp(ikx)
grows by 1 + O(sqrt(ck dt / delta)) a step once delta = tau (ck)^2 dt passes 1. Taken from the last step it is not, and
of first order. So it is extrapolated where a cell is crossed in half a step or more, and less and less beyond.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.flow.assembly import ConstantMatrices, TransportAssembler, TransportPattern
from surgical_twin.flow.bdf import Bdf2
from surgical_twin.flow.conditions import GivenVelocities
from surgical_twin.flow.convection_subscale import ConvectionSubscale
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.linear_cells import LinearCells
from surgical_twin.flow.linear_solvers import MPI, TransportSolver
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian

Array = NDArray[np.float64]

LAG_CFL = 2.0
"""In cells that are crossed faster, the subscales' projection is extrapolated less."""


@dataclass(frozen=True)
class Tentative:
    """What the momentum equation gives."""

    velocity: Array
    """(v, d) m/s"""
    cfl: float
    """largest CFL number"""


class Momentum:
    """The momentum equation of a domain; made once, solved in every step."""

    def __init__(
        self,
        domain: FlowDomain,
        space: LagrangeSpace,
        matrices: ConstantMatrices,
        given: GivenVelocities,
        open_tags: list[int],
        density: float,
        rheology: Newtonian | CarreauYasuda,
        body_force: Callable[[Array, float], Array] | None,
        comm: MPI.Comm,
        *,
        wall_moves: bool = False,
    ) -> None:
        """Lay out the matrix.

        Args:
            domain: where.
            space: of the velocity.
            matrices: that never change.
            given: where the velocity is given.
            open_tags: of the ports through which blood may flow freely.
            density: kg/m^3.
            rheology: of the blood.
            body_force: takes points (v, d) [m] and a time [s], gives (v, d) N/m^3.
            comm: processes that share the work.
            wall_moves: whether the wall is elastic; the mass is lumped then (`elastic_wall`).
        """
        self._domain, self._space, self._matrices, self._given = domain, space, matrices, given
        self._density, self._rheology, self._body_force = density, rheology, body_force
        pattern = TransportPattern(space, given.fixed, given.nodes, comm)
        self.transport = TransportAssembler(domain, space, pattern, open_tags)
        self._solver = TransportSolver(pattern, comm)
        self._size = domain.element_length / space.order
        self.linear = None
        if space.order == 1:
            self.linear = LinearCells(domain, pattern, density, rheology, LAG_CFL, comm, lumped=wall_moves)
        """of order 1 only"""
        self._convection = ConvectionSubscale(domain, space) if space.order == 2 else None

    def crossing(self, velocity: Array) -> tuple[float, int]:
        """The largest number of cells that blood of a velocity (v, d) crosses in a second, and the cell where it is."""
        if self.linear is not None:
            return self.linear.crossing(velocity)
        rate = np.linalg.norm(self.transport.cell_mean(velocity), axis=1) / self._size
        cell = int(np.argmax(rate))
        return float(rate[cell]), cell

    def solve(self, now: Array, before: Array, pressure: Array, boundary: Array, bdf: Bdf2, time: float) -> Tentative:
        """The tentative velocity at the end of a step.

        Args:
            now: (v, d) velocity at the step's beginning.
            before: (v, d) a step earlier.
            pressure: (p,) whose gradient drives it, Pa.
            boundary: (v, d) the given velocities.
            bdf: the step.
            time: at its end, s.

        Raises:
            SolverFailed: the matrix is no longer one of a flow.
        """
        convecting = bdf.ahead(now, before)
        if self.linear is not None:
            values, load, cfl = self.linear.equation(now, before, pressure, bdf)
            self.transport.add_backflow(convecting, self._density, values)
        else:
            values, load, cfl = self.equation(now, before, pressure, bdf)
        if self._body_force is not None:
            load += self._matrices.mass @ self._body_force(self._space.points, time)
        return Tentative(self._solver.solve(values, load, boundary, convecting), cfl)

    def equation(self, now: Array, before: Array, pressure: Array, bdf: Bdf2) -> tuple[Array, Array, float]:
        """The matrix's values (entries + 1,), the load (v, d), and the largest CFL number, on elements of any order.

        Arguments as of `solve`.
        """
        rho, transport, size = self._density, self.transport, self._size
        dimension = self._domain.dimension
        convecting = bdf.ahead(now, before)
        along = transport.cell_mean(convecting)
        speed = np.sqrt(np.einsum("ed,ed->e", along, along))
        slopes = transport.jacobian(np.column_stack([now, before]))
        slope_now, slope_before = slopes[:, :, :dimension], slopes[:, :, dimension:]
        jacobian = bdf.ahead(slope_now, slope_before)
        viscosity, transposed = self.viscosity(jacobian)
        shear = np.einsum("ekc,ekc->e", jacobian, jacobian)
        tau = 1.0 / np.sqrt((2.0 * speed / size) ** 2 + (12.0 * viscosity / (rho * size**2)) ** 2 + shear)
        values = transport.values(convecting, rho, along, rho * tau, viscosity)
        values += (rho * bdf.rates[0]) * transport.mass_values
        load = (-rho) * (self._matrices.mass @ bdf.known(now, before))
        load -= self._matrices.tested_gradient(pressure)
        lagged = 1.0 / np.maximum(1.0, speed * bdf.length / (LAG_CFL * size)) ** 2
        if self._convection is not None:
            load += self._convection.load(along, now, before, bdf.ratio * lagged, rho * tau)
        else:
            ahead = (bdf.ratio * lagged)[:, None, None]
            convected = np.einsum("ek,ekc->ec", along, slope_now + ahead * (slope_now - slope_before))
            subscale = transport.smoothed(convected) * (rho * tau)[:, None]
            load += transport.tested_with_gradient(along[:, :, None] * subscale[:, None, :])
        if transposed is not None:
            load -= transport.tested_with_gradient(transposed)
        return values, load, float((speed / size).max()) * bdf.length

    def viscosity(self, jacobian: Array) -> tuple[Array | float, Array | None]:
        """Viscosity (of each cell where it differs), and for shear-thinning blood the flux (m, d, d) of its transposed
        gradient.

        div(2 mu D(u)) = div(mu grad u) + grad(u)' grad(mu): with a viscosity that varies, the second part does not
        vanish. It is taken from the extrapolated velocity, as ((mu - mu_inf) grad(u)', grad v), so that outlets keep
        the condition mu_inf du/dn = 0 of a Newtonian fluid.
        """
        if isinstance(self._rheology, Newtonian):
            return self._rheology.viscosity, None
        transposed = np.swapaxes(jacobian, 1, 2)
        strain = 0.5 * (jacobian + transposed)
        viscosity = self._rheology.at(np.sqrt(2.0 * np.einsum("eij,eij->e", strain, strain)))
        return viscosity, (viscosity - self._rheology.high_shear_viscosity)[:, None, None] * transposed
