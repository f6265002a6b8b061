"""Focal length, principal point and distortion of a camera from views of a known grid, with what they are worth.

OpenCV's bundle adjustment (Zhang 2000) does the fit; added here is the judgement: outlying views are left out by
name, the standard deviations of the intrinsics are carried along, and a set of views that cannot fix them - all
seen frontally, or filling only the middle of the image - is said to be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.rigid import Array
from registration.verdict import Limits, Verdict, judge, worst

LEAST_VIEWS = 5
LEAST_POINTS = 6
LIMITS_PX = Limits(0.7, 3.0)
LEAST_TILT_DEG = 10.0
LEAST_COVERAGE = 0.35
"""Part of an 8 x 8 raster of the image that the grid's points must touch."""


@dataclass(frozen=True)
class CameraCalibration:
    """Result of `calibrate_camera`.

    Attributes:
        camera: intrinsics and distortion; its pose is the identity.
        rms_px: RMS reprojection error of the views kept.
        view_rms_px: (n,) of each view; NaN for a view left out.
        camera_from_grid: (n, 4, 4) pose of the grid in each view, mm.
        intrinsics_std: (4,) standard deviations of fx, fy, cx, cy in pixels.
        coverage: part of the image that the points touch.
        tilt_deg: spread of the grid's normal, RMS.
        excluded: indices of views left out.
        verdict: whether to use it.
    """

    camera: PinholeCamera
    rms_px: float
    view_rms_px: Array
    camera_from_grid: Array
    intrinsics_std: Array
    coverage: float
    tilt_deg: float
    excluded: tuple[int, ...]
    verdict: Verdict


def calibrate_camera(
    grids: Sequence[ArrayLike], pixels: Sequence[ArrayLike], size: tuple[int, int], *, limits: Limits = LIMITS_PX
) -> CameraCalibration:
    """Intrinsics of a camera from views of a grid.

    Args:
        grids: per view, (m, 3) points of the grid, mm; m >= 6, in one plane at z = 0.
        pixels: per view, (m, 2) where they are seen; (0, 0) is the middle of the upper left pixel.
        size: width and height of the image in pixels.
        limits: on the RMS reprojection error, in pixels.

    Raises:
        InputError: fewer than five views, views of fewer than six points, counts that differ, no convergence.
    """
    views = [
        (np.asarray(g, dtype=np.float64).reshape(-1, 3), np.asarray(p, dtype=np.float64).reshape(-1, 2))
        for g, p in zip(grids, pixels, strict=False)
    ]
    if len(grids) != len(pixels):
        raise InputError(f"{len(grids)} grids but {len(pixels)} sets of pixels; give one of each per view.")
    if len(views) < LEAST_VIEWS:
        raise InputError(f"{len(views)} views; at least {LEAST_VIEWS} of a tilted grid are needed, 15 are good.")
    for k, (grid, seen) in enumerate(views):
        if len(grid) != len(seen) or len(grid) < LEAST_POINTS:
            raise InputError(
                f"view {k + 1} has {len(grid)} grid points and {len(seen)} pixels; as many of each, and at least "
                f"{LEAST_POINTS}, are needed."
            )
        if not (np.isfinite(grid).all() and np.isfinite(seen).all()):
            raise InputError(f"view {k + 1} holds values that are not finite; leave such points out.")
        if np.linalg.svd(grid - grid.mean(axis=0), compute_uv=False)[1] < 1e-6:
            raise InputError(f"the grid points of view {k + 1} lie on a line; leave this view out.")
        if np.abs(grid[:, 2]).max() > 1e-9:
            raise InputError(f"the grid of view {k + 1} is not flat at z = 0; give planar grid coordinates.")
    kept = list(range(len(views)))
    fit = _fit([views[k] for k in kept], size)
    # A view whose error stands far above the others' has wrong or shifted points.
    while len(kept) > LEAST_VIEWS:
        errors = fit[4]
        median = float(np.median(errors))
        worst_view = int(np.argmax(errors))
        if errors[worst_view] <= max(4.0 * median, 0.3):
            break
        del kept[worst_view]
        fit = _fit([views[k] for k in kept], size)
    rms, matrix, distortion, poses, errors, std = fit
    camera = PinholeCamera(
        size[0],
        size[1],
        float(matrix[0, 0]),
        float(matrix[1, 1]),
        float(matrix[0, 2]),
        float(matrix[1, 2]),
        tuple(float(v) for v in distortion[:5]),  # type: ignore[arg-type]
    )
    view_rms, all_poses = np.full(len(views), np.nan), np.tile(np.eye(4), (len(views), 1, 1))
    view_rms[kept], all_poses[kept] = errors, poses
    every = np.concatenate([views[k][1] for k in kept])
    cells = np.unique(np.floor(every / np.array(size) * 8).clip(0, 7) @ (1.0, 8.0))
    coverage = len(cells) / 64.0
    normals = poses[:, :3, 2]
    mean = normals.mean(axis=0)
    tilt = float(np.degrees(np.sqrt(max(0.0, 2.0 * (1.0 - np.linalg.norm(mean))))))
    excluded = tuple(k for k in range(len(views)) if k not in kept)
    verdicts = [judge("reprojection error", rms, limits, "px RMS")]
    if tilt < LEAST_TILT_DEG:
        verdicts.append(
            Verdict("check", f"the grid was tilted by {tilt:.0f} degrees RMS only: focal length and distance mix")
        )
    if coverage < LEAST_COVERAGE:
        verdicts.append(
            Verdict("check", f"the grid's points touch {100 * coverage:.0f} % of the image: the rim is extrapolated")
        )
    if std[0] > 0.02 * camera.fx or std[1] > 0.02 * camera.fy:
        verdicts.append(Verdict("check", f"the focal length is known to {std[0]:.0f} px only; add tilted views"))
    if excluded:
        verdicts.append(Verdict("check", f"views {', '.join(map(str, excluded))} do not fit and were left out"))
    return CameraCalibration(camera, rms, view_rms, all_poses, std, coverage, tilt, excluded, worst(verdicts))


def reprojection(
    calibration: CameraCalibration, grids: Sequence[ArrayLike], pixels: Sequence[ArrayLike]
) -> tuple[Array, Array]:
    """Pixels (k, 2) of all views kept, and by how much (k, 2) the grid, projected, misses them."""
    seen, misses = [], []
    for k, (grid, places) in enumerate(zip(grids, pixels, strict=True)):
        if k not in calibration.excluded:
            view = calibration.camera.posed(calibration.camera_from_grid[k])
            seen.append(np.asarray(places, dtype=np.float64))
            misses.append(view.project(grid) - seen[-1])
    return np.concatenate(seen), np.concatenate(misses)


def _fit(views: list[tuple[Array, Array]], size: tuple[int, int]) -> tuple[float, Array, Array, Array, Array, Array]:
    try:
        rms, matrix, distortion, rotations, translations, std, _, errors = cv2.calibrateCameraExtended(
            [g.astype(np.float32) for g, _ in views],
            [p.astype(np.float32) for _, p in views],
            size,
            np.eye(3),
            np.zeros(5),
        )
    except cv2.error as error:
        raise InputError(f"the views do not fix the camera ({error.err}); add tilted views of the grid.") from None
    if not np.isfinite(rms):
        raise InputError("the camera calibration did not converge; check the order of the grid's points.")
    poses = np.tile(np.eye(4), (len(views), 1, 1))
    for k, (rotation, translation) in enumerate(zip(rotations, translations, strict=True)):
        poses[k, :3, :3] = cv2.Rodrigues(rotation)[0]
        poses[k, :3, 3] = np.ravel(translation)
    flat = [np.asarray(v, dtype=np.float64).ravel() for v in (distortion, errors, std)]
    return float(rms), np.asarray(matrix, dtype=np.float64), flat[0], poses, flat[1], flat[2][:4]
