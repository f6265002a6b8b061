"""A wall that gives way to the blood's pressure: rings that are stiff by themselves, on a mesh that stays.

The wall moves along its normal n alone, with speed w and displacement d:

    rho_w h dw/dt + k d = p - p_ref,   dd/dt = w,   u = w n on the wall,   k = E h / ((1 - nu^2) R^2),

a thin membrane whose hoops carry the load, tethered along the vessel by the tissue around it: the "independent rings"
of A. Quarteroni, M. Tuveri & A. Veneziani (Comput. Vis. Sci. 2 (2000) 163-197), with R the vessel's radius in the image
and p_ref the pressure at which it was taken. In a tube it makes Moens and Korteweg's pulse wave of speed
sqrt(k R / (2 rho)), and with viscous blood Womersley's in a tethered tube.

The mesh stays where it is and the wall lets through what it sweeps over (transpiration: S. Deparis, M. A. Fernandez &
L. Formaggia, ESAIM: M2AN 37 (2003) 601-616). That is of first order in d / R: good for arteries that widen by some five
per cent, and not for veins that collapse.

Coupling. A node of the wall is one of the blood's velocity that moves along its normal and carries the wall's mass and
stiffness beside the blood's: tested with that motion, the two momentum equations together are

    (rho_w h A + rho V) dw/dt + k A d = C' p - A p_ref,   C_qw = <phi_w n, q> - (phi_w n, grad q),

with A its area, V its volume, and C the same matrix by which its speed enters the mass balance, so that what the wall
takes from the blood it gives back. The mass is lumped throughout; with a consistent one the blood's equation has the
wall's acceleration in it and the wall's not the blood's, which was measured to make the wall ring up by itself. By BDF2
w = beta (C' p + s) at a step's end, beta = 1 / (a0 (rho_w h A + rho V) + k A / a0), which the mass balance takes up as
a Robin condition (F. Nobile & C. Vergara, SIAM J. Sci. Comput. 30 (2008) 731-763): pressure and wall are solved
together, and the light wall does not blow up on the heavy blood ("added mass"). The momentum equation has the speed
that the old pressure would give the wall, which the pressure's increment corrects as in the blood's inside. Rims of
ports do not move. SI units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.assembly import ConstantMatrices
from surgical_twin.flow.bdf import Bdf2
from surgical_twin.flow.domain import WALL_TAG, FlowDomain

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ElasticWall:
    """What the wall is made of; thickness and radius are numbers, or (w,) one for each of the domain's wall nodes.

    Raises:
        InputError: one of them is not positive, or Poisson's ratio is not between 0 and 0.5.
    """

    youngs_modulus: float
    """Pa"""
    thickness: float | Array
    """m"""
    radius: float | Array
    """m"""
    poisson_ratio: float = 0.5
    density: float = 1100.0
    """kg/m^3"""
    reference_pressure: float = 0.0
    """Pa, at which the wall is where the mesh has it"""

    def __post_init__(self) -> None:
        for name in ("youngs_modulus", "thickness", "radius", "density"):
            least = float(np.min(getattr(self, name)))
            if not (np.isfinite(np.max(getattr(self, name))) and least > 0.0):
                raise InputError(f"The elastic wall's {name} has to be positive; it is {least:g}.")
        if not 0.0 <= self.poisson_ratio <= 0.5:
            raise InputError(
                f"The elastic wall's Poisson's ratio lies between 0 and 0.5; it is {self.poisson_ratio:g}."
            )
        if not np.isfinite(self.reference_pressure):
            raise InputError("The elastic wall's reference pressure has to be a number.")

    @property
    def stiffness(self) -> float | Array:
        """k, Pa/m."""
        return self.youngs_modulus * self.thickness / ((1.0 - self.poisson_ratio**2) * np.square(self.radius))

    @property
    def inertia(self) -> float | Array:
        """rho_w h, kg/m^2."""
        return self.density * self.thickness

    def wave_speed(self, density: float) -> float:
        """Moens and Korteweg's, the mean over the wall, in blood of a density [kg/m^3]; m/s."""
        return float(np.mean(np.sqrt(self.stiffness * self.radius / (2.0 * density))))


class WallMotion:
    """The moving wall of a domain, step by step.

    Attributes:
        nodes: (k,) that move: of the wall, but for the rims of ports.
        normals: (k, d) out of the lumen.
        areas: (k,) m^2, each node's share of the wall.
        displacement: (k,) m along the normals, now; and ``displacement_before`` a step earlier.
        speed: (k,) m/s, now; and ``speed_before``.
    """

    def __init__(
        self,
        domain: FlowDomain,
        wall: ElasticWall,
        matrices: ConstantMatrices,
        wall_flux: Sequence[sp.csr_matrix],
        density: float,
        pressure: Array,
    ) -> None:
        """Set up the wall in balance with a pressure, at rest.

        Args:
            domain: the lumen.
            wall: what it is made of.
            matrices: of the flow.
            wall_flux: d matrices (n, n) of the flow through the wall (`boundary_flux`).
            density: of the blood, kg/m^3.
            pressure: (n,) Pa.

        Raises:
            InputError: the thickness or the radius is not of this domain.
        """
        rims = np.unique(domain.triangles[domain.triangle_tags != WALL_TAG])
        moving = ~np.isin(domain.wall_nodes, rims)
        self.wall, self.nodes, self._moving = wall, domain.wall_nodes[moving], moving
        vectors = np.column_stack([np.asarray(flux.sum(axis=0)).ravel()[self.nodes] for flux in wall_flux])
        self.areas = np.linalg.norm(vectors, axis=1)
        self.normals = vectors / self.areas[:, None]
        parts = zip(wall_flux, matrices.gradient, self.normals.T, strict=True)
        self.coupling = sum(
            (flux - gradient.T).tocsc()[:, self.nodes] @ sp.diags(normal) for flux, gradient, normal in parts
        ).tocsr()
        """(n, k) m^2: what each one's speed adds to each node's balance of mass; transposed, the pressures' force"""
        stiffness = self._of_nodes(wall.stiffness, "stiffness", moving)
        self._stiffness = stiffness * self.areas
        self._inertia = self._of_nodes(wall.inertia, "mass", moving) * self.areas
        self._inertia += density * matrices.pressure_load[self.nodes]
        self.displacement = self.force(pressure) / self._stiffness
        self.displacement_before = self.displacement.copy()
        self.speed, self.speed_before = np.zeros(len(self.nodes)), np.zeros(len(self.nodes))

    def _of_nodes(self, values: float | Array, name: str, moving: NDArray[np.bool_]) -> Array:
        if np.ndim(values) == 0:
            return np.full(len(self.nodes), float(values))
        given = np.asarray(values, dtype=float)
        if given.shape != moving.shape:
            raise InputError(
                f"The wall's {name} is given for {given.size} nodes, and the mesh's wall has {moving.size}."
            )
        return given[moving]

    def force(self, pressure: Array) -> Array:
        """(k,) N of a pressure (n,) [Pa] beyond the reference's."""
        return np.asarray(self.coupling.T @ pressure - self.areas * self.wall.reference_pressure)

    def admittance(self, bdf: Bdf2) -> Array:
        """(k,) beta, m/s per N."""
        return np.asarray(1.0 / (bdf.rates[0] * self._inertia + self._stiffness / bdf.rates[0]))

    def memory(self, bdf: Bdf2) -> Array:
        """(k,) s, N: what moves the wall beside the pressure."""
        recoil = self._stiffness / bdf.rates[0] * bdf.known(self.displacement, self.displacement_before)
        return np.asarray(recoil - self._inertia * bdf.known(self.speed, self.speed_before))

    def speed_under(self, pressure: Array, bdf: Bdf2) -> Array:
        """(k,) m/s at the step's end under a pressure (n,) [Pa] there."""
        return np.asarray(self.admittance(bdf) * (self.force(pressure) + self.memory(bdf)))

    def advance(self, speed: Array, bdf: Bdf2) -> None:
        """Take the speed (k,) at the step's end."""
        moved = (speed - bdf.known(self.displacement, self.displacement_before)) / bdf.rates[0]
        self.displacement, self.displacement_before = moved, self.displacement
        self.speed, self.speed_before = speed, self.speed

    def displacement_field(self) -> Array:
        """(w, d) m at all nodes of the wall."""
        field = np.zeros((len(self._moving), self.normals.shape[1]))
        field[self._moving] = self.displacement[:, None] * self.normals
        return field

    @property
    def outflow(self) -> float:
        """m^3/s that the wall makes room for."""
        return float(self.areas @ self.speed)
