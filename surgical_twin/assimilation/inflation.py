"""By how much an ensemble's spread has to be widened, learned from the innovations.

A finite ensemble underestimates its errors (Furrer & Bengtsson 2007), and a model that is wrong makes errors which no
ensemble run with it shows. Unwidened, the spread shrinks until observations count for nothing. Three remedies:

`FixedInflation` multiplies the anomalies by a number that was tuned.

`FiniteSizeInflation` needs no tuning: it is the finite-size filter (EnKF-N) of Bocquet (Nonlin. Processes Geophys. 18
(2011) 735-750) in the dual form of Bocquet & Sakov (2012) and Raanes, Bocquet & Carrassi (Q. J. R. Meteorol. Soc. 145
(2019) 53-75): with the unknown true mean and covariance integrated out, the factor l on the anomalies minimizes

    J(l) = d' (l^2 Y'^T Y' / (m - 1) + R)^(-1) d + (m - 1) (m + 1) / (m l^2) + m log l^2.

It mends sampling error only, so it stays near 1 where the model is right.

`AdaptiveInflation` follows the factor that the innovations ask for: their mean square is beta tr(S S^T) + p
(Desroziers et al. 2005; Wang & Bishop 2003), which gives an estimate of beta from each analysis with the variance (2
/ p) ((beta t + p) / t)^2, t = tr(S S^T); it is blended with what was believed before, as a scalar Kalman filter would
(Miyoshi, Mon. Wea. Rev. 139 (2011) 1519-1535). It mends model error as well, with a memory of some tens of analyses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from surgical_twin.assimilation.transform import Transform

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Inflation:
    """Factors on the anomalies, and what is remembered for the next time."""

    before: float = 1.0
    """of the prior ensemble, before the analysis"""
    after: float = 1.0
    """of the analysis ensemble"""
    variance_factor: float = 1.0
    """what the prior variance is believed to be too small by"""
    variance: float = 0.0
    """of that belief"""


class InflationRule(Protocol):
    """How widening is chosen."""

    def __call__(self, comparison: Transform, last: Inflation, /) -> Inflation:
        """From the comparison of the prior ensemble, not widened, with the observations, and the last answer."""


@dataclass(frozen=True)
class FixedInflation:
    """The same factor on the analysis anomalies each time."""

    factor: float = 1.0

    def __call__(self, comparison: Transform, last: Inflation) -> Inflation:
        """The factor, whatever was observed."""
        return Inflation(after=self.factor)


@dataclass(frozen=True)
class FiniteSizeInflation:
    """EnKF-N in its dual form; see the module."""

    certainty: float = 1.0
    """How much more is known of the true covariance than a random sample of this size tells: 1 after a chaotic
    forecast, above 1 where the ensemble is propagated nearly linearly."""

    def __call__(self, comparison: Transform, last: Inflation) -> Inflation:
        """The minimizer of the dual cost, sought over factors of 0.37 to 7.4."""
        members = comparison.scaled.shape[1]
        values, vectors = np.linalg.eigh(comparison.scaled @ comparison.scaled.T)
        spread = np.maximum(values, 0.0)
        squares = (vectors.T @ comparison.difference) ** 2
        mean_term, log_term = (members + 1.0) / members, members / (members - 1.0)
        # Where observations say little, their prior's mode must be no widening (Bocquet, Raanes & Hannart 2015, eq.
        # 36): I - KH averaged over the ensemble's directions, of which only those that are observed are below 1.
        kept = 1.0 - float((spread / (1.0 + spread)).sum()) / members
        correction = np.sqrt((mean_term / log_term) ** kept)
        weight = self.certainty * (members - 1.0)
        mean_term, log_term = weight * mean_term / correction, weight * log_term * correction

        def cost(log_square: float) -> float:
            square = np.exp(log_square)
            return float((squares / (1.0 + square * spread)).sum() + mean_term / square + log_term * log_square)

        found = minimize_scalar(cost, bounds=(-2.0, 4.0), method="bounded", options={"xatol": 1e-4})
        return Inflation(before=float(np.exp(0.5 * found.x)))


@dataclass(frozen=True)
class AdaptiveInflation:
    """The innovations' own factor, followed through time; see the module."""

    prior_variance: float = 0.04**2
    """Of the factor on the variance, where no other was believed before; small remembers long."""
    growth: float = 1.03
    """Factor on its variance from one analysis to the next."""
    lower: float = 0.9
    upper: float = 4.0
    """Bounds of the factor on the variance."""

    def __call__(self, comparison: Transform, last: Inflation) -> Inflation:
        """Blend this analysis's estimate with the last one's."""
        p = len(comparison.difference)
        signal = comparison.signal
        believed, variance = last.variance_factor, max(last.variance * self.growth, self.prior_variance)
        if signal > 1e-9:
            estimate = (float(comparison.difference @ comparison.difference) - p) / signal
            doubt = (2.0 / p) * ((believed * signal + p) / signal) ** 2
            gain = variance / (variance + doubt)
            believed, variance = believed + gain * (estimate - believed), (1.0 - gain) * variance
        believed = float(np.clip(believed, self.lower, self.upper))
        return Inflation(before=float(np.sqrt(believed)), variance_factor=believed, variance=variance)
