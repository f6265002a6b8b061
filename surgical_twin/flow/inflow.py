"""Velocity given on a port: the shape over its section, and how it follows the flow in time.

Three shapes, on sections of any form: flat (`plug`), fully developed (`parabolic`: the Poisson problem -laplace(w) = 1
on the section, a paraboloid on a circle), and pulsatile (`womersley`: of every harmonic k of the waveform the solution
of i k omega rho w - mu laplace(w) = 1, after Womersley, J. Physiol. 127 (1955) 553-563, who solves it on the circle).
All vanish on the rim and are scaled so that their net flow *on this mesh* is the waveform's to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from surgical_twin.errors import InputError
from surgical_twin.flow.domain import WALL_TAG, FlowDomain, FlowPort
from surgical_twin.flow.elements import LagrangeSpace
from surgical_twin.flow.waveform import PeriodicWaveform

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

Profile = Literal["parabolic", "plug", "womersley"]
PROFILES: tuple[Profile, ...] = ("parabolic", "plug", "womersley")

_SAMPLES = 512
_SMALLEST_HARMONIC = 1e-5
"""Harmonics below this part of the largest are carried by the developed profile."""


@dataclass(frozen=True)
class GivenFlow:
    """Flow through a port [m^3/s]: into the domain at an inlet, out of it at an outlet."""

    waveform: PeriodicWaveform
    profile: Profile = "parabolic"

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise InputError(f'There is no inflow profile "{self.profile}"; take one of {", ".join(PROFILES)}.')


@dataclass(frozen=True)
class GivenVelocity:
    """A velocity field on a port: takes points (n, d) [m] and a time [s], gives (n, d) [m/s]."""

    field: Callable[[Array, float], Array]


class PortSection:
    """A port's section as a mesh of its own: nodes, and the matrices of scalar problems on it."""

    def __init__(self, domain: FlowDomain, space: LagrangeSpace, port: FlowPort) -> None:
        """Assemble.

        Raises:
            InputError: the port has no node off its rim.
        """
        chosen = domain.triangle_tags == port.tag
        facets = space.facet_nodes(domain.triangles[chosen])
        self.nodes, local = np.unique(facets, return_inverse=True)
        local = local.reshape(facets.shape)
        wall = np.unique(space.facet_nodes(domain.triangles[domain.triangle_tags == WALL_TAG]))
        self.inner = np.flatnonzero(~np.isin(self.nodes, wall))
        if len(self.inner) == 0:
            raise InputError(f"The port {port.name} has no node inside its rim; mesh it finer.")
        corners = domain.points[domain.triangles[chosen]]
        edges = corners[:, 1:] - corners[:, :1]
        metric = np.linalg.inv(np.einsum("fld,fmd->flm", edges, edges))
        areas: Array = domain.triangle_areas(domain.triangles[chosen]) * factorial(domain.dimension - 1)
        reference = space.facet_reference
        stiffness: Array = np.einsum("f,flm,lmij->fij", areas, metric, reference.stiffness())
        mass = np.einsum("f,ij->fij", areas, reference.mass())
        count = int(self.nodes.size)
        width = facets.shape[1]
        rows = np.repeat(local, width, axis=1).ravel()
        columns = np.tile(local, (1, width)).ravel()
        self.stiffness = sp.csr_matrix((stiffness.ravel(), (rows, columns)), shape=(count, count))
        self.mass = sp.csr_matrix((mass.ravel(), (rows, columns)), shape=(count, count))
        self.load = np.asarray(self.mass.sum(axis=1)).ravel()
        self.area = float(self.load.sum())

    def plug(self) -> Array:
        """(nodes,) 1/m^2: the same velocity at all nodes off the rim."""
        profile = np.zeros(len(self.nodes))
        profile[self.inner] = 1.0
        return profile / (self.load @ profile)

    def developed(self) -> Array:
        """(nodes,) 1/m^2: fully developed flow."""
        return np.real(self.pulsatile(0.0))

    def pulsatile(self, rate: float) -> NDArray[np.complex128]:
        """(nodes,) 1/m^2: the complex profile of an oscillation; rate = omega / kinematic viscosity, 1/m^2."""
        inner = self.inner
        matrix = (self.stiffness + 1j * rate * self.mass)[inner][:, inner].tocsc()
        profile = np.zeros(len(self.nodes), dtype=complex)
        profile[inner] = splu(matrix).solve(self.load[inner].astype(complex))
        return profile / (self.load @ profile)


class PortVelocity:
    """The velocity that a `GivenFlow` sets on its port's nodes."""

    def __init__(
        self, domain: FlowDomain, space: LagrangeSpace, port: FlowPort, condition: GivenFlow, kinematic: float
    ) -> None:
        """Solve for the shapes; kinematic viscosity in m^2/s."""
        section = PortSection(domain, space, port)
        self.nodes = section.nodes
        self.waveform = condition.waveform
        self._direction = -np.asarray(port.normal) if port.role == "inlet" else np.asarray(port.normal)
        self._base = section.plug() if condition.profile == "plug" else section.developed()
        self._shapes = np.empty((0, len(self.nodes)), dtype=complex)
        self._amplitudes, self._rates = np.empty(0, dtype=complex), np.empty(0)
        if condition.profile == "womersley":
            period = condition.waveform.period
            times = np.arange(_SAMPLES) * period / _SAMPLES
            amplitudes = 2.0 * np.fft.rfft([condition.waveform.value(time) for time in times])[1:-1] / _SAMPLES
            kept = np.abs(amplitudes) > _SMALLEST_HARMONIC * max(np.abs(amplitudes).max(), 1e-300)
            self._amplitudes = amplitudes[kept]
            self._rates = 2 * np.pi / period * np.arange(1, len(amplitudes) + 1)[kept]
            self._shapes = np.array([section.pulsatile(rate / kinematic) for rate in self._rates])

    def at(self, time: float) -> Array:
        """(nodes, d) m/s at a time [s]; its net flow is the waveform's."""
        phases = self._amplitudes * np.exp(1j * self._rates * time)
        rest = self.waveform.value(time) - float(np.real(phases).sum())
        speed = rest * self._base
        if len(phases):
            speed = speed + np.real(phases @ self._shapes.reshape(len(phases), -1))
        return speed[:, None] * self._direction
