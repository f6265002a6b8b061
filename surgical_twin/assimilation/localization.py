"""Keeping observations from moving what is far from them.

An ensemble of m members sees chance correlations of the order of m^(-1/2) between things that have nothing to do with
each other. Where a distance is given (along the vessel tree, on a ring, in space), a correlation is trusted by how
near it is, with the compactly supported function of Gaspari & Cohn (Q. J. R. Meteorol. Soc. 125 (1999) 723-757, eq.
4.10).

`LocalTransform` is the local ensemble transform Kalman filter (Hunt, Kostelich & Szunyogh, Physica D 230 (2007)
112-126): each variable has an analysis of its own, for which an observation's error variance is divided by its taper.
`SerialTaper` takes the observations one after another and multiplies each one's gain by the taper, covariance tapering
in the square-root filter of Whitaker & Hamill (Mon. Wea. Rev. 130 (2002) 1913-1924). It suits a state with parameters
that belong to no place: their taper is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgical_twin.assimilation.filters import Observation
from surgical_twin.errors import InputError

Array = NDArray[np.float64]

GAUSSIAN_RATIO = float(np.sqrt(10.0 / 3.0))
"""Half-width of the support over the length of the Gaussian that has the same curvature at zero."""

LEAST_TAPER = 1e-3
"""An observation whose taper is less is left out of a local analysis."""


class LocalAnalysis(Protocol):
    """An analysis that treats near and far differently."""

    def __call__(self, members: Array, predicted: Array, observation: Observation, inflation: float, /) -> Array:
        """(m, n) conditioned members; ``predicted`` (m, p), ``inflation`` a factor on the prior anomalies."""


def gaspari_cohn(distance: ArrayLike, length: float) -> Array:
    """Taper 1 at distance zero, near exp(-d^2 / (2 length^2)), and zero beyond 2 (10/3)^(1/2) lengths.

    Args:
        distance: >= 0, any shape.
        length: > 0, in the distance's unit.

    Raises:
        InputError: the length is not positive.
    """
    if not (np.isfinite(length) and length > 0.0):
        raise InputError(f"A localization length must be positive; it is {length:g}.")
    r = np.abs(np.asarray(distance, dtype=float)) / (GAUSSIAN_RATIO * length)
    near = 1.0 + r**2 * (-5.0 / 3.0 + r * (5.0 / 8.0 + r * (0.5 - 0.25 * r)))
    safe = np.maximum(r, 0.5)
    far = 4.0 - 5.0 * r + r**2 * (5.0 / 3.0 + r * (5.0 / 8.0 + r * (-0.5 + r / 12.0))) - 2.0 / (3.0 * safe)
    return np.asarray(np.where(r <= 1.0, near, np.where(r < 2.0, np.maximum(far, 0.0), 0.0)))


def tree_taper(distances: Array, variables: Mapping[int, int | None], observed: ArrayLike, length: float) -> Array:
    """(n, p) taper along a vessel tree.

    Args:
        distances: (s, s) way through the vessel between the tree's stations, mm (`registration`'s ``BranchTree``).
        variables: for each variable 0..n-1 the station it belongs to, or None where it belongs to no place.
        observed: (p,) station of each observation.
        length: mm
    """
    stations = [variables[number] for number in range(len(variables))]
    seen = np.asarray(observed, dtype=int)
    taper = np.ones((len(stations), len(seen)))
    for row, station in enumerate(stations):
        if station is not None:
            taper[row] = gaspari_cohn(distances[station, seen], length)
    return taper


@dataclass(frozen=True)
class LocalTransform:
    """LETKF; variables with equal tapers share an analysis. Observation errors must be uncorrelated."""

    taper: Array
    """(n, p)"""

    @cached_property
    def _groups(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp], Array]]:
        """Groups of local analyses with as many observations: variables (g, v), observations (g, q), tapers (g, q)."""
        kinds, inverse = np.unique(self.taper, axis=0, return_inverse=True)
        order = np.argsort(inverse.ravel(), kind="stable")
        variables = np.split(order, np.cumsum(np.bincount(inverse.ravel()))[:-1])
        shapes: dict[tuple[int, int], list[int]] = {}
        for number, kind in enumerate(kinds):
            count = int((kind > LEAST_TAPER).sum())
            if count:
                shapes.setdefault((count, len(variables[number])), []).append(number)
        groups = []
        for numbers in shapes.values():
            seen = np.array([np.flatnonzero(kinds[number] > LEAST_TAPER) for number in numbers])
            tapers = np.take_along_axis(kinds[numbers], seen, axis=1)
            groups.append((np.array([variables[number] for number in numbers]), seen, tapers))
        return groups

    def __call__(self, members: Array, predicted: Array, observation: Observation, inflation: float) -> Array:
        """All local analyses of a group at once."""
        count, degrees = len(members), len(members) - 1.0
        variance = _uncorrelated(observation, self.taper.shape[1])
        mean, seen_mean = members.mean(axis=0), predicted.mean(axis=0)
        anomalies = (members - mean) * inflation
        scaled = (predicted - seen_mean).T * (inflation / np.sqrt(degrees * variance))[:, None]
        difference = (observation.values - seen_mean) / np.sqrt(variance)
        result = mean + anomalies
        for variables, seen, tapers in self._groups:
            root = np.sqrt(tapers)
            local, off = scaled[seen] * root[:, :, None], difference[seen] * root
            within = anomalies[:, variables].transpose(1, 0, 2)  # (g, m, v)
            if seen.shape[1] < count:
                values, vectors = np.linalg.eigh(local @ local.transpose(0, 2, 1))
                values = np.maximum(values, 0.0)
                basis = vectors.transpose(0, 2, 1) @ local  # (g, q, m)
                weights = (vectors.transpose(0, 2, 1) @ off[:, :, None])[:, :, 0] / (1.0 + values)
                shrink = 1.0 / (np.sqrt(1.0 + values) * (1.0 + np.sqrt(1.0 + values)))
            else:
                values, vectors = np.linalg.eigh(local.transpose(0, 2, 1) @ local)
                values = np.maximum(values, 0.0)
                basis = vectors.transpose(0, 2, 1)
                weights = (basis @ (off[:, None, :] @ local).transpose(0, 2, 1))[:, :, 0] / (1.0 + values)
                shrink = values / (np.sqrt(1.0 + values) * (1.0 + np.sqrt(1.0 + values)))
            projected = basis @ within
            moved = within - basis.transpose(0, 2, 1) @ (shrink[:, :, None] * projected)
            moved += (weights[:, None, :] @ projected) / np.sqrt(degrees)
            result[:, variables] = mean[variables] + moved.transpose(1, 0, 2)
        return np.asarray(result)


@dataclass(frozen=True)
class SerialTaper:
    """Observations one by one, each one's gain tapered. Observation errors must be uncorrelated."""

    taper: Array
    """(n, p) from variable to observation"""
    between: Array
    """(p, p) from observation to observation"""

    def __call__(self, members: Array, predicted: Array, observation: Observation, inflation: float) -> Array:
        """The predictions of observations still to come are conditioned with the variables."""
        variance = _uncorrelated(observation, self.taper.shape[1])
        joint = np.hstack([members, predicted])
        mean = joint.mean(axis=0)
        anomalies = (joint - mean) * inflation
        taper = np.vstack([self.taper, self.between])
        first = members.shape[1]
        degrees = len(members) - 1.0
        for number, value in enumerate(observation.values):
            seen = anomalies[:, first + number].copy()
            spread = float(seen @ seen) / degrees
            total = spread + variance[number]
            gain = taper[:, number] * (seen @ anomalies) / (degrees * total)
            mean = mean + gain * (value - mean[first + number])
            anomalies -= np.outer(seen / (1.0 + np.sqrt(variance[number] / total)), gain)
        return np.asarray((mean + anomalies)[:, :first])


def _uncorrelated(observation: Observation, count: int) -> Array:
    if observation.variance.ndim != 1:
        raise InputError("Localization takes observations whose errors are uncorrelated; give variances.")
    if len(observation.values) != count:
        raise InputError(f"The taper is for {count} observations and {len(observation.values)} were given.")
    return observation.variance
