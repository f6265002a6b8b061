"""What every pose asks of an ensemble, compiled: where its members have the tip, and their pressure there.

As array operations each sum costs more to begin than to do, and a pose waits for some forty of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from surgical_twin.flow.nearby_pressure import Stations, pressure_changes

Array = NDArray[np.float64]


class TipField(NamedTuple):
    """The pressure in a lumen as a tip meets it; arrays are contiguous."""

    tetrahedra: NDArray[np.int64]
    """(nc, 4)"""
    modes: NDArray[np.float32]
    """(nv, K) pressure modes, the inlet's pressure first"""
    gradients: NDArray[np.float32]
    """(nv, 3 K) 1/m, theirs by axis"""
    errors: Array
    """(nv,) Pa, standard deviation of the reduced model's error"""
    stations: Stations
    """of the centerline, mm"""


class TipSaid(NamedTuple):
    """Pressure at a tip, in the unit of the coefficients."""

    mean: float
    variance: float
    """of the members, each where it has the tip"""
    variance_here: float
    """of the members, all at the same place"""
    slope: float
    """per m, length of the mean's gradient"""
    drop: float
    """the mean's, from the inlet"""
    error: float
    """Pa, `TipField.errors` there"""


@njit(cache=True)
def spread_of_tips(  # pragma: no cover - compiled
    errors: Array, offset: Array, factor: Array
) -> tuple[Array, Array, Array]:
    """Where each member has a point, about where they have it in the mean.

    Args:
        errors: (m, c) standardized errors of the members, those of the registration in the first 6 columns.
        offset: (3,) mm, the point from the center of the registration's error.
        factor: (6, 6) what each standardized error is as a turn (rad) and a shift (mm) about that center.

    Returns:
        (m, 3) mm from the mean, that mean (3,) mm from the point, and the sample covariance (3, 3) mm^2.
    """
    count = len(errors)
    jacobian = np.empty((3, 6))
    for axis in range(3):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        for k in range(6):
            turned = factor[second, k] * offset[third] - factor[third, k] * offset[second]
            jacobian[axis, k] = turned + factor[3 + axis, k]
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


@njit(cache=True)
def pressure_at_tip(  # pragma: no cover - compiled
    field: TipField, cell: int, weights: Array, tip: Array, away: Array, coefficients: Array, mean: Array, reach: float
) -> TipSaid:
    """What an ensemble says of the pressure at a tip.

    Args:
        field: of the case.
        cell: that holds the tip, or the nearest place to it in the lumen.
        weights: (4,) barycentric, of that place.
        tip: (3,) mm, LPS.
        away: (m, 3) mm, where each member has the tip, from there.
        coefficients: (m, K) of the pressure modes.
        mean: (K,) of all members.
        reach: mm, as `pressure_changes` takes it.
    """
    count, width = coefficients.shape
    modes = np.zeros(width)
    gradient = np.zeros(3)
    error = 0.0
    for corner in range(4):
        weight, vertex = weights[corner], field.tetrahedra[cell, corner]
        error += weight * field.errors[vertex]
        for k in range(width):
            modes[k] += weight * field.modes[vertex, k]
            for axis in range(3):
                gradient[axis] += weight * field.gradients[vertex, axis * width + k] * mean[k]
    drop = -mean[0]
    for k in range(width):
        drop += modes[k] * mean[k]
    here, there = np.empty(count), pressure_changes(field.stations, tip, away, coefficients, reach)
    for i in range(count):
        here[i] = 0.0
        for k in range(width):
            here[i] += coefficients[i, k] * modes[k]
        there[i] += here[i]
    middle, variance = mean_and_variance(there)
    slope = np.sqrt(gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2)
    return TipSaid(middle, variance, mean_and_variance(here)[1], slope, drop, error)
