"""The ensemble transform Kalman filter's analysis step: deterministic, symmetric square root.

With the ensemble's anomalies X' (members x variables), predicted observations' anomalies Y' (members x p)
and observation error covariance R, the analysis of Bishop, Etherton & Majumdar (2001) in the symmetric form of
Hunt, Kostelich & Szunyogh (2007) is

    S  = R^(-1/2) Y'^T / sqrt(m - 1),   C = I + S^T S,
    mean weights w = C^(-1) S^T R^(-1/2) d / sqrt(m - 1),   transform T = C^(-1/2),

and every member becomes  mean + X'^T w + X'^T T.  No observation is perturbed, so the result holds no random
number. With G = S S^T = V L V^T (p x p) both are

    w = S^T (I + G)^(-1) R^(-1/2) d / sqrt(m - 1),   T = I - S^T V [r (1 + r)]^(-1) V^T S,   r = (1 + L)^(1/2),

which holds no difference of large numbers and costs m p^2: p is small (a few sensors). Where there are more
observations than members the same is done with S^T S (m x m), at a cost of p m^2. So the cost is linear in whichever
is larger, and linear in the variables.

The transform is a property of the observations alone: what was computed once conditions any ensemble of the same
members, be it a part of the state or the state of an earlier time (`smoother`).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.transform_kernel import MOST_OBSERVATIONS, analyse

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Transform:
    """What observations do to an ensemble: ``apply`` it to any variables of the same members."""

    scaled: Array
    """(p, m) S: the predictions' anomalies in standard deviations of the observation error over sqrt(m - 1)"""
    difference: Array
    """(p,) observed minus mean prediction, in the same standard deviations and uncorrelated"""

    @classmethod
    def of(cls, predicted: Array, observed: Array, variance: Array, *, inflation: float = 1.0) -> "Transform":
        """Compare.

        Args:
            predicted: (members, p) each member's prediction of the observations, at least 2 members.
            observed: (p,) what was measured.
            variance: (p,) observation error variances, > 0, uncorrelated; or their covariance (p, p).
            inflation: factor on the ensemble's anomalies before the analysis.
        """
        mean = predicted.mean(axis=0)
        anomalies = (predicted - mean).T * (inflation / np.sqrt(len(predicted) - 1.0))
        if variance.ndim == 1:
            weight = 1.0 / np.sqrt(variance)
            return cls(anomalies * weight[:, None], (observed - mean) * weight)
        root = np.linalg.cholesky(variance)
        both = np.linalg.solve(root, np.column_stack([anomalies, observed - mean]))
        return cls(both[:, :-1], both[:, -1])

    @cached_property
    def _spectrum(self) -> tuple[Array, Array, bool]:
        """Eigenvalues L, eigenvectors V, and whether they are those of G (else of S^T S)."""
        p, members = self.scaled.shape
        small = p <= members
        gram = self.scaled @ self.scaled.T if small else self.scaled.T @ self.scaled
        if len(gram) == 1:
            return gram[0], np.ones((1, 1)), small
        values, vectors = np.linalg.eigh(gram)
        return np.maximum(values, 0.0), vectors, small

    @cached_property
    def mean_weights(self) -> Array:
        """(m,) w: the analysis mean is the mean plus X'^T w."""
        values, vectors, small = self._spectrum
        seen = self.difference if small else self.difference @ self.scaled
        solved = vectors @ ((vectors.T @ seen) / (1.0 + values))
        weights: Array = (solved @ self.scaled if small else solved) / np.sqrt(self.scaled.shape[1] - 1.0)
        return weights

    @property
    def normalized_square(self) -> float:
        """d' (Y' Y'^T / (m - 1) + R)^(-1) d, the normalized innovation squared (NIS): on average p where the ensemble
        is right (Bar-Shalom, Li & Kirubarajan, Estimation with Applications to Tracking and Navigation, 5.4)."""
        values, vectors, small = self._spectrum
        if small:
            return float(((vectors.T @ self.difference) ** 2 / (1.0 + values)).sum())
        within = vectors.T @ (self.difference @ self.scaled)
        return float(self.difference @ self.difference - (within**2 / (1.0 + values)).sum())

    @property
    def signal(self) -> float:
        """tr(S^T S): the predictions' variance over the observation error's, summed over the observations."""
        return float(self._spectrum[0].sum())

    def apply(self, ensemble: Array, *, inflation: float = 1.0) -> Array:
        """Condition an ensemble.

        Args:
            ensemble: (m, variables) of the same members that made the predictions.
            inflation: factor on its anomalies before the analysis; the same as in `of`.
        """
        mean = ensemble.mean(axis=0)
        anomalies = ensemble - mean
        if inflation != 1.0:
            anomalies *= inflation
        values, vectors, small = self._spectrum
        root = np.sqrt(1.0 + values)
        basis = vectors.T @ self.scaled if small else vectors.T
        shrink = 1.0 / (root * (1.0 + root)) if small else values / (root * (1.0 + root))
        moved = anomalies - basis.T @ (shrink[:, None] * (basis @ anomalies))
        analysis: Array = mean + self.mean_weights @ anomalies + moved
        return analysis


def transform_analysis(ensemble: Array, predicted: Array, observed: Array, variance: Array) -> Array:
    """Condition an ensemble on observations.

    Args:
        ensemble: (members, variables), at least 2 members.
        predicted: (members, p) each member's prediction of the observations.
        observed: (p,) what was measured.
        variance: (p,) observation error variances, > 0, uncorrelated; or their covariance (p, p).

    Returns:
        (members, variables) ensemble whose mean and covariance are the Kalman analysis for the ensemble's own
        covariances. The ensemble mean of the anomalies stays zero (the transform is symmetric).
    """
    if variance.ndim == 1 and len(variance) <= MOST_OBSERVATIONS and len(variance) < len(ensemble):
        conditioned: Array = analyse(np.ascontiguousarray(ensemble), predicted, observed, variance)
        return conditioned
    return Transform.of(predicted, observed, variance).apply(ensemble)


def rotation(members: int, generator: np.random.Generator) -> Array:
    """(m, m) a random orthogonal matrix that leaves the vector of ones as it is.

    Applied to anomalies it changes neither their mean nor their covariance, and undoes the outliers that a long chain
    of symmetric transforms of a nonlinear model can leave (Sakov & Oke, Mon. Wea. Rev. 136 (2008) 1042-1053).
    """
    within, triangle = np.linalg.qr(generator.normal(size=(members - 1, members - 1)))
    within *= np.sign(np.diag(triangle))  # uniform over all rotations (Mezzadri 2007)
    axis = np.full(members, 1.0 / np.sqrt(members))
    axis[0] -= 1.0  # the reflection that takes the first unit vector to the direction of ones
    reflection = np.eye(members) - 2.0 * np.outer(axis, axis) / (axis @ axis)
    turned: Array = reflection[:, 1:] @ within @ reflection[:, 1:].T + 1.0 / members
    return turned
