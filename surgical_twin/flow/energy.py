"""Where the energy of the flow goes.

    dE/dt + D = sum over ports of the power into the domain,   E = rho/2 |u|^2,   D = mu |grad u|^2,
    power = -(p + rho/2 |u|^2) u.n + mu (du/dn).u   on a port,

which the exact flow fulfils: with the momentum equation times u integrated over the lumen. What the numbers lack to
it is what the scheme itself takes out (or puts in), and so a measure of how well the mesh and the time step resolve the
flow. The energy lost between two ports is what clinicians compute from pressure and velocity in their sections.
"""

from __future__ import annotations

from math import factorial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from surgical_twin.flow.navier_stokes import NavierStokes

Array = NDArray[np.float64]


class EnergyMeter:
    """Measures a solver's energy; made once, asked in every step."""

    def __init__(self, solver: NavierStokes) -> None:
        self._solver = solver
        domain, space = solver.domain, solver.space
        self._reference = space.facet_reference
        self._ports = []
        for port in domain.ports:
            chosen = domain.triangle_tags == port.tag
            facets = domain.triangles[chosen]
            vectors = domain.outward[chosen] * factorial(domain.dimension - 1)
            self._ports.append((facets, space.facet_nodes(facets), vectors, domain.boundary_cells[chosen]))
        from surgical_twin.flow.elements import ReferenceElement

        coarse = ReferenceElement.make(domain.dimension - 1, 1, 3 * space.order)
        self._linear = coarse.values

    def measure(self) -> Array:
        """(2 + ports,): kinetic energy [J], viscous dissipation [W], power into the domain through each port [W]; then
        that through a wall that moves, where there is one."""
        solver = self._solver
        rho = solver.density
        velocity, pressure = solver.velocity, solver.pressure
        matrices = solver.matrices
        kinetic = 0.5 * rho * float(np.sum(velocity * (matrices.mass @ velocity)))
        jacobian = solver.transport.jacobian(velocity)
        viscosity, _ = solver.viscosity(jacobian)
        if np.ndim(viscosity) == 0:
            dissipation = float(viscosity) * float(np.sum(velocity * (matrices.stiffness @ velocity)))
        else:
            strain = 0.5 * (jacobian + np.swapaxes(jacobian, 1, 2))
            rate = 2.0 * np.einsum("eij,eij->e", strain, strain)
            dissipation = float(np.sum(viscosity * rate * solver.domain.volumes))
        powers = []
        out = np.array([-1.0 if port.role == "inlet" else 1.0 for port in solver.domain.ports]) * solver.port_flow
        for place, (facets, nodes, vectors, cells) in enumerate(self._ports):
            u = np.einsum("qa,fad->fqd", self._reference.values, velocity[nodes])
            # The port's mean pressure works on the flow of the weak mass balance, which balances to rounding: an
            # outlet's velocity carries it only to the mesh's accuracy, and pressure is large beside its differences.
            level = solver.port_pressure[place]
            p = pressure[facets] @ self._linear.T - level
            through = np.einsum("fqd,fd->fq", u, vectors)
            head = p + 0.5 * rho * np.einsum("fqd,fqd->fq", u, u)
            mu = viscosity if np.ndim(viscosity) == 0 else viscosity[cells][:, None]  # type: ignore[index]
            # d u_c / d n times the area: jacobian is (d/dx_k, component).
            traction = np.einsum("fkc,fk,fqc->fq", jacobian[cells], vectors, u)
            power = float(np.sum((mu * traction - head * through) @ self._reference.weights))
            powers.append(power - level * out[place])
        if solver.wall is not None:
            wall = solver.wall
            powers.append(-float((wall.areas * wall.speed) @ pressure[wall.nodes]))
        return np.array([kinetic, dissipation, *powers])


def energy_gap(time: Array, energy: Array) -> tuple[float, float]:
    """How much of the power put in over a span of time is not accounted for, and the mean loss [W].

    Args:
        time: (nt,) s, equal steps.
        energy: (nt, 2 + ports) of `EnergyMeter`, or one more.

    Returns:
        (work in - change of kinetic energy - dissipation) over the time, relative to the dissipation (0 of blood at
        rest, where there is none); and the mean net
        power put in less the change of kinetic energy: the energy that the flow loses in this lumen.
    """
    work = np.trapezoid(energy[:, 2:].sum(axis=1), time)
    lost = np.trapezoid(energy[:, 1], time)
    change = energy[-1, 0] - energy[0, 0]
    gap = (work - change - lost) / lost if lost > 0.0 else 0.0
    return float(gap), float((work - change) / (time[-1] - time[0]))
