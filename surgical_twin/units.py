"""Quantities as people write them ("5 L/min", "90 mmHg"), read into the unit the code works in."""

import math
from functools import cache

import pint

from surgical_twin.errors import InputError

PASCAL_PER_MMHG = 133.322387415
"""1 mmHg in pascal (conventional millimetre of mercury)."""

CUBIC_METRES_PER_ML = 1e-6

EXAMPLES = {
    "m^3/s": "5 L/min",
    "m^3": "500 mL",
    "Pa": "90 mmHg",
    "Pa*s": "3.5 mPa*s",
    "1/s": "75 1/min",
    "rad": "5 deg",
    "m": "5 mm",
    "kg": "75 kg",
    "kg/m^3": "1060 kg/m^3",
}
"""What people write for a unit that the code works in."""
METRES_PER_MM = 1e-3


@cache
def _registry() -> pint.UnitRegistry:
    return pint.UnitRegistry()


def read_quantity(text: str, unit: str, *, name: str) -> float:
    """Read a quantity with its unit into a number in ``unit``.

    Args:
        text: a number and a unit, such as ``"5 L/min"``.
        unit: the unit of the result, such as ``"m^3/s"``.
        name: what the quantity is, for the error.

    Raises:
        InputError: there is no unit, it is of another dimension, or the value is not finite.
    """
    try:
        quantity = _registry().Quantity(text)
        value = float(quantity.to(unit).magnitude)
    except Exception as error:  # pint raises errors of many unrelated types on malformed text
        raise InputError(
            f'{name} = "{text}" cannot be read as a quantity in {unit} ({error}); '
            f'write a number and a unit, as in "{EXAMPLES.get(unit, f"5 {unit}")}".'
        ) from error
    if not math.isfinite(value):
        raise InputError(f'{name} = "{text}" is not a finite number; write a number and a unit.')
    return value
