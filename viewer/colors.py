"""Colors of everything the surgeon sees: one perceptually uniform pressure map, one dark palette.

The pressure map is the upper nine tenths of viridis (Smith, van der Walt 2015): uniform in CAM02-UCS,
monotonic in lightness, readable with red-green blindness; its darkest end is left out so that low pressures
stay visible on the dark background. Colors are sRGB unless a name says linear.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewer.errors import InputError

BACKGROUND = "#10141a"
PANEL = "#171d26"
RULE = "#2b3542"
TEXT = "#eef2f6"
MUTED = "#9aa7b5"
TOOL = "#ffffff"
TIP = "#ff5fa2"
ANATOMY = "#b9b2a3"
CENTERLINE = "#c9d3dd"
TRAIL = "#f7a8cb"
COURSE = "#39d5ff"
TARGET = "#ffd166"
UNTRUSTED = "#8b939c"
ALARM = "#c62f3b"
TRUSTED = "#3f9b72"
REPLAY = "#2f7fb8"

_LOWEST = 0.1


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green, blue (0 to 255) of a color written #rrggbb."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def unit_rgb(color: str) -> tuple[float, float, float]:
    """Red, green, blue (0 to 1) of a color written #rrggbb, as VTK has them."""
    red, green, blue = rgb(color)
    return red / 255.0, green / 255.0, blue / 255.0


def pressure_table(count: int = 256) -> NDArray[np.uint8]:
    """The pressure map as (count, 4) RGBA bytes, low pressure first."""
    samples = matplotlib.colormaps["viridis"](np.linspace(_LOWEST, 1.0, count))
    return np.asarray(np.round(samples * 255.0), dtype=np.uint8)


def pressure_colors(values: ArrayLike, limits: tuple[float, float]) -> NDArray[np.float64]:
    """sRGB colors (n, 3), 0 to 1, of pressures (n,) on the fixed range `limits`; beyond its ends the end
    color.

    Raises:
        InputError: a range that is empty, or a value that is not finite (it has no color).
    """
    low, high = check_limits(limits)
    fraction = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if not np.isfinite(fraction).all():
        raise InputError("the scalar array holds values that are not finite, which have no color; remove them.")
    return np.asarray(matplotlib.colormaps["viridis"](_LOWEST + (1.0 - _LOWEST) * np.clip(fraction, 0.0, 1.0))[:, :3])


def check_limits(limits: tuple[float, float]) -> tuple[float, float]:
    """The color range as two floats, or InputError if it is empty or not finite."""
    low, high = float(limits[0]), float(limits[1])
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"color range {low:g} to {high:g} is empty; give the lower and then the higher end.")
    return low, high


def linear_from_srgb(colors: ArrayLike) -> NDArray[np.float64]:
    """Linear light of sRGB values 0 to 1 (IEC 61966-2-1), as glTF wants vertex colors."""
    c = np.asarray(colors, dtype=np.float64)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
