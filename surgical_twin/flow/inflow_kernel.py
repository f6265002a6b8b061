"""An ensemble's inflow at some phases of the beat, compiled: a filter asks for it with every observation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


class PlannedInflow(NamedTuple):
    """A periodic cubic spline, as `scipy.interpolate.CubicSpline` has it; arrays are contiguous."""

    knots: Array
    """(p + 1,) s, from 0 to the period"""
    pieces: Array
    """(4, p) coefficients of each piece, the third power's first, m^3/s"""
    mean: float
    """m^3/s"""


@njit(cache=True)
def inflow_of_members(  # pragma: no cover - compiled
    planned: PlannedInflow, phase: Array, period_s: float, scale: Array, shape: Array
) -> tuple[Array, Array]:
    """(n, m) each member's inflow [m^3/s] and its time derivative at phases (n,) [beats] of a beat.

    Member i's is scale_i [q(t) + mean sum_k (a_ik cos 2 pi k phase + b_ik sin 2 pi k phase)], with q the planned inflow
    stretched to the beat's period.

    Args:
        planned: q.
        phase: of the beat; whole beats count for nothing.
        period_s: of the beat.
        scale: (m,).
        shape: (m, 2 K) a_i1, b_i1, a_i2, ..., as shares of the mean.
    """
    count, waves = shape.shape
    own = planned.knots[-1]
    values, rates = np.empty((len(phase), count)), np.empty((len(phase), count))
    wave, slope = np.empty(waves), np.empty(waves)
    for n in range(len(phase)):
        time = (phase[n] % 1.0) * own
        piece = min(max(np.searchsorted(planned.knots, time, side="right") - 1, 0), planned.pieces.shape[1] - 1)
        third, second = planned.pieces[0, piece], planned.pieces[1, piece]
        first, constant = planned.pieces[2, piece], planned.pieces[3, piece]
        within = time - planned.knots[piece]
        value = ((third * within + second) * within + first) * within + constant
        rate = ((3.0 * third * within + 2.0 * second) * within + first) * (own / period_s)
        for k in range(waves // 2):
            angle, speed = 2.0 * math.pi * (k + 1) * phase[n], 2.0 * math.pi * (k + 1) / period_s
            wave[2 * k], wave[2 * k + 1] = math.cos(angle), math.sin(angle)
            slope[2 * k], slope[2 * k + 1] = -speed * wave[2 * k + 1], speed * wave[2 * k]
        for i in range(count):
            more, faster = 0.0, 0.0
            for k in range(waves):
                more += wave[k] * shape[i, k]
                faster += slope[k] * shape[i, k]
            values[n, i] = scale[i] * (value + planned.mean * more)
            rates[n, i] = scale[i] * (rate + planned.mean * faster)
    return values, rates
