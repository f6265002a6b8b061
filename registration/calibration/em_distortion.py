r"""A map of an electromagnetic tracker's distortion, and how noisy a tracker is at rest.

A sensor is carried through the field while a second device (an optical tracker, a grid) says where it truly
is. After the rigid registration of the two, what is left at measured position x is the distortion

    d(x) = x_true - x_measured,

interpolated by polyharmonic splines (r, with a linear part) smoothed to the sensor's noise, chosen by
generalized cross-validation on the held-out tenths. A field is mapped only where it was measured: outside the
convex hull of the samples the correction is refused, not extrapolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RBFInterpolator
from scipy.spatial import Delaunay, QhullError
from scipy.spatial.transform import Rotation

from registration.absolute_orientation import fit_points, fre_of
from registration.errors import InputError
from registration.pose_files import PoseStream
from registration.rigid import Array, apply_to_points, check_points
from registration.verdict import Limits, Verdict, judge, worst

OTHER_UNIT, MIRRORED, LEAST_WIDTH_MM = 2.0, 3.0, 5.0
"""No field bends a room to so many times its size; a reflection that fits so many times better is one; a volume
narrower than this in mm hardly is in mm."""

LEAST_SAMPLES = 30
FOLDS = 10
NEIGHBORS = 60
SMOOTHINGS = (0.0, 0.1, 1.0, 10.0)
LIMITS_MM = Limits(1.0, 3.0)


@dataclass(frozen=True)
class DistortionMap:
    """Result of `map_distortion`; mm.

    Attributes:
        before_mm: RMS distance of measured from true positions after rigid registration only.
        after_mm: RMS distance left in samples that the map did not see (cross-validation).
        worst_mm: 95th percentile of those.
        smoothing: of the spline, chosen.
        measured_from_true: (4, 4) that laid the true positions over the measured ones; the identity if they were.
        samples: (n, 3) measured positions that the map rests on.
        corrections: (n, 3) what is added there, as measured.
        verdict: whether to use it.
    """

    before_mm: float
    after_mm: float
    worst_mm: float
    smoothing: float
    measured_from_true: Array
    samples: Array = field(repr=False)
    corrections: Array = field(repr=False)
    verdict: Verdict
    _spline: RBFInterpolator = field(repr=False)
    _hull: Delaunay = field(repr=False)

    def covers(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether each measured position (n, 3) lies where the field was mapped."""
        return np.asarray(self._hull.find_simplex(check_points(points)) >= 0)

    def correct(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """Corrected positions (n, 3) and whether each was corrected (n,); others are returned as measured."""
        measured = check_points(points)
        inside = self.covers(measured)
        result = measured.copy()
        if inside.any():
            result[inside] += self._spline(measured[inside])
        return result, inside


def map_distortion(
    measured: ArrayLike, true: ArrayLike, *, aligned: bool = True, limits: Limits = LIMITS_MM
) -> DistortionMap:
    """Distortion map from measured and true positions (n, 3), n >= 30.

    Args:
        measured: what the electromagnetic tracker says, mm.
        true: where the sensor was, mm.
        aligned: the true positions are in the tracker's frame already; otherwise they are laid over the measured ones
            rigidly first, which takes no part of the distortion that a registration of the room would leave.
        limits: on `after_mm`.

    Raises:
        InputError: too few samples, counts that differ, samples in a plane, or sets of which one is in another unit or
            mirrored.
    """
    m, t = check_points(measured, "measured positions"), check_points(true, "true positions")
    if len(m) != len(t):
        raise InputError(f"{len(m)} measured but {len(t)} true positions; give them in pairs.")
    if len(m) < LEAST_SAMPLES:
        raise InputError(f"{len(m)} samples; at least {LEAST_SAMPLES} spread through the field are needed.")
    try:
        hull = Delaunay(m)
    except QhullError:
        raise InputError("the samples lie in a plane; move the sensor through a volume.") from None
    wide = [float(np.linalg.norm(np.ptp(points, axis=0))) for points in (m, t)]
    if max(wide) > OTHER_UNIT * min(wide):
        raise InputError(
            f"the measured positions are {wide[0]:.3g} mm across and the true ones {wide[1]:.3g} mm; give both in mm."
        )
    fre, mirrored = (float(fre_of(t[None], m[None], mirrored=turned)[0]) for turned in (False, True))
    if MIRRORED * mirrored < fre:
        raise InputError(
            f"the measured positions are a mirror image of the true ones (they fit to {mirrored:.2g} mm so, and to "
            f"{fre:.2g} mm else); check that both frames are right-handed and their axes named alike."
        )
    frame = np.eye(4) if aligned else fit_points(t[None], m[None])[0]
    t = apply_to_points(frame, t)
    _, unique = np.unique(np.round(m, 3), axis=0, return_index=True)
    m, t = m[unique], t[unique]
    distortion = t - m
    order = np.random.default_rng(0).permutation(len(m))
    scores = {s: np.concatenate(_held_out(m, distortion, order, s)) for s in SMOOTHINGS}
    smoothing = min(scores, key=lambda s: float(np.mean(scores[s] ** 2)))
    left = scores[smoothing]
    before, after = float(np.sqrt(np.mean(np.sum(distortion**2, axis=1)))), float(np.sqrt(np.mean(left**2)))
    verdict = judge("error in samples the map did not see", after, limits, "mm RMS")
    if after > before:
        verdict = Verdict("fail", f"the map enlarges the error ({before:.2f} to {after:.2f} mm RMS); map more densely")
    if max(wide) < LEAST_WIDTH_MM:
        said = f"all samples lie within {max(wide):.2g} mm of each other; are they in meters? give mm"
        verdict = worst([verdict, Verdict("check", said)])
    return DistortionMap(
        before,
        after,
        float(np.quantile(left, 0.95)),
        smoothing,
        frame,
        m,
        distortion,
        verdict,
        _spline(m, distortion, smoothing),
        hull,
    )


def _spline(points: Array, values: Array, smoothing: float) -> RBFInterpolator:
    neighbors = NEIGHBORS if len(points) > NEIGHBORS else None
    return RBFInterpolator(points, values, kernel="linear", degree=1, smoothing=smoothing, neighbors=neighbors)


def _held_out(points: Array, values: Array, order: NDArray[np.intp], smoothing: float) -> list[Array]:
    found = []
    for k in range(FOLDS):
        out = order[k::FOLDS]
        rest = np.setdiff1d(order, out)
        found.append(np.linalg.norm(_spline(points[rest], values[rest], smoothing)(points[out]) - values[out], axis=1))
    return found


@dataclass(frozen=True)
class StaticNoise:
    """A tracked tool at rest: covariance (6, 6) of its pose error (left perturbation about the tool, rotation
    first), its position's standard deviations (3,) in mm, the drift from the first to the last quarter in mm, and
    how many frames were missing."""

    covariance: Array
    position_std: Array
    rotation_std_deg: float
    drift_mm: float
    missing: int
    frames: int


def static_noise(stream: PoseStream) -> StaticNoise:
    """Noise of a tool that did not move: the covariance to give its edge in a frame graph.

    The covariance is about the tool's own mean position, in the tracker's axes.

    Raises:
        InputError: fewer than 20 valid poses, or a tool that moved.
    """
    used = stream.used()
    if len(used.time_s) < 20:
        raise InputError(f"{stream.name} has {len(used.time_s)} valid poses; at least 20 at rest are needed.")
    positions = used.poses[:, :3, 3]
    rotations = Rotation.from_matrix(used.poses[:, :3, :3])
    mean = rotations.mean()
    errors = np.hstack([(rotations * mean.inv()).as_rotvec(), positions - positions.mean(axis=0)])
    covariance = np.cov(errors.T)
    quarter = len(positions) // 4
    drift = float(np.linalg.norm(positions[:quarter].mean(axis=0) - positions[-quarter:].mean(axis=0)))
    std = positions.std(axis=0, ddof=1)
    # Noise of steps against noise of positions: a tool in motion has small steps between distant positions.
    steps = np.diff(positions, axis=0).std(axis=0) / math.sqrt(2.0)
    if (std > 10.0 * np.maximum(steps, 1e-3)).any() or std.max() > 5.0:
        reach = float(np.ptp(positions, axis=0).max())
        raise InputError(f"{stream.name} moved by {reach:.1f} mm during the recording; hold it still.")
    return StaticNoise(
        covariance,
        std,
        float(np.degrees(np.sqrt(np.trace(covariance[:3, :3]) / 3.0))),
        drift,
        int(np.sum(~stream.valid)),
        len(stream.valid),
    )
