"""An ensemble's values as estimates: mean and 95 % interval."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.messages import Estimate

Array = NDArray[np.float64]

NORMAL_95 = 1.959963984540054
"""A normal variable lies within this many standard deviations of its mean with 95 % probability."""


def estimate(members: Array, model_deviation: float = 0.0) -> Estimate:
    """Mean and 95 % interval of an ensemble whose members all share a model error.

    Args:
        members: (m,) values.
        model_deviation: standard deviation of what the model itself may be off.
    """
    mean = float(members.mean())
    half = NORMAL_95 * float(np.sqrt(members.var(ddof=1) + model_deviation**2))
    return Estimate(value=mean, lower=mean - half, upper=mean + half)


def estimates(members: Array, model_deviation: Array | float = 0.0) -> tuple[Estimate, ...]:
    """`estimate` of each column of (m, n) values, with a model's deviation (n,) of each.

    A state holds some hundred intervals and leaves a hundred times a second: one compiled pass for all of them.
    """
    deviation = np.full(members.shape[1], model_deviation, dtype=float)
    return tuple(Estimate(value, lower, upper) for value, lower, upper in _intervals(members, deviation).tolist())


@njit(cache=True)
def _intervals(members: Array, deviation: Array) -> Array:  # pragma: no cover - compiled
    """(n, 3) mean, lower and upper end of members (m, n)."""
    count, columns = members.shape
    said = np.empty((columns, 3))
    for column in range(columns):
        mean = 0.0
        for i in range(count):
            mean += members[i, column]
        mean /= count
        total = 0.0
        for i in range(count):
            total += (members[i, column] - mean) ** 2
        half = NORMAL_95 * np.sqrt(total / (count - 1) + deviation[column] ** 2)
        said[column] = mean, mean - half, mean + half
    return said
