r"""The ensemble transform Kalman filter's analysis for one observation: `transform` without its decomposition.

With one observation S has one row s, whose singular value is its length. The analysis of
``surgical_twin.assimilation.transform`` then needs no decomposition:

    mean weights  w = s d / (1 + |s|^2) / sqrt(m - 1),      T = I + s^T s (1 / sqrt(1 + |s|^2) - 1) / |s|^2,

with d the innovation in the observation error's standard deviations. It is the same analysis to rounding, at a tenth of
the cost, and a session takes a hundred of them a second.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scalar_analysis(ensemble: Array, predicted: Array, observed: float, variance: float) -> Array:
    """Condition an ensemble on one observation.

    Args:
        ensemble: (members, variables), at least 2 members.
        predicted: (members,) each member's prediction.
        observed: what was measured.
        variance: its error variance, > 0.

    Returns:
        (members, variables) the ensemble after it.
    """
    members = len(ensemble)
    expected = float(predicted.mean())
    row = (predicted - expected) / math.sqrt(variance * (members - 1))
    square = float(row @ row)
    if square < 1e-300:
        return ensemble
    mean = ensemble.mean(axis=0)
    along = row @ (ensemble - mean)
    difference = (observed - expected) / math.sqrt(variance)
    shift = difference / (1.0 + square) / math.sqrt(members - 1)
    shrink = (1.0 / math.sqrt(1.0 + square) - 1.0) / square
    # Members differ from before by multiples of one row: what all variables have in common with the prediction.
    analysis: Array = ensemble + (shift + shrink * row)[:, None] * along
    return analysis
