"""How a tracked marker sits on a camera: hand-eye from the views that calibrated the camera."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from registration.calibration.camera_intrinsics import CameraCalibration
from registration.calibration.hand_eye import LIMITS_DEG, LIMITS_MM, HandEye, calibrate_hand_eye
from registration.errors import InputError
from registration.pose_files import PoseStream
from registration.verdict import Limits


def calibrate_mounting(
    markers: PoseStream,
    views: Sequence[int],
    camera: CameraCalibration,
    *,
    limits_mm: Limits = LIMITS_MM,
    limits_deg: Limits = LIMITS_DEG,
) -> HandEye:
    """``marker_from_camera``, in the result's ``a_from_b``, with the grid at rest.

    Args:
        markers: tracker_from_marker, one pose per picture taken.
        views: (n,) which of these pictures the n views of the calibration are.
        camera: the calibration, with the grid's pose in each of its views.
        limits_mm: on the mounting's 95 % error.
        limits_deg: the same for its rotation.

    Raises:
        InputError: fewer poses than pictures, too few views with a pose, or as `calibrate_hand_eye`.
    """
    if max(views) >= len(markers.valid):
        raise InputError(f"{markers.name} has {len(markers.valid)} poses and picture {max(views) + 1} needs one.")
    left_out = set(camera.excluded)
    pairs = [(k, view) for k, view in enumerate(views) if k not in left_out and markers.valid[view]]
    if len(pairs) < 4:
        raise InputError(f"only {len(pairs)} views have a pose of the marker; at least 4 are needed, 15 are good.")
    grid_from_camera = np.linalg.inv(camera.camera_from_grid[[k for k, _ in pairs]])
    poses = markers.poses[[view for _, view in pairs]]
    return calibrate_hand_eye(poses, grid_from_camera, limits_mm=limits_mm, limits_deg=limits_deg)
