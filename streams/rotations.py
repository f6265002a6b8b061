"""Rotations as devices report them: quaternions, and matrices that are rotations but for rounding."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOT_A_ROTATION = 0.02
"""A matrix farther than this from the nearest rotation, or a quaternion whose norm is this far from 1, is none."""


def rotation_about(vector: Array) -> Array:
    """(3, 3) rotation about a vector by its length [rad] (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: Array = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation


def nearest_rotation(matrix: Array) -> Array | None:
    """The (3, 3) rotation nearest to a matrix, or None where that is farther away than rounding explains."""
    if not np.isfinite(matrix).all() or not matrix.any():
        return None
    u, _, vt = np.linalg.svd(matrix)
    rotation: Array = u @ vt
    if np.linalg.det(rotation) < 0 or np.abs(matrix - rotation).max() > NOT_A_ROTATION:
        return None
    return rotation


def quaternion_of(rotation: Array) -> tuple[float, float, float, float]:
    """The w, x, y, z of a (3, 3) rotation: the dominant eigenvector of the symmetric matrix of Bar-Itzhack (2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    x, y, z, w = np.linalg.eigh(matrix)[1][:, -1]
    sign = 1.0 if w >= 0 else -1.0
    return float(sign * w), float(sign * x), float(sign * y), float(sign * z)
