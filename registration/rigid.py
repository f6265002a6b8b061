r"""Rigid transforms as validated 4x4 matrices, and how their small errors move with them.

A transform is named ``target_from_source`` and maps points of the source frame into the target frame, so that
products read right: ``image_from_tracker @ tracker_from_tool``.

The error of a transform is a *left* perturbation, written in the target frame about the target's origin:

    T_true = exp(xi^) T,        xi = (omega [rad], t [mm]),
    exp(xi^) p ~ p + omega x p + t     for small xi,

with a 6x6 covariance ordered (omega, t). With this convention the error of a product is
xi_ab + Ad(T_ab) xi_bc, where ``adjoint`` gives Ad (Barfoot, "State Estimation for Robotics", 2nd ed., ch. 7
and 8, with the two halves of xi exchanged).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.errors import InputError

Array = NDArray[np.float64]

ROTATION_TOLERANCE = 1e-5
"""Largest |R R^T - I| entry accepted: matrices printed with six digits pass, sheared ones do not."""


def check_rigid(matrix: ArrayLike, name: str = "transform", *, tolerance: float = ROTATION_TOLERANCE) -> Array:
    """Return `matrix` as a float64 4x4 array, or say why it is not a rigid transform.

    Raises:
        InputError: wrong shape, a value that is not finite, a last row other than 0 0 0 1, a rotation part
            that is not orthonormal within `tolerance`, or a reflection.
    """
    try:
        result = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array of numbers; give a 4x4 matrix.") from None
    if result.shape != (4, 4):
        raise InputError(f"{name} has shape {result.shape}; give a 4x4 matrix.")
    # In plain numbers: a tracker sends poses by the hundred, and NumPy's calls cost more than the sums.
    (a, b, c, x), (d, e, f, y), (g, h, i, z), (p, q, r, w) = result.tolist()
    if not math.isfinite(a + b + c + d + e + f + g + h + i + x + y + z + p + q + r + w):
        raise InputError(f"{name} holds values that are not finite; give a 4x4 matrix of finite numbers.")
    if max(abs(p), abs(q), abs(r), abs(w - 1.0)) > tolerance:
        raise InputError(f"{name} has last row {[p, q, r, w]}; a rigid transform ends with 0 0 0 1.")
    shear = max(
        abs(a * a + b * b + c * c - 1.0),
        abs(d * d + e * e + f * f - 1.0),
        abs(g * g + h * h + i * i - 1.0),
        abs(a * d + b * e + c * f),
        abs(a * g + b * h + c * i),
        abs(d * g + e * h + f * i),
    )
    if shear > tolerance:
        raise InputError(
            f"{name} scales or shears (its rotation part misses orthonormality by {shear:.2g}); "
            "give a rotation and a translation only."
        )
    if a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 0.0:
        raise InputError(f"{name} is a reflection (determinant -1); check the handedness of its frames.")
    return result


def check_points(points: ArrayLike, name: str = "points") -> Array:
    """Return `points` as a float64 (n, 3) array of finite numbers, or raise InputError."""
    try:
        result = np.array(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array of numbers; give one row of x, y, z per point.") from None
    if result.ndim != 2 or result.shape[1] != 3:
        raise InputError(f"{name} has shape {result.shape}; give one row of x, y, z per point.")
    if not np.isfinite(result).all():
        row = int(np.flatnonzero(~np.isfinite(result).all(axis=1))[0])
        raise InputError(f"{name} holds a value that is not finite in row {row}; remove or measure that point again.")
    return result


def compose(first: ArrayLike, *others: ArrayLike) -> Array:
    """Product of 4x4 transforms in reading order: ``compose(a_from_b, b_from_c)`` is ``a_from_c``."""
    result = np.asarray(first, dtype=np.float64)
    for other in others:
        result = result @ np.asarray(other, dtype=np.float64)
    return result


def invert(matrix: ArrayLike) -> Array:
    """Inverse of a rigid 4x4 transform (transpose, not a general inverse; exact to rounding)."""
    matrix = np.asarray(matrix, dtype=np.float64)
    result = np.eye(4)
    rotation_t = matrix[:3, :3].T
    result[:3, :3] = rotation_t
    result[:3, 3] = -rotation_t @ matrix[:3, 3]
    return result


def apply_to_points(matrix: ArrayLike, points: ArrayLike) -> Array:
    """Map points (..., 3) from the source frame into the target frame."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def apply_to_vectors(matrix: ArrayLike, vectors: ArrayLike) -> Array:
    """Map directions or displacements (..., 3): rotated, not translated."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.asarray(vectors, dtype=np.float64) @ matrix[:3, :3].T


def skew(vectors: ArrayLike) -> Array:
    """Cross-product matrices (..., 3, 3) of vectors (..., 3): ``skew(a) @ b == cross(a, b)``."""
    v = np.asarray(vectors, dtype=np.float64)
    result = np.zeros((*v.shape[:-1], 3, 3))
    result[..., 0, 1], result[..., 0, 2] = -v[..., 2], v[..., 1]
    result[..., 1, 0], result[..., 1, 2] = v[..., 2], -v[..., 0]
    result[..., 2, 0], result[..., 2, 1] = -v[..., 1], v[..., 0]
    return result


def adjoint(matrix: ArrayLike) -> Array:
    """The 6x6 Ad(T) with ``T exp(xi) = exp(Ad(T) xi) T`` for xi = (rotation, translation).

    Transports a small error written in T's source frame into its target frame; a covariance S becomes Ad S
    Ad^T.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    rotation = matrix[:3, :3]
    x, y, z = matrix[:3, 3].tolist()
    result = np.zeros((6, 6))
    result[:3, :3] = rotation
    result[3:, 3:] = rotation
    result[3:, :3] = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]) @ rotation
    return result


def exponential(xi: ArrayLike) -> Array:
    """The 4x4 transform exp(xi^) of a twist xi = (rotation vector [rad], translation part [mm]).

    Rodrigues' formula and its translation counterpart (Barfoot, eqs. 7.14, 7.37); series below 1e-6 rad.
    """
    xi = np.asarray(xi, dtype=np.float64)
    cross = skew(xi[:3])
    angle = float(np.linalg.norm(xi[:3]))
    if angle < 1e-6:
        a, b, c = 1.0 - angle**2 / 6.0, 0.5 - angle**2 / 24.0, 1.0 / 6.0 - angle**2 / 120.0
    else:
        a = math.sin(angle) / angle
        b = (1.0 - math.cos(angle)) / angle**2
        c = (angle - math.sin(angle)) / angle**3
    square = cross @ cross
    result = np.eye(4)
    result[:3, :3] += a * cross + b * square
    result[:3, 3] = (np.eye(3) + b * cross + c * square) @ xi[3:]
    return result


def turned_about(center: Array, turn: Array, shift: Array) -> Array:
    """The (4, 4) transform that turns by a rotation vector (3,) about a center (3,) and then shifts by (3,)."""
    result = exponential(np.concatenate([turn, np.zeros(3)]))
    result[:3, 3] = center - result[:3, :3] @ center + shift
    return result


def rotation_angle(matrix: ArrayLike) -> float:
    """Angle in radians, 0 to pi, of the rotation part of a 3x3 or 4x4 matrix (accurate near 0 and near
    pi)."""
    w, x, y, z = quaternion_from_matrix(matrix)
    return 2.0 * math.atan2(math.sqrt(x * x + y * y + z * z), abs(w))


def quaternion_from_matrix(matrix: ArrayLike) -> Array:
    """Unit quaternion (w, x, y, z), w >= 0, of the rotation part of a 3x3 or 4x4 matrix.

    The branch with the largest component is taken (Shepperd 1978), so no rotation loses accuracy.
    """
    m = np.asarray(matrix, dtype=np.float64)[:3, :3]
    trace = float(m[0, 0] + m[1, 1] + m[2, 2])
    # Four times the squares of w, x, y, z; the largest is the safe one to divide by.
    squares = (1.0 + trace, *(1.0 + 2.0 * float(m[i, i]) - trace for i in range(3)))
    largest = max(range(4), key=squares.__getitem__)
    if largest == 0:
        q = np.array([squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    elif largest == 1:
        q = np.array([m[2, 1] - m[1, 2], squares[1], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]])
    elif largest == 2:
        q = np.array([m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], squares[2], m[1, 2] + m[2, 1]])
    else:
        q = np.array([m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[3]])
    q /= np.linalg.norm(q)
    return -q if q[0] < 0.0 else q


def matrix_from_quaternion(quaternion: Sequence[float] | Array, translation: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """The 4x4 transform of a quaternion (w, x, y, z) and a translation in mm.

    A quaternion within 1 % of unit length is normalized (devices send rounded ones).

    Raises:
        InputError: a quaternion of another length, or values that are not finite; four zeros, which some
            trackers send for a tool they do not see, are refused so that no identity is made up.
    """
    w, x, y, z = (float(value) for value in quaternion)
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if not abs(length - 1.0) <= 0.01:
        raise InputError(
            f"quaternion ({w:g}, {x:g}, {y:g}, {z:g}) has length {length:g}; "
            "give a unit quaternion in the order w, x, y, z."
        )
    w, x, y, z = w / length, x / length, y / length, z / length
    result = np.array(
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y), 0.0],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x), 0.0],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y), 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    result[:3, 3] = translation
    if not np.isfinite(result[:3, 3]).all():
        raise InputError("the translation of a pose is not finite; drop this pose.")
    return result


def slerp(start: Sequence[float] | Array, end: Sequence[float] | Array, fraction: float) -> Array:
    """Quaternion at `fraction` (0 to 1) of the shorter great arc from `start` to `end` (Shoemake 1985)."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    cosine = float(a @ b)
    if cosine < 0.0:  # q and -q are the same rotation: take the shorter way round
        b, cosine = -b, -cosine
    if cosine > 1.0 - 1e-10:
        result = a + fraction * (b - a)
    else:
        angle = math.acos(min(cosine, 1.0))
        result = (math.sin((1.0 - fraction) * angle) * a + math.sin(fraction * angle) * b) / math.sin(angle)
    return result / np.linalg.norm(result)


def interpolate(start: ArrayLike, end: ArrayLike, fraction: float) -> Array:
    """Pose between two poses of one tool: rotation by `slerp`, position of the origin on a straight line.

    Raises:
        InputError: `fraction` outside 0 to 1, because extrapolating a tool invents its position.
    """
    if not 0.0 <= fraction <= 1.0:
        raise InputError(f"interpolation fraction {fraction:g} lies outside 0 to 1; poses are not extrapolated.")
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    rotation = slerp(quaternion_from_matrix(a), quaternion_from_matrix(b), fraction)
    return matrix_from_quaternion(rotation, (1.0 - fraction) * a[:3, 3] + fraction * b[:3, 3])
