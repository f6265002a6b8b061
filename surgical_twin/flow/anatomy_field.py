"""Pressure and velocity in the whole lumen from a vessel tree's lumped model alone, before any 3D run.

Along each branch the lumped model's drops (`anatomy_model`) are laid out where they arise: friction and inertia by the
section, a stenosis's loss over its length, a junction's change at its mouth, and Bernoulli's exchange of pressure and
speed, rho / 2 U^2, by the section's area. A vertex of the mesh has the pressure of the nearest place
of the centerline, and Poiseuille's parabola for velocity. Both are linear in the features of `field_decoder`, so
that the result is a decoder like a trained one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from meshes.centerline import Branch, Centerline
from surgical_twin.flow.anatomy_model import AnatomyModel, friction_and_inertance
from surgical_twin.flow.field_decoder import FieldDecoder, ModalMap
from surgical_twin.units import METRES_PER_MM

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MOST_MODES = 16
LEAST_SINGULAR_VALUE = 1e-6
"""Modes of pressure below this share of the largest are left out."""

NEAR_WALL = 0.05
"""Speed at the wall's own vertices is zero; a vertex nearer to it than this share of the radius is one of them."""


@dataclass(frozen=True)
class Lanes:
    """Where the features of `field_decoder.flow_features` stand in a row: (4 + K) blocks of N outlets."""

    outlets: int
    memories: int

    @property
    def count(self) -> int:
        """How many features."""
        return (4 + self.memories) * self.outlets

    def block(self, number: int) -> slice:
        """Q, Q |Q|, Q |Q_in|, dQ/dt, and from 4 on the memories."""
        return slice(number * self.outlets, (number + 1) * self.outlets)


def field_coefficients(model: AnatomyModel, centerline: Centerline, radius_mm: Array, memories: int) -> Array:
    """(n, features) pressure less that of the inlet at the points of all branches, one after another, per feature.

    Args:
        model: of this centerline.
        centerline: mm; its branches hold the points between the ports only.
        radius_mm: of circles of the section's area, at its points.
        memories: how many the port model has.
    """
    return -np.concatenate(_drops(model, centerline, radius_mm, Lanes(len(model.outlets), memories)))


@dataclass(frozen=True)
class NearestPlaces:
    """For each vertex of a mesh the nearest place of a centerline."""

    row: Indices
    """(nv,) number of the point, counted through the branches one after another"""
    point: Indices
    """(nv,) id of the point in the centerline"""
    branch: Indices
    """(nv,)"""

    @classmethod
    def of(cls, centerline: Centerline, points: Array) -> NearestPlaces:
        """For points (nv, 3) m."""
        ids = np.concatenate([branch.point_ids for branch in centerline.branches])
        branches = np.concatenate([np.full(len(branch.point_ids), branch.index) for branch in centerline.branches])
        _, row = cKDTree(centerline.points[ids] * METRES_PER_MM).query(points)
        return cls(row, ids[row], branches[row])


def anatomy_decoder(
    model: AnatomyModel,
    centerline: Centerline,
    radius_mm: Array,
    mesh: tuple[Array, Indices],
    nearest: NearestPlaces,
    scale: Array,
) -> FieldDecoder:
    """The decoder of a lumped model.

    Args:
        model: of this centerline.
        centerline: as for `field_coefficients`.
        radius_mm: likewise.
        mesh: points (nv, 3) m and tetrahedra (nc, 4) of the lumen.
        nearest: the centerline's places of the mesh's vertices.
        scale: (features,) how large each feature typically is; decides which modes matter.
    """
    lanes = Lanes(len(model.outlets), len(scale) // len(model.outlets) - 4)
    places = _condensed(field_coefficients(model, centerline, radius_mm, lanes.memories), scale)
    points, tetrahedra = mesh
    return FieldDecoder(
        points=np.asarray(points, dtype=float),
        tetrahedra=np.asarray(tetrahedra, dtype=np.int64),
        outlets=model.outlets,
        pressure_part=ModalMap(places.modes[nearest.row], places.map),
        velocity_part=_parabola(model, centerline, radius_mm, points, nearest, lanes),
    )


def _drops(model: AnatomyModel, centerline: Centerline, radius_mm: Array, lanes: Lanes) -> list[Array]:
    """Per branch (n, features): pressure lost from the inlet to each of its points, per feature."""
    found: dict[int, Array] = {}

    def lost(branch: Branch) -> Array:
        if branch.index not in found:
            start = np.zeros(lanes.count)
            if branch.parent is not None:
                start = lost(centerline.branches[branch.parent])[-1].copy()
                start[lanes.block(2)] += model.junctions[branch.index]
            found[branch.index] = start + _along(model, branch, centerline, radius_mm, lanes)
        return found[branch.index]

    return [lost(branch) for branch in centerline.branches]


def _along(model: AnatomyModel, branch: Branch, centerline: Centerline, radius_mm: Array, lanes: Lanes) -> Array:
    """(n, features) lost from a branch's start to its points."""
    feeds = model.feeds[branch.index]
    arc = centerline.arc_length[branch.point_ids] * METRES_PER_MM
    radius = radius_mm[branch.point_ids] * METRES_PER_MM
    whole, healthy = model.branch_element(branch.index), model.elements[branch.index]
    friction, inertance = friction_and_inertance(arc, model.healthy_radius(branch.index, arc, radius), model)
    own = np.zeros((len(arc), lanes.count))
    if len(arc) == 0:
        return own
    lesions = [number for number, lesion in enumerate(model.lesions) if lesion.branch == branch.index]
    passed = np.zeros(len(arc))
    extra = friction.copy()
    for number in lesions:
        lesion, element = model.lesions[number], model.lesion_element(number)
        part = np.clip((arc - lesion.start) / lesion.length, 0.0, 1.0)
        passed += element.loss * part
        extra += (element.resistance - model.healthy[number].resistance) * part
    own[:, lanes.block(0)] = np.outer(_ending_at(extra, whole.resistance), feeds)
    kinetic = 0.5 * model.density / np.pi**2 * (radius**-4.0 - model.radius[branch.index] ** -4.0)
    quadratic = np.outer(_ending_at(passed, whole.loss) + kinetic, feeds)
    if feeds.sum() == 1:
        own[:, lanes.block(1)] = quadratic
    else:  # the features hold no square of a shared branch's flow: at Murray's split it is a share of the inflow
        own[:, lanes.block(2)] = quadratic * model.murray_shares()[branch.index]
    own[:, lanes.block(3)] = np.outer(_ending_at(inertance, whole.inertance), feeds)
    memory = np.outer(_ending_at(friction, 0.5 * healthy.resistance), feeds)
    for number in range(lanes.memories):
        own[:, lanes.block(4 + number)] = memory
    return own


def _ending_at(cumulated: Array, total: float) -> Array:
    """The same course, brought to the value that the lumped element has for the whole branch."""
    return cumulated * (total / cumulated[-1]) if len(cumulated) and cumulated[-1] > 0.0 else 0.0 * cumulated


def _condensed(coefficients: Array, scale: Array) -> ModalMap:
    """(n, features) as few modes, those that matter at the features' typical size."""
    left, values, right = np.linalg.svd(coefficients * scale, full_matrices=False)
    kept = min(MOST_MODES, int((values > LEAST_SINGULAR_VALUE * values[0]).sum()))
    modes = left[:, :kept] * values[:kept]
    peak = np.abs(modes).max(axis=0)
    safe = np.where(scale > 0.0, scale, 1.0)
    return ModalMap(modes=(modes / peak)[:, None].astype(np.float32), map=(right[:kept] / safe).T * peak)


def _parabola(
    model: AnatomyModel,
    centerline: Centerline,
    radius_mm: Array,
    points: Array,
    nearest: NearestPlaces,
    lanes: Lanes,
) -> ModalMap:
    """Velocity 2 q / (pi r^2) (1 - (d / r)^2) along the branch, one mode per outlet."""
    tangent = np.zeros_like(centerline.points)
    for branch in centerline.branches:
        if len(branch.point_ids) > 1:
            own = np.gradient(centerline.points[branch.point_ids], axis=0)
            tangent[branch.point_ids] = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
    away = points - centerline.points[nearest.point] * METRES_PER_MM
    along = tangent[nearest.point]
    away = away - (away * along).sum(axis=1, keepdims=True) * along
    radius = radius_mm[nearest.point] * METRES_PER_MM
    inside = np.maximum(0.0, 1.0 - (away**2).sum(axis=1) / radius**2)
    inside[inside < NEAR_WALL] = 0.0
    per_flow = (2.0 * inside / (np.pi * radius**2))[:, None] * along
    modes = per_flow[:, :, None] * model.feeds[nearest.branch][:, None, :]
    peak = np.maximum(np.abs(modes).max(axis=(0, 1)), np.finfo(float).tiny)
    mapping = np.zeros((lanes.count, lanes.outlets))
    mapping[lanes.block(0)] = np.diag(peak)
    return ModalMap(modes=(modes / peak).astype(np.float32), map=mapping)
