"""The unscented Kalman filter: a Gaussian belief, carried by 2 n + 1 points that are chosen and not drawn.

Points at the mean and at plus and minus the columns of (n + lambda)^(1/2) chol(P), lambda = alpha^2 (n + kappa) - n,
with the weights of Wan & van der Merwe (2000, eq. 15) after Julier & Uhlmann (Proc. IEEE 92 (2004) 401-422). Means
are exact to third order. For few variables whose covariance is to be known exactly; its cost goes with n^3, where an
ensemble's is linear. The defaults keep all weights positive for any n up to the spread of the points: alpha = 1,
kappa = 0 is the cubature rule (Arasaratnam & Haykin 2009) with the mean's point added for the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.filters import Analysis, Dynamics, Noise, Observation
from surgical_twin.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean (n,) and covariance (n, n) at one time [s]."""

    time: float
    mean: Array
    covariance: Array

    @property
    def deviation(self) -> Array:
        """(n,)"""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


@dataclass(frozen=True)
class UnscentedFilter:
    """See the module; `Filter` of a `Gaussian`."""

    dynamics: Dynamics
    noise: Noise | None = None
    alpha: float = 1.0
    beta: float = 0.0
    kappa: float = 0.0

    def points(self, mean: Array, covariance: Array) -> tuple[Array, Array, Array]:
        """(2 n + 1, n) points, and their weights for the mean and for the covariance.

        Raises:
            InputError: the covariance is no covariance any more.
        """
        n = len(mean)
        spread = self.alpha**2 * (n + self.kappa)
        root = np.sqrt(spread) * _root(covariance)
        points = np.vstack([mean, mean + root.T, mean - root.T])
        weights = np.full(2 * n + 1, 0.5 / spread)
        weights[0] = 1.0 - n / spread
        second = weights.copy()
        second[0] += 1.0 - self.alpha**2 + self.beta
        return points, weights, second

    def advance(self, belief: Gaussian, time: float) -> Gaussian:
        """Propagate the points, add the noise."""
        if time <= belief.time:
            return belief
        points, weights, second = self.points(belief.mean, belief.covariance)
        moved = self.dynamics(points, belief.time, time)
        mean = weights @ moved
        off = moved - mean
        covariance = (off.T * second) @ off
        if self.noise is not None:
            added = self.noise(belief.time, time)
            covariance = covariance + (np.diag(added) if added.ndim == 1 else added)
        return Gaussian(time, mean, _symmetric(covariance))

    def assimilate(self, belief: Gaussian, observation: Observation) -> Analysis[Gaussian]:
        """Condition the belief."""
        points, weights, second = self.points(belief.mean, belief.covariance)
        seen = observation.operator(points)
        expected = weights @ seen
        off = seen - expected
        error = np.diag(observation.variance) if observation.variance.ndim == 1 else observation.variance
        total = (off.T * second) @ off + error
        cross = ((points - belief.mean).T * second) @ off
        root = np.linalg.cholesky(_symmetric(total))
        scaled_cross = np.linalg.solve(root, cross.T)
        difference = observation.values - expected
        scaled = np.linalg.solve(root, difference)
        mean = belief.mean + scaled @ scaled_cross
        covariance = _symmetric(belief.covariance - scaled_cross.T @ scaled_cross)
        return Analysis(
            belief=Gaussian(belief.time, mean, covariance),
            difference=difference,
            variance=np.diag(total).copy(),
            normalized_square=float(scaled @ scaled),
        )


def _symmetric(matrix: Array) -> Array:
    return np.asarray(0.5 * (matrix + matrix.T))


def _root(covariance: Array) -> Array:
    """A matrix square root of what should be positive definite, and may have lost that by rounding only."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        if not np.isfinite(values).all() or values[0] < -1e-6 * abs(values[-1]):
            raise InputError(
                "The filter's covariance has a negative variance: the model has diverged; widen the noise or shorten "
                "the steps."
            ) from None
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
