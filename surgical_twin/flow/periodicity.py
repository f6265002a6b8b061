"""How far a pulsatile run still is from its periodic state."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SLOWEST = 0.95
"""A change that shrinks more slowly than by this factor a beat is taken to shrink by it."""


def beat_change(port_flow: Array, port_pressure: Array, in_beat: int) -> float:
    """Distance of the last beat from the periodic state; infinite before the second beat is complete.

    The largest difference between the last two beats, of each port's flow relative to the largest flow of any port, and
    of its pressure relative to the pressure's mean size. Where there are three beats the change is extrapolated: if the
    differences shrink by q from beat to beat (as those of a Windkessel do, by exp(-T / RC)), what is still to come
    after the last is q / (1 - q) times it. A slow drift is so not taken for a periodic state.

    Args:
        port_flow: (nt, ports), from the start of the run, at equal steps.
        port_pressure: (nt, ports).
        in_beat: steps in a beat.
    """
    if len(port_flow) < 2 * in_beat + 1:
        return np.inf
    last = _difference(port_flow, port_pressure, in_beat, 0)
    # The first beat grows from rest: differences to it say nothing of how fast the change shrinks.
    if len(port_flow) < 4 * in_beat + 1:
        return last
    before = _difference(port_flow, port_pressure, in_beat, in_beat)
    if last <= 0.0 or before <= 0.0:
        return last
    shrink = min(last / before, SLOWEST)
    return max(last, last * shrink / (1.0 - shrink))


def _difference(port_flow: Array, port_pressure: Array, in_beat: int, skip: int) -> float:
    end = len(port_flow) - skip
    now, then = slice(end - in_beat, end), slice(end - 2 * in_beat, end - in_beat)
    flow = np.abs(port_flow[now] - port_flow[then]).max() / max(np.abs(port_flow[now]).max(), 1e-300)
    size = max(np.sqrt(np.mean(port_pressure[now] ** 2)), 1e-300)
    pressure = np.abs(port_pressure[now] - port_pressure[then]).max() / size
    return float(max(flow, pressure))
