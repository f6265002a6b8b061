"""An ensemble's values as estimates: mean and 95 % interval."""

import numpy as np
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

    A state holds some hundred intervals and leaves a hundred times a second: one array operation for all of them.
    """
    mean = members.mean(axis=0)
    spread = ((members - mean) ** 2).sum(axis=0) / (len(members) - 1)
    half = NORMAL_95 * np.sqrt(spread + np.square(model_deviation))
    columns = zip(mean.tolist(), (mean - half).tolist(), (mean + half).tolist(), strict=True)
    return tuple(Estimate(value, lower, upper) for value, lower, upper in columns)
