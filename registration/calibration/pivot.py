r"""Where a tracked tool's tip is, from poses taken while the tip rests in a divot; and its axis, from spinning.

**Pivot.** With tracker_from_tool poses (R_i, p_i) and the tip at rest at q,

    R_i t + p_i = q    for all i,

linear in the tip t (tool frame) and q (tracker frame). Eliminating q leaves the normal matrix
N (I - M^T M) for t, with M the mean of the R_i: its eigenvalues say how well each direction of t is held. Without
rotation M^T M = I and nothing is; with rotation about a single axis the direction of that axis is not. A
small residual says *nothing* of this - a tool that never moved has none - so the verdict rests on the motion,
the tip's predicted standard deviation, and the two tips that the first and second half of the poses give.

Poses whose tip slipped are weighted down by Tukey's biweight and counted.

**Spin.** Turning the tool about its long axis leaves that axis fixed in space: a minimizes the scatter of
R_i a, the eigenvector of M^T M with the largest eigenvalue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.errors import InputError
from registration.pose_error import radius_95
from registration.rigid import Array, check_rigid
from registration.verdict import Limits, Verdict, judge, worst

EXACT_MM, NEAR_MM = 0.005, 1.0
"""No tracker is so exact, and hardly a tip so near to its marker: such poses are hardly in mm."""

LEAST_POSES = 20

LEAST_MOTION_DEG = 8.0
"""RMS turning of the tool across each direction below which the tip in that direction is not trusted."""

LIMITS_TIP_MM = Limits(0.5, 1.5)
"""Length of the tip's 95 % error: check, fail."""

LIMITS_RMS_MM = Limits(1.0, 2.0)

LIMITS_AXIS_DEG = Limits(1.0, 3.0)


@dataclass(frozen=True)
class PivotCalibration:
    """Result of `calibrate_pivot`; mm.

    Attributes:
        tip: (3,) in the tool's frame.
        pivot: (3,) the divot, in the tracker's (or reference's) frame.
        covariance: (3, 3) of `tip` in the tool's frame, with the residuals' correlation in time paid for.
        error_95: radius that holds the tip's error in 95 % of calibrations like this one.
        residuals: (n,) distance of each pose's tip from the pivot.
        rms: RMS of the residuals of the poses kept. It says nothing about whether the tip is right.
        kept: (n,) poses not judged to have slipped.
        motion_deg: (3,) RMS turning in degrees across the worst to best held direction.
        weakest: (3,) direction of the tip, in the tool's frame, that is held worst.
        half_difference: distance between the tips of the first and of the second half of the poses.
        verdict: whether to use it.
    """

    tip: Array
    pivot: Array
    covariance: Array
    error_95: float
    residuals: Array
    rms: float
    kept: NDArray[np.bool_]
    motion_deg: Array
    weakest: Array
    half_difference: float
    verdict: Verdict

    @property
    def tool_from_tip(self) -> Array:
        """(4, 4) with the tip as origin and the tool's axes."""
        result = np.eye(4)
        result[:3, 3] = self.tip
        return result


def calibrate_pivot(
    poses: ArrayLike, *, tip_limits: Limits = LIMITS_TIP_MM, rms_limits: Limits = LIMITS_RMS_MM
) -> PivotCalibration:
    """Tip of a tool from ``tracker_from_tool`` poses (n, 4, 4), mm, pivoted in a divot.

    Where a reference is tracked as well, give ``reference_from_tool``, so that a bumped phantom does no harm.

    Raises:
        InputError: fewer than 20 poses, one that is not rigid, or a tool that did not turn at all.
    """
    matrices = check_poses(poses, LEAST_POSES, "pivot calibration")
    rotations, positions = matrices[:, :3, :3], matrices[:, :3, 3]
    motion, directions = _motion(rotations)
    if motion[0] < 0.05:
        if motion[2] < 0.5:
            raise InputError(
                f"the tool did not turn during the pivot calibration (by {motion[2]:.2g} degrees RMS at most); "
                "keep the tip in the divot and swing the handle through a cone of 60 degrees or more."
            )
        raise InputError(
            "the tool turned about a single axis only, which leaves the tip undetermined along it; "
            "swing the handle in two directions."
        )
    tip, pivot, weights = _fit(rotations, positions)
    offsets = np.einsum("nij,j->ni", rotations, tip) + positions - pivot
    residuals = np.linalg.norm(offsets, axis=1)
    kept = weights > 0.0
    rms = float(np.sqrt(np.mean(residuals[kept] ** 2)))
    covariance = _covariance(rotations[kept], offsets[kept])
    error_95 = radius_95(covariance)
    half = len(matrices) // 2
    halves = []
    for part in (slice(None, half), slice(half, None)):
        if _motion(rotations[part])[0][0] > 0.5 * LEAST_MOTION_DEG:
            halves.append(_fit(rotations[part], positions[part])[0])
    difference = float(np.linalg.norm(halves[0] - halves[1])) if len(halves) == 2 else math.nan

    verdicts = [judge("tip error (95 %)", error_95, tip_limits, "mm"), _judge_motion(motion, directions[:, 0])]
    if not math.isnan(difference):
        verdicts.append(
            judge(
                "difference of the tips of both halves", difference, Limits(tip_limits.check, 2 * tip_limits.fail), "mm"
            )
        )
    verdicts.append(judge("RMS residual", rms, rms_limits, "mm"))
    if rms < EXACT_MM and np.linalg.norm(tip) < NEAR_MM:
        verdicts.append(
            Verdict(
                "check",
                f"the tip lies {np.linalg.norm(tip):.2g} mm from the tool's origin, and misses the pivot by {rms:.1g} "
                "mm only: are the poses in meters? give mm",
            )
        )
    slipped = int(np.sum(~kept))
    if slipped > 0.1 * len(kept):
        verdicts.append(
            Verdict("check", f"{slipped} of {len(kept)} poses do not fit: the tip slipped or the tool is loose")
        )
    return PivotCalibration(
        tip, pivot, covariance, error_95, residuals, rms, kept, motion, directions[:, 0], difference, worst(verdicts)
    )


@dataclass(frozen=True)
class SpinCalibration:
    """Result of `calibrate_spin`.

    Attributes:
        axis: (3,) unit vector in the tool's frame, pointing towards the tip where the tip is given.
        direction: (3,) the same axis in the tracker's frame.
        rms_deg: RMS angle between each pose's axis and their mean.
        error_95_deg: angle that holds the axis' error in 95 % of calibrations like this one.
        spin_deg: how far the tool was turned about its axis, RMS.
        verdict: whether to use it.
    """

    axis: Array
    direction: Array
    rms_deg: float
    error_95_deg: float
    spin_deg: float
    verdict: Verdict

    def tool_from_tip(self, tip: Array) -> Array:
        """(4, 4) with the tip (3,) as origin and z along the axis; x lies near the tool's own x or y."""
        x = np.eye(3)[int(np.argmin(np.abs(self.axis[:2])))]
        x = x - (x @ self.axis) * self.axis
        x /= np.linalg.norm(x)
        result = np.eye(4)
        result[:3, :3] = np.column_stack([x, np.cross(self.axis, x), self.axis])
        result[:3, 3] = tip
        return result


def calibrate_spin(
    poses: ArrayLike, *, tip: ArrayLike | None = None, limits: Limits = LIMITS_AXIS_DEG
) -> SpinCalibration:
    """Long axis of a tool from ``tracker_from_tool`` poses (n, 4, 4) taken while it was spun about that axis.

    Args:
        poses: the poses, mm; the axis must hold still in the tracker's frame.
        tip: (3,) in the tool's frame, to give the axis its sense: from the tool's origin towards the tip.
        limits: on `error_95_deg`.

    Raises:
        InputError: as `calibrate_pivot`.
    """
    rotations = check_poses(poses, LEAST_POSES, "spin calibration")[:, :3, :3]
    mean = rotations.mean(axis=0)
    values, vectors = np.linalg.eigh(mean.T @ mean)
    axis = vectors[:, 2]
    if tip is not None and float(axis @ np.asarray(tip, dtype=np.float64)) < 0.0:
        axis = -axis
    directions = rotations @ axis
    direction = directions.mean(axis=0)
    direction = direction / np.linalg.norm(direction)
    misses = np.degrees(np.arccos(np.clip(directions @ direction, -1.0, 1.0)))
    rms = float(np.sqrt(np.mean(misses**2)))
    spin = float(np.degrees(np.sqrt(max(0.0, 1.0 - values[0]))))
    if spin < 0.5:
        raise InputError("the tool was not spun: its orientation did not change; turn it about its long axis.")
    # The axis is held by how far points beside it move: N (1 - values[1]) of it, against scatter of the axis.
    # Held in the worse direction across the axis by sqrt(values[2] - values[1]) of a radian per pose.
    gap = max(values[2] - values[1], 1e-12)
    offsets = directions - direction
    serial = _serial_factor(offsets)
    error = 2.45 * rms / math.sqrt(2.0 * len(rotations) * gap) * math.sqrt(serial)
    verdicts = [judge("axis error (95 %)", error, limits, "degrees")]
    if spin < 20.0:
        verdicts.append(
            Verdict("fail", f"the tool was turned by {spin:.1f} degrees RMS only; spin it by 90 degrees or more")
        )
    verdicts.append(judge("wobble of the axis", rms, Limits(3.0, 8.0), "degrees"))
    return SpinCalibration(axis, direction, rms, error, spin, worst(verdicts))


@dataclass(frozen=True)
class TemplateCalibration:
    """Result of `calibrate_on_template`: tip (3,) in the tool's frame, its covariance (3, 3), residuals (n,), mm."""

    tip: Array
    covariance: Array
    error_95: float
    residuals: Array
    rms: float
    verdict: Verdict


def calibrate_on_template(
    template_from_tool: ArrayLike, points: ArrayLike, *, limits: Limits = LIMITS_TIP_MM
) -> TemplateCalibration:
    """Tip of a stylus held in the known holes of a tracked template.

    Each pose gives the tip at once, t = R_i^T (q_i - p_i); their mean is the least-squares tip, their scatter
    its error, and one hole's scatter from the others' betrays a wrong template, which repeating one hole
    would not.

    Args:
        template_from_tool: (n, 4, 4), mm.
        points: (n, 3) the hole in which the tip was, in the template's frame.
        limits: on the tip's 95 % error.

    Raises:
        InputError: no poses, one that is not rigid, or counts that differ.
    """
    matrices = check_poses(template_from_tool, 1, "template calibration")
    holes = np.asarray(points, dtype=np.float64)
    if holes.shape != (len(matrices), 3) or not np.isfinite(holes).all():
        raise InputError(
            f"{len(matrices)} poses and {len(holes)} hole positions; give for each pose the finite x, y, z of its hole."
        )
    tips = np.einsum("nji,nj->ni", matrices[:, :3, :3], holes - matrices[:, :3, 3])
    tip = tips.mean(axis=0)
    offsets = tips - tip
    residuals = np.linalg.norm(offsets, axis=1)
    count = len(tips)
    # One hole's machining error shares all its poses: the scatter between holes, not between poses, counts.
    _, groups = np.unique(np.round(holes, 6), axis=0, return_inverse=True)
    groups = groups.ravel()
    means = np.array([tips[groups == g].mean(axis=0) for g in range(groups.max() + 1)])
    if len(means) < 3:
        verdict = Verdict(
            "check", f"{len(means)} hole(s) used: a wrong hole or template would not show; use three or more"
        )
        spread = offsets.T @ offsets / max(1, count - 1) / count if count > 1 else np.full((3, 3), np.nan)
    else:
        apart = means - means.mean(axis=0)
        spread = apart.T @ apart / (len(means) - 1) / len(means)
        verdict = judge("tip error (95 %)", radius_95(spread, len(means) - 1), limits, "mm")
    error = radius_95(spread, len(means) - 1) if len(means) >= 3 else math.nan
    return TemplateCalibration(tip, spread, error, residuals, float(np.sqrt(np.mean(residuals**2))), verdict)


def check_poses(poses: ArrayLike, least: int, what: str) -> Array:
    """Rigid poses (n, 4, 4), or InputError that names the first bad one."""
    matrices = np.asarray(poses, dtype=np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4):
        raise InputError(f"poses have shape {matrices.shape}; give one 4x4 matrix per pose.")
    if len(matrices) < least:
        raise InputError(f"{what} got {len(matrices)} poses; at least {least} are needed.")
    return np.array([check_rigid(matrix, f"pose {i}", tolerance=2e-3) for i, matrix in enumerate(matrices)])


def _motion(rotations: Array) -> tuple[Array, Array]:
    """RMS turning in degrees (3,) across each principal direction of the tip, ascending, and the directions (3, 3)."""
    mean = rotations.mean(axis=0)
    values, vectors = np.linalg.eigh(np.eye(3) - mean.T @ mean)
    return np.degrees(np.sqrt(values.clip(0.0))), vectors


def _fit(rotations: Array, positions: Array) -> tuple[Array, Array, Array]:
    """Tip (3,), pivot (3,) and final weights (n,) by iteratively reweighted least squares."""
    weights = np.ones(len(rotations))
    tip, pivot = np.zeros(3), np.zeros(3)
    for step in range(30):
        total = weights.sum()
        mean_rotation = np.einsum("n,nij->ij", weights, rotations) / total
        mean_position = weights @ positions / total
        turned, moved = rotations - mean_rotation, positions - mean_position
        normal = np.einsum("n,nji,njk->ik", weights, turned, turned)
        right = -np.einsum("n,nji,nj->i", weights, turned, moved)
        before = tip
        tip = np.linalg.lstsq(normal, right, rcond=1e-12)[0]
        pivot = mean_rotation @ tip + mean_position
        residuals = np.linalg.norm(np.einsum("nij,j->ni", rotations, tip) + positions - pivot, axis=1)
        # The median of a 3D Gaussian's length is 1.54 sigma per axis.
        scale = max(float(np.median(residuals)) / 1.538, 1e-9)
        # Biweight in 3D: 7 sigma per axis leaves clean data (longest of a thousand: 4 sigma) nearly as they are.
        weights = np.clip(1.0 - (residuals / (7.0 * scale)) ** 2, 0.0, None) ** 2
        if step > 2 and np.linalg.norm(tip - before) < 1e-9:
            break
    return tip, pivot, weights


def _serial_factor(offsets: Array) -> float:
    """How many times larger variances get because neighboring residuals are alike (AR(1))."""
    power = float(np.sum(offsets**2))
    if power <= 0.0 or len(offsets) < 10:
        return 1.0
    serial = float(np.clip(np.sum(offsets[1:] * offsets[:-1]) / power, 0.0, 0.98))
    return (1.0 + serial) / (1.0 - serial)


def _covariance(rotations: Array, offsets: Array) -> Array:
    count = len(rotations)
    mean = rotations.mean(axis=0)
    variance = float(np.sum(offsets**2)) / max(1, 3 * count - 6) * _serial_factor(offsets)
    return variance / count * np.linalg.pinv(np.eye(3) - mean.T @ mean)


def _judge_motion(motion: Array, direction: Array) -> Verdict:
    shown = f"the tool turned by {motion[0]:.1f} degrees RMS across its worst held direction"
    if motion[0] < 0.5 * LEAST_MOTION_DEG:
        reason = f"{shown}, too little to place the tip whatever the residual; swing it through a wide cone"
        return Verdict("fail", reason)
    if motion[0] < LEAST_MOTION_DEG:
        return Verdict("check", f"{shown}; {LEAST_MOTION_DEG:g} are wanted: swing it further")
    return Verdict("pass", shown)
