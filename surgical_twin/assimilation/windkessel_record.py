"""A Windkessel followed from recorded pressure and flow at its entrance, with the model's own error in time.

    P = Pc + Z Q + b + noise,      C dPc/dt = Q - Pc / R

A real artery is no Windkessel: waves travel and return, and least squares leaves 4 mmHg that last a tenth of a second
and come again with every beat. A filter that takes this for white noise counts each sample as new evidence: it is far
too sure, and its parameters go wherever the model's error draws them (a compliance a third too large). Here the
model's error b is a state of its own: a stationary process with the Matérn covariance of order 3/2,

    cov(b(s), b(t)) = sigma^2 (1 + a |s - t|) exp(-a |s - t|),    a = 3^(1/2) / tau,

as a stochastic differential equation of order two (Hartikainen & Särkkä 2010), whose drive is stronger while the flow
changes fast, by 1 + g |dQ/dt| / rms(dQ/dt), for then waves are strongest. sigma, tau, g and the white noise maximize
the likelihood of the innovations of other records (`fit_model_error`). One factor on all variances is learned as the
record goes on, from the innovations so far (variance learning of West & Harrison, Bayesian Forecasting and Dynamic
Models, 4.5): no two records are equally unlike a Windkessel. The logarithms of R, C and Z wander a little, as
breathing and vessel tone make them.

Units are those of the clinic: mmHg, L/min, s; R and Z in mmHg min/L, C in L/mmHg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from surgical_twin.assimilation.filters import Observation, follow
from surgical_twin.assimilation.unscented import Gaussian, UnscentedFilter
from surgical_twin.errors import InputError

Array = NDArray[np.float64]

RESISTANCE, COMPLIANCE, IMPEDANCE, CAPACITOR, ERROR, ERROR_RATE = range(6)
SECONDS_PER_MINUTE = 60.0
SCALE_PRIOR = 40.0
"""Samples that the given size of the errors counts for when a record's own innovations teach another."""
_SIGMAS = 1.959963984540054


@dataclass(frozen=True)
class WindkesselRecord:
    """Simultaneous samples.

    Raises `InputError` for fewer than 20, times that do not increase, or values that are not finite.
    """

    time_s: Array
    """(n,)"""
    pressure_mmhg: Array
    """(n,)"""
    flow_l_min: Array
    """(n,) into the Windkessel"""

    def __post_init__(self) -> None:
        shape = self.time_s.shape
        if len(shape) != 1 or shape[0] < 20 or {self.pressure_mmhg.shape, self.flow_l_min.shape} != {shape}:
            raise InputError("A record needs at least 20 samples, as many of pressure and of flow as of time.")
        if not all(np.isfinite(one).all() for one in (self.time_s, self.pressure_mmhg, self.flow_l_min)):
            raise InputError("A record's values must be finite; leave out what was not measured.")
        if not (np.diff(self.time_s) > 0.0).all():
            raise InputError("A record's times must increase.")


@dataclass(frozen=True)
class ModelError:
    """How wrong the Windkessel is, in time."""

    deviation_mmhg: float = 3.0
    correlation_s: float = 0.1
    flow_gain: float = 1.0
    """g: how much stronger it is driven where the flow's rate of change is of its root mean square"""
    noise_mmhg: float = 0.1
    """of the transducer, white"""
    wander: float = 0.02
    """s^(-1/2): random walk of the logarithms of R, C and Z"""

    @property
    def logarithms(self) -> Array:
        """(4,) what is fitted."""
        return np.log([self.deviation_mmhg, self.correlation_s, self.flow_gain, self.noise_mmhg])

    @classmethod
    def of(cls, logarithms: Array, wander: float) -> ModelError:
        """From `logarithms`."""
        deviation, correlation, gain, noise = (float(value) for value in np.exp(logarithms))
        return cls(deviation, correlation, gain, noise, wander)


@dataclass(frozen=True)
class WindkesselPrior:
    """Typical values and their relative deviation, wide enough for any large animal's or human's aorta."""

    resistance: float = 100.0
    compliance: float = 1.0e-3
    impedance: float = 5.0
    deviation: float = 1.0
    """of the logarithms"""


@dataclass(frozen=True)
class Followed:
    """A record followed to its end."""

    belief: Gaussian
    """log R, log C, log Z, Pc [mmHg], b [mmHg], db/dt"""
    normalized: Array
    """(n,) innovations in the standard deviations expected of them from what came before"""
    log_likelihood: float
    """of all innovations by the given errors, natural logarithm, without constants"""
    scale: float
    """factor on all variances that the record's own innovations taught"""

    @property
    def mean_nis(self) -> float:
        """Normalized innovation squared, averaged: 1 where the filter knows its own error."""
        return float(np.mean(self.normalized**2))

    @property
    def nis_bounds(self) -> tuple[float, float]:
        """95 % bounds of `mean_nis` for independent normal innovations."""
        from scipy.stats import chi2

        n = len(self.normalized)
        low, high = chi2.ppf([0.025, 0.975], n) / n
        return float(low), float(high)

    def interval(self, parameter: int) -> tuple[float, float, float]:
        """Lower end, median, upper end of the 95 % interval of R, C or Z (`RESISTANCE`, ...)."""
        mean, deviation = self.belief.mean[parameter], self.belief.deviation[parameter]
        lower, middle, upper = (float(np.exp(mean + side * deviation)) for side in (-_SIGMAS, 0.0, _SIGMAS))
        return lower, middle, upper


def follow_windkessel(
    record: WindkesselRecord, error: ModelError, prior: WindkesselPrior | None = None, *, every: int = 1
) -> Followed:
    """Run the unscented filter over a record.

    Args:
        record: what was measured; times need not be even.
        error: of the model.
        prior: of R, C and Z.
        every: uses each ``every``-th pressure sample.
    """
    times, flow = record.time_s, record.flow_l_min
    rate = np.gradient(flow, times)
    gain = 1.0 + error.flow_gain * np.abs(rate) / max(float(np.sqrt((rate**2).mean())), 1e-12)
    a = np.sqrt(3.0) / error.correlation_s
    still = error.deviation_mmhg**2 * np.array([[1.0, 0.0], [0.0, a**2]])

    # All that a step needs is known beforehand; steps are looked up by the time they end at.
    used = np.arange(0, len(times), every)
    seconds = np.diff(times[used])
    decay = np.exp(-a * seconds)
    moved = decay[:, None, None] * np.moveaxis(
        np.array([[1.0 + a * seconds, seconds], [-(a**2) * seconds, 1.0 - a * seconds]]), -1, 0
    )  # exp(F dt) of the Matérn process in closed form: its two eigenvalues are both -a
    driven = (still - moved @ still @ moved.transpose(0, 2, 1)) * gain[used[1:], None, None] ** 2
    step_to = {float(time): number for number, time in enumerate(times[used[1:]])}

    def dynamics(states: Array, start: float, end: float) -> Array:
        number = step_to[end]
        later = states.copy()
        resistance = np.exp(states[:, RESISTANCE])
        minutes, tau = seconds[number] / SECONDS_PER_MINUTE, resistance * np.exp(states[:, COMPLIANCE])
        # The flow is linear between its samples, for which the capacitor's equation has a closed form.
        before, after = flow[used[number]], flow[used[number + 1]]
        lag = resistance * tau * ((after - before) / minutes)
        later[:, CAPACITOR] = (
            resistance * after - lag + (states[:, CAPACITOR] - resistance * before + lag) * np.exp(-minutes / tau)
        )
        later[:, ERROR:] = states[:, ERROR:] @ moved[number].T
        return later

    def noise(start: float, end: float) -> Array:
        number = step_to[end]
        added = np.zeros((6, 6))
        walked = error.wander**2 * seconds[number]
        added[RESISTANCE, RESISTANCE] = added[COMPLIANCE, COMPLIANCE] = added[IMPEDANCE, IMPEDANCE] = walked
        added[ERROR:, ERROR:] = driven[number]
        return added

    def operator(number: int) -> Callable[[Array], Array]:
        through = float(flow[number])
        return lambda states: np.asarray(
            (states[:, CAPACITOR] + np.exp(states[:, IMPEDANCE]) * through + states[:, ERROR])[:, None]
        )

    usual = prior or WindkesselPrior()
    start = Gaussian(
        float(times[0]),
        np.array(
            [*np.log([usual.resistance, usual.compliance, usual.impedance]), float(record.pressure_mmhg[0]), 0.0, 0.0]
        ),
        np.diag([*[usual.deviation**2] * 3, 20.0**2, still[0, 0], still[1, 1]]),
    )
    observations = (
        Observation(float(times[k]), record.pressure_mmhg[k : k + 1], np.array([error.noise_mmhg**2]), operator(k))
        for k in used.tolist()
    )
    normalized, likelihood, belief = [], 0.0, start
    learned, total, scale = SCALE_PRIOR, SCALE_PRIOR, 1.0
    for analysis in follow(UnscentedFilter(dynamics, noise), start, observations):
        belief = analysis.belief
        normalized.append(float(analysis.difference[0] / np.sqrt(analysis.variance[0] * scale)))
        learned, total = learned + 1.0, total + analysis.normalized_square
        scale = total / learned
        likelihood -= 0.5 * (analysis.normalized_square + float(np.log(analysis.variance[0])))
    belief = Gaussian(belief.time, belief.mean, belief.covariance * scale)
    return Followed(belief, np.array(normalized), likelihood, scale)


def fit_model_error(
    records: Sequence[WindkesselRecord],
    *,
    every: int = 1,
    first_guess: ModelError | None = None,
    evaluations: int = 100,
) -> ModelError:
    """The model's error that makes the innovations of some records most likely.

    A wide normal prior (a factor of 4.5 either way) on each constant keeps those in place on which records say nothing.

    Args:
        records: to learn from; not the one that is to be judged.
        every: as in `follow_windkessel`; the error is to be used with the same.
        first_guess: where to begin, and what stays.
        evaluations: of the likelihood, at most.
    """
    guess = first_guess or ModelError()
    center = guess.logarithms

    def cost(logarithms: Array) -> float:
        tried = ModelError.of(logarithms, guess.wander)
        try:
            found = sum(follow_windkessel(record, tried, every=every).log_likelihood for record in records)
        except (InputError, np.linalg.LinAlgError):
            return 1e12
        return float(-found + 0.5 * np.sum(((logarithms - center) / 1.5) ** 2))

    simplex = center + np.vstack([np.zeros(4), 0.5 * np.eye(4)])
    options = {"maxfev": evaluations, "xatol": 0.03, "fatol": 0.3, "initial_simplex": simplex}
    best = minimize(cost, center, method="Nelder-Mead", options=options)
    return ModelError.of(best.x, guess.wander)
