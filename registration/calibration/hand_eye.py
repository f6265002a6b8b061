r"""How one tracked frame sits on another of the same rigid body: hand-eye, marker-camera, marker-marker.

For two instants i and j the body's motion seen in frame a is A = T_ai^-1 T_aj, and in frame b
B = T_bi^-1 T_bj; the constant X = a_from_b satisfies

    A X = X B.

A start comes from every closed form in `hand_eye_solvers` (Tsai, Lenz 1989; Park, Martin 1994; Horaud,
Dornaika 1995; Andreff 1999; Daniilidis 1999); the one with the least robust residual wins, and what the others
say is reported, because such solvers fail without a word. Then X, and if wanted the clocks' offset tau, minimize

    sum rho(|e_rot|^2 / s_r^2 + |e_trans|^2 / s_t^2),     e = (A X)^-1 (X B(tau))

(rho: soft L1) over motions long enough to turn and short enough that drift of either device does no harm. Motions
about parallel axes leave the translation along them undetermined; the spread of the axes is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy.spatial.transform import Rotation

from registration.calibration.hand_eye_solvers import SOLVERS
from registration.calibration.pivot import check_poses
from registration.calibration.pose_stream_offset import PoseInterpolator, find_pose_stream_offset
from registration.calibration.time_offset import TimeOffset
from registration.errors import InputError
from registration.pose_error import radius_95
from registration.pose_files import PoseStream
from registration.rigid import Array, exponential
from registration.verdict import Level, Limits, Verdict, judge, worst

LIMITS_MM = Limits(2.0, 8.0)
LIMITS_DEG = Limits(0.5, 2.0)
RESIDUAL_FACTOR = 10.0
"""Residuals of so many times the failing limit say that the motions are not of one rigid body."""

DIFFERENCE = 1e-4
"""Relative step of numerical derivatives: 1e-4 of the unknowns' units, 0.01 rad, 10 mm, 10 ms."""

LEAST_AXIS_SPREAD = 0.05
"""Smallest eigenvalue of the mean of n n^T over rotation axes n, across the plane, that fixes the translation."""


@dataclass(frozen=True)
class HandEye:
    """Result of a hand-eye calibration; mm and radians.

    Attributes:
        a_from_b: (4, 4).
        covariance: (6, 6) of the left perturbation about a's origin, first order.
        error_mm: radius that holds the error of the mounting's translation in 95 % of such calibrations.
        error_deg: the same for its rotation.
        rms_mm: RMS translation residual of the motions, weighted as in the fit.
        rms_deg: RMS rotation residual, likewise.
        median_mm: median translation residual of all motions.
        median_deg: median rotation residual of all motions.
        motions: motions used.
        outliers: those of them weighted down to less than half.
        solvers: robust residual of each closed-form start, in units of the final one; inf where it failed.
        axis_spread: how far the rotation axes are from being parallel, 0 to 1/3.
        offset_s: b's clock shows ``t + offset_s`` when a's shows t; None where poses came in pairs.
        offset_std_s: its standard deviation.
        verdict: whether to use it.
    """

    a_from_b: Array
    covariance: Array
    error_mm: float
    error_deg: float
    rms_mm: float
    rms_deg: float
    median_mm: float
    median_deg: float
    motions: int
    outliers: int
    solvers: dict[str, float]
    axis_spread: float
    offset_s: float | None
    offset_std_s: float | None
    verdict: Verdict


def calibrate_hand_eye(
    poses_a: ArrayLike, poses_b: ArrayLike, *, limits_mm: Limits = LIMITS_MM, limits_deg: Limits = LIMITS_DEG
) -> HandEye:
    """a_from_b from paired poses (n, 4, 4), n >= 4: ``world_from_a`` and ``other_world_from_b``, mm.

    For a camera that looks at a fixed target give target_from_camera, the inverse of what a PnP solver says.

    Raises:
        InputError: too few poses, poses that are not rigid, no turning, or turning about one axis only.
    """
    a, b = check_poses(poses_a, 4, "hand-eye calibration"), check_poses(poses_b, 4, "hand-eye calibration")
    if len(a) != len(b):
        raise InputError(f"{len(a)} poses of one frame but {len(b)} of the other; give them in pairs.")
    pairs = np.array([(i, j) for i in range(len(a)) for j in range(i + 1, len(a))])
    turned = _angle(_relative(a, pairs))
    pairs = pairs[turned > min(math.radians(15.0), 0.5 * float(turned.max()))]
    if len(pairs) > 4000:
        pairs = pairs[np.random.default_rng(0).choice(len(pairs), 4000, replace=False)]
    # Every pose enters many motions: only n - 1 of them are independent.
    return _solve(a, b, pairs, limits_mm, limits_deg, independent=len(a) - 1)


def calibrate_hand_eye_streams(
    a: PoseStream,
    b: PoseStream,
    *,
    offset: TimeOffset | None = None,
    window_s: tuple[float, float] = (0.3, 4.0),
    limits_mm: Limits = LIMITS_MM,
    limits_deg: Limits = LIMITS_DEG,
) -> HandEye:
    """a_from_b and the clocks' offset from two streams of poses of one rigid body.

    Args:
        a: ``world_from_a`` over time.
        b: ``other_world_from_b`` over time, at its own rate and by its own clock.
        offset: where b's clock is already known to be; found from the turning speed if not given.
        window_s: shortest and longest motion used.
        limits_mm: on `error_mm`.
        limits_deg: on `error_deg`.

    Raises:
        InputError: as `calibrate_hand_eye`; streams without common motion.
    """
    a, b = a.used(), b.used()
    first = find_pose_stream_offset(a, b) if offset is None else offset
    gap_a, gap_b = (max(0.12, 4.0 * float(np.median(np.diff(s.time_s)))) for s in (a, b))
    # The sparser stream gives the instants, so that only the denser one is interpolated.
    step = max(1, len(a.time_s) // 1500)
    times = a.time_s[::step]
    inside = (times + first.lag_s >= b.time_s[0]) & (times + first.lag_s <= b.time_s[-1])
    times = times[inside]
    if len(times) < 30:
        raise InputError(f"only {len(times)} poses of both streams overlap in time; record them together for longer.")
    at_a, ok_a = PoseInterpolator(a, longest_gap_s=gap_a)(times)
    between = PoseInterpolator(b, longest_gap_s=gap_b)
    elapsed = times + first.lag_s - between.start_s
    at_b, ok_b = between.since_start(elapsed)
    pairs = _motions(times, at_a, np.flatnonzero(ok_a & ok_b), window_s)
    # Neighboring motions share most of their path; motions half a second apart are taken as independent.
    independent = max(10, int(np.ptp(times) / 0.5))
    return _solve(
        at_a,
        at_b,
        pairs,
        limits_mm,
        limits_deg,
        independent=independent,
        b_at=lambda tau: between.since_start(elapsed + tau)[0],
        offset=first,
    )


def _motions(times: Array, poses: Array, good: NDArray[np.intp], window: tuple[float, float]) -> NDArray[np.intp]:
    """Pairs (m, 2) of instants between which the body turned well, about as many from every part of the recording."""
    found = []
    rng = np.random.default_rng(0)
    for span in np.linspace(window[0], window[1], 8):
        later = np.searchsorted(times, times[good] + span)
        keep = later < len(times)
        i, j = good[keep], later[keep]
        fine = np.isin(j, good) & (times[np.minimum(j, len(times) - 1)] - times[i] < window[1] * 1.2)
        found.append(np.column_stack([i[fine], j[fine]]))
    pairs = np.concatenate(found)
    if not len(pairs):
        raise InputError("no two instants within the window are tracked by both devices; record longer.")
    turned = _angle(_relative(poses, pairs))
    pairs = pairs[turned > min(math.radians(10.0), 0.5 * float(turned.max()))]
    if len(pairs) > 2000:
        pairs = pairs[rng.choice(len(pairs), 2000, replace=False)]
    return pairs


def _solve(
    a: Array,
    b: Array,
    pairs: NDArray[np.intp],
    limits_mm: Limits,
    limits_deg: Limits,
    *,
    independent: int,
    b_at: Callable[[float], Array] | None = None,
    offset: TimeOffset | None = None,
) -> HandEye:
    motions_a, motions_b = _relative(a, pairs), _relative(b, pairs)
    angle_a, angle_b = _angle(motions_a), _angle(motions_b)
    if not len(pairs) or angle_a.max() < math.radians(3.0):
        raise InputError("the body hardly turned between the poses; turn it by 20 degrees or more about two axes.")
    spread = _axis_spread(motions_a)
    if spread < 1e-4:
        raise InputError(
            "all rotations are about parallel axes: the translation along them cannot be found; "
            "turn the body about a second axis."
        )
    # Motions whose two angles differ have an outlier on one side (the angle is the same in every frame).
    misfit = np.abs(angle_a - angle_b)
    fair = misfit <= np.quantile(misfit, 0.6)
    starts = _closed_forms(motions_a[fair], motions_b[fair])
    scale_r, scale_t = _scales(starts, motions_a, motions_b)
    costs = {name: _cost(x, motions_a, motions_b, scale_r, scale_t) for name, x in starts.items()}
    best = min(costs, key=costs.__getitem__)
    if not math.isfinite(costs[best]):
        raise InputError("no hand-eye solver found a solution; check that both streams show the same rigid body.")

    def residuals(x: Array) -> Array:
        pose = exponential(x[:6] * unit) @ start
        other = motions_b if b_at is None else _relative(b_at(float(x[6]) * 0.01), pairs)
        rotation, translation = _residuals(pose, motions_a, other)
        return np.concatenate([rotation / scale_r, translation / scale_t], axis=1)

    def weighted(x: Array) -> Array:
        e = residuals(x)
        size = np.sum(e**2, axis=1)
        # rho = 2 (sqrt(1 + s) - 1) of the whole motion's squared size, not of each coordinate's.
        return (e * np.sqrt(2.0 * (np.sqrt(1.0 + size) - 1.0) / np.maximum(size, 1e-12))[:, None]).ravel()

    unit = np.repeat([0.01, 10.0], 3)
    start = starts[best]
    found = optimize.least_squares(
        weighted, np.zeros(6 if b_at is None else 7), method="trf", x_scale="jac", diff_step=DIFFERENCE, max_nfev=40
    )
    pose = exponential(found.x[:6] * unit) @ start
    final = residuals(found.x)
    size = np.sum(final**2, axis=1)
    weights = 1.0 / np.sqrt(1.0 + size)
    rotation, translation = final[:, :3] * scale_r, final[:, 3:] * scale_t
    kept = weights >= 0.5
    degrees, lengths = np.degrees(np.linalg.norm(rotation, axis=1)), np.linalg.norm(translation, axis=1)
    normal = found.jac.T @ found.jac
    variance = float(np.sum(weights * size)) / (6.0 * max(1.0, float(weights.sum()))) * len(pairs) / max(1, independent)
    covariance = np.linalg.pinv(normal) * variance
    diagonal = unit[:, None] * unit
    offset_s = offset_std = None
    if offset is not None:
        offset_s = offset.lag_s + float(found.x[6]) * 0.01
        offset_std = math.sqrt(covariance[6, 6]) * 0.01
    final_cost = float(np.mean(2.0 * (np.sqrt(1.0 + size) - 1.0)))
    rms_mm, rms_deg = (float(np.sqrt(np.average(v**2, weights=weights))) for v in (lengths, degrees))
    mounting = covariance[:6, :6] * diagonal
    error_mm = radius_95(mounting[3:, 3:])
    error_deg = math.degrees(radius_95(mounting[:3, :3]))
    verdicts = []
    if spread < LEAST_AXIS_SPREAD:
        reason = f"the rotation axes are nearly parallel (spread {spread:.3f}), the mounting is uncertain by "
        level: Level = "fail" if error_mm > limits_mm.fail else "check"
        verdicts.append(Verdict(level, f"{reason}{error_mm:.1f} mm; turn about a second axis"))
    outliers = int(np.sum(~kept))
    if outliers > 0.5 * len(kept):
        verdicts.append(Verdict("check", f"{outliers} of {len(kept)} motions do not fit one rigid mounting"))
    verdicts.append(judge("error of the mounting (95 %)", error_mm, limits_mm, "mm"))
    verdicts.append(judge("error of the mounting (95 %)", error_deg, limits_deg, "degrees"))
    # Residuals of motions are those of two trackers over a lever arm, not of the mounting: large ones are odd.
    if rms_mm > RESIDUAL_FACTOR * limits_mm.fail or rms_deg > RESIDUAL_FACTOR * limits_deg.fail:
        verdicts.append(
            Verdict(
                "fail",
                f"RMS residual of {rms_mm:.0f} mm and {rms_deg:.1f} degrees: the streams do not show one rigid body, "
                "or one of them is the inverse of what it should be",
            )
        )
    return HandEye(
        a_from_b=pose,
        covariance=mounting,
        error_mm=error_mm,
        error_deg=error_deg,
        rms_mm=rms_mm,
        rms_deg=rms_deg,
        median_mm=float(np.median(lengths)),
        median_deg=float(np.median(degrees)),
        motions=len(pairs),
        outliers=outliers,
        solvers={name: costs[name] / max(final_cost, 1e-12) if name in costs else math.inf for name in SOLVERS},
        axis_spread=spread,
        offset_s=offset_s,
        offset_std_s=offset_std,
        verdict=worst(verdicts),
    )


def _relative(poses: Array, pairs: NDArray[np.intp]) -> Array:
    """Motions T_i^-1 T_j (m, 4, 4)."""
    first, second = poses[pairs[:, 0]], poses[pairs[:, 1]]
    turned = np.swapaxes(first[:, :3, :3], 1, 2)
    result = np.zeros((len(pairs), 4, 4))
    result[:, :3, :3] = turned @ second[:, :3, :3]
    result[:, :3, 3] = np.einsum("nij,nj->ni", turned, second[:, :3, 3] - first[:, :3, 3])
    result[:, 3, 3] = 1.0
    return result


def _angle(motions: Array) -> Array:
    return Rotation.from_matrix(motions[:, :3, :3]).magnitude() if len(motions) else np.zeros(0)


def _axis_spread(motions: Array) -> float:
    """Second eigenvalue of the angle-weighted mean of n n^T: 0 if all axes are parallel."""
    vectors = Rotation.from_matrix(motions[:, :3, :3]).as_rotvec()
    moment = vectors.T @ vectors
    return float(np.linalg.eigvalsh(moment)[1] / np.trace(moment))


def _closed_forms(motions_a: Array, motions_b: Array) -> dict[str, Array]:
    """What each closed form says of all motions; those that fail are left out."""
    results: dict[str, Array] = {}
    for name, solver in SOLVERS.items():
        try:
            answer = solver(motions_a, motions_b)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(answer).all():
            results[name] = answer
    return results


def _residuals(pose: Array, motions_a: Array, motions_b: Array) -> tuple[Array, Array]:
    """Rotation vectors (m, 3) [rad] and translations (m, 3) [mm] by which A X and X B differ."""
    left, right = motions_a @ pose, pose @ motions_b
    turned = np.swapaxes(left[:, :3, :3], 1, 2)
    rotation = Rotation.from_matrix(turned @ right[:, :3, :3]).as_rotvec()
    return rotation, right[:, :3, 3] - left[:, :3, 3]


def _scales(starts: dict[str, Array], motions_a: Array, motions_b: Array) -> tuple[float, float]:
    """Median residuals of the best start: what a rotation and a translation are worth against each other."""
    best = (math.inf, 1e-6, 1e-4)
    for x in starts.values():
        rotation, translation = _residuals(x, motions_a, motions_b)
        r = max(float(np.median(np.linalg.norm(rotation, axis=1))), 1e-6)
        t = max(float(np.median(np.linalg.norm(translation, axis=1))), 1e-4)
        best = min(best, (r * t, r, t))
    return best[1], best[2]


def _cost(pose: Array, motions_a: Array, motions_b: Array, scale_r: float, scale_t: float) -> float:
    rotation, translation = _residuals(pose, motions_a, motions_b)
    size = np.sum((rotation / scale_r) ** 2, axis=1) + np.sum((translation / scale_t) ** 2, axis=1)
    return float(np.mean(2.0 * (np.sqrt(1.0 + size) - 1.0)))
