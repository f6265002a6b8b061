"""Where a calibrated camera is, from points whose places in the world are known."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.rigid import Array, apply_to_points, check_points, skew


@dataclass(frozen=True)
class CameraPose:
    """Result of `locate_camera`.

    Attributes:
        camera: the camera at the pose found.
        residuals_px: (n, 2) seen minus projected.
        rms_px: RMS length of the residuals.
        covariance: (6, 6) of ``camera_from_world`` (left perturbation about the camera, rotation first), mm and
            radians, with the pixels' error estimated from the residuals.
    """

    camera: PinholeCamera
    residuals_px: Array
    rms_px: float
    covariance: Array


def locate_camera(camera: PinholeCamera, points: ArrayLike, pixels: ArrayLike) -> CameraPose:
    """Pose of a camera that sees world points (n, 3) in mm at pixels (n, 2), n >= 4.

    OpenCV's SQPnP (Terzakis, Lourakis 2020) starts, Levenberg-Marquardt on the reprojection error ends. Of the
    two mirror-like poses that nearly flat, distant points allow, the one with the smaller residual is taken.

    Raises:
        InputError: fewer than four points, counts that differ, points on a line, or no pose in front.
    """
    world, seen = check_points(points, "world points"), np.array(pixels, dtype=np.float64, order="C").reshape(-1, 2)
    if len(world) != len(seen) or len(world) < 4:
        raise InputError(f"{len(world)} points and {len(seen)} pixels; give at least 4 of each, in pairs.")
    if not np.isfinite(seen).all():
        raise InputError("a pixel is not finite; leave such points out.")
    singular = np.linalg.svd(world - world.mean(axis=0), compute_uv=False)
    if singular[1] < 1e-3 * singular[0]:
        raise InputError("the points lie on a line, which fixes no camera pose; add points off the line.")
    center = world.mean(axis=0)
    matrix, distortion = camera.matrix, np.array(camera.distortion)
    about = world - center
    best: tuple[float, Array] | None = None
    flat = singular[2] < 1e-6 * singular[0]
    for method in (cv2.SOLVEPNP_IPPE if flat else cv2.SOLVEPNP_SQPNP, cv2.SOLVEPNP_ITERATIVE):
        try:
            _, rotations, translations, _ = cv2.solvePnPGeneric(about, seen, matrix, distortion, flags=method)
        except cv2.error:
            continue
        for rotation, translation in zip(rotations, translations, strict=True):
            rotation, translation = cv2.solvePnPRefineLM(about, seen, matrix, distortion, rotation, translation)
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(rotation)[0], np.ravel(translation)
            pose[:3, 3] -= pose[:3, :3] @ center
            miss = seen - camera.posed(pose).project(world)
            if np.isfinite(miss).all():
                rms = float(np.sqrt(np.mean(np.sum(miss**2, axis=1))))
                best = min(best, (rms, pose), key=lambda item: item[0]) if best else (rms, pose)
    if best is None:
        raise InputError("no camera pose puts all points in front of the camera; check the pairing of the points.")
    rms, pose = best
    found = camera.posed(pose)
    residuals = seen - found.project(world)
    inside = apply_to_points(pose, world)
    step = 1e-6 * float(np.linalg.norm(inside, axis=1).mean())
    eye = camera.posed(np.eye(4))
    by_point = np.stack(
        [(eye.project(inside + step * e) - eye.project(inside - step * e)) / (2 * step) for e in np.eye(3)], -1
    )
    jacobian = np.concatenate([by_point @ -skew(inside), by_point], axis=2).reshape(-1, 6)
    variance = float(np.sum(residuals**2)) / max(1, 2 * len(world) - 6)
    return CameraPose(found, residuals, rms, variance * np.linalg.pinv(jacobian.T @ jacobian))
