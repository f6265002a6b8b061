"""A lumped model of a vessel tree from its anatomy alone, before any 3D run: what a centerline and its sections say.

Each branch is a chain of short tubes of the measured sections. With blood of density rho and viscosity mu, along a
branch of sections A(s) = pi r(s)^2:

* friction, after Poiseuille:                 R  = integral 8 mu / (pi r^4) ds
* inertance:                                  L  = integral 1.1 rho / A ds (see below)
* Bernoulli between the ends:                 (rho / 2) (1/A_end^2 - 1/A_start^2) q |q|
* a junction, after Bassett, Winterbone & Pearson (Proc. Inst. Mech. Eng. C 215, 2001), for a daughter that leaves its
  parent at the angle theta:                  P_parent - P_daughter = rho U_d^2 - rho U_p U_d cos(3 theta / 4)
* a stenosis, after Young & Tsai (J. Biomech. 6, 1973) with the constants of Seeley & Young (J. Biomech. 9, 1976):

      dP = K_v mu U_0 / D_0 + K_t (rho / 2) (A_0/A_1 - 1)^2 U_0 |U_0| + K_u rho L_s dU_0/dt
      K_v = 32 (L_a / D_0) (A_0/A_1)^2,   L_a = 0.83 L_s + 1.64 D_1,   K_t = 1.52,   K_u = 1.2

  in place of friction and inertance over its length; 0: healthy vessel, 1: throat.

The friction of a beating flow needs a memory too. Womersley's impedance of a tube is, as partial fractions,
R + i w rho l / A + sum_n (R / 2) i w tau_n / (1 + i w tau_n) with tau_n = r^2 / (nu j_n^2) and j_n the zeros of the
Bessel function J2 (sum 1 / j_n^2 = 1 / 12): three terms are memory, the rest is fast and adds to the inertance.

Terms that `PortModel` cannot hold as such, a gain of pressure that depends on a branch's own flow, are taken at
Murray's split (in proportion to r^3) of the inflow. SI units inside; the centerline comes in mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meshes.centerline import Branch, Centerline
from surgical_twin.errors import InputError
from surgical_twin.flow.port_model import PortModel
from surgical_twin.units import METRES_PER_MM

Array = NDArray[np.float64]

K_T, K_U = 1.52, 1.2
ZEROS_OF_J2 = np.array([5.135622301840683, 8.417244140399864, 11.619841172149059])
FAST_INERTANCE = 1.0 + 4.0 * (1.0 / 12.0 - float((1.0 / ZEROS_OF_J2**2).sum()))
"""Inertance over rho l / A, with what the memory leaves out: R r^2 / (2 nu) = 4 rho l / A."""

LEAST_AREA_SHARE = 1e-3
"""A throat narrower than this share of the healthy area is an occlusion, and no formula for a stenosis holds."""


@dataclass(frozen=True)
class Lesion:
    """A stenosis as the lumped model sees it; SI."""

    branch: int
    start: float
    """m of arc length along the branch"""
    length: float
    reference_diameter: float
    diameter: float

    @property
    def diameter_reduction(self) -> float:
        """1 - D_1 / D_0."""
        return 1.0 - self.diameter / self.reference_diameter

    def dilated(self, residual_reduction: float) -> Lesion:
        """The same place opened until this diameter reduction is left.

        Raises:
            InputError: it would not be opened, or the reduction is none.
        """
        if not 0.0 <= residual_reduction < 1.0:
            raise InputError(
                f"A residual diameter reduction lies between 0 and 100 %; got {100 * residual_reduction:g} %."
            )
        if residual_reduction > self.diameter_reduction + 1e-9:
            raise InputError(
                f"The stenosis takes {100 * self.diameter_reduction:.0f} % of the diameter: opening it cannot leave "
                f"{100 * residual_reduction:.0f} %."
            )
        return replace(self, diameter=self.reference_diameter * (1.0 - residual_reduction))


@dataclass(frozen=True)
class Element:
    """Coefficients of one piece of vessel: dP = resistance q + loss q |q| + inertance dq/dt. SI."""

    resistance: float
    loss: float
    inertance: float

    def __add__(self, other: Element) -> Element:
        return Element(self.resistance + other.resistance, self.loss + other.loss, self.inertance + other.inertance)

    def __sub__(self, other: Element) -> Element:
        return Element(self.resistance - other.resistance, self.loss - other.loss, self.inertance - other.inertance)


def stenosis_element(lesion: Lesion, *, density: float, viscosity: float) -> Element:
    """Young & Tsai's pressure drop over a stenosis.

    Raises:
        InputError: the throat is (nearly) closed.
    """
    wide = 0.25 * np.pi * lesion.reference_diameter**2
    ratio = (lesion.diameter / lesion.reference_diameter) ** 2
    if ratio < LEAST_AREA_SHARE:
        raise InputError(
            "A stenosis that is (nearly) closed has no pressure drop by formula; clamp the vessel instead."
        )
    effective = 0.83 * lesion.length + 1.64 * lesion.diameter
    viscous = 32.0 * (effective / lesion.reference_diameter) / ratio**2
    return Element(
        resistance=viscous * viscosity / (lesion.reference_diameter * wide),
        loss=K_T * 0.5 * density * (1.0 / ratio - 1.0) ** 2 / wide**2,
        inertance=K_U * density * lesion.length / wide,
    )


def tube_element(length: float, diameter: float, *, density: float, viscosity: float) -> Element:
    """A straight tube: Poiseuille's friction, and the inertance that goes with a memory."""
    area = 0.25 * np.pi * diameter**2
    return Element(128.0 * viscosity * length / (np.pi * diameter**4), 0.0, FAST_INERTANCE * density * length / area)


def annulus_factor(ratio: float) -> float:
    """By how much a tube's resistance grows when a concentric rod of ``ratio`` of its diameter lies in it.

    1 / (1 - k^4 - (1 - k^2)^2 / ln(1/k)) (Bird, Stewart & Lightfoot, Transport Phenomena, section 2.4).

    Raises:
        InputError: the rod fills the tube.
    """
    if not 0.0 <= ratio < 0.98:
        raise InputError(
            f"A device of {100 * ratio:.0f} % of the lumen's diameter leaves no room for blood; take a thinner one."
        )
    if ratio == 0.0:
        return 1.0
    return float(1.0 / (1.0 - ratio**4 - (1.0 - ratio**2) ** 2 / np.log(1.0 / ratio)))


@dataclass(frozen=True)
class AnatomyModel:
    """A vessel tree as lumped elements per branch; SI."""

    outlets: tuple[str, ...]
    feeds: NDArray[np.bool_]
    """(branches, N) which outlets a branch feeds"""
    elements: tuple[Element, ...]
    """per branch, without its lesions"""
    lesions: tuple[Lesion, ...]
    healthy: tuple[Element, ...]
    """per lesion: what the vessel would be without it, as counted in ``elements``"""
    radius: Array
    """(branches,) usual, m"""
    length: Array
    """(branches,) m"""
    junctions: Array
    """(branches,) Pa / (m^3/s)^2 of the inflow squared: pressure that a branch loses where it leaves its parent"""
    density: float
    viscosity: float

    @classmethod
    def of(
        cls,
        centerline: Centerline,
        radius_mm: Array,
        lesions: Sequence[Lesion],
        *,
        density: float,
        viscosity: float,
        angles_deg: Mapping[int, float] | None = None,
        branch_radius_mm: Mapping[int, float] | None = None,
    ) -> AnatomyModel:
        """From a centerline with named ends.

        Args:
            centerline: mm.
            radius_mm: (n,) at its points, of circles of the section's area.
            lesions: stenoses on it.
            density: kg/m^3.
            viscosity: Pa s.
            angles_deg: by branch, the angle at which it leaves its parent; straight on where not given.
            branch_radius_mm: by branch, its usual radius; the median of its sections where not given. A short branch
                of a wide parent has much of its centerline inside the parent, where sections are not its own.

        Raises:
            InputError: no end of it is a named outlet.
        """
        branches = centerline.branches
        outlets = tuple(branch.end for branch in branches if branch.end)
        if not outlets:
            raise InputError("The centerline has no named outlet; plan the case again.")
        feeds = np.zeros((len(branches), len(outlets)), dtype=bool)
        for column, outlet in enumerate(outlets):
            index: int | None = next(branch.index for branch in branches if branch.end == outlet)
            while index is not None:
                feeds[index, column] = True
                index = branches[index].parent
        radius = np.asarray(radius_mm, dtype=float) * METRES_PER_MM
        usual = {index: value * METRES_PER_MM for index, value in (branch_radius_mm or {}).items()}
        median = np.array([usual.get(branch.index, float(np.median(radius[branch.point_ids]))) for branch in branches])
        length = np.array([float(centerline.arc_length[branch.point_ids[-1]]) for branch in branches]) * METRES_PER_MM
        healthy: list[Element] = []
        for lesion in lesions:
            healthy.append(tube_element(lesion.length, lesion.reference_diameter, density=density, viscosity=viscosity))
        model = cls(
            outlets=outlets,
            feeds=feeds,
            elements=(),
            lesions=tuple(lesions),
            healthy=tuple(healthy),
            radius=median,
            length=length,
            junctions=np.zeros(len(branches)),
            density=density,
            viscosity=viscosity,
        )
        elements = []
        for branch in branches:
            arc = centerline.arc_length[branch.point_ids] * METRES_PER_MM
            own = model.healthy_radius(branch.index, arc, radius[branch.point_ids])
            friction, inertance = friction_and_inertance(arc, own, model)
            elements.append(Element(float(friction[-1]), 0.0, float(inertance[-1])))
        return replace(model, elements=tuple(elements), junctions=model._junctions(branches, angles_deg or {}))

    def healthy_radius(self, branch: int, arc: Array, radius: Array) -> Array:
        """(n,) m, the radius along a branch with its lesions' reference in place of the lesions."""
        own = radius.copy()
        for lesion in (lesion for lesion in self.lesions if lesion.branch == branch):
            own[(arc >= lesion.start) & (arc <= lesion.start + lesion.length)] = 0.5 * lesion.reference_diameter
        return own

    def murray_shares(self) -> Array:
        """(branches,) which share of the inflow each carries when the outlets take it in proportion to r^3."""
        cubes = np.array([self.radius[np.flatnonzero(self.feeds[:, i])[-1]] ** 3 for i in range(len(self.outlets))])
        return np.asarray(self.feeds @ (cubes / cubes.sum()))

    @property
    def recovery(self) -> Array:
        """(N,) Pa / (m^3/s)^2 of the inflow squared: what the junctions on the way to each outlet cost."""
        return np.asarray(self.feeds.T.astype(float) @ self.junctions)

    def for_outlets(self, names: tuple[str, ...]) -> AnatomyModel:
        """The same with the outlets in another order."""
        return replace(self, outlets=names, feeds=self.feeds[:, [self.outlets.index(name) for name in names]])

    def _junctions(self, branches: Sequence[Branch], angles_deg: Mapping[int, float]) -> Array:
        """(branches,) static pressure lost into each branch, at Murray's split."""
        speed = self.murray_shares() / (np.pi * self.radius**2)
        drops = np.zeros(len(branches))
        for index, branch in enumerate(branches):
            if branch.parent is not None:
                cosine = np.cos(0.75 * np.deg2rad(angles_deg.get(index, 0.0)))
                drops[index] = self.density * (speed[index] ** 2 - speed[branch.parent] * speed[index] * cosine)
        return drops

    def with_lesion(self, number: int, lesion: Lesion) -> AnatomyModel:
        """The same with another lesion in the place of one."""
        return replace(self, lesions=(*self.lesions[:number], lesion, *self.lesions[number + 1 :]))

    def lesion_element(self, index: int) -> Element:
        """Young & Tsai's drop over a lesion."""
        return stenosis_element(self.lesions[index], density=self.density, viscosity=self.viscosity)

    def branch_element(self, index: int) -> Element:
        """A branch with its lesions in it."""
        base = self.elements[index]
        for number, lesion in enumerate(self.lesions):
            if lesion.branch == index:
                more = self.lesion_element(number) - self.healthy[number]
                base = Element(
                    max(base.resistance + more.resistance, 0.1 * base.resistance),
                    base.loss + more.loss,
                    max(base.inertance + more.inertance, 0.1 * base.inertance),
                )
        return base

    def port_model(self) -> PortModel:
        """The tree as the port model of the reduced flow model."""
        count = len(self.outlets)
        incidence = self.feeds.T.astype(float)
        elements = [self.branch_element(index) for index in range(len(self.elements))]
        friction = np.array([element.resistance for element in elements])
        inertance = np.array([element.inertance for element in elements])
        resistance = (incidence * friction) @ incidence.T
        rung = (incidence * (0.5 * np.array([element.resistance for element in self.elements]))) @ incidence.T
        weights = np.array([element.resistance for element in self.elements])
        radius = float((weights * self.radius).sum() / weights.sum())
        return PortModel(
            outlets=self.outlets,
            resistance=resistance,
            inertance=(incidence * inertance) @ incidence.T + 1e-9 * float(inertance.max()) * np.eye(count),
            segments=incidence,
            loss=np.array([element.loss for element in elements]),
            junction_loss=np.zeros(len(elements)),
            recovery=self.recovery,
            memory=np.repeat(rung[None], len(ZEROS_OF_J2), axis=0),
            time_constants=radius**2 * self.density / (self.viscosity * ZEROS_OF_J2**2),
        )


def friction_and_inertance(arc: Array, radius: Array, blood: AnatomyModel) -> tuple[Array, Array]:
    """(n,) Pa s/m^3 and (n,) Pa s^2/m^3 of short tubes in series, from the first of points (n,) m along a branch on."""
    step = np.diff(arc)
    middle = 0.5 * (radius[1:] + radius[:-1])
    friction = 8.0 * blood.viscosity / np.pi * np.cumsum(step / middle**4)
    inertance = FAST_INERTANCE * blood.density / np.pi * np.cumsum(step / middle**2)
    return np.concatenate([[0.0], friction]), np.concatenate([[0.0], inertance])
