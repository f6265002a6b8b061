"""The search for a pose by samples alone, where a similarity has no derivatives worth having."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from registration.rigid import Array


def sampled_search(
    loss: Callable[[Array], float], x: Array, sigma: float, rng: np.random.Generator, rounds: int
) -> tuple[Array, float]:
    """Covariance-adapting evolution (Hansen 2016, without evolution paths): 12 samples a round, the best 4 kept."""
    mean, covariance = x.copy(), np.eye(6)
    weights = np.log(4.5) - np.log(np.arange(1, 5))
    weights /= weights.sum()
    best, value = x.copy(), loss(x)
    for _ in range(rounds):
        root = np.linalg.cholesky(covariance + 1e-8 * np.eye(6))
        draws = rng.normal(size=(12, 6)) @ root.T
        points = mean + sigma * draws
        values = np.array([loss(p) for p in points])
        order = np.argsort(values)[:4]
        if values[order[0]] < value:
            best, value = points[order[0]].copy(), float(values[order[0]])
            sigma *= 1.05
        else:
            sigma *= 0.82
        shift = weights @ draws[order]
        mean = mean + sigma * shift
        spread = np.einsum("n,ni,nj->ij", weights, draws[order], draws[order])
        covariance = 0.75 * covariance + 0.25 * spread
        covariance *= 6.0 / np.trace(covariance)
    return best, value
