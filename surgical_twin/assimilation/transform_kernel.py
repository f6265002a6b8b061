"""The ensemble transform's analysis for a few sensors, compiled: the same mathematics as `transform`, in one pass.

A live filter conditions a hundred times a second on one to some ten observations, and there the calls between array
operations cost more than the operations. Everything is p x p or one pass over the members x variables: cost m (n + p)
p. The eigenvalues of the p x p matrix G are found by Jacobi's rotations, which need no library.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_OBSERVATIONS = 16
"""More than this and the library's matrix products win."""


@njit(cache=True)
def _eigen(matrix: Array) -> tuple[Array, Array]:  # pragma: no cover - compiled
    """Eigenvalues (p,) and eigenvectors (p, p; columns) of a symmetric matrix, which is overwritten.

    Cyclic Jacobi rotations (Golub & Van Loan, Matrix Computations, 8.5).
    """
    p = len(matrix)
    vectors = np.eye(p)
    for _ in range(30):
        off = 0.0
        total = 0.0
        for i in range(p):
            total += matrix[i, i] ** 2
            for j in range(i):
                off += matrix[i, j] ** 2
        if off <= 1e-32 * total or off == 0.0:
            break
        for i in range(p):
            for j in range(i + 1, p):
                if matrix[i, j] == 0.0:
                    continue
                theta = (matrix[j, j] - matrix[i, i]) / (2.0 * matrix[i, j])
                t = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1.0))
                if theta < 0.0:
                    t = -t
                c = 1.0 / np.sqrt(t * t + 1.0)
                s = t * c
                for k in range(p):
                    a, b = matrix[k, i], matrix[k, j]
                    matrix[k, i], matrix[k, j] = c * a - s * b, s * a + c * b
                for k in range(p):
                    a, b = matrix[i, k], matrix[j, k]
                    matrix[i, k], matrix[j, k] = c * a - s * b, s * a + c * b
                for k in range(p):
                    a, b = vectors[k, i], vectors[k, j]
                    vectors[k, i], vectors[k, j] = c * a - s * b, s * a + c * b
    return np.diag(matrix).copy(), vectors


@njit(cache=True)
def analyse(ensemble: Array, predicted: Array, observed: Array, variance: Array) -> Array:  # pragma: no cover
    """As `transform.transform_analysis`, with uncorrelated observation errors (p,).

    Args:
        ensemble: (m, n)
        predicted: (m, p)
        observed: (p,)
        variance: (p,)
    """
    m, n = ensemble.shape
    p = predicted.shape[1]
    degrees = m - 1.0
    scaled = np.empty((p, m))
    difference = np.empty(p)
    for i in range(p):
        expected = 0.0
        for k in range(m):
            expected += predicted[k, i]
        expected /= m
        difference[i] = (observed[i] - expected) / np.sqrt(variance[i])
        weight = 1.0 / np.sqrt(variance[i] * degrees)
        for k in range(m):
            scaled[i, k] = (predicted[k, i] - expected) * weight
    values, vectors = _eigen(np.dot(scaled, scaled.T))
    # The rows of S add up to zero, so that the ensemble's mean need not be taken off.
    seen = np.dot(scaled, ensemble)
    # In the eigenvectors' directions: what the mean takes, and what the anomalies lose.
    shift = np.zeros(p)
    shrink = np.zeros((p, p))
    for e in range(p):
        value = max(values[e], 0.0)
        root = np.sqrt(1.0 + value)
        along = 0.0
        for i in range(p):
            along += vectors[i, e] * difference[i]
        for i in range(p):
            shift[i] += vectors[i, e] * along / ((1.0 + value) * np.sqrt(degrees))
            for j in range(p):
                shrink[i, j] += vectors[i, e] * vectors[j, e] / (root * (1.0 + root))
    taken = np.dot(shrink, seen)
    moved = np.dot(shift, seen)
    analysis = np.dot(scaled.T, taken)
    for k in range(m):
        for j in range(n):
            analysis[k, j] = ensemble[k, j] - analysis[k, j] + moved[j]
    return analysis
