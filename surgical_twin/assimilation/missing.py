r"""What a missing measurement says, where whether it is there depends on what it would have been.

A measurement that is lost at random says nothing, and a filter that goes on without it is right. One that is missing
*because* of its value - a transducer whose range ends, a cuff that fails in hypotension, a sample that is taken only
when a pressure is alarming - says something by being missing, and a filter that ignores that is biased (missing not at
random; Rubin, Biometrika 63, 1976). With the share s(y) of measurements of value y that go missing, a missing one is an
observation with the likelihood

    L(x) = integral of s(y) N(y; h(x), R) dy.

Here s is ``usual`` within limits and ``beyond`` outside of them, so that L is a sum of normal distribution functions.
The ensemble's prediction h(x), of mean m and variance P, is taken as normal; the mean and variance of the product of it
with L follow in closed form from the truncated normal's (Tobin, Econometrica 26, 1958), and the ensemble is moved there
by its regression on the prediction, as by an observation. A value that is missing near a limit may make the variance
larger; the ensemble then keeps its spread, and its mean moves. What a sensor loses, and why, the case tells
(``surgical_twin.missing_settings``); where it does not, the live session takes what is missing as missing at random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Missingness:
    """Which share of measurements goes missing, by their value."""

    lowest: float = -math.inf
    highest: float = math.inf
    beyond: float = 1.0
    """share of those below ``lowest`` or above ``highest``"""
    usual: float = 0.05
    """share of all others"""

    @property
    def at_random(self) -> bool:
        """Whether the share is the same for all values: a missing one then says nothing."""
        return self.beyond == self.usual or (math.isinf(self.lowest) and math.isinf(self.highest))


def missing_moments(mean: float, variance: float, noise: float, missingness: Missingness) -> tuple[float, float, float]:
    """Mean and variance of a prediction once its measurement is known to be missing, and the probability of that.

    Args:
        mean: of the prediction, which is normal.
        variance: of the prediction.
        noise: variance of the measurement's error.
        missingness: what goes missing.
    """
    total = math.sqrt(variance + noise)
    low, high = (missingness.lowest - mean) / total, (missingness.highest - mean) / total
    # Of the standardized measurement z: probability, mean and second moment of what goes missing, relative to all.
    excess = missingness.beyond - missingness.usual
    below, above = _cumulative(low), _cumulative(-high)
    probability = missingness.usual + excess * (below + above)
    if probability < LEAST_PROBABILITY:
        return mean, variance, probability
    first = excess * (_density(high) - _density(low)) / probability
    second = 1.0 + excess * (_moment(high) - _moment(low)) / probability
    # The prediction given the measurement is linear in it, with what the measurement leaves open added.
    gain = variance / total
    spread = variance - gain**2
    return mean + gain * first, spread + gain**2 * max(second - first**2, 0.0), probability


def _density(z: float) -> float:
    return 0.0 if math.isinf(z) else math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def _cumulative(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _moment(z: float) -> float:
    """z times the density at z: the integral of (y^2 - 1) times the density over all y above z."""
    return 0.0 if math.isinf(z) else z * _density(z)


def missing_analysis(ensemble: Array, predicted: Array, noise: float, missingness: Missingness) -> Array:
    """Condition an ensemble on a measurement that is missing.

    Args:
        ensemble: (members, variables).
        predicted: (members,) each member's prediction of it.
        noise: variance of its error, > 0.
        missingness: what goes missing.

    Returns:
        (members, variables) the ensemble after it.
    """
    if missingness.at_random:
        return ensemble
    mean, variance = float(predicted.mean()), float(predicted.var(ddof=1))
    if variance < 1e-300:
        return ensemble
    moved, left, _ = missing_moments(mean, variance, noise, missingness)
    away = predicted - mean
    anomalies = ensemble - ensemble.mean(axis=0)
    slope = away @ anomalies / (away @ away)
    # Every variable follows the prediction by its regression on it: its mean moves, its part along it shrinks.
    shrink = math.sqrt(min(left / variance, 1.0)) - 1.0
    conditioned: Array = ensemble + (moved - mean + shrink * away)[:, None] * slope
    return conditioned
