"""The default filter: an ensemble carried by the model and conditioned by the deterministic square-root transform.

See `transform` for the analysis, `inflation` for the widening of the spread, `localization` for how an observation is
kept from moving what is far from it. The cost of an analysis is linear in members, in observations and in variables.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.filters import Analysis, Dynamics, Noise, Observation
from surgical_twin.assimilation.inflation import FixedInflation, Inflation, InflationRule
from surgical_twin.assimilation.localization import LocalAnalysis
from surgical_twin.assimilation.transform import Transform, rotation
from surgical_twin.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """Equally likely states at one time.

    Raises `InputError` for fewer than two members.
    """

    time: float
    """s"""
    members: Array
    """(m, n)"""
    inflation: Inflation = field(default_factory=Inflation)
    """what was learned of its spread"""
    step: int = 0
    """analyses and forecasts so far; what random numbers follow from"""

    def __post_init__(self) -> None:
        if self.members.ndim != 2 or len(self.members) < 2:
            raise InputError(f"An ensemble needs at least two members (m, n); it has the shape {self.members.shape}.")

    @classmethod
    def drawn(cls, time: float, mean: Array, covariance: Array, members: int, seed: int) -> Ensemble:
        """Draw a Gaussian prior, centered, and of exactly its covariance where members exceed variables.

        Args:
            time: s
            mean: (n,)
            covariance: (n, n), or the variances (n,).
            members: m
            seed: of the draws.
        """
        draws = independent_draws(np.random.default_rng(seed), members, len(mean))
        root = np.sqrt(covariance) if covariance.ndim == 1 else np.linalg.cholesky(covariance).T
        return cls(time, mean + (draws * root if covariance.ndim == 1 else draws @ root))

    @property
    def mean(self) -> Array:
        """(n,)"""
        return np.asarray(self.members.mean(axis=0))

    @property
    def anomalies(self) -> Array:
        """(m, n)"""
        return np.asarray(self.members - self.members.mean(axis=0))

    @property
    def covariance(self) -> Array:
        """(n, n)"""
        anomalies = self.anomalies
        return np.asarray(anomalies.T @ anomalies / (len(anomalies) - 1.0))

    @property
    def deviation(self) -> Array:
        """(n,)"""
        return np.asarray(self.members.std(axis=0, ddof=1))


@dataclass(frozen=True)
class EnsembleFilter:
    """See the module; `Filter` of an `Ensemble`."""

    dynamics: Dynamics
    noise: Noise | None = None
    inflation: InflationRule = field(default_factory=FixedInflation)
    localization: LocalAnalysis | None = None
    """None: every observation acts on every variable"""
    rotate: bool = False
    """Turn the anomalies at random after each analysis, which changes neither mean nor covariance: for small
    ensembles of strongly nonlinear models."""
    seed: int = 0

    def advance(self, belief: Ensemble, time: float) -> Ensemble:
        """Propagate every member, and add what the dynamics do not know."""
        if time <= belief.time:
            return belief
        members = self.dynamics(belief.members, belief.time, time)
        if self.noise is not None:
            generator = np.random.default_rng((self.seed, belief.step))
            members = with_noise(members, self.noise(belief.time, time), generator)
        return replace(belief, time=time, members=members, step=belief.step + 1)

    def assimilate(self, belief: Ensemble, observation: Observation) -> Analysis[Ensemble]:
        """Condition the ensemble."""
        predicted = observation.operator(belief.members)
        plain = Transform.of(predicted, observation.values, observation.variance)
        widened = self.inflation(plain, belief.inflation)
        members = belief.members
        if self.localization is None:
            used = plain if widened.before == 1.0 else replace(plain, scaled=plain.scaled * widened.before)
            members = used.apply(members, inflation=widened.before)
        else:
            members = self.localization(members, predicted, observation, widened.before)
        mean = members.mean(axis=0)
        if widened.after != 1.0 or self.rotate:
            anomalies = (members - mean) * widened.after
            if self.rotate:
                generator = np.random.default_rng((self.seed, belief.step, 1))
                anomalies = rotation(len(members), generator) @ anomalies
            members = mean + anomalies
        spread = observation.variance if observation.variance.ndim == 1 else np.diag(observation.variance)
        return Analysis(
            belief=replace(belief, members=members, inflation=widened, step=belief.step + 1),
            difference=observation.values - predicted.mean(axis=0),
            variance=predicted.var(axis=0, ddof=1) * widened.before**2 + spread,
            normalized_square=replace(plain, scaled=plain.scaled * widened.before).normalized_square,
        )


def independent_draws(generator: np.random.Generator, members: int, count: int, against: Array | None = None) -> Array:
    """(members, count) normal draws, centered; uncorrelated with each other and with ``against`` (members, k), and of
    exactly unit variance, where there are members enough."""
    draws = generator.normal(size=(members, count))
    draws -= draws.mean(axis=0)
    taken = 0 if against is None else against.shape[1]
    if members <= count + taken + 1:
        return draws
    if against is not None:
        basis, size, _ = np.linalg.svd(against - against.mean(axis=0), full_matrices=False)
        basis = basis[:, size > 1e-12 * max(size[0], 1e-300)]
        draws -= basis @ (basis.T @ draws)
    root = np.linalg.cholesky(draws.T @ draws / (members - 1.0))
    return np.asarray(np.linalg.solve(root, draws.T).T)


def with_noise(members: Array, covariance: Array, generator: np.random.Generator) -> Array:
    """Add noise of a covariance (n, n), or of variances (n,), to members (m, n).

    With m > n + k + 1 members, k of the n variables having noise, the noise is drawn so that the ensemble's
    covariance is the sum exactly. With fewer, yet more than variables, no number is drawn: the anomalies are
    multiplied by the symmetric matrix that takes their covariance P to P + Q while moving them least (the
    "left-multiplying" square root of Raanes, Carrassi & Bertino, Mon. Wea. Rev. 143 (2015) 3857-3873, in its
    symmetric form). With fewer members than variables the draws are only centered.
    """
    n = members.shape[1]
    variances = covariance if covariance.ndim == 1 else np.diag(covariance)
    noisy = np.flatnonzero(variances > 0.0)
    if n + 1 < len(members) <= n + len(noisy) + 1:
        stretched = _stretched(members, np.diag(covariance) if covariance.ndim == 1 else covariance)
        if stretched is not None:
            return stretched
    draws = independent_draws(generator, len(members), len(noisy), members)
    added = members.copy()
    if covariance.ndim == 1:
        added[:, noisy] += draws * np.sqrt(variances[noisy])
    else:
        added[:, noisy] += draws @ np.linalg.cholesky(covariance[np.ix_(noisy, noisy)]).T
    return added


def _stretched(members: Array, added: Array) -> Array | None:
    """Members (m, n) with the covariance ``added`` (n, n) put on, without draws; None where theirs is singular."""
    mean = members.mean(axis=0)
    anomalies = members - mean
    values, vectors = np.linalg.eigh(anomalies.T @ anomalies / (len(members) - 1.0))
    if not values[0] > 1e-10 * values[-1]:
        return None
    root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    inner, turned = np.linalg.eigh(root @ (root @ root + added) @ root)
    return np.asarray(mean + anomalies @ (inverse @ ((turned * np.sqrt(inner)) @ turned.T) @ inverse))
