"""What the lumen may be colored by: pressure, its ratio to the inlet's (FFR), wall shear and velocity.

Each quantity has one fixed range and one perceptually uniform map that is readable with red-green blindness (viridis,
cividis, magma and plasma of matplotlib; Nuñez, Anderton & Renslow, PLoS ONE 13 (2018) e0199239), so that a color always
means the same value, and the map tells which quantity is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from numpy.typing import NDArray

from viewer.colors import check_limits
from viewer.errors import InputError

if TYPE_CHECKING:
    from streams.messages import TwinState

Field = Callable[["TwinState"], NDArray[np.float32] | None]
"""From a state to a value at each vertex of the lumen, or None where the state does not tell it."""


@dataclass(frozen=True)
class Quantity:
    """One thing to color by.

    Attributes:
        key: short name, for commands.
        title: on the color scale.
        unit: of the values; empty for a ratio.
        limits: fixed ends of the scale.
        colormap: matplotlib's name.
        lowest: part of the map's dark end that is left out, so that low values stay visible on a dark ground.
        mark: a value with a meaning of its own, marked on the scale.
        note: what a reader must know of its certainty; empty where the state carries an interval.
    """

    key: str
    title: str
    unit: str
    limits: tuple[float, float]
    colormap: str
    lowest: float = 0.1
    mark: float | None = None
    note: str = ""

    def table(self, count: int = 256) -> NDArray[np.uint8]:
        """The map as (count, 4) RGBA bytes, low values first."""
        samples = matplotlib.colormaps[self.colormap](np.linspace(self.lowest, 1.0, count))
        return np.asarray(np.round(samples * 255.0), dtype=np.uint8)

    def colors(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """sRGB colors (n, 3), 0 to 1, of values (n,); beyond the ends the end color.

        Raises:
            InputError: a value is not finite, and has no color.
        """
        low, high = self.limits
        share = (np.asarray(values, dtype=np.float64) - low) / (high - low)
        if not np.isfinite(share).all():
            raise InputError(f"the {self.title.lower()} holds values that are not finite, which have no color.")
        picked = matplotlib.colormaps[self.colormap](self.lowest + (1.0 - self.lowest) * np.clip(share, 0.0, 1.0))
        return np.asarray(picked[:, :3])

    def within(self, limits: tuple[float, float]) -> Quantity:
        """The same on another range."""
        return replace(self, limits=check_limits(limits))


PRESSURE = Quantity("pressure", "WALL PRESSURE", "mmHg", (60.0, 140.0), "viridis")
FFR = Quantity("ffr", "Pd/Pa", "mean of a beat", (0.5, 1.0), "cividis", lowest=0.05, mark=0.80)
SHEAR = Quantity("shear", "WALL SHEAR", "Pa", (0.0, 15.0), "magma", lowest=0.25, note="no interval: qualitative")
VELOCITY = Quantity("velocity", "VELOCITY", "m/s", (0.0, 1.5), "plasma", lowest=0.2, note="no interval: qualitative")

QUANTITIES = {quantity.key: quantity for quantity in (PRESSURE, FFR, SHEAR, VELOCITY)}


def quantity_named(key: str) -> Quantity:
    """A quantity by its key.

    Raises:
        InputError: there is none of that name.
    """
    if key not in QUANTITIES:
        raise InputError(f'there is no quantity "{key}" to color by; choose from {", ".join(QUANTITIES)}.')
    return QUANTITIES[key]
