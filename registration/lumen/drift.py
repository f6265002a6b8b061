r"""How far a registration drifted, from a catheter that cannot leave the lumen.

The correction exp(xi) of the registration minimizes

    sum_i |l_i - P_i m_i|^2 / v_i + sum_i max(0, |l_i| - R_i)^2 / noise^2 + xi^T S_0^-1 xi,

with l_i = P_i (exp(xi) z_i - c_k(i)) and P = I - t t^T, over the fixes of the last stretch, averaged over two
millimeters of path, each tied to the nearest station of a branch that the map matching holds possible; the second
term is the wall, S_0 what is known of the drift. Lateral offsets of neighboring fixes are alike - a catheter hugs a
wall over centimeters. In radii they are taken for a Markov process along the path (Ornstein-Uhlenbeck), of deviation
`LATERAL` and forgotten within half of `CORRELATION` radii: m_i and v_i are what a Kalman filter over the fixes before
says of the i-th offset, and of its variance with the noise. So each fix counts by what it says beyond those before it,
and both ends of the stretch, which hold the rotation, count most. Along a straight vessel the axial drift stays
unknown, and the covariance says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registration.lumen.branch_tree import BranchTree
from registration.lumen.drift_kernel import normal_equations
from registration.lumen.map_matching import LATERAL
from registration.pose_error import PoseError
from registration.rigid import Array, apply_to_points, turned_about

CORRELATION = 5.0
"""Path length, in radii, that counts as one independent offset: twice the decay length of what neighbors share.

Chosen on simulated vessels for the error to be about what the covariance says."""

OUTLYING = 4.0
"""A fix so many standard deviations (noise and drift) outside the wall is not believed."""

ITERATIONS = 1
"""Gauss-Newton steps per new fix: each begins where the last one ended, two millimeters of path ago."""

NEIGHBORS = 32
"""Stations among which the nearest one of a possible branch is looked for."""


@dataclass(frozen=True)
class Drift:
    """`correction` (4, 4), corrected image from image as registered, and its `error`, about the tree's middle."""

    correction: Array
    error: PoseError


@dataclass(frozen=True)
class Stretch:
    """Averaged fixes (n, 3) in mm, each with the path behind it (n,) and the branches possible (n, branches)."""

    fixes: Array
    steps: Array
    possible: NDArray[np.bool_]


def fit_drift(tree: BranchTree, stretch: Stretch, before: Drift, prior: Array, noise_mm: float) -> Drift:
    """The drift that lays a stretch of fixes into the lumen.

    Args:
        tree: the vessel.
        stretch: where the tip was, in image space as registered.
        before: what was known so far; where the search begins.
        prior: (6, 6) covariance of the drift before any fix, about the tree's middle.
        noise_mm: standard deviation of a fix per direction.
    """
    information = np.linalg.inv(prior)
    center = tree.middle
    pose, normal = before.correction, information
    for _ in range(ITERATIONS):
        moved = apply_to_points(pose, stretch.fixes)
        near = _stations(tree, moved, stretch.possible)
        offset = moved - tree.points[near]
        away = np.sqrt(np.sum(_across(tree.tangents[near], offset) ** 2, axis=1)) - tree.radii[near]
        # A point far outside the wall is no fix.
        far = np.flatnonzero(away > OUTLYING * noise_mm)
        doubt = np.array([before.error.mean_square(moved[k]) / 3.0 for k in far]) + noise_mm**2
        kept = np.ones(len(moved), dtype=bool)
        kept[far] = away[far] < OUTLYING * np.sqrt(doubt)
        at = near[kept]
        normal, slope = normal_equations(
            moved[kept] - center,
            offset[kept],
            tree.tangents[at],
            tree.radii[at],
            np.cumsum(stretch.steps)[kept],
            LATERAL,
            0.5 * CORRELATION,
            noise_mm,
        )
        normal += information
        change = np.linalg.solve(normal, -slope - information @ _twist(pose, center))
        pose = turned_about(center, change[:3], change[3:]) @ pose
    return Drift(pose, PoseError(np.linalg.inv(normal), center))


def _across(tangents: Array, vectors: Array) -> Array:
    """The parts of vectors (n, 3) that lie across the vessel."""
    return np.asarray(vectors - tangents * np.sum(tangents * vectors, axis=1, keepdims=True))


def _stations(tree: BranchTree, points: Array, possible: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each point the nearest station, in radii, among those of branches possible when it was measured."""
    distance, near = tree.tree.query(points, k=min(NEIGHBORS, len(tree.points)))
    allowed = np.take_along_axis(possible, tree.branch[near], axis=1)
    scaled = np.where(allowed, distance / tree.radii[near], np.inf)
    best = np.argmin(scaled, axis=1)
    return np.where(np.isinf(scaled.min(axis=1)), near[:, 0], near[np.arange(len(points)), best])


def _twist(pose: Array, center: Array) -> Array:
    """Rotation vector and displacement of the center, small, of a correction."""
    skewed = 0.5 * (pose[:3, :3] - pose[:3, :3].T)
    turn = np.array([skewed[2, 1], skewed[0, 2], skewed[1, 0]])
    return np.concatenate([turn, pose[:3, :3] @ center + pose[:3, 3] - center])
