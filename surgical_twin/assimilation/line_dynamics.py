r"""A fluid-filled pressure line as the filter carries it: one second-order system a member.

A line of natural frequency f and damping zeta makes of the pressure p at its mouth the reading r (R. M. Gardner,
Anesthesiology 54, 1981):

    r'' + 2 zeta w r' + w^2 r = w^2 p,     w = 2 pi f.

For a pressure p = p0 + s t, linear over a step, the solution is exact: the particular part is
p0 + s t - 2 zeta s / w, and what is left of the state at the step's beginning swings out with the roots
-zeta w +- w sqrt(zeta^2 - 1), which are complex below critical damping. Members may differ in f and zeta, so that both
can be learned with everything else. Frequency and damping that were measured by a fast flush are given; a line of
which nothing is known begins with what is usual.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

USUAL_FREQUENCY_HZ, USUAL_DAMPING = 18.0, 0.35
"""Of an arterial line at the bedside."""

UNKNOWN_DEVIATION = 0.35
"""Of the logarithms of frequency and damping where nobody measured them."""

MEASURED_DEVIATION = 0.05
"""Where somebody did."""


@dataclass(frozen=True)
class LineStep:
    """One step of fixed length for all members; see the module."""

    advance: Array
    """(members, 2, 2) what the step makes of reading and slope, relative to the particular part"""
    lag: Array
    """(members,) s: by how much a steadily rising pressure is read late"""

    @classmethod
    def of(cls, frequency_hz: Array, damping: Array, step_s: float) -> "LineStep":
        """The step's constants for members' frequencies and dampings (members,)."""
        omega = 2.0 * np.pi * frequency_hz
        decay = damping * omega
        swing = omega * np.sqrt((damping**2 - 1.0).astype(complex))
        swing = np.where(np.abs(swing) < 1e-6 * omega, 1e-6 * omega, swing)
        # e^(-a t) is taken into both exponentials, so that a strongly damped line does not overflow.
        rising, falling = np.exp((-decay + swing) * step_s), np.exp((-decay - swing) * step_s)
        even, odd = (0.5 * (rising + falling)).real, (0.5 * (rising - falling) / swing).real
        advance = np.empty((len(omega), 2, 2))
        advance[:, 0, 0], advance[:, 0, 1] = even + decay * odd, odd
        advance[:, 1, 0], advance[:, 1, 1] = -(omega**2) * odd, even - decay * odd
        return cls(advance, 2.0 * damping / omega)

    def through(self, state: Array, pressure: Array, step_s: float) -> Array:
        """(members, 2) reading and slope after steps over pressures (steps + 1, members), the first one now."""
        for begin, end in pairwise(pressure):
            slope = (end - begin) / step_s
            late = self.lag * slope
            off = np.column_stack([state[:, 0] - (begin - late), state[:, 1] - slope])
            state = (self.advance @ off[:, :, None])[:, :, 0] + np.column_stack([end - late, slope])
        return state
