r"""The last step of a 2D-3D registration: Gauss-Newton on the gradients of the radiographs themselves.

With trilinear sampling the radiographs change smoothly with the pose, and since for vectors a, b of unit length

    |a - b|^2 = 2 (1 - a . b),

the best gradient correlation is a least-squares problem in the normalized gradients. Its derivatives are differences of
computed radiographs; its normal matrix says how well the pose is held,

    C = s^2 k (J^T J)^-1,

with s^2 the variance of the residuals and k the number of pixels over which these are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from registration.pose_error import PoseError
from registration.projection.carm import Attenuation
from registration.projection.similarity import View
from registration.rigid import Array, turned_about

ITERATIONS = 8
DIFFERENCE = np.repeat([np.radians(0.15), 0.2], 3)
"""Steps in rad and mm over which derivatives are taken: a tenth of a pixel and more."""

ALIKE_PIXELS = 12.0
"""The gradients are smoothed: so many of their values share one error."""


def refine(views: Sequence[View], volume: Attenuation, pose: Array, step_mm: float) -> tuple[Array, float, PoseError]:
    """The pose (4, 4) of the best gradient correlation near a pose, that correlation, and the pose's error.

    Args:
        views: the measured radiographs.
        volume: the attenuation.
        pose: world_from_volume to begin with, within about two pixels of the best one.
        step_mm: of the sampling along rays.
    """
    measured = np.concatenate([view.unit_gradients for view in views])

    def residuals(candidate: Array) -> Array:
        return np.concatenate([view.computed_gradients(volume, candidate, step_mm) for view in views]) - measured

    def moved(change: Array) -> Array:
        return turned_about(center, change[:3], change[3:]) @ pose

    left = residuals(pose)
    damping = 1e-3
    normal = np.eye(6)
    center = pose[:3, :3] @ volume.middle + pose[:3, 3]
    for _ in range(ITERATIONS):
        jacobian = np.column_stack(
            [(residuals(moved(d * e)) - left) / d for d, e in zip(DIFFERENCE, np.eye(6), strict=True)]
        )
        normal, slope = jacobian.T @ jacobian, jacobian.T @ left
        while damping < 1e3:
            change = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slope)
            candidate = moved(change)
            there = residuals(candidate)
            if there @ there < left @ left:
                damping *= 0.1
                break
            damping *= 10.0
        else:
            break
        pose, left = candidate, there
        center = pose[:3, :3] @ volume.middle + pose[:3, 3]
        if np.abs(change[:3]).max() < 2e-4 and np.abs(change[3:]).max() < 0.02:
            break
    variance = float(left @ left) / len(left)
    covariance = ALIKE_PIXELS * variance * np.linalg.pinv(normal)
    return pose, 1.0 - 0.5 * float(left @ left) / (2 * len(views)), PoseError(covariance, center)
