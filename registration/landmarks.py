r"""Rigid registration of paired fiducials, with the error it leaves anywhere in space.

Fit. The rotation R and translation t minimizing sum |R s_i + t - y_i|^2 in closed form from the singular
value decomposition of the 3x3 cross-covariance (Arun, Huang, Blostein 1987; reflections excluded as by
Umeyama 1991).

Error. Let FLE be the RMS length of the combined localization error of a fiducial pair, isotropic and
independent. To first order the fit's error is a small rotation omega about the fiducials' centroid c and a
translation tau with the normal matrix of the 3N x 6 least-squares problem,

    delta y(r) = omega x (r - c) + tau,
    cov(omega, tau) = FLE^2 / 3 * (sum_i J_i^T J_i)^-1,   J_i = [-(p_i - c)^, I],

so the error at any point r is J_r cov J_r^T, whose trace is the expected squared target registration error

    TRE^2(r) = FLE^2 / N * (1 + 1/3 sum_k d_k^2 / f_k^2),

with d_k the distance of r, and f_k the RMS distance of the fiducials, from their k-th principal axis
(Fitzpatrick, West, Maurer 1998, eq. 46). The residuals satisfy E[FRE^2] = (1 - 2/N) FLE^2 (Sibson 1979).

FLE unknown. Estimated as FLE^2 = N/(N-2) FRE^2, which has nu = 3N - 6 degrees of freedom: three for three
fiducials. A squared error normalized by an *estimated* variance follows 3 F(3, nu), not chi^2(3); the
covariance is therefore widened by ``3 F_0.95(3, nu) / chi2_0.95(3)`` so that the usual 95 % ellipsoid still
holds 95 %.

Weights. With weights w_i the localization error of fiducial i is FLE / sqrt(w_i): sums become weighted sums,
N in the first equation for TRE becomes sum w_i, and FLE is estimated as sum w_i r_i^2 / (N - 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from registration.absolute_orientation import fit_points
from registration.errors import InputError
from registration.landmark_checks import blunder_warnings, check_configuration
from registration.pose_error import PoseError
from registration.rigid import Array, apply_to_points, check_points, skew


@dataclass(frozen=True)
class LandmarkRegistration:
    """Result of `register_landmarks`; lengths in mm, angles in radians.

    Attributes:
        target_from_source: (4, 4) rigid transform.
        fre: fiducial registration error, the RMS of `residuals`.
        residuals: (n,) distance of each mapped source fiducial from its target.
        fle: fiducial localization error (RMS length), given or estimated.
        fle_interval: 95 % interval of `fle`; both ends equal `fle` when it was given.
        fle_estimated: whether `fle` was estimated from these residuals.
        covariance: (6, 6) of the left perturbation (rotation, translation) about `centroid`, `widening`
            included.
        widening: factor on variances that pays for estimating `fle`; 1 when it was given.
        centroid: (3,) of the mapped source fiducials, in the target frame.
        axes: (3, 3) their principal axes in the target frame, one per column.
        axis_distances: (3,) RMS distance f_k of the fiducials from each principal axis.
        weights: (n,) as given; ones if none were.
        names: the fiducials' names, in order.
        warnings: what a person should check before trusting this registration; empty if nothing.
    """

    target_from_source: Array
    fre: float
    residuals: Array
    fle: float
    fle_interval: tuple[float, float]
    fle_estimated: bool
    covariance: Array
    widening: float
    centroid: Array
    axes: Array = field(repr=False)
    axis_distances: Array = field(repr=False)
    weights: Array = field(repr=False)
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def tre(self, point_in_target: ArrayLike) -> float:
        """Expected RMS target registration error in mm at one point of the target frame.

        Fitzpatrick, West, Maurer (1998), eq. 46, with `fle` as it stands: the best single figure. It is the
        root of the trace of ``point_covariance(..., widened=False)``.
        """
        offset = np.asarray(point_in_target, dtype=np.float64).reshape(3) - self.centroid
        along = offset @ self.axes
        from_axis_squared = offset @ offset - along**2
        n = self.weights.sum()
        return float(self.fle * np.sqrt((1.0 + np.sum(from_axis_squared / self.axis_distances**2) / 3.0) / n))

    def point_covariance(self, points: ArrayLike, *, widened: bool = True) -> Array:
        """Covariance (n, 3, 3) in mm^2 of the registration error at points (n, 3) of the target frame.

        A single point (3,) gives one (3, 3). With `widened` (the default) it contains the factor that keeps
        95 % ellipsoids honest when `fle` was estimated.
        """
        covariance = self.error.point_covariance(points)
        return covariance if widened else covariance / self.widening

    @property
    def error(self) -> PoseError:
        """`covariance` about `centroid`, and what it means at any point."""
        return PoseError(self.covariance, self.centroid)

    @property
    def pose_covariance(self) -> Array:
        """`covariance` moved from the centroid to the target frame's origin: what `FrameGraph.set` takes."""
        return self.error.pose_covariance


def register_landmarks(
    source: ArrayLike,
    target: ArrayLike,
    *,
    fle: float | None = None,
    names: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
) -> LandmarkRegistration:
    """Best rigid transform of paired fiducials `source` (n, 3) onto `target` (n, 3), in mm.

    Args:
        source: fiducial positions in the source frame, e.g. touched with a tracked pointer.
        target: the same fiducials, in the same order, in the target frame, e.g. marked in the image.
        fle: RMS length of the combined localization error of one pair, if known; else estimated from the
            residuals.
        names: what to call the fiducials in messages; "1", "2", ... if not given.
        weights: (n,) positive: fiducial i has the localization error fle / sqrt(weights[i]). All 1 if not
            given. For errors that differ by direction see `registration.anisotropic`.

    Raises:
        InputError: fewer than three pairs, unequal counts, values that are not finite, two fiducials in one
            place, or fiducials on a line.
    """
    source, target, labels = check_pairs(source, target, names)
    count = len(source)
    if fle is not None and not (math.isfinite(fle) and fle > 0.0):
        raise InputError(f"fiducial localization error {fle:g} mm is not a positive length.")
    parts = _check_weights(weights, count)

    target_from_source = fit_points(source[None], target[None], weights=parts)[0]
    mapped = apply_to_points(target_from_source, source)
    residuals = np.linalg.norm(mapped - target, axis=1)
    fre = float(np.sqrt(np.mean(residuals**2)))

    freedom = 3 * count - 6
    estimated = fle is None
    squares = float(np.sum(parts * residuals**2))
    if fle is None:
        fle = math.sqrt(squares / (count - 2.0))
        ends = stats.chi2.ppf((0.975, 0.025), freedom)
        interval = (float(fle * math.sqrt(freedom / ends[0])), float(fle * math.sqrt(freedom / ends[1])))
        widening = float(3.0 * stats.f.ppf(0.95, 3, freedom) / stats.chi2.ppf(0.95, 3))
    else:
        interval, widening = (fle, fle), 1.0

    total = parts.sum()
    centroid = parts @ mapped / total
    offsets = mapped - centroid
    axes = np.linalg.svd(np.sqrt(parts)[:, None] * offsets, full_matrices=False)[2].T
    along = parts @ (offsets @ axes) ** 2 / total
    axis_distances = np.sqrt(along.sum() - along)
    # Normal matrix about the centroid: the rotation and translation blocks decouple.
    cross = skew(offsets)
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = np.linalg.inv(np.einsum("n,nji,njk->ik", parts, cross, cross))
    covariance[3:, 3:] = np.eye(3) / total
    covariance *= widening * fle**2 / 3.0

    return LandmarkRegistration(
        target_from_source=target_from_source,
        fre=fre,
        residuals=residuals,
        fle=float(fle),
        fle_interval=interval,
        fle_estimated=estimated,
        covariance=covariance,
        widening=widening,
        centroid=centroid,
        axes=axes,
        axis_distances=axis_distances,
        weights=parts,
        names=labels,
        warnings=blunder_warnings(
            source,
            target,
            labels,
            fre,
            None if estimated else fle,
            None if estimated or weights is None else 3.0 * squares / fle**2,
        ),
    )


def check_pairs(
    source: ArrayLike, target: ArrayLike, names: Sequence[str] | None
) -> tuple[Array, Array, tuple[str, ...]]:
    """Paired fiducials (n, 3) and their n names, checked to fix a rigid transform.

    Raises:
        InputError: as `register_landmarks`.
    """
    source, target = check_points(source, "source fiducials"), check_points(target, "target fiducials")
    count = len(source)
    if len(target) != count:
        raise InputError(f"{count} source but {len(target)} target fiducials; give one of each per fiducial.")
    if count < 3:
        raise InputError(f"only {count} fiducial pairs; at least 3 that are not on one line are needed.")
    labels = tuple(names) if names is not None else tuple(str(i + 1) for i in range(count))
    if len(labels) != count:
        raise InputError(f"{len(labels)} names for {count} fiducials; give one name per fiducial.")
    for points, which in ((source, "source"), (target, "target")):
        check_configuration(points, labels, which)
    return source, target, labels


def _check_weights(weights: ArrayLike | None, count: int) -> Array:
    """Positive weights (n,), or InputError."""
    if weights is None:
        return np.ones(count)
    result = np.array(weights, dtype=np.float64)
    if result.shape != (count,):
        raise InputError(f"weights have shape {result.shape} for {count} fiducials; give one weight per fiducial.")
    if not (np.isfinite(result).all() and (result > 0.0).all()):
        raise InputError("weights must be positive and finite; leave a fiducial of weight zero out.")
    return result
