"""The small sums over an ensemble that every pose asks for, compiled: as array operations each costs more to begin than
to do, and a pose waits for some twenty of them."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


@njit(cache=True)
def spread_of_tips(errors: Array, jacobian: Array) -> tuple[Array, Array, Array]:  # pragma: no cover - compiled
    """Where each member has a point, about where they have it in the mean.

    Args:
        errors: (m, c) standardized errors of the members, those of the registration in the first 6 columns.
        jacobian: (3, 6) mm, what each of these displaces.

    Returns:
        (m, 3) mm from the mean, that mean (3,) mm from the point, and the sample covariance (3, 3) mm^2.
    """
    count = len(errors)
    away = np.empty((count, 3))
    middle = np.zeros(3)
    for i in range(count):
        for axis in range(3):
            total = 0.0
            for k in range(6):
                total += jacobian[axis, k] * errors[i, k]
            away[i, axis] = total
            middle[axis] += total
    middle /= count
    covariance = np.zeros((3, 3))
    for i in range(count):
        for axis in range(3):
            away[i, axis] -= middle[axis]
        for row in range(3):
            for column in range(3):
                covariance[row, column] += away[i, row] * away[i, column]
    return away, middle, covariance / (count - 1)


@njit(cache=True)
def mean_and_variance(values: Array) -> tuple[float, float]:  # pragma: no cover - compiled
    """Mean and sample variance of (m,) values."""
    count = len(values)
    mean = 0.0
    for value in values:
        mean += value
    mean /= count
    total = 0.0
    for value in values:
        total += (value - mean) * (value - mean)
    return mean, total / (count - 1)
