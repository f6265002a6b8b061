"""How the amplitudes of a field's modes follow from the state of the port model: a Gaussian process.

    a(s) = map . phi(s) + sum_p w_p exp(-|z(s) - z_p|^2 / 2)

``phi`` are the flow features of `field_decoder`, in which friction, convection and inertia are linear; ``z`` are the
flows, what the port model's memory recalls of them and their derivatives, each over its size, projected on the
directions in which the training moved and divided by a length. The sum over training states ``z_p`` corrects what is
not linear: where a jet lies, how long a vortex has been growing. It fades away from what was trained on, where the
linear part is left. Both are one least-squares problem, that of a process with the covariance

    k(s, s') = phi(s) . phi(s') / F + r exp(-|z(s) - z(s')|^2 / 2)

(Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, section 2.7). Share ``r``, length, and each mode's
noise are those that predict whole runs best that are left out, which the inverse of the covariance tells without
fitting again (section 5.4.2 there, by blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

SHARES = (3.0,)
LENGTHS = (1.0, 2.0, 4.0)
"""over the spread of the training states"""
NOISES = tuple(10.0**exponent for exponent in range(-7, 0, 1))
"""variance of the noise over the mean variance of the process"""
EARNED = 0.9
"""A kernel earns its place in an amplitude that it lowers the squared error of below this share."""
LEAST_SPREAD = 1e-3
"""directions in which the training moved less than this share of the largest are noise"""


class HistoryState(Protocol):
    """What the history's coordinates are made of, for m members."""

    @property
    def flow(self) -> Array:
        """(m, N) m^3/s"""

    @property
    def flow_derivative(self) -> Array:
        """(m, N) m^3/s^2"""

    @property
    def lagged_flow(self) -> Array:
        """(m, K, N) m^3/s"""


def history(state: HistoryState) -> Array:
    """(m, (2 + K) N) flows, derivatives and recalled flows."""
    flow = state.flow
    recalled = state.lagged_flow.reshape(len(flow), state.lagged_flow[0].size)
    return np.concatenate([flow, state.flow_derivative, recalled], axis=1)


@dataclass(frozen=True)
class KernelTerm:
    """What is not linear in the amplitudes."""

    projection: Array
    """(H, D) from a history to coordinates, the length in them"""
    centers: Array
    """(P, D)"""
    weights: Array
    """(P, K)"""

    def amplitudes(self, state: HistoryState) -> Array:
        """(m, K)"""
        return np.exp(-0.5 * squared_distances(history(state) @ self.projection, self.centers)) @ self.weights


def squared_distances(one: Array, other: Array) -> Array:
    """(m, p) between coordinates (m, D) and (p, D)."""
    sums = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return np.asarray(np.maximum(sums - 2.0 * one @ other.T, 0.0))


def spread_directions(histories: Array, outlets: int) -> Array:
    """(H, D) directions in which histories (P, H) move: each quantity over its size, the mean spread being one."""
    kinds = histories.reshape(len(histories), -1, outlets)
    size = np.sqrt((kinds**2).mean(axis=(0,)))
    size = np.where(size > 0.0, size, 1.0).reshape(-1)
    scaled = histories / size
    _, values, vectors = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    kept = values > LEAST_SPREAD * values[0]
    spread = float(np.sqrt((values**2).sum() / len(histories)))
    return np.asarray(vectors[kept].T / size[:, None] / spread)


@dataclass(frozen=True)
class AmplitudeFit:
    """A fitted process."""

    map: Array
    """(F, K)"""
    kernel: KernelTerm | None
    skill: Array
    """(K,) share of each amplitude's power that is predicted in runs left out"""


def fit_amplitudes(
    features: Array, histories: Array, outlets: int, amplitudes: Array, folds: Indices, *, kernel: bool = True
) -> AmplitudeFit:
    """Fit amplitudes (P, K) to features (P, F) and histories (P, H); ``folds`` (P,) are left out as wholes.

    Without ``kernel`` there is only the linear part.
    """
    size = np.sqrt((features**2).mean(axis=0))
    scale = np.where(size > 0.0, size, 1.0) * np.sqrt(features.shape[1])
    scaled = features / scale
    linear = scaled @ scaled.T
    places = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    power = np.maximum((amplitudes**2).sum(axis=0), np.finfo(float).tiny)
    directions = spread_directions(histories, outlets)

    def judged(covariance: Array) -> Array:
        """(noises, K) squared errors in what is left out."""
        return np.array([_left_out(_noisy(covariance, noise), amplitudes, places) for noise in NOISES])

    def solved(covariance: Array, errors: Array) -> Array:
        """(P, K) weights, each amplitude's with its own best noise."""
        weights, chosen = np.empty_like(amplitudes), errors.argmin(axis=0)
        for number in np.unique(chosen):
            columns = chosen == number
            weights[:, columns] = np.linalg.solve(_noisy(covariance, NOISES[number]), amplitudes[:, columns])
        return weights

    plain = judged(linear)
    best_errors, weights = plain.min(axis=0), solved(linear, plain)
    term = None
    if kernel:
        tried = []
        for share in SHARES:
            for length in LENGTHS:
                errors = judged(linear + share * _kernel(histories @ directions / length))
                tried.append((float(np.minimum(errors.min(axis=0), power).sum()), share, length, errors))
        _, share, length, errors = min(tried, key=lambda one: one[0])
        earned = errors.min(axis=0) < EARNED * best_errors
        if earned.any():
            coordinates = histories @ directions / length
            bent = np.where(earned, solved(linear + share * _kernel(coordinates), errors), 0.0)
            weights = np.where(earned, bent, weights)
            best_errors = np.where(earned, errors.min(axis=0), best_errors)
            term = KernelTerm(directions / length, coordinates, share * bent)
    return AmplitudeFit((scaled.T @ weights) / scale[:, None], term, 1.0 - best_errors / power)


def _kernel(coordinates: Array) -> Array:
    return np.asarray(np.exp(-0.5 * squared_distances(coordinates, coordinates)))


def _noisy(covariance: Array, noise: float) -> Array:
    return covariance + noise * float(np.trace(covariance)) / len(covariance) * np.eye(len(covariance))


def _left_out(covariance: Array, amplitudes: Array, places: Sequence[Indices]) -> Array:
    """(K,) squared error summed over what is left out, each part predicted from all the others."""
    inverse = np.linalg.inv(covariance)
    solved = inverse @ amplitudes
    return np.asarray(
        sum((np.linalg.solve(inverse[np.ix_(part, part)], solved[part]) ** 2).sum(axis=0) for part in places)
    )
