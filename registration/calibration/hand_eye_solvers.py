r"""Closed forms for A_k X = X B_k, each failing in its own way; `hand_eye` compares them.

Each takes motions A, B (m, 4, 4) and returns X (4, 4) or raises `numpy.linalg.LinAlgError`. All but Daniilidis
find the rotation first and the translation from (R_A - I) t_X = R_X t_B - t_A by least squares.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from registration.rigid import Array


def tsai(motions_a: Array, motions_b: Array) -> Array:
    """Tsai, Lenz (1989): modified Rodrigues vectors P = 2 sin(theta/2) n, skew(P_a + P_b) x = P_b - P_a."""
    a, b = (_rodrigues(m) for m in (motions_a, motions_b))
    solution = np.linalg.lstsq(_skew(a + b).reshape(-1, 3), (b - a).ravel(), rcond=None)[0]
    # The solution is tan(theta_x / 2) n_x of the rotation that turns b into a.
    return _with_translation(Rotation.from_rotvec(_from_tangent(solution)).as_matrix(), motions_a, motions_b)


def park(motions_a: Array, motions_b: Array) -> Array:
    """Park, Martin (1994): log R_A = R_X log R_B, an orthogonal Procrustes problem."""
    a, b = (Rotation.from_matrix(m[:, :3, :3]).as_rotvec() for m in (motions_a, motions_b))
    u, _, vt = np.linalg.svd(a.T @ b)
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return _with_translation(rotation, motions_a, motions_b)


def horaud(motions_a: Array, motions_b: Array) -> Array:
    """Horaud, Dornaika (1995): the unit quaternion that turns the axes of B onto those of A, an eigenvector."""
    a, b = (Rotation.from_matrix(m[:, :3, :3]).as_rotvec() for m in (motions_a, motions_b))
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    zero = np.zeros((len(a), 1))
    difference = _left(np.hstack([zero, a])) - _right(np.hstack([zero, b]))
    quaternion = np.linalg.eigh(np.einsum("nji,njk->ik", difference, difference))[1][:, 0]
    return _with_translation(Rotation.from_quat(quaternion, scalar_first=True).as_matrix(), motions_a, motions_b)


def andreff(motions_a: Array, motions_b: Array) -> Array:
    """Andreff (1999): rotation and translation together, linear in the nine entries of R_X."""
    count = len(motions_a)
    rows = np.zeros((count, 12, 12))
    eye = np.eye(3)
    scale = max(float(np.median(np.linalg.norm(motions_a[:, :3, 3], axis=1))), 1e-9)
    for k, (a, b) in enumerate(zip(motions_a, motions_b, strict=True)):
        # vec is row-major: vec(R_A R_X - R_X R_B) = (R_A x I - I x R_B^T) vec R_X.
        rows[k, :9, :9] = np.kron(a[:3, :3], eye) - np.kron(eye, b[:3, :3].T)
        rows[k, 9:, :9] = np.kron(eye, b[:3, 3][None]) / scale
        rows[k, 9:, 9:] = eye - a[:3, :3]
    right = np.zeros((count, 12))
    right[:, 9:] = motions_a[:, :3, 3] / scale
    solution = np.linalg.lstsq(rows.reshape(-1, 12), right.ravel(), rcond=None)[0]
    u, _, vt = np.linalg.svd(solution[:9].reshape(3, 3))
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return _with_translation(rotation, motions_a, motions_b)


def daniilidis(motions_a: Array, motions_b: Array) -> Array:
    """Daniilidis (1999): dual quaternions of the screws; rotation and translation at once."""
    scale = max(float(np.median(np.linalg.norm(motions_a[:, :3, 3], axis=1))), 1e-9)
    (a, a_dual), (b, b_dual) = (_dual_quaternion(m, scale) for m in (motions_a, motions_b))
    rows = np.zeros((len(a), 6, 8))
    rows[:, :3, 0], rows[:, :3, 1:4] = (a - b)[:, 1:], _skew(a[:, 1:] + b[:, 1:])
    rows[:, 3:, 0], rows[:, 3:, 1:4] = (a_dual - b_dual)[:, 1:], _skew(a_dual[:, 1:] + b_dual[:, 1:])
    rows[:, 3:, 4], rows[:, 3:, 5:] = (a - b)[:, 1:], _skew(a[:, 1:] + b[:, 1:])
    first, second = np.linalg.svd(rows.reshape(-1, 8))[2][6:]
    # q = l u1 + m u2 with |q| = 1 and q . q' = 0: a quadratic in l / m.
    quadratic = (first[:4] @ first[4:], first[:4] @ second[4:] + second[:4] @ first[4:], second[:4] @ second[4:])
    roots = np.roots(quadratic) if abs(quadratic[0]) > 1e-15 else np.array([-quadratic[2] / quadratic[1]])
    ratios = roots[np.abs(roots.imag) < 1e-9].real
    if not len(ratios):
        raise np.linalg.LinAlgError("the dual quaternion's constraint has no real root")
    sizes = ratios**2 * (first[:4] @ first[:4]) + 2.0 * ratios * (first[:4] @ second[:4]) + second[:4] @ second[:4]
    ratio = ratios[int(np.argmax(sizes))]
    dual = (ratio * first + second) / np.sqrt(sizes.max())
    real, dual = dual[:4], dual[4:]
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat(real, scalar_first=True).as_matrix()
    conjugate = real * (1.0, -1.0, -1.0, -1.0)
    result[:3, 3] = 2.0 * scale * (_left(dual[None])[0] @ conjugate)[1:]
    return result


SOLVERS: dict[str, Callable[[Array, Array], Array]] = {
    "Tsai": tsai,
    "Park": park,
    "Horaud": horaud,
    "Andreff": andreff,
    "Daniilidis": daniilidis,
}


def _with_translation(rotation: Array, motions_a: Array, motions_b: Array) -> Array:
    left = motions_a[:, :3, :3] - np.eye(3)
    right = motions_b[:, :3, 3] @ rotation.T - motions_a[:, :3, 3]
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = np.linalg.lstsq(left.reshape(-1, 3), right.ravel(), rcond=None)[0]
    return result


def _quaternions(motions: Array) -> Array:
    return Rotation.from_matrix(motions[:, :3, :3]).as_quat(scalar_first=True, canonical=True)


def _rodrigues(motions: Array) -> Array:
    return 2.0 * _quaternions(motions)[:, 1:]


def _from_tangent(vector: Array) -> Array:
    size = float(np.linalg.norm(vector))
    return vector * (2.0 * np.arctan(size) / size) if size > 1e-12 else 2.0 * vector


def _dual_quaternion(motions: Array, scale: float) -> tuple[Array, Array]:
    real = _quaternions(motions)
    translation = np.hstack([np.zeros((len(motions), 1)), motions[:, :3, 3] / scale])
    return real, 0.5 * np.einsum("nij,nj->ni", _left(translation), real)


def _skew(vectors: Array) -> Array:
    result = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    result[:, 0, 1], result[:, 0, 2], result[:, 1, 2] = -z, y, -x
    return result - np.swapaxes(result, 1, 2)


def _left(q: Array) -> Array:
    """Matrices (n, 4, 4) of p -> q p."""
    w, x, y, z = q.T
    return np.stack([w, -x, -y, -z, x, w, -z, y, y, z, w, -x, z, -y, x, w], axis=-1).reshape(-1, 4, 4)


def _right(q: Array) -> Array:
    """Matrices (n, 4, 4) of p -> p q."""
    w, x, y, z = q.T
    return np.stack([w, -x, -y, -z, x, w, z, -y, y, -z, w, x, z, y, -x, w], axis=-1).reshape(-1, 4, 4)
