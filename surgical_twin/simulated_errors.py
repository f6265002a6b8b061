"""The errors of simulated devices, from the settings of a procedure with their units."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streams.devices import Due
from streams.links import Dropouts, LinkErrors
from streams.messages import FlowSample, Message, Note, PressureSamples
from streams.tracker_errors import TrackerErrors
from streams.transducer import Line, Transducer
from surgical_twin.procedure import Intervention, LinkSettings, PressureSettings, TrackerSettings
from surgical_twin.units import read_quantity

DEFAULT_FREQUENCY_HZ = 25.0
"""Of a line that a bubble or a clot gets into, where the settings gave it none."""

BUBBLE_SOFTENS = 0.3
"""A bubble brings the natural frequency down to this share."""

CLOT_DAMPING = 3.0


def _seconds(text: str, name: str) -> float:
    return read_quantity(text, "s", name=name)


def is_synchronized(settings: LinkSettings) -> bool:
    """Whether a device says that its clock is kept right."""
    if settings.synchronized is not None:
        return settings.synchronized
    return _seconds(settings.clock_offset, "clock_offset") == 0.0 and settings.clock_drift_ppm == 0.0


def link_errors(settings: LinkSettings, unseen: Callable[[float], bool]) -> LinkErrors:
    """What a device's link does to its messages.

    Args:
        settings: of the device.
        unseen: whether the catheter cannot be seen at a time [s].
    """
    dropout = settings.dropout
    limited = dropout.above is not None or dropout.below is not None
    return LinkErrors(
        latency_s=_seconds(settings.latency, "latency"),
        jitter_s=_seconds(settings.jitter, "jitter"),
        loss=settings.loss,
        duplication=settings.duplication,
        clock_offset_s=_seconds(settings.clock_offset, "clock_offset"),
        clock_drift_ppm=settings.clock_drift_ppm,
        dropouts=Dropouts(
            every_s=math.inf if dropout.every is None else _seconds(dropout.every, "dropout.every"),
            last_s=_seconds(dropout.lasts, "dropout.lasts"),
            unseen=unseen if dropout.hidden else None,
            by_value=_by_value(dropout.below, dropout.above, dropout.share) if limited else None,
        ),
    )


def _by_value(below: str | None, above: str | None, share: float) -> Callable[[Message], float]:
    def limits(unit: str) -> tuple[float, float]:
        low = -math.inf if below is None else read_quantity(below, unit, name="dropout.below")
        high = math.inf if above is None else read_quantity(above, unit, name="dropout.above")
        return low, high

    of_pressure: list[tuple[float, float]] = []
    of_flow: list[tuple[float, float]] = []

    def probability(message: Message) -> float:
        if isinstance(message, PressureSamples):
            known, unit, value = of_pressure, "mmHg", float(np.mean(message.values_mmhg))
        elif isinstance(message, FlowSample):
            known, unit, value = of_flow, "mL/s", message.flow_ml_s
        else:
            return 0.0
        if not known:
            known.append(limits(unit))
        low, high = known[0]
        return share if value < low or value > high else 0.0

    return probability


def tracker_errors(settings: TrackerSettings) -> TrackerErrors:
    """What the tracker does to a pose besides noise."""
    return TrackerErrors(
        occlusions=tuple(
            (_seconds(begin, "tracker.occlusions"), _seconds(end, "tracker.occlusions"))
            for begin, end in settings.occlusions
        ),
        most_tilt_deg=read_quantity(settings.most_tilt, "deg", name="tracker.most_tilt"),
        distortion_mm=read_quantity(settings.distortion, "mm", name="tracker.distortion"),
        distortion_length_mm=read_quantity(settings.distortion_length, "mm", name="tracker.distortion_length"),
        distortion_deg=read_quantity(settings.distortion_rotation, "deg", name="tracker.distortion_rotation"),
        drift_mm_per_min=read_quantity(settings.drift, "mm/minute", name="tracker.drift"),
    )


def line_of(
    settings: PressureSettings, interventions: Sequence[Intervention], period_s: float, duration_s: float
) -> Transducer | None:
    """The line and the transducer, with what is done to them; None for a manometer at the tip that is as it should."""
    frequency = (
        None
        if settings.natural_frequency is None
        else read_quantity(settings.natural_frequency, "1/s", name="pressure.natural_frequency")
    )
    lines = [Line(0.0, frequency, settings.damping)]
    spans: dict[str, list[tuple[float, float]]] = {"flush": [], "zero": []}
    for item in sorted(interventions, key=lambda item: _seconds(item.at, "intervention.at")):
        at, lasts = _seconds(item.at, "intervention.at"), _seconds(item.lasts, "intervention.lasts")
        usual = frequency or DEFAULT_FREQUENCY_HZ
        if item.kind in spans:
            spans[item.kind].append((at, at + lasts))
        elif item.kind == "bubble":
            lines.append(Line(at, BUBBLE_SOFTENS * usual, settings.damping))
        elif item.kind == "damp":
            lines.append(Line(at, usual, CLOT_DAMPING))
        elif item.kind == "free":
            lines.append(Line(at, frequency, settings.damping))
    made = Transducer(
        lines=tuple(lines),
        height_cm=read_quantity(settings.height, "cm", name="pressure.height"),
        zero_drift_mmhg_per_h=read_quantity(settings.zero_drift, "mmHg/hour", name="pressure.zero_drift"),
        whip_mmhg=read_quantity(settings.whip, "mmHg", name="pressure.whip"),
        beats=tuple(np.arange(0.0, duration_s, period_s).tolist()),
        lowest_mmhg=read_quantity(settings.lowest, "mmHg", name="pressure.lowest"),
        highest_mmhg=read_quantity(settings.highest, "mmHg", name="pressure.highest"),
        flushes=tuple(spans["flush"]),
        zeroings=tuple(spans["zero"]),
    )
    plain = Transducer(beats=made.beats, lowest_mmhg=-1000.0, highest_mmhg=1000.0)
    return None if made == plain else made


@dataclass
class Notes:
    """A person who writes down what is done, when it is."""

    interventions: Sequence[Intervention]
    duration_s: float

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """One note for each intervention."""
        ordered = sorted(self.interventions, key=lambda item: _seconds(item.at, "intervention.at"))
        for number, item in enumerate(ordered):
            time_s = _seconds(item.at, "intervention.at")
            if time_s > self.duration_s:
                return
            text = item.text if item.kind == "note" else f"{item.kind} {item.text}".strip()
            yield Due(
                time_s,
                Note(
                    stream="note/interventions",
                    sequence=number,
                    source_time_ns=epoch_ns + round(time_s * 1e9),
                    source="operating room",
                    text=text,
                ),
            )
