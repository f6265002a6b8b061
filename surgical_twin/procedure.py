"""A simulated procedure: what the patient hides from the plan, which devices watch, how the catheter moves.

Read from a TOML file in which quantities carry their units; every setting has a default.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.messages import MAX_SAMPLES
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
    level_set: str | None = None
    """An image of the distance from the wall of the patient's real lumen [mm, negative inside], relative to the
    procedure file: where the plan's lumen is wrong, the patient's is not. The plan's own where not given."""
    edges_across: float = 9.0
    max_tetrahedra: int = 90_000
    """The truth's mesh, finer than the plan's."""
    beats: float = 2.2
    """Length of the 3D run; its last beat is the truth."""
    waveform: str | None = None
    """Another shape of inflow than the planned one, by name, on top of the harmonic that every truth is given."""
    clamp: str | None = None
    """An outlet that is closed at the run's beginning; the truth is then all of the run, and its last beat repeats."""


class DropoutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a device says nothing for a while."""

    every: str | None = None
    """Mean time between two dropouts at random."""
    lasts: str = "0.5 s"
    """Mean time that one lasts."""
    above: str | None = None
    below: str | None = None
    """Beyond these values a message goes missing with the probability ``share``: pressure, or flow."""
    share: float = 1.0
    hidden: bool = False
    """It says nothing while the catheter cannot be seen, instead of saying so."""


class LinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens between a device and the twin."""

    latency: str = "0 ms"
    jitter: str = "0 ms"
    """Mean of the delay beyond the latency; what it reorders arrives out of order."""
    loss: float = 0.0
    """Share of messages lost on the way."""
    duplication: float = 0.0
    """Share that comes twice."""
    clock_offset: str = "0 ms"
    """How far ahead the device's clock is at the beginning."""
    clock_drift_ppm: float = 0.0
    """How much faster than true it runs."""
    synchronized: bool | None = None
    """Whether the device says that its clock is kept right; it does where the clock is, if not given."""
    dropout: DropoutSettings = DropoutSettings()


class TrackerSettings(LinkSettings, frozen=True, forbid_unknown_fields=True):
    """The tracker, its noise per axis (one standard deviation), and its errors."""

    loss: float = 0.002
    rate: str = "60 Hz"
    position_noise: str = "0.15 mm"
    rotation_noise: str = "0.2 deg"
    touch_noise: str = "0.3 mm"
    """Error of touching a fiducial with the pointer, per axis."""
    occlusions: tuple[tuple[str, str], ...] = ()
    """Begin and end of each time that something stands before the catheter."""
    most_tilt: str = "180 deg"
    """The catheter is seen while its side is turned to the tracker by less than this."""
    distortion: str = "0 mm"
    """Displacement by metal in an electromagnetic tracker's field, root mean square."""
    distortion_length: str = "150 mm"
    distortion_rotation: str = "0 deg"
    drift: str = "0 mm/min"
    """Of the sensor."""


class PressureSettings(LinkSettings, frozen=True, forbid_unknown_fields=True):
    """The catheter's pressure transducer and its line."""

    loss: float = 0.002
    rate: str = "250 Hz"
    noise: str = "2 mmHg"
    samples_per_message: int = 5
    height: str = "0 cm"
    """Of the transducer above the tip."""
    natural_frequency: str | None = None
    """Of the fluid-filled line; none for a manometer at the tip."""
    damping: float = 0.3
    whip: str = "0 mmHg"
    zero_drift: str = "0 mmHg/hour"
    bias: str = "0 mmHg"
    """It reads this much too high."""
    lowest: str = "-1000 mmHg"
    highest: str = "1000 mmHg"


class FlowProbeSettings(LinkSettings, frozen=True, forbid_unknown_fields=True):
    """The ultrasound flow probe on the inlet."""

    rate: str = "20 Hz"
    noise: float = 0.08
    """Relative to the flow, one standard deviation."""


class ArterialLineSettings(LinkSettings, frozen=True, forbid_unknown_fields=True):
    """A fluid-filled line at a port, beside the catheter."""

    present: bool = False
    port: str | None = None
    """The inlet where it is not given."""
    rate: str = "250 Hz"
    noise: str = "2 mmHg"
    bias: str = "0 mmHg"
    natural_frequency: str = "18 Hz"
    damping: float = 0.35
    flushed: bool = False
    """Whether somebody measured frequency and damping by a fast flush: the twin is told."""
    zeroed: str | None = None
    """How well it was zeroed and leveled, where it was: the twin is told."""


class SectionFlowSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Flow through a section of the vessel by ultrasound."""

    every: str | None = None
    """Time between two measurements; none are made where it is not given."""
    place: float = 0.8
    """Where on the catheter's way, from 0 to 1."""
    noise: float = 0.1
    """Relative, one standard deviation."""


class DopplerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Velocity along a beam in a sample volume on the vessel's axis."""

    every: str | None = None
    """As of `SectionFlowSettings`."""
    place: float = 0.3
    angle: str = "45 deg"
    """Between beam and vessel."""
    angle_error: str = "5 deg"
    noise: str = "30 mm/s"


class CardiacOutputSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thermodilution, where all of the heart's output passes the inlet."""

    every: str | None = None
    """As of `SectionFlowSettings`."""
    noise: float = 0.1
    """Relative, one standard deviation."""


class Intervention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that a person does, or that happens to the line."""

    at: str
    kind: str
    """flush, zero (both for as long as ``lasts``); bubble, damp, free (the line from then on); level (the transducer is
    raised by the height in ``text``, such as "-20 cm"); note"""
    lasts: str = "1 s"
    text: str = ""


INTERVENTIONS = ("flush", "zero", "bubble", "damp", "free", "level", "note")


class CatheterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catheter's way: from the inlet through the narrowest place to an outlet, and back."""

    to: str | None = None
    """The outlet to go to; the one behind the narrowest place where it is not given."""
    speed: str = "5 mm/s"
    settle: str = "8 s"
    """How long the tip rests at the inlet before it advances."""
    dwell: str = "4 s"
    """How long it rests at the far end before the pull-back."""
    path: tuple[tuple[str, float], ...] = ()
    """Instead of these: times, and where along the way the tip is then, from 0 to 1."""


class ProcedureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a procedure file may say."""

    truth: TruthSettings = TruthSettings()
    tracker: TrackerSettings = TrackerSettings()
    pressure: PressureSettings = PressureSettings()
    flow: FlowProbeSettings = FlowProbeSettings()
    arterial_line: ArterialLineSettings = ArterialLineSettings()
    section_flow: SectionFlowSettings = SectionFlowSettings()
    doppler: DopplerSettings = DopplerSettings()
    cardiac_output: CardiacOutputSettings = CardiacOutputSettings()
    catheter: CatheterSettings = CatheterSettings()
    intervention: tuple[Intervention, ...] = ()


def read_procedure(path: Path | None) -> ProcedureSettings:
    """Read a procedure file, or take the defaults where there is none.

    Raises:
        InputError: it cannot be read, or has an unknown or unusable setting.
    """
    settings = ProcedureSettings() if path is None else read_settings(path, ProcedureSettings)
    if path is not None and settings.truth.level_set is not None:
        real = str((path.parent / settings.truth.level_set).resolve())
        settings = msgspec.structs.replace(settings, truth=msgspec.structs.replace(settings.truth, level_set=real))
    for name, value, unit in (
        ("tracker.rate", settings.tracker.rate, "1/s"),
        ("pressure.rate", settings.pressure.rate, "1/s"),
        ("flow.rate", settings.flow.rate, "1/s"),
        ("catheter.speed", settings.catheter.speed, "mm/s"),
        ("tracker.distortion_length", settings.tracker.distortion_length, "mm"),
        ("pressure.natural_frequency", settings.pressure.natural_frequency, "1/s"),
        ("arterial_line.rate", settings.arterial_line.rate, "1/s"),
        ("arterial_line.natural_frequency", settings.arterial_line.natural_frequency, "1/s"),
    ):
        if value is not None and not read_quantity(value, unit, name=name) > 0:
            raise InputError(f'{name} = "{value}" is not positive; write a positive quantity in {unit}.')
    for name, link in (("tracker", settings.tracker), ("pressure", settings.pressure), ("flow", settings.flow)):
        _check_link(name, link)
    for name, every, place in (
        ("section_flow", settings.section_flow.every, settings.section_flow.place),
        ("doppler", settings.doppler.every, settings.doppler.place),
        ("cardiac_output", settings.cardiac_output.every, 0.0),
    ):
        if every is not None and read_quantity(every, "s", name=f"{name}.every") <= 0:
            raise InputError(f'{name}.every = "{every}" is not positive; leave it out for none.')
        if not 0 <= place <= 1:
            raise InputError(f"{name}.place = {place} is not on the catheter's way; write a share from 0 to 1.")
    _check_link("arterial_line", settings.arterial_line)
    for name, damping in (
        ("pressure.damping", settings.pressure.damping),
        ("arterial_line.damping", settings.arterial_line.damping),
    ):
        if not damping > 0:
            raise InputError(f"{name} = {damping} is not positive; 0.3 is a usual one.")
    count = settings.pressure.samples_per_message
    if not 1 <= count <= MAX_SAMPLES:
        raise InputError(
            f"pressure.samples_per_message = {count} cannot be sent; write a number from 1 to {MAX_SAMPLES}."
        )
    for begin, end in settings.tracker.occlusions:
        begins, ends = (read_quantity(value, "s", name="tracker.occlusions") for value in (begin, end))
        if not 0 <= begins < ends:
            raise InputError(f'tracker.occlusions = ["{begin}", "{end}"] does not end after it begins.')
    for number, intervention in enumerate(settings.intervention):
        if intervention.kind not in INTERVENTIONS:
            raise InputError(f'intervention.kind = "{intervention.kind}" is none of {", ".join(INTERVENTIONS)}.')
        if intervention.kind == "level":
            read_quantity(intervention.text, "cm", name="intervention.text")
        for name, value in (("at", intervention.at), ("lasts", intervention.lasts)):
            if read_quantity(value, "s", name=f"intervention.{name}") < 0:
                raise InputError(f'intervention.{name} = "{value}" (number {number + 1}) is negative.')
    return settings


def _check_link(name: str, link: LinkSettings) -> None:
    for field, share in (("loss", link.loss), ("duplication", link.duplication), ("dropout.share", link.dropout.share)):
        if not 0 <= share <= 1:
            raise InputError(f"{name}.{field} = {share} is no share; write a number from 0 to 1.")
    for field, value in (
        ("latency", link.latency),
        ("jitter", link.jitter),
        ("dropout.lasts", link.dropout.lasts),
    ):
        if value is not None and read_quantity(value, "s", name=f"{name}.{field}") < 0:
            raise InputError(f'{name}.{field} = "{value}" is negative.')
    every = link.dropout.every
    if every is not None and not read_quantity(every, "s", name=f"{name}.dropout.every") > 0:
        raise InputError(f'{name}.dropout.every = "{every}" is not positive; leave it out for none.')
    if abs(link.clock_drift_ppm) > 10_000:
        raise InputError(f"{name}.clock_drift_ppm = {link.clock_drift_ppm} is no clock's drift; 100 is a bad one.")


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
    if settings.path:
        return _motion_along(path_length, settings.path)
    speed = read_quantity(settings.speed, "mm/s", name="catheter.speed")
    settle = read_quantity(settings.settle, "s", name="catheter.settle")
    dwell = read_quantity(settings.dwell, "s", name="catheter.dwell")
    start = TOUCH_START_S + fiducial_count * TOUCH_INTERVAL_S + settle
    travel = path_length / speed
    times = np.cumsum([0.0, start, travel, dwell, travel, 2.0])
    distances = np.array([0.0, 0.0, path_length, path_length, 0.0, 0.0])
    return Motion(times=times, distances=distances)


def _motion_along(path_length: float, path: tuple[tuple[str, float], ...]) -> Motion:
    times = np.array([read_quantity(time, "s", name="catheter.path") for time, _ in path])
    shares = np.array([share for _, share in path])
    if len(path) < 2 or times[0] < 0 or (np.diff(times) <= 0).any():
        raise InputError("catheter.path needs two times at least, each after the one before it.")
    if (shares < 0).any() or (shares > 1).any():
        raise InputError("catheter.path says where the tip is as a share of the way, from 0 to 1.")
    return Motion(np.concatenate([[0.0], times]), np.concatenate([[shares[0]], shares]) * path_length)
