"""How wrong the reduced model is in a state: bias and covariance of its port pressures and flows.

The errors of runs that the model has not seen, ``e = model - 3D`` for ``[P_in, P_1 .. P_N, Q_1 .. Q_N]``, are larger
at systole than in diastole, and lean to one side where a loss is not quite quadratic. With the inflow ``q`` over its
mean in training and its derivative ``r`` over that mean and the period::

    bias(s) = B' [1, q, q|q|, r]            covariance(s) = (a + b q^2 + c r^2) (1 + d)^2 C

``B`` by ridge regression; ``a, b, c >= 0`` by non-negative least squares on what the bias leaves, scaled so that the
bracket's mean over the runs is one; ``C`` the second moment of that remainder over the bracket's root, between runs, so
that what a whole run is off by is in it; ``d`` how many widths of the trained range the state lies outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

_RIDGE = 1e-2
"""Penalty on the bias over the data: it is taken out only as far as several runs agree on it."""
_FLOOR = 0.1
"""Least share of the variance that every state has."""


@dataclass(frozen=True)
class ErrorModel:
    """Bias and covariance of M = 2 N + 1 port quantities as functions of the state; SI."""

    reference: Array
    """(2,) mean inflow in training [m^3/s], and period [s]"""
    bias_map: Array
    """(4, M)"""
    variance_map: Array
    """(3,) a, b, c"""
    covariance: Array
    """(M, M) C"""

    @classmethod
    def fit(
        cls, inflows: Sequence[Array], rates: Sequence[Array], errors: Sequence[Array], period: float
    ) -> ErrorModel:
        """From held-out runs: of each the inflow (nt,), its derivative (nt,) and the errors (nt, M)."""
        reference = np.array([np.mean([one.mean() for one in inflows]), period])
        where = [_features(q, r, reference) for q, r in zip(inflows, rates, strict=True)]
        features, values = np.concatenate(where), np.concatenate(errors)
        size = np.sqrt((values**2).mean(axis=0))
        scaled = values / np.where(size > 0.0, size, 1.0)
        penalty = _RIDGE * len(features) * np.diag((features**2).mean(axis=0))
        # Fewer runs than three cannot tell a bias from what this one run was off by.
        found = np.linalg.solve(features.T @ features + penalty, features.T @ scaled)
        found = found * (len(errors) >= 3)
        rest = scaled - features @ found
        squares = np.column_stack([np.ones(len(features)), features[:, 1] ** 2, features[:, 3] ** 2])
        mean = (rest**2).mean(axis=1)
        variance = nnls(squares, mean)[0]
        level = float(mean.mean())
        variance = variance / max(float((squares @ variance).mean()), 1e-300) if level > 0.0 else np.array([1.0, 0, 0])
        variance = (1.0 - _FLOOR) * variance + np.array([_FLOOR, 0.0, 0.0])
        normal = rest / np.sqrt(squares @ variance)[:, None] * size
        return cls(reference, found * size, variance, normal.T @ normal / len(normal))

    def bias(self, inflow: Array, rate: Array) -> Array:
        """(m, M) at inflows (m,) and their derivatives (m,)."""
        return np.asarray(_features(inflow, rate, self.reference) @ self.bias_map)

    def scale(self, inflow: Array, rate: Array, outside: Array) -> Array:
        """(m,) by how much the standard deviation is larger than on average; ``outside`` (m,) the range, in widths."""
        features = _features(inflow, rate, self.reference)
        bracket = self.variance_map[0] + features[:, [1, 3]] ** 2 @ self.variance_map[1:]
        return np.asarray(np.sqrt(bracket) * (1.0 + outside))

    def covariance_at(self, inflow: Array, rate: Array, outside: Array) -> Array:
        """(m, M, M)"""
        return np.asarray(self.scale(inflow, rate, outside)[:, None, None] ** 2 * self.covariance)


def _features(inflow: Array, rate: Array, reference: Array) -> Array:
    q, r = inflow / reference[0], rate * reference[1] / reference[0]
    return np.column_stack([np.ones(len(q)), q, q * np.abs(q), r])
