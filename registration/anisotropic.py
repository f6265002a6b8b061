r"""Paired fiducials whose localization errors differ by direction: the likeliest transform, and its error.

A tracker sees depth worse than breadth, and CT slices are thicker than pixels: the error of fiducial i has a
covariance S_i (3x3) in each frame. Two questions:

**Fit.** With the combined covariance C_i = R S_i^source R^T + S_i^target, minimize

    sum_i r_i^T C_i^-1 r_i,      r_i = y_i - R x_i - t,

by Gauss-Newton on a left perturbation about the fiducials' centroid, C_i following R in each step
(Balachandran, Fitzpatrick 2009). To first order the estimate has the covariance (sum_i J_i^T C_i^-1 J_i)^-1
with J_i = [-(p_i - c)^, I], and the minimum follows chi^2 with 3N - 6 degrees of freedom.

**Prediction for the closed form.** Where the transform was found with scalar weights w_i all the same (most
navigation systems do), its covariance is the sandwich

    A^-1 (sum_i w_i^2 J_i^T C_i J_i) A^-1,      A = sum_i w_i J_i^T J_i

(Danilchenko, Fitzpatrick 2011), from `propagate_localization_error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from registration.absolute_orientation import fit_points
from registration.errors import InputError
from registration.landmark_checks import FALSE_ALARM, blunder_warnings
from registration.landmarks import check_pairs
from registration.pose_error import PoseError, displacement_jacobian
from registration.rigid import Array, apply_to_points, check_points, check_rigid, exponential

MOST_STEPS = 100
"""Gauss-Newton steps before the fit is given up; five are usual."""


@dataclass(frozen=True)
class AnisotropicRegistration:
    """Result of `register_anisotropic`; mm and radians.

    Attributes:
        target_from_source: (4, 4) rigid transform.
        error: its covariance about the fiducials' centroid, and the error at any point.
        residuals: (n, 3) target minus mapped source.
        fre: RMS length of the residuals. It says nothing about the error at a target.
        chi_squared: sum of squared residuals over their covariances.
        p_value: probability of a larger `chi_squared` if the covariances are right.
        steps: Gauss-Newton steps taken.
        names: the fiducials' names, in order.
        warnings: what a person should check; empty if nothing.
    """

    target_from_source: Array
    error: PoseError
    residuals: Array
    fre: float
    chi_squared: float
    p_value: float
    steps: int
    names: tuple[str, ...]
    warnings: tuple[str, ...]

    def tre(self, points: ArrayLike) -> Array:
        """Expected RMS target registration error in mm at points (n, 3) of the target frame."""
        return self.error.tre(points)

    def point_covariance(self, points: ArrayLike) -> Array:
        """Covariance (n, 3, 3) in mm^2 of the registration error at points (n, 3) of the target frame."""
        return self.error.point_covariance(points)


def register_anisotropic(
    source: ArrayLike,
    target: ArrayLike,
    *,
    source_covariance: ArrayLike | None = None,
    target_covariance: ArrayLike | None = None,
    names: Sequence[str] | None = None,
) -> AnisotropicRegistration:
    """Likeliest rigid transform of paired fiducials with known, direction-dependent localization errors.

    Args:
        source: (n, 3) fiducials in the source frame, mm.
        target: (n, 3) the same fiducials in the target frame, mm.
        source_covariance: (3, 3) or (n, 3, 3) in mm^2, in the source frame; exact if not given.
        target_covariance: the same in the target frame. At least one of the two is needed.
        names: the fiducials' names; "1", "2", ... if not given.

    Raises:
        InputError: as `register_landmarks`; no covariance, one that is not symmetric and non-negative, or two
            that leave a direction without error; no convergence.
    """
    source, target, labels = check_pairs(source, target, names)
    count = len(source)
    if source_covariance is None and target_covariance is None:
        raise InputError("no localization covariance; give that of the source or of the target fiducials, in mm^2.")
    of_source = check_covariances(source_covariance, count, "source")
    of_target = check_covariances(target_covariance, count, "target")
    pose = fit_points(source[None], target[None])[0]
    steps = 0
    while steps < MOST_STEPS:
        steps += 1
        mapped = apply_to_points(pose, source)
        center = mapped.mean(axis=0)
        combined = pose[:3, :3] @ of_source @ pose[:3, :3].T + of_target
        weights = _inverse(combined, labels)
        jacobian = displacement_jacobian(mapped - center)
        weighted = np.swapaxes(jacobian, 1, 2) @ weights
        normal = np.sum(weighted @ jacobian, axis=0)
        residuals = target - mapped
        change = np.linalg.solve(normal, np.einsum("nij,nj->i", weighted, residuals))
        move = exponential(change)
        move[:3, 3] += center - move[:3, :3] @ center
        pose = move @ pose
        reach = np.linalg.norm(mapped - center, axis=1).max()
        if np.linalg.norm(change[:3]) * reach + np.linalg.norm(change[3:]) < 1e-10 * reach:
            break
    else:
        raise InputError(
            f"the fit of {count} fiducials did not converge in {MOST_STEPS} steps; check their labels and covariances."
        )
    pose[:3, :3] = _orthonormal(pose[:3, :3])
    residuals = target - apply_to_points(pose, source)
    chi_squared = float(np.einsum("ni,nij,nj->", residuals, weights, residuals))
    freedom = 3 * count - 6
    fre = float(np.sqrt(np.mean(np.sum(residuals**2, axis=1))))
    typical = float(np.sqrt(np.mean(np.trace(combined, axis1=1, axis2=2))))
    p_value = float(stats.chi2.sf(chi_squared, freedom))
    warnings = blunder_warnings(source, target, labels, fre, typical, chi_squared)
    return AnisotropicRegistration(
        target_from_source=pose,
        error=PoseError(np.linalg.inv(normal), center),
        residuals=residuals,
        fre=fre,
        chi_squared=chi_squared,
        p_value=p_value,
        steps=steps,
        names=labels,
        warnings=warnings if p_value < FALSE_ALARM else tuple(w for w in warnings if "looks displaced" not in w),
    )


def propagate_localization_error(
    target_from_source: ArrayLike,
    source: ArrayLike,
    *,
    source_covariance: ArrayLike | None = None,
    target_covariance: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> PoseError:
    """Error of a closed-form (scalar-weighted) registration whose fiducials have any localization errors.

    Args:
        target_from_source: (4, 4), as `register_landmarks` found it.
        source: (n, 3) its fiducials in the source frame, mm.
        source_covariance: (3, 3) or (n, 3, 3) in mm^2, in the source frame; exact if not given.
        target_covariance: the same in the target frame.
        weights: (n,) that the registration used; all alike if not given.

    Raises:
        InputError: shapes or covariances that cannot be.
    """
    pose, source = check_rigid(target_from_source, "target_from_source"), check_points(source, "source fiducials")
    count = len(source)
    of_source = check_covariances(source_covariance, count, "source")
    of_target = check_covariances(target_covariance, count, "target")
    parts = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64).reshape(count)
    mapped = apply_to_points(pose, source)
    center = parts @ mapped / parts.sum()
    jacobian = displacement_jacobian(mapped - center)
    transposed = np.swapaxes(jacobian, 1, 2)
    combined = pose[:3, :3] @ of_source @ pose[:3, :3].T + of_target
    bread = np.linalg.inv(np.einsum("n,nij,njk->ik", parts, transposed, jacobian))
    filling = np.einsum("n,nij->ij", parts**2, transposed @ combined @ jacobian)
    return PoseError(bread @ filling @ bread, center)


def check_covariances(covariance: ArrayLike | None, count: int, which: str) -> Array:
    """Covariances (count, 3, 3) from None, one or `count` of them; InputError for what is none."""
    if covariance is None:
        return np.zeros((count, 3, 3))
    result = np.array(covariance, dtype=np.float64)
    if result.shape not in ((3, 3), (count, 3, 3)) or not np.isfinite(result).all():
        raise InputError(
            f"localization covariance of the {which} fiducials has shape {result.shape} or is not finite; "
            f"give one 3x3 matrix in mm^2, or {count} of them."
        )
    scale = np.abs(result).max()
    asymmetry = np.abs(result - np.swapaxes(result, -1, -2)).max()
    if asymmetry > 1e-9 * scale or np.linalg.eigvalsh(result).min() < -1e-9 * scale:
        raise InputError(
            f"localization covariance of the {which} fiducials is not symmetric with non-negative eigenvalues; "
            "give a covariance in mm^2."
        )
    return np.broadcast_to(0.5 * (result + np.swapaxes(result, -1, -2)), (count, 3, 3))


def _inverse(covariances: Array, labels: Sequence[str]) -> Array:
    """Inverses (n, 3, 3), or InputError where a direction has no error at all."""
    smallest = np.linalg.eigvalsh(covariances)
    poor = np.flatnonzero(smallest[:, 0] <= 1e-10 * smallest[:, 2])
    if len(poor):
        raise InputError(
            f"fiducial {labels[poor[0]]} has no localization error in one direction, which would make it count "
            "infinitely; give a covariance that is positive in every direction."
        )
    return np.linalg.inv(covariances)


def _orthonormal(rotation: Array) -> Array:
    """The nearest rotation: products of many steps drift by rounding."""
    u, _, vt = np.linalg.svd(rotation)
    return u @ vt
