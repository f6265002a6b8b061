"""The normal equations of the drift, compiled: one pass, as a Kalman filter, over the fixes of a stretch."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


@njit(cache=True)
def normal_equations(
    arms: Array, offsets: Array, tangents: Array, radii: Array, path: Array, lateral: float, decay: float, noise: float
) -> tuple[Array, Array]:
    """Normal matrix (6, 6) and slope (6,) of the drift, without its prior; see `drift`.

    The lateral offset in radii is filtered along the path: what the fixes before say of it is taken from each fix,
    which then counts by what stays unknown and by its noise. The same filter runs over the offset's six derivatives.

    Args:
        arms: (n, 3) fixes as corrected so far, from the point about which the drift turns, mm.
        offsets: (n, 3) of the fixes from their stations, mm.
        tangents: (n, 3) unit vectors along the vessel there.
        radii: (n,) of the lumen there, mm.
        path: (n,) along which the fixes were taken, increasing, mm.
        lateral: standard deviation of an offset per direction, in radii.
        decay: path, in radii, over which offsets forget each other.
        noise: standard deviation of a fix per direction, mm.
    """
    normal, slope = np.zeros((6, 6)), np.zeros(6)
    columns, known, across = np.empty((3, 7)), np.zeros((3, 7)), np.empty((3, 7))
    variance = 1.0
    for i in range(len(arms)):
        x, y, z = arms[i]
        # A turn w moves an arm by w x arm, a shift by itself; the seventh column is the offset.
        columns[:] = 0.0
        columns[0, 1], columns[0, 2] = z, -y
        columns[1, 0], columns[1, 2] = -z, x
        columns[2, 0], columns[2, 1] = y, -x
        for k in range(3):
            columns[k, 3 + k] = 1.0
            columns[k, 6] = offsets[i, k]
        t = tangents[i]
        for j in range(7):
            along = t[0] * columns[0, j] + t[1] * columns[1, j] + t[2] * columns[2, j]
            for k in range(3):
                columns[k, j] -= along * t[k]
        # The wall pushes along the direction in which it was passed.
        length = np.sqrt(columns[0, 6] ** 2 + columns[1, 6] ** 2 + columns[2, 6] ** 2)
        if length > radii[i]:
            for j in range(6):
                across[0, j] = (
                    columns[0, 6] * columns[0, j] + columns[1, 6] * columns[1, j] + columns[2, 6] * columns[2, j]
                ) / length
            for j in range(6):
                slope[j] += across[0, j] * (length - radii[i]) / noise**2
                for m in range(6):
                    normal[j, m] += across[0, j] * across[0, m] / noise**2
        spread = lateral * radii[i]
        if i > 0:
            share = np.exp(-(path[i] - path[i - 1]) / (decay * np.sqrt(radii[i] * radii[i - 1])))
            known *= share
            variance = share**2 * variance + 1.0 - share**2
        total = variance + (noise / spread) ** 2
        gain = variance / total
        for j in range(7):
            along = t[0] * known[0, j] + t[1] * known[1, j] + t[2] * known[2, j]
            for k in range(3):
                across[k, j] = columns[k, j] / spread - known[k, j] + along * t[k]
                known[k, j] += gain * across[k, j]
        variance *= 1.0 - gain
        for j in range(6):
            for k in range(3):
                slope[j] += across[k, j] * across[k, 6] / total
                for m in range(6):
                    normal[j, m] += across[k, j] * across[k, m] / total
    return normal, slope
