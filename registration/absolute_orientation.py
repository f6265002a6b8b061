r"""Closed-form transforms of paired points: rigid, mirrored, or with one scale, weighted, many sets at once.

The rotation R, translation t (and scale s) minimizing sum_i w_i |s R x_i + t - y_i|^2 from the singular
value decomposition of the weighted 3x3 cross-covariance (Arun, Huang, Blostein 1987, with the determinant
corrected as by Umeyama 1991, whose eq. 42 also gives the scale).
"""

from __future__ import annotations

import numpy as np

from registration.rigid import Array


def fit_points(
    source: Array, target: Array, *, weights: Array | None = None, mirrored: bool = False, scaled: bool = False
) -> Array:
    """Best transforms (m, 4, 4) of m paired sets: source (m, n, 3) onto target (m, n, 3).

    Args:
        source: points in the source frame, mm.
        target: the same points in the target frame, mm.
        weights: (n,) or (m, n), not negative; all alike if not given. Pairs of weight zero do not count.
        mirrored: allow a reflection where it fits better; otherwise none is ever returned.
        scaled: allow one scale factor; the result is then a similarity, not rigid.
    """
    if weights is None:
        parts = np.full((1, source.shape[1], 1), 1.0 / source.shape[1])
    else:
        parts = np.atleast_2d(weights)[..., None]
        parts = parts / parts.sum(axis=1, keepdims=True)
    source_center = np.sum(parts * source, axis=1, keepdims=True)
    target_center = np.sum(parts * target, axis=1, keepdims=True)
    from_source, from_target = source - source_center, target - target_center
    u, singular, vt = np.linalg.svd(np.swapaxes(parts * from_source, 1, 2) @ from_target)
    if not mirrored:
        # Arun's case of determinant -1: flip the direction of least variance, so that no reflection is
        # returned.
        sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
        u[:, :, 2] *= sign[:, None]
        singular[:, 2] *= sign
    rotation = np.swapaxes(u @ vt, 1, 2)
    if scaled:
        spread = np.sum(parts * from_source**2, axis=(1, 2))
        rotation = rotation * (singular.sum(axis=1) / spread)[:, None, None]
    result = np.zeros((len(source), 4, 4))
    result[:, :3, :3] = rotation
    result[:, :3, 3] = (target_center - source_center @ np.swapaxes(rotation, 1, 2))[:, 0]
    result[:, 3, 3] = 1.0
    return result


def residuals_of(fits: Array, source: Array, target: Array) -> Array:
    """Distances (m, n) in mm that m transforms (m, 4, 4) leave between paired points (m or 1, n, 3)."""
    mapped = source @ np.swapaxes(fits[:, :3, :3], 1, 2) + fits[:, None, :3, 3]
    return np.linalg.norm(mapped - target, axis=2)


def fre_of(
    source: Array, target: Array, *, weights: Array | None = None, mirrored: bool = False, scaled: bool = False
) -> Array:
    """RMS residual (m,) of the best fit of each of m paired sets (m, n, 3); weighted, as the fit, where
    weights are given."""
    fits = fit_points(source, target, weights=weights, mirrored=mirrored, scaled=scaled)
    squares = residuals_of(fits, source, target) ** 2
    if weights is None:
        return np.sqrt(np.mean(squares, axis=1))
    return np.sqrt(np.sum(weights * squares, axis=1) / np.sum(weights, axis=-1))
