"""Filters that look back: late observations within a fixed lag, and a whole history at once.

`FixedLagSmoother` keeps the ensembles of the last seconds beside the present one. Because a transform conditions any
variables of the same members, an observation corrects those past states too (ensemble Kalman smoother, Evensen & van
Leeuwen, Mon. Wea. Rev. 128 (2000) 1852-1867), and an observation that comes late, yet within the lag, is compared with
the state of its own time and corrects the present.

`iterative_smoother` conditions parameters on all of a recorded history through a nonlinear model: Gauss-Newton in the
space of the ensemble's weights with the deterministic square root (iterative ensemble Kalman smoother, Bocquet & Sakov,
Q. J. R. Meteorol. Soc. 140 (2014) 1521-1535, transform variant). `multiple_data_assimilation` does the same in a given
number of steps, each with the observation error inflated so that the inverse inflations sum to one (ES-MDA, Emerick &
Reynolds, Comput. Geosci. 55 (2013) 3-15), with the deterministic transform in place of perturbed observations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.ensemble_filter import Ensemble, EnsembleFilter
from surgical_twin.assimilation.filters import Analysis, Observation
from surgical_twin.assimilation.transform import Transform
from surgical_twin.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """The present ensemble and those of the lag before it, oldest first."""

    present: Ensemble
    past: tuple[Ensemble, ...] = ()

    @property
    def time(self) -> float:
        """s, of the present"""
        return self.present.time

    @property
    def mean(self) -> Array:
        """(n,) of the present"""
        return self.present.mean

    @property
    def covariance(self) -> Array:
        """(n, n) of the present"""
        return self.present.covariance

    def at(self, time: float) -> Ensemble | None:
        """The newest ensemble that is not newer than ``time`` [s]; None where the window does not reach back so far."""
        found = None
        for one in (*self.past, self.present):
            if one.time <= time:
                found = one
        return found


@dataclass(frozen=True)
class FixedLagSmoother:
    """See the module; `Filter` of a `Window`. Its filter must neither localize nor widen by rule."""

    filter: EnsembleFilter
    lag: float
    """s"""

    def __post_init__(self) -> None:
        if self.filter.localization is not None or self.filter.rotate:
            raise InputError("A fixed-lag smoother's filter must neither localize nor rotate: the past would not fit.")

    def advance(self, belief: Window, time: float) -> Window:
        """Advance the present and keep what it was."""
        if time <= belief.time:
            return belief
        kept = tuple(one for one in (*belief.past, belief.present) if one.time >= time - self.lag)
        return Window(self.filter.advance(belief.present, time), kept)

    def assimilate(self, belief: Window, observation: Observation) -> Analysis[Window]:
        """Condition the present and the past on an observation of any time within the window.

        Raises:
            InputError: the observation is older than the window, or newer than the present.
        """
        origin = belief.at(observation.time)
        if origin is None or observation.time > belief.time:
            raise InputError(
                f"An observation at {observation.time:g} s is outside of the window that ends at {belief.time:g} s "
                f"and reaches back {self.lag:g} s."
            )
        then = self.filter.advance(origin, observation.time)
        analysis = self.filter.assimilate(then, observation)
        widened = analysis.belief.inflation
        comparison = Transform.of(
            observation.operator(then.members), observation.values, observation.variance, inflation=widened.before
        )

        def conditioned(one: Ensemble) -> Ensemble:
            return replace(one, members=comparison.apply(one.members, inflation=widened.before))

        past = tuple(conditioned(one) for one in belief.past)
        present = replace(conditioned(belief.present), inflation=widened, step=belief.present.step + 1)
        return Analysis(Window(present, past), analysis.difference, analysis.variance, analysis.normalized_square)


@dataclass(frozen=True)
class Smoothed:
    """What a history made of a prior ensemble."""

    members: Array
    """(m, k) equally likely parameters, given the history"""
    predicted: Array
    """(m, p) what each predicts of it"""
    iterations: int
    converged: bool
    step: float
    """Length of the last step, in posterior standard deviations."""
    log_evidence: float = 0.0
    """of this mode by Laplace's approximation: what weighs it against another mode; natural logarithm"""


def iterative_smoother(
    prior: Array,
    predict: Callable[[Array], Array],
    observed: Array,
    variance: Array,
    *,
    most_iterations: int = 12,
    tolerance: float = 0.02,
    start: int | None = None,
    watch: Callable[[float], None] | None = None,
) -> Smoothed:
    """Condition a prior ensemble on a history, by Gauss-Newton in its weights.

    Args:
        prior: (m, k) drawn from the prior; more members than parameters.
        predict: (m, k) to (m, p), the whole history as each member predicts it.
        observed: (p,)
        variance: (p,) or (p, p) of the observation error, with the model's.
        most_iterations: at most.
        tolerance: a step shorter than this, in posterior standard deviations, is the last.
        start: begin at this member, with half of the spread, and not at the prior's mean: to find another mode.
        watch: called with the share of the iterations that is done.
    """
    members = len(prior)
    mean, anomalies = prior.mean(axis=0), prior - prior.mean(axis=0)
    whiten = _whitener(variance)
    degrees = members - 1.0
    weights, spread = np.zeros(members), np.eye(members)
    if start is not None:
        weights[start], spread = 1.0, 0.5 * spread

    def ensemble() -> Array:
        return np.asarray(mean + (weights + spread) @ anomalies)

    def misfit(deviation: Array, at: Array) -> float:
        return float(deviation @ deviation + degrees * (at @ at))

    step, length, converged, iteration = 1.0, np.inf, False, 0
    predicted = predict(ensemble())
    off = whiten(observed - predicted.mean(axis=0))
    for iteration in range(1, most_iterations + 1):
        slopes = whiten(np.linalg.solve(spread, predicted - predicted.mean(axis=0)))  # as if T were one
        values, vectors = np.linalg.eigh(slopes @ slopes.T)
        values = np.maximum(values, 0.0) + degrees
        gradient = degrees * weights - slopes @ off
        change = -(vectors / values) @ (vectors.T @ gradient)
        new_spread = (vectors * np.sqrt(degrees / values)) @ vectors.T
        length = float(np.sqrt(np.sum(values * (vectors.T @ change) ** 2)))
        cost, old = misfit(off, weights), (weights, spread)
        for _ in range(6):
            weights, spread = old[0] + step * change, new_spread
            predicted = predict(ensemble())
            off = whiten(observed - predicted.mean(axis=0))
            # The mean prediction moves with the ensemble's spread as well: allow for that.
            if misfit(off, weights) <= cost + max(1.0, 1e-3 * cost):
                step = min(1.0, 2.0 * step)
                break
            step *= 0.5
        if watch is not None:
            watch(iteration / most_iterations)
        if length < tolerance:
            converged = True
            break
    evidence = -0.5 * misfit(off, weights) - 0.5 * float(np.log(values / degrees).sum())
    return Smoothed(ensemble(), predicted, iteration, converged, length, evidence)


def multiple_data_assimilation(
    prior: Array, predict: Callable[[Array], Array], observed: Array, variance: Array, *, steps: int = 4
) -> Smoothed:
    """Condition a prior ensemble on a history in several gentle steps (ES-MDA); arguments as `iterative_smoother`."""
    members = prior
    for _ in range(steps):
        members = Transform.of(predict(members), observed, variance * float(steps)).apply(members)
    return Smoothed(members, predict(members), steps, True, 0.0)


def modes(found: Sequence[Smoothed], *, negligible: float = 0.01) -> list[tuple[float, Smoothed]]:
    """The different answers among several that one history was given, with their weights, the heaviest first.

    Two answers are one where their means are within two standard deviations of each other.
    """
    kept: list[Smoothed] = []
    for one in sorted(found, key=lambda answer: -answer.log_evidence):
        mean, covariance = one.members.mean(axis=0), np.cov(one.members.T)
        apart = [mean - other.members.mean(axis=0) for other in kept]
        if all(float(off @ np.linalg.solve(covariance, off)) > 4.0 * len(mean) / 3.0 for off in apart):
            kept.append(one)
    weights = np.exp([one.log_evidence - kept[0].log_evidence for one in kept])
    weights /= weights.sum()
    return [(float(weight), one) for weight, one in zip(weights, kept, strict=True) if weight > negligible]


def mixture_moments(answers: Sequence[tuple[float, Smoothed]]) -> tuple[Array, Array]:
    """Mean (k,) and covariance (k, k) of several weighted answers together."""
    total = sum(weight for weight, _ in answers)
    means = np.array([one.members.mean(axis=0) for _, one in answers])
    shares = np.array([weight for weight, _ in answers]) / total
    mean = shares @ means
    covariance = sum(share * np.cov(one.members.T) for share, (_, one) in zip(shares, answers, strict=True))
    return mean, np.asarray(covariance + (shares * (means - mean).T) @ (means - mean))


def _whitener(variance: Array) -> Callable[[Array], Array]:
    """Takes (..., p) to uncorrelated values of unit variance."""
    if variance.ndim == 1:
        scale = 1.0 / np.sqrt(variance)
        return lambda values: np.asarray(values * scale)
    inverse = np.linalg.inv(np.linalg.cholesky(variance))
    return lambda values: np.asarray(values @ inverse.T)
