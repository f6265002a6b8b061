r"""The error of a transform, kept about the point where it is smallest, and what it means elsewhere.

A registration's error is a small rotation omega and translation tau about a center c,

    delta y(r) = omega x (r - c) + tau,     cov(r) = J_r S J_r^T,     J_r = [-(r - c)^, I],

with S the 6x6 covariance of (omega, tau). The trace of cov(r) is the expected squared target registration
error (TRE) at r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from registration.rigid import Array, skew


def displacement_jacobian(offsets: Array) -> Array:
    """The (..., 3, 6) matrices [-d^, I] that turn (omega, tau) into displacements at offsets d (..., 3)."""
    jacobian = np.zeros((*offsets.shape[:-1], 3, 6))
    jacobian[..., :3] = -skew(offsets)
    jacobian[..., 3:] = np.eye(3)
    return jacobian


def about_point(covariance: Array, center: Array, point: Array) -> Array:
    """A covariance (6, 6) of (omega, tau) about `center` (3,), written about another point (3,)."""
    # omega x (y - c) + tau = omega x (y - p) + (tau + (c - p) x omega)
    shift = np.eye(6)
    shift[3:, :3] = skew(center - point)
    return np.asarray(shift @ covariance @ shift.T)


def radius_95(covariance: Array, freedom: int | None = None) -> float:
    """Radius in mm of the sphere that holds 95 % of a 3D normal error (Grubbs-Patnaik), with `freedom` for an
    estimated covariance."""
    values = np.linalg.eigvalsh(covariance).clip(0.0)
    first, second = float(values.sum()), float(np.sum(values**2))
    if first <= 0.0:
        return 0.0
    dof = first**2 / second
    scale = second / first
    widening = 1.0 if freedom is None else stats.f.ppf(0.95, dof, max(1, freedom)) * dof / stats.chi2.ppf(0.95, dof)
    return float(math.sqrt(scale * stats.chi2.ppf(0.95, dof) * widening))


@dataclass(frozen=True)
class PoseError:
    """Error of a ``target_from_source``, written in the target frame.

    Attributes:
        covariance: (6, 6) of (omega [rad], tau [mm]) about `center`.
        center: (3,) in mm.
    """

    covariance: Array
    center: Array

    def point_covariance(self, points: ArrayLike) -> Array:
        """Covariance (n, 3, 3) in mm^2 of the error at points (n, 3) of the target frame; (3,) gives
        (3, 3)."""
        jacobian = displacement_jacobian(np.asarray(points, dtype=np.float64) - self.center)
        return jacobian @ self.covariance @ np.swapaxes(jacobian, -1, -2)

    def mean_square(self, point: Array) -> float:
        """Expected squared error in mm^2 at one point (3,): the trace of its `point_covariance`, at little cost.

        With D = d^ of the offset d: tr([-D, I] C [-D, I]^T) = |d|^2 tr A - d^T A d - 2 tr(D B) + tr T, where A, B and T
        are the blocks of C: rotation, rotation with translation, translation.
        """
        d = point - self.center
        c = self.covariance
        x, y, z = d.tolist()
        turned = (x * x + y * y + z * z) * (c[0, 0] + c[1, 1] + c[2, 2]) - d @ c[:3, :3] @ d
        mixed = x * (c[1, 5] - c[2, 4]) + y * (c[2, 3] - c[0, 5]) + z * (c[0, 4] - c[1, 3])
        return float(turned - 2.0 * mixed + c[3, 3] + c[4, 4] + c[5, 5])

    def tre(self, points: ArrayLike) -> Array:
        """Expected RMS target registration error in mm at points (n, 3) of the target frame; (3,) gives one
        number."""
        return np.sqrt(np.trace(self.point_covariance(points), axis1=-2, axis2=-1))

    def error_95(self, point: ArrayLike) -> float:
        """Radius in mm of the sphere that holds the error at a point (3,) of the target frame in 95 % of cases."""
        return radius_95(self.point_covariance(np.asarray(point, dtype=np.float64).reshape(3)))

    @property
    def pose_covariance(self) -> Array:
        """(6, 6) of the left perturbation about the target frame's origin: what `FrameGraph.set` takes."""
        return about_point(self.covariance, self.center, np.zeros(3))

    def about(self, point: Array) -> PoseError:
        """The same error, written about another point (3,)."""
        return PoseError(about_point(self.covariance, self.center, point), point)
