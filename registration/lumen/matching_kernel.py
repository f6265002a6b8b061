"""One step of the map matching's forward recursion, compiled; see `map_matching`."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@njit(cache=True)
def moved_on(distances: Array, stations: Indices, weight: Array, sigma: float, reach: float) -> tuple[Indices, Array]:
    """Stations (m,) within reach, and the probability (m,) of each after a move and before the fix.

    Args:
        distances: (n, n) way through the vessel between stations, mm.
        stations: (k,) at which the tip may have been.
        weight: (k,) probability of each.
        sigma: standard deviation of the way gone, mm.
        reach: how far beyond the farthest station, as seen from the likeliest, the tip may have come, mm.
    """
    from_best = distances[stations[np.argmax(weight)]]
    farthest = 0.0
    for station in stations:
        farthest = max(farthest, from_best[station])
    active = np.flatnonzero(from_best < farthest + reach)
    prior = np.zeros(len(active))
    shares = np.empty(len(active))
    for i in range(len(stations)):
        row = distances[stations[i]]
        total = 0.0
        for j in range(len(active)):
            gone = row[active[j]] / sigma
            shares[j] = np.exp(-0.5 * gone * gone)
            total += shares[j]
        for j in range(len(active)):
            prior[j] += weight[i] / total * shares[j]
    return active, prior


@njit(cache=True)
def fitted(
    points: Array, tangents: Array, radii: Array, active: Indices, prior: Array, tip: Array,
    lateral: float, noise: float, doubt: float,
) -> Array:  # fmt: skip
    """Log density (m,) of a fix at each station times its prior.

    Args:
        points: (n, 3) of all stations, mm.
        tangents: (n, 3) along the vessel there.
        radii: (n,) of the lumen there, mm.
        active: (m,) stations looked at.
        prior: (m,) probability of each.
        tip: (3,) where the tracker sees it, mm.
        lateral: standard deviation of the distance from the centerline, per direction, in radii.
        noise: variance of a fix per direction, mm^2.
        doubt: variance of the registration at the tip, per direction, mm^2.
    """
    log = np.empty(len(active))
    for j in range(len(active)):
        k = active[j]
        x, y, z = tip[0] - points[k, 0], tip[1] - points[k, 1], tip[2] - points[k, 2]
        along = x * tangents[k, 0] + y * tangents[k, 1] + z * tangents[k, 2]
        across = max(x * x + y * y + z * z - along * along, 0.0)
        # Half a millimeter of the station raster in the axial variance.
        axial = noise + doubt + 0.25
        variance = (lateral * radii[k]) ** 2 + noise + doubt
        log[j] = -0.5 * (along * along / axial + across / variance) - np.log(variance) + np.log(max(prior[j], 1e-300))
    return log
