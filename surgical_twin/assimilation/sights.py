r"""What an observation looks at: each member's prediction of it, from the ensemble alone.

A `Sight` holds nothing of the ensemble, so that a late observation can be put where it belongs in time and all that
came after it be looked at once more (``surgical_twin.late_data``).

* Pressure at a tool's tip: pressure where each member's registration error puts the tip, plus the sensor's bias. The
  field is read at the mean place; what a member's displacement changes is read along the centerline, for within a
  vessel pressure changes along it and hardly across, and a catheter cannot leave the lumen:

      p_i = c_i . m(x) + c_i . [m(s(x_i)) - m(s(x))] + b_i,     x_i = x + J_x e_i,

  with member i's coefficients c_i and registration error e_i, the modes m, and s(.) the nearest place of the
  centerline. Where there is no centerline the second term is the mean gradient times the displacement.
* Pressure of a fixed line: what the line makes of its port's pressure (``line_dynamics``), plus its bias.
* Flow through a port, or through a section: the sum of the outlets behind it. An average over beats is that of the
  member's inflow, shared as the flows are.
* Velocity along a beam in a sample volume: the decoded velocity's component.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from registration.pose_error import displacement_jacobian
from surgical_twin.assimilation.flow_filter import BIAS, READING, REGISTRATION_COLUMNS, FilterState
from surgical_twin.units import CUBIC_METRES_PER_ML, METRES_PER_MM

if TYPE_CHECKING:
    from registration.pose_error import PoseError
    from surgical_twin.session_model import Place, SessionModel

Array = NDArray[np.float64]

ARM_MM = 80.0
"""A turn counts as the displacement it makes at this distance, where turns and displacements are weighed together."""


class Sight(Protocol):
    """What an observation looks at."""

    def predicted(self, model: SessionModel, ensemble: FilterState) -> Array:
        """(members,) what each member expects, in the observation's unit."""


def error_factor(error: PoseError) -> Array:
    """(6, 6) the symmetric root of a registration's covariance, turns weighed by `ARM_MM`: standard deviations to
    (rad, mm)."""
    return _root(np.ascontiguousarray(error.covariance).tobytes())


@lru_cache(maxsize=8)
def _root(covariance: bytes) -> Array:
    """A registration stays for many observations."""
    weight = np.repeat([ARM_MM, 1.0], 3)
    values, vectors = np.linalg.eigh(np.frombuffer(covariance).reshape(6, 6) * np.outer(weight, weight))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    factor: Array = root / weight[:, None]
    return factor


def displacements(ensemble: FilterState, point: Array, factor: Array, center: Array) -> Array:
    """(members, 3) mm: by how much each member's registration error displaces a point (3,)."""
    jacobian = displacement_jacobian(point - center) @ factor
    moved: Array = ensemble.errors[:, :REGISTRATION_COLUMNS] @ jacobian.T
    return moved


@dataclass(frozen=True)
class TipSight:
    """Pressure at the tip of a tool."""

    sensor: str
    position: Array
    """(3,) mm: where fiducials, and the lumen where the case wants it, put the tip"""
    factor: Array
    center: Array
    """of the registration's error: `error_factor`, and the point it is about"""
    place: Place
    """of the position"""

    def displaced(self, model: SessionModel, ensemble: FilterState) -> Array:
        """(members,) mmHg: pressure at each member's tip."""
        ports = ensemble.ports
        moved = displacements(ensemble, self.position, self.factor, self.center)
        return model.pressure_near(self.place, ports, self.position, moved)

    def predicted(self, model: SessionModel, ensemble: FilterState) -> Array:
        """(members,) mmHg."""
        total: Array = self.displaced(model, ensemble) + ensemble.of_sensor(self.sensor, BIAS)
        return total


@dataclass(frozen=True)
class LineSight:
    """Pressure that a fluid-filled line at a port reads."""

    sensor: str

    def predicted(self, model: SessionModel, ensemble: FilterState) -> Array:
        """(members,) mmHg."""
        total: Array = ensemble.of_sensor(self.sensor, READING) + ensemble.of_sensor(self.sensor, BIAS)
        return total


@dataclass(frozen=True)
class FlowSight:
    """Flow through a port or a section, at an instant or over beats."""

    outlets: NDArray[np.bool_]
    """(N,) which outlets lie behind it: all of them for the inlet"""
    averaged: bool = False

    def predicted(self, model: SessionModel, ensemble: FilterState) -> Array:
        """(members,) mL/s."""
        if not self.averaged:
            now: Array = ensemble.ports.flow[:, self.outlets].sum(axis=1) / CUBIC_METRES_PER_ML
            return now
        mean = model.filter.inflow_factor(ensemble.log_factors) * model.waveform.mean
        beds = model.filter.parameters(ensemble.log_factors)
        conductance = 1.0 / (beds.proximal_resistance + beds.distal_resistance)
        share = conductance[:, self.outlets].sum(axis=1) / conductance.sum(axis=1)
        over_beats: Array = mean * share / CUBIC_METRES_PER_ML
        return over_beats


@dataclass(frozen=True)
class VelocitySight:
    """Velocity along a beam at a point."""

    point: Array
    """(3,) mm, LPS"""
    beam: Array
    """(3,) unit vector, LPS"""

    def vectors(self, model: SessionModel, ensemble: FilterState) -> Array:
        """(members, 3) mm/s."""
        decoder = model.reduced.decoder
        located = decoder.locator.locate(self.point[None] * METRES_PER_MM)
        around = decoder.velocity(ensemble.ports, located.vertices[0])
        vectors: Array = np.einsum("c,mcj->mj", located.weights[0], around) / METRES_PER_MM
        return vectors

    def predicted(self, model: SessionModel, ensemble: FilterState) -> Array:
        """(members,) mm/s."""
        along: Array = self.vectors(model, ensemble) @ self.beam
        return along
