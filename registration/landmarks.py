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
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from registration.errors import InputError
from registration.rigid import Array, apply_to_points, check_points, skew

COLLINEAR_RATIO = 0.02
"""Fiducials whose RMS distance from their best line is below this part of their RMS spread are refused."""

WEAK_RATIO = 0.10
"""Below this part the registration is made, and a warning says that rotation about the line is poorly
held."""

FALSE_ALARM = 0.01
"""Probability that fiducials without a blunder raise the outlier warning (shared among all fiducials)."""

SWAP_FACTOR = 3.0
"""A swap of two labels is suspected when it divides the FRE by at least this."""


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
        n = len(self.residuals)
        return float(self.fle * np.sqrt((1.0 + np.sum(from_axis_squared / self.axis_distances**2) / 3.0) / n))

    def point_covariance(self, points: ArrayLike, *, widened: bool = True) -> Array:
        """Covariance (n, 3, 3) in mm^2 of the registration error at points (n, 3) of the target frame.

        A single point (3,) gives one (3, 3). With `widened` (the default) it contains the factor that keeps
        95 % ellipsoids honest when `fle` was estimated.
        """
        offsets = np.asarray(points, dtype=np.float64) - self.centroid
        jacobian = np.zeros((*offsets.shape[:-1], 3, 6))
        jacobian[..., :3] = -skew(offsets)
        jacobian[..., 3:] = np.eye(3)
        covariance = self.covariance if widened else self.covariance / self.widening
        return jacobian @ covariance @ np.swapaxes(jacobian, -1, -2)

    @property
    def pose_covariance(self) -> Array:
        """`covariance` moved from the centroid to the target frame's origin: what `FrameGraph.set` takes."""
        # omega x (y - c) + tau = omega x y + (tau + c x omega)
        shift = np.eye(6)
        shift[3:, :3] = skew(self.centroid)
        return shift @ self.covariance @ shift.T


def register_landmarks(
    source: ArrayLike,
    target: ArrayLike,
    *,
    fle: float | None = None,
    names: Sequence[str] | None = None,
) -> LandmarkRegistration:
    """Best rigid transform of paired fiducials `source` (n, 3) onto `target` (n, 3), in mm.

    Args:
        source: fiducial positions in the source frame, e.g. touched with a tracked pointer.
        target: the same fiducials, in the same order, in the target frame, e.g. marked in the image.
        fle: RMS length of the combined localization error of one pair, if known; else estimated from the
            residuals.
        names: what to call the fiducials in messages; "1", "2", ... if not given.

    Raises:
        InputError: fewer than three pairs, unequal counts, values that are not finite, two fiducials in one
            place, or fiducials on a line.
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
    if fle is not None and not (math.isfinite(fle) and fle > 0.0):
        raise InputError(f"fiducial localization error {fle:g} mm is not a positive length.")
    for points, which in ((source, "source"), (target, "target")):
        _check_configuration(points, labels, which)

    target_from_source = _fit(source[None], target[None])[0]
    mapped = apply_to_points(target_from_source, source)
    residuals = np.linalg.norm(mapped - target, axis=1)
    fre = float(np.sqrt(np.mean(residuals**2)))

    freedom = 3 * count - 6
    estimated = fle is None
    if fle is None:
        fle = fre * math.sqrt(count / (count - 2.0))
        ends = stats.chi2.ppf((0.975, 0.025), freedom)
        interval = (float(fle * math.sqrt(freedom / ends[0])), float(fle * math.sqrt(freedom / ends[1])))
        widening = float(3.0 * stats.f.ppf(0.95, 3, freedom) / stats.chi2.ppf(0.95, 3))
    else:
        interval, widening = (fle, fle), 1.0

    centroid = mapped.mean(axis=0)
    offsets = mapped - centroid
    axes = np.linalg.svd(offsets, full_matrices=False)[2].T
    squares = np.mean((offsets @ axes) ** 2, axis=0)
    axis_distances = np.sqrt(squares.sum() - squares)
    # Normal matrix about the centroid: the rotation and translation blocks decouple.
    cross = skew(offsets)
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = np.linalg.inv(np.einsum("nji,njk->ik", cross, cross))
    covariance[3:, 3:] = np.eye(3) / count
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
        names=labels,
        warnings=_warnings(source, target, labels, fre, None if estimated else fle),
    )


def _check_configuration(points: Array, labels: Sequence[str], which: str) -> None:
    """Refuse two fiducials in one place and fiducials on a line."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    largest = distances.max()
    distances[np.diag_indices(len(points))] = np.inf
    i, j = divmod(int(np.argmin(distances)), len(points))
    if distances[i, j] <= 1e-3 * largest:
        raise InputError(
            f"{which} fiducials {labels[i]} and {labels[j]} are in the same place "
            f"({distances[i, j]:.3g} mm apart); measure one of them again or leave it out."
        )
    spread, from_line = _spread(points)
    if from_line < COLLINEAR_RATIO * spread:
        raise InputError(
            f"{which} fiducials lie on a line (RMS distance from it {from_line:.3g} mm, "
            f"{100.0 * from_line / spread:.2g} % of their spread of {spread:.3g} mm; at least "
            f"{100.0 * COLLINEAR_RATIO:.0f} % is needed); add a fiducial off that line."
        )


def _spread(points: Array) -> tuple[float, float]:
    """RMS distance of points from their centroid, and from their best line."""
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    squares = singular**2 / len(points)
    return math.sqrt(squares.sum()), math.sqrt(squares[1:].sum())


def _fit(source: Array, target: Array, *, mirrored: bool = False) -> Array:
    """Best rigid transforms (m, 4, 4) of m paired sets (m, n, 3); `mirrored` allows a reflection where it
    fits better."""
    source_center = source.mean(axis=1, keepdims=True)
    target_center = target.mean(axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(np.swapaxes(source - source_center, 1, 2) @ (target - target_center))
    if not mirrored:
        # Arun's case of determinant -1: flip the direction of least variance, so that no reflection is
        # returned.
        u[:, :, 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))[:, None]
    rotation = np.swapaxes(u @ vt, 1, 2)
    result = np.zeros((len(source), 4, 4))
    result[:, :3, :3] = rotation
    result[:, :3, 3] = (target_center - source_center @ np.swapaxes(rotation, 1, 2))[:, 0]
    result[:, 3, 3] = 1.0
    return result


def _fre(source: Array, target: Array, *, mirrored: bool = False) -> Array:
    """RMS residual (m,) of the best fit of each of m paired sets (m, n, 3)."""
    fits = _fit(source, target, mirrored=mirrored)
    mapped = source @ np.swapaxes(fits[:, :3, :3], 1, 2) + fits[:, None, :3, 3]
    return np.sqrt(np.mean(np.sum((mapped - target) ** 2, axis=2), axis=1))


def _warnings(
    source: Array, target: Array, labels: tuple[str, ...], fre: float, known_fle: float | None
) -> tuple[str, ...]:
    """Sentences on what looks like a blunder, most likely cause first."""
    found: list[str] = []
    count = len(source)
    spread, from_line = _spread(source)
    if from_line < WEAK_RATIO * spread:
        found.append(
            f"The fiducials are nearly on a line ({100.0 * from_line / spread:.0f} % of their spread): "
            "rotation about that line is poorly determined; add a fiducial off the line."
        )
    # Rounding alone must raise nothing: exact pairs have residuals near 1e-13 of the spread.
    if fre > 1e-6 * spread:
        suspects = [_suspected_swap(source, target, labels, fre), _suspected_mirror(source, target, fre)]
        explained = [suspect for suspect in suspects if suspect is not None]
        blunder = min(explained)[1] if explained else _suspected_outlier(source, target, labels, fre)
        if blunder:
            found.append(blunder)
    if known_fle is not None:
        freedom = 3 * count - 6
        if 3.0 * count * fre**2 / known_fle**2 > stats.chi2.ppf(1.0 - FALSE_ALARM / 10.0, freedom):
            found.append(
                f"FRE of {fre:.2f} mm is more than a localization error of {known_fle:.2f} mm explains: "
                "check for moved fiducials, a wrong tool calibration or wrong labels."
            )
        ambiguous = _look_alike(source, labels, known_fle)
        if ambiguous:
            found.append(ambiguous)
    return tuple(found)


def _swapped(points: Array, pairs: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Copies (m, n, 3) of `points`, each with one pair of rows exchanged."""
    result = np.repeat(points[None], len(pairs), axis=0)
    for k, (i, j) in enumerate(pairs):
        result[k, [i, j]] = points[[j, i]]
    return result


def _suspected_swap(source: Array, target: Array, labels: tuple[str, ...], fre: float) -> tuple[float, str] | None:
    """The FRE left after the best exchange of two labels, and the sentence, if that exchange explains
    much."""
    pairs = list(combinations(range(len(source)), 2))
    swapped = _swapped(source, pairs)
    fres = _fre(swapped, np.broadcast_to(target, swapped.shape))
    best = int(np.argmin(fres))
    if fres[best] * SWAP_FACTOR > fre:
        return None
    first, second = (labels[i] for i in pairs[best])
    return float(fres[best]), (
        f"Fiducials {first} and {second} look swapped: exchanging them lowers FRE from {fre:.2f} mm "
        f"to {fres[best]:.2f} mm; check their labels."
    )


def _suspected_mirror(source: Array, target: Array, fre: float) -> tuple[float, str] | None:
    """The FRE of the best fit with a reflection, and the sentence, if a reflection explains much."""
    if len(source) < 5:  # four residual vectors leave a mirror too easily better by chance
        return None
    mirrored = float(_fre(source[None], target[None], mirrored=True)[0])
    if mirrored * SWAP_FACTOR > fre:
        return None
    return mirrored, (
        f"The fiducials fit a mirror image (FRE {mirrored:.2f} mm instead of {fre:.2f} mm): "
        "check that both frames are right-handed and their axes named alike."
    )


def _suspected_outlier(source: Array, target: Array, labels: tuple[str, ...], fre: float) -> str | None:
    """Leave each fiducial out in turn; an F test of the drop in squared residuals at the level FALSE_ALARM /
    n."""
    count = len(source)
    if count < 4:
        return None
    kept = np.array([[j for j in range(count) if j != i] for i in range(count)])
    fres = _fre(source[kept], target[kept])
    best = int(np.argmin(fres))
    left = (count - 1) * float(fres[best]) ** 2
    drop = count * fre**2 - left
    freedom = 3 * (count - 1) - 6
    if drop / 3.0 <= left / freedom * stats.f.ppf(1.0 - FALSE_ALARM / count, 3, freedom):
        return None
    return (
        f"Fiducial {labels[best]} looks displaced: without it FRE falls from {fre:.2f} mm to "
        f"{fres[best]:.2f} mm; measure it again or leave it out."
    )


def _look_alike(source: Array, labels: tuple[str, ...], fle: float) -> str | None:
    """Whether a swap of two labels would go unnoticed because the arrangement is too symmetric."""
    pairs = list(combinations(range(len(source)), 2))
    swapped = _swapped(source, pairs)
    fres = _fre(swapped, np.broadcast_to(source, swapped.shape))
    worst = int(np.argmin(fres))
    if fres[worst] > 2.0 * fle:
        return None
    first, second = (labels[i] for i in pairs[worst])
    return (
        f"The arrangement is too symmetric to tell fiducial {first} from {second} (swapped, FRE would only "
        f"be about {fres[worst]:.2f} mm): make sure of their labels."
    )
