"""Parameters in physical units, within bounds, as coordinates that a filter may add to and average.

A resistance is positive, and is known to a factor: its coordinate is its logarithm, or where it has bounds the logistic
map between their logarithms,

    log x = log a + (log b - log a) / (1 + exp(-z)),

so that no analysis, however far it moves, leaves the bounds, and none needs clipping, which would pull an ensemble's
mean. A coordinate without bounds is the quantity itself (a bias, a phase).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from surgical_twin.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One quantity, and the scale on which it is smooth.

    Raises `InputError` for bounds in the wrong order, or not positive on a logarithmic scale.
    """

    name: str
    unit: str
    scale: Literal["linear", "log"] = "log"
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if (self.lower is None) != (self.upper is None):
            raise InputError(f"{self.name} needs both bounds, or none.")
        if self.lower is not None and self.upper is not None:
            if not self.lower < self.upper:
                raise InputError(f"{self.name}: the lower bound {self.lower:g} must be below {self.upper:g}.")
            if self.scale == "log" and self.lower <= 0.0:
                raise InputError(f"{self.name}: bounds on a logarithmic scale must be positive.")

    @property
    def _ends(self) -> tuple[float, float] | None:
        if self.lower is None or self.upper is None:
            return None
        return (np.log(self.lower), np.log(self.upper)) if self.scale == "log" else (self.lower, self.upper)

    def physical(self, coordinate: ArrayLike) -> Array:
        """The quantity, in its unit, at a coordinate (any shape)."""
        z = np.asarray(coordinate, dtype=float)
        if self._ends is not None:
            low, high = self._ends
            z = low + (high - low) * expit(z)
        found = np.exp(z) if self.scale == "log" else z
        return np.asarray(found if self._ends is None else np.clip(found, self.lower, self.upper))  # rounding only

    def coordinate(self, physical: ArrayLike) -> Array:
        """The coordinate of a quantity.

        Raises:
            InputError: it is not within the bounds, or not positive on a logarithmic scale.
        """
        x = np.asarray(physical, dtype=float)
        if self.scale == "log" and not (x > 0.0).all():
            raise InputError(f"{self.name} must be positive; it is {float(np.min(x)):g} {self.unit}.")
        z = np.log(x) if self.scale == "log" else x
        if self._ends is None:
            return np.asarray(z)
        low, high = self._ends
        if not ((z > low) & (z < high)).all():
            raise InputError(f"{self.name} must lie between {self.lower:g} and {self.upper:g} {self.unit}.")
        return np.asarray(logit((z - low) / (high - low)))

    def slope(self, coordinate: ArrayLike) -> Array:
        """d (quantity, or its logarithm on a logarithmic scale) / d coordinate: turns a spread of one into the
        other."""
        z = np.asarray(coordinate, dtype=float)
        if self._ends is None:
            return np.ones_like(z)
        low, high = self._ends
        return np.asarray((high - low) * expit(z) * expit(-z))


@dataclass(frozen=True)
class Parameters:
    """Several, in the order of their columns."""

    each: tuple[Parameter, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """In order."""
        return tuple(one.name for one in self.each)

    def physical(self, coordinates: Array) -> Array:
        """(m, k) quantities at coordinates (m, k)."""
        return np.column_stack([one.physical(coordinates[:, number]) for number, one in enumerate(self.each)])

    def coordinates(self, physical: Array) -> Array:
        """(m, k) coordinates of quantities (m, k)."""
        return np.column_stack([one.coordinate(physical[:, number]) for number, one in enumerate(self.each)])

    def prior(self, typical: Sequence[float], relative_deviation: Sequence[float]) -> tuple[Array, Array]:
        """Mean and deviation (k,) of the coordinates, from a typical value of each and a deviation: of the logarithm on
        a logarithmic scale, else in the quantity's unit."""
        mean = self.coordinates(np.asarray(typical, dtype=float)[None])[0]
        slope = np.array([float(one.slope(mean[number])) for number, one in enumerate(self.each)])
        return mean, np.asarray(relative_deviation, dtype=float) / slope

    def interval(self, mean: Array, deviation: Array, sigmas: float = 1.959963984540054) -> tuple[Array, Array]:
        """Lower and upper ends (k,) of each quantity, from mean and deviation of its coordinate: quantiles pass through
        a monotonic map unchanged."""
        ends = self.physical(np.stack([mean - sigmas * deviation, mean + sigmas * deviation]))
        return ends[0], ends[1]
