"""The interface that all filters share: what is believed, what is observed, how time passes.

A filter is a pure function of what it is given. `Filter.advance` carries a belief to a later time,
`Filter.assimilate` conditions it on an observation made at that time. Times are seconds on any clock and need not be
evenly spaced; nothing is stored in the filter, so a belief can be kept, and gone back to. A filter that draws numbers
(noise of the dynamics, rotations) draws them from a seed and the belief's count of steps: the same input gives the
same output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError

Array = NDArray[np.float64]


class Operator(Protocol):
    """What a state would be observed as."""

    def __call__(self, states: Array, /) -> Array:
        """(m, n) states to (m, p) observations."""


class Dynamics(Protocol):
    """How states change with time."""

    def __call__(self, states: Array, start: float, end: float, /) -> Array:
        """(m, n) states at ``start`` [s] to those at ``end``."""


class Noise(Protocol):
    """What the dynamics do not know: it adds to the state's covariance."""

    def __call__(self, start: float, end: float, /) -> Array:
        """(n,) variances, or their covariance (n, n), gathered from ``start`` [s] to ``end``."""


class Belief(Protocol):
    """What is known of a state of n variables at one time."""

    @property
    def time(self) -> float:
        """s"""

    @property
    def mean(self) -> Array:
        """(n,)"""

    @property
    def covariance(self) -> Array:
        """(n, n)"""


@dataclass(frozen=True)
class Observation:
    """What was measured at one time.

    Raises `InputError` for values that are not finite, variances that are not positive, or numbers that do not match:
    leave out of an observation what was not measured.
    """

    time: float
    """s"""
    values: Array
    """(p,)"""
    variance: Array
    """(p,) error variances, or their covariance (p, p)"""
    operator: Operator

    def __post_init__(self) -> None:
        count = len(self.values)
        if self.values.shape != (count,) or self.variance.shape not in ((count,), (count, count)):
            raise InputError(
                f"An observation of {self.values.shape} values needs as many error variances; got "
                f"{self.variance.shape}."
            )
        spread = self.variance if self.variance.ndim == 1 else np.diag(self.variance)
        if not (np.isfinite(self.values).all() and np.isfinite(self.variance).all() and (spread > 0.0).all()):
            raise InputError(
                f"The observation at {self.time:g} s holds a value that is not finite or an error variance that is "
                "not positive; leave out what was not measured."
            )


@dataclass(frozen=True)
class Analysis[B]:
    """What an observation made of a belief."""

    belief: B
    difference: Array
    """(p,) innovation: observed minus predicted, before the observation was used"""
    variance: Array
    """(p,) expected of it: of the prediction and of the observation"""
    normalized_square: float
    """NIS: chi-square with p degrees of freedom where the filter is right"""


class Filter[B: Belief](Protocol):
    """What carries a belief through time."""

    def advance(self, belief: B, time: float, /) -> B:
        """The belief at a later time [s]; the same where the time is not later."""

    def assimilate(self, belief: B, observation: Observation, /) -> Analysis[B]:
        """The belief after an observation made at its time."""


def follow[B: Belief](estimator: Filter[B], belief: B, observations: Iterable[Observation]) -> Iterator[Analysis[B]]:
    """Run a filter over observations in the order of their times, however these are spaced.

    Raises:
        InputError: an observation is older than the one before it; sort them, or use a smoother's window.
    """
    for observation in observations:
        if observation.time < belief.time:
            raise InputError(
                f"An observation at {observation.time:g} s comes after the belief of {belief.time:g} s; sort the "
                "observations, or give the late one to a fixed-lag smoother."
            )
        analysis = estimator.assimilate(estimator.advance(belief, observation.time), observation)
        belief = analysis.belief
        yield analysis


def still(states: Array, start: float, end: float) -> Array:
    """The dynamics of what does not change."""
    return states
