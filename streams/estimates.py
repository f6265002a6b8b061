"""What the twin's states are made of: values with intervals, and what is said of sensors, places and the filter."""

import sys
from typing import Annotated

import msgspec

Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Triple = tuple[Finite, Finite, Finite]


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """A value and its 95 % interval."""

    value: float
    lower: float
    upper: float


class VesselPlace(msgspec.Struct, frozen=True, gc=False):
    """Where in the vessel tree a tool's tip is."""

    branch: str
    """The likeliest one, by its number in the case's ``branches.csv``."""
    probability: float
    """Of that branch."""
    along_mm: Estimate
    """Distance from the branch's beginning, mm."""
    outside_mm: float
    """How far the shown tip lies outside the lumen, mm; 0 inside."""
    drift_mm: float
    """How far the registration is off at the tip by what a catheter in the lumen shows, mm."""
    drift_deviation_mm: float
    """RMS error of that and of the registration together, mm."""


class SensorState(msgspec.Struct, frozen=True, gc=False):
    """What is known of a pressure sensor."""

    bias_mmhg: Estimate
    """It reads this much too high."""
    drift_mmhg_per_h: Estimate
    nis: float | None
    """Mean squared innovation over the last beats, each in the variance expected of it; 1 where these are right."""
    condition: str
    """What it suffers from, the flag without the sensor's name; empty where nothing."""
    natural_frequency_hz: Estimate | None = None
    """Of a fluid-filled line."""
    damping: Estimate | None = None


class RegistrationOffset(msgspec.Struct, frozen=True, gc=False):
    """By how much the registration is off, as pressures along the vessel show it, about a point."""

    center: Triple
    """mm, LPS"""
    rotation_deg: tuple[Estimate, Estimate, Estimate]
    """About the image's axes, degrees."""
    translation_mm: tuple[Estimate, Estimate, Estimate]


class Consistency(msgspec.Struct, frozen=True, gc=False):
    """Whether the filter's innovations are as it expects them, over the last beats."""

    nis: float
    """Mean squared innovation in the variance expected of it."""
    lower: float
    """Ends of the 95 % range of that in a filter that is right."""
    upper: float
    whiteness: float
    """Correlation of one beat's mean innovation with the next one's; 0 in a filter that is right."""
    spread: float
    """Root of mean squared beat-mean innovations over what is expected of them: error against ensemble spread."""


class UncertaintyParts(msgspec.Struct, frozen=True, gc=False):
    """Standard deviations of what an estimate's uncertainty is made of; their squares add up."""

    parameter: float
    """Of what is not known of this patient: circulation, geometry."""
    measurement: float
    """Of sensors' errors and of where the tip is."""
    model: float
    """Of what the model leaves out."""


class Forecast(msgspec.Struct, frozen=True, gc=False):
    """Means over a beat to come, if nothing is done to the patient."""

    beats: int
    """So many beats from now."""
    port_pressure_mmhg: dict[str, Estimate]
    port_flow_ml_s: dict[str, Estimate]
    parts: UncertaintyParts
    """Of the inlet's pressure, mmHg."""


class StageTimes(msgspec.Struct, frozen=True, gc=False):
    """The longest times that messages took on their way through the session, ns."""

    waited_ns: int
    """From a message's arrival at the socket until the session began with it."""
    session_ns: int
    """In the session, one message."""
    publish_ns: int
    """To pack and send a state."""
