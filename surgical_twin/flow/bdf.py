"""The formula of second order in time (BDF2) for steps of changing length.

    du/dt at the step's end = a0 u + a1 u_now + a2 u_before,

with r the ratio of this step to the last, a0 = (1 + 2 r) / (1 + r) / dt, a1 = -(1 + r) / dt, a2 = r^2 / (1 + r) / dt;
and what the last two values foretell, u = (1 + r) u_now - r u_before. The first step is one of the backward Euler
formula, r = 0. (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, section III.5.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bdf2:
    """The formula of one step."""

    length: float
    """dt, s"""
    ratio: float
    """r, of this step to the last; 0 in the first step"""
    rates: tuple[float, float, float]
    """a0, a1, a2, 1/s"""

    @classmethod
    def after(cls, last: float, length: float) -> "Bdf2":
        """The formula of a step of a length [s] after one of another (0 where this is the first)."""
        if last == 0.0:
            return cls(length, 0.0, (1.0 / length, -1.0 / length, 0.0))
        ratio = length / last
        rates = (1.0 + 2.0 * ratio) / (1.0 + ratio), -(1.0 + ratio), ratio * ratio / (1.0 + ratio)
        return cls(length, ratio, (rates[0] / length, rates[1] / length, rates[2] / length))

    def ahead(self, now: Array, before: Array) -> Array:
        """What the values are extrapolated to at the step's end."""
        return (1.0 + self.ratio) * now - self.ratio * before

    def known(self, now: Array, before: Array) -> Array:
        """The part of the derivative that is known before the step: a1 now + a2 before."""
        return self.rates[1] * now + self.rates[2] * before
