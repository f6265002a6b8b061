"""Viscosity laws of blood."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Newtonian:
    """Blood of one viscosity [Pa s]: right in large arteries, where the shear rate is above some 100 1/s."""

    viscosity: float = 3.5e-3

    def __post_init__(self) -> None:
        if not (np.isfinite(self.viscosity) and self.viscosity > 0):
            raise InputError(f"The viscosity must be positive; it is {self.viscosity:g} Pa s.")

    @property
    def high_shear_viscosity(self) -> float:
        """Pa s"""
        return self.viscosity


@dataclass(frozen=True)
class CarreauYasuda:
    """Shear-thinning blood.

        mu = mu_inf + (mu_0 - mu_inf) (1 + (lambda g)^a)^((n - 1) / a),   g: shear rate.

    The default constants are those of Cho & Kensey, Biorheology 28 (1991) 241-262 (Carreau's form, a = 2).
    """

    zero_shear_viscosity: float = 0.056
    """Pa s"""
    high_shear_viscosity: float = 3.45e-3
    """Pa s"""
    time_constant: float = 3.313
    """s"""
    power: float = 0.3568
    transition: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.high_shear_viscosity <= self.zero_shear_viscosity:
            raise InputError("Carreau-Yasuda blood needs 0 < high-shear viscosity <= zero-shear viscosity.")

    def at(self, shear_rate: Array) -> Array:
        """Viscosity [Pa s] at shear rates [1/s]."""
        thinned = (1.0 + (self.time_constant * shear_rate) ** self.transition) ** ((self.power - 1.0) / self.transition)
        viscosity: Array = self.high_shear_viscosity + (self.zero_shear_viscosity - self.high_shear_viscosity) * thinned
        return viscosity
