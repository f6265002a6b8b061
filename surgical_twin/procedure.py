"""A simulated procedure: what the patient hides from the plan, which devices watch, how the catheter moves.

Read from a TOML file in which quantities carry their units; every setting has a default.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.plan_settings import read_settings
from surgical_twin.units import read_quantity

Array = NDArray[np.float64]


class TruthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the simulated patient differs from the plan; factors not given are drawn from the seed."""

    resistance: dict[str, float] = {}
    """Factor on each outlet's resistances, by port name; drawn log-normally (20 %) where not given."""
    compliance: float | None = None
    """Factor on every outlet's compliance; drawn log-normally (20 %) where not given."""
    inflow: float | None = None
    """Factor on the inflow; drawn log-normally (10 %) where not given."""
    edges_across: float = 9.0
    max_tetrahedra: int = 90_000
    """The truth's mesh, finer than the plan's."""
    beats: float = 2.2
    """Length of the 3D run; its last beat is the truth."""


class TrackerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tracker, its noise per axis (one standard deviation), and its losses."""

    rate: str = "60 Hz"
    position_noise: str = "0.15 mm"
    rotation_noise: str = "0.2 deg"
    touch_noise: str = "0.3 mm"
    """Error of touching a fiducial with the pointer, per axis."""
    loss: float = 0.002
    """Share of messages lost on the way."""


class PressureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catheter's pressure transducer."""

    rate: str = "250 Hz"
    noise: str = "2 mmHg"
    samples_per_message: int = 5
    loss: float = 0.002


class FlowProbeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ultrasound flow probe on the inlet."""

    rate: str = "20 Hz"
    noise: float = 0.08
    """Relative to the flow, one standard deviation."""


class CatheterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catheter's way: from the inlet through the narrowest place to an outlet, and back."""

    to: str | None = None
    """The outlet to go to; the one behind the narrowest place where it is not given."""
    speed: str = "5 mm/s"
    settle: str = "8 s"
    """How long the tip rests at the inlet before it advances."""
    dwell: str = "4 s"
    """How long it rests at the far end before the pull-back."""


class ProcedureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a procedure file may say."""

    truth: TruthSettings = TruthSettings()
    tracker: TrackerSettings = TrackerSettings()
    pressure: PressureSettings = PressureSettings()
    flow: FlowProbeSettings = FlowProbeSettings()
    catheter: CatheterSettings = CatheterSettings()


def read_procedure(path: Path | None) -> ProcedureSettings:
    """Read a procedure file, or take the defaults where there is none.

    Raises:
        InputError: it cannot be read, or has an unknown or unusable setting.
    """
    settings = ProcedureSettings() if path is None else read_settings(path, ProcedureSettings)
    for name, value, unit in (
        ("tracker.rate", settings.tracker.rate, "1/s"),
        ("pressure.rate", settings.pressure.rate, "1/s"),
        ("flow.rate", settings.flow.rate, "1/s"),
        ("catheter.speed", settings.catheter.speed, "mm/s"),
    ):
        if read_quantity(value, unit, name=name) <= 0:
            raise InputError(f'{name} = "{value}" is not positive; write a positive quantity in {unit}.')
    return settings


@dataclass(frozen=True)
class Motion:
    """Where the catheter's tip is along its path, at any time since the procedure began."""

    times: Array
    """(k,) s, increasing."""
    distances: Array
    """(k,) mm along the path at these times, linear between them."""

    @property
    def duration(self) -> float:
        """Seconds until the procedure ends."""
        return float(self.times[-1])

    def distance(self, time_s: float) -> float:
        """Distance along the path [mm] at a time [s]."""
        return float(np.interp(time_s, self.times, self.distances))


TOUCH_START_S = 2.0
TOUCH_INTERVAL_S = 0.8


def plan_motion(path_length: float, fiducial_count: int, settings: CatheterSettings) -> Motion:
    """Rest at the inlet while fiducials are touched and the filter settles, advance, dwell, pull back.

    Args:
        path_length: mm from the first to the last position of the tip.
        fiducial_count: how many fiducials are touched first.
        settings: speeds and rests.
    """
    speed = read_quantity(settings.speed, "mm/s", name="catheter.speed")
    settle = read_quantity(settings.settle, "s", name="catheter.settle")
    dwell = read_quantity(settings.dwell, "s", name="catheter.dwell")
    start = TOUCH_START_S + fiducial_count * TOUCH_INTERVAL_S + settle
    travel = path_length / speed
    times = np.cumsum([0.0, start, travel, dwell, travel, 2.0])
    distances = np.array([0.0, 0.0, path_length, path_length, 0.0, 0.0])
    return Motion(times=times, distances=distances)
