"""What is done to the whole body is not undone by holding the inlet's pressure for what is done to one vessel."""

import pytest

from surgical_twin.prediction.interventions import BloodLoss, Clamp, Device, HeartRate, Inflow, Resistance, Stent


@pytest.mark.parametrize(
    ("intervention", "systemic"),
    [
        (Inflow("", 0.8), True),
        (HeartRate("", 1.2), True),
        (BloodLoss("", 5e-4), True),
        (Resistance("", 1.3), True),
        (Resistance("", 1.3, ("outlet_1",)), False),
        (Clamp("", "outlet_1"), False),
        (Stent("", 0), False),
        (Device("", "outlet_1", 1e-3), False),
    ],
)
def test_which_interventions_are_systemic(intervention, systemic):
    assert intervention.systemic is systemic
