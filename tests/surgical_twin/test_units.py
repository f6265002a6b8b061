"""Quantities with units, as users write them."""

import pytest

from surgical_twin.errors import InputError
from surgical_twin.units import PASCAL_PER_MMHG, read_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("5 L/min", "m^3/s", 5e-3 / 60),
        ("90 mmHg", "Pa", 90 * PASCAL_PER_MMHG),
        ("75 1/min", "1/s", 1.25),
        ("60 Hz", "1/s", 60.0),
        ("3.5 mPa*s", "Pa*s", 3.5e-3),
        ("0.2 deg", "rad", 0.0034906585),
        ("4 ms", "s", 0.004),
    ],
)
def test_reads_what_a_clinic_writes(text, unit, value):
    assert read_quantity(text, unit, name="it") == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("text", ["5", "5 mmHg", "", "fast", "nan L/min", "5 L/min/"])
def test_refuses_what_is_no_flow(text):
    with pytest.raises(InputError, match=r"flow\.mean_flow"):
        read_quantity(text, "m^3/s", name="flow.mean_flow")


def test_the_error_shows_what_a_clinic_writes():
    with pytest.raises(InputError, match='as in "5 L/min"'):
        read_quantity("5", "m^3/s", name="flow.mean_flow")
