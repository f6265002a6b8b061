"""The ensemble transform Kalman filter's analysis step: deterministic, symmetric square root.

With the ensemble's anomalies X' (members x variables), predicted observations' anomalies Y' (members x p)
and observation error variances R, the analysis of Bishop, Etherton & Majumdar (2001) in the symmetric form of
Hunt, Kostelich & Szunyogh (2007) is

    S  = R^(-1/2) Y'^T / sqrt(m - 1),   C = I + S^T S,
    mean weights w = C^(-1) S^T R^(-1/2) d / sqrt(m - 1),   transform T = C^(-1/2),

and every member becomes  mean + X'^T w + X'^T T.  No observation is perturbed, so the result holds no random
number. S has only p rows, and p is small here (one catheter, one flow probe), so C^(-1/2) and C^(-1) come
from the thin singular value decomposition of S: cost grows with m p^2, not with m^3.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Innovation:
    """What an analysis saw: observation minus prediction, against the variance expected of it."""

    difference: Array
    """(p,) observed minus the ensemble mean's prediction."""
    variance: Array
    """(p,) variance expected of it: ensemble plus observation error."""

    @property
    def normalized(self) -> Array:
        """(p,) difference in expected standard deviations; of unit variance in a consistent filter."""
        normalized: Array = self.difference / np.sqrt(self.variance)
        return normalized


def innovation(predicted: Array, observed: Array, variance: Array) -> Innovation:
    """Compare observations with an ensemble's predictions of them.

    Args:
        predicted: (members, p) each member's prediction.
        observed: (p,) what was measured.
        variance: (p,) error variance of each observation, with the prediction's own model error.
    """
    return Innovation(difference=observed - predicted.mean(axis=0), variance=predicted.var(axis=0, ddof=1) + variance)


def transform_analysis(ensemble: Array, predicted: Array, observed: Array, variance: Array) -> Array:
    """Condition an ensemble on observations.

    Args:
        ensemble: (members, variables), at least 2 members.
        predicted: (members, p) each member's prediction of the observations.
        observed: (p,) what was measured.
        variance: (p,) observation error variances, > 0, uncorrelated.

    Returns:
        (members, variables) ensemble whose mean and covariance are the Kalman analysis for the ensemble's own
        covariances. The ensemble mean of the anomalies stays zero (the transform is symmetric).
    """
    members = ensemble.shape[0]
    mean = ensemble.mean(axis=0)
    anomalies = ensemble - mean
    weight = 1.0 / np.sqrt(variance * (members - 1))
    scaled = (predicted - predicted.mean(axis=0)).T * weight[:, None]
    difference = (observed - predicted.mean(axis=0)) / np.sqrt(variance)
    left, singular, right = np.linalg.svd(scaled, full_matrices=False)
    gain = singular / (1.0 + singular**2)
    mean_weights = right.T @ (gain * (left.T @ difference)) / np.sqrt(members - 1)
    shrink = 1.0 / np.sqrt(1.0 + singular**2) - 1.0
    moved = anomalies + right.T @ (shrink[:, None] * (right @ anomalies))
    analysis: Array = mean + mean_weights @ anomalies + moved
    return analysis
