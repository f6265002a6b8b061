"""Devices of the simulated room beside catheter, tracker and flow probe: an arterial line, an ultrasound machine that
measures flow through a section and velocity along a beam, a thermodilution computer, and a transducer that is moved.

Each reads the truth and has its own noise, drawn from a generator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.devices import Device, Due, PressureDevice
from streams.messages import CardiacOutput, DopplerVelocity, Message, PressureSamples, SectionFlow
from streams.transducer import MMHG_PER_CM, Line, Transducer
from surgical_twin.errors import InputError
from surgical_twin.procedure import (
    ArterialLineSettings,
    CardiacOutputSettings,
    DopplerSettings,
    Intervention,
    SectionFlowSettings,
)
from surgical_twin.truth import Truth
from surgical_twin.units import read_quantity

Array = NDArray[np.float64]

ML_S_PER_L_MIN = 1000.0 / 60.0


@dataclass
class Measuring:
    """A device that measures every so often."""

    every_s: float
    duration_s: float
    measure: Callable[[float, int, int], Message]
    """takes the time since the procedure's start [s], the number, and the time [ns]"""

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """One message per measurement."""
        for number in range(int(self.duration_s / self.every_s)):
            time_s = (number + 1) * self.every_s
            yield Due(time_s, self.measure(time_s, number, epoch_ns + round(time_s * 1e9)))


@dataclass
class Changed:
    """A device whose messages are changed on their way."""

    device: Device
    change: Callable[[Message, float], Message]
    """takes a message and when it is sent [s]"""

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """The device's messages, changed."""
        for due in self.device.messages(epoch_ns):
            yield Due(due.time_s, self.change(due.message, due.time_s), due.withheld)


def moved_transducer(device: Device, interventions: tuple[Intervention, ...]) -> Device:
    """A pressure device whose transducer is lowered or raised at times: ``level`` with the height in its text."""
    moves = [
        (
            read_quantity(one.at, "s", name="intervention.at"),
            read_quantity(one.text, "cm", name="intervention.text") * MMHG_PER_CM,
        )
        for one in interventions
        if one.kind == "level"
    ]

    def change(message: Message, time_s: float) -> Message:
        lower = sum(height for begin, height in moves if begin <= time_s)
        if not lower or not isinstance(message, PressureSamples):
            return message
        return msgspec.structs.replace(message, values_mmhg=tuple(value - lower for value in message.values_mmhg))

    return Changed(device, change) if moves else device


def arterial_line(
    settings: ArterialLineSettings, truth: Truth, duration_s: float, generator: np.random.Generator
) -> Device:
    """A fluid-filled line at a port, with its transducer.

    Raises:
        InputError: the case has no such port.
    """
    port = settings.port or truth.port_names[0]
    if port not in truth.port_names:
        raise InputError(f'arterial_line.port = "{port}" is no port; there are {", ".join(truth.port_names)}.')
    frequency = read_quantity(settings.natural_frequency, "1/s", name="arterial_line.natural_frequency")
    device = PressureDevice(
        sensor="arterial_line",
        tool=None,
        pressure_mmhg=lambda time_s: truth.port_pressure_at(time_s, port),
        rate_hz=read_quantity(settings.rate, "1/s", name="arterial_line.rate"),
        duration_s=duration_s,
        noise_mmhg=read_quantity(settings.noise, "mmHg", name="arterial_line.noise"),
        bias_mmhg=read_quantity(settings.bias, "mmHg", name="arterial_line.bias"),
        transducer=Transducer(lines=(Line(0.0, frequency, settings.damping),)),
        generator=generator,
    )
    device.prepare()
    zero = None if settings.zeroed is None else read_quantity(settings.zeroed, "mmHg", name="arterial_line.zeroed")

    def change(message: Message, time_s: float) -> Message:
        if not isinstance(message, PressureSamples):
            return message
        return msgspec.structs.replace(
            message,
            port=port,
            natural_frequency_hz=frequency if settings.flushed else None,
            damping=settings.damping if settings.flushed else None,
            zero_deviation_mmhg=zero,
        )

    return Changed(device, change)


def section_flow(
    settings: SectionFlowSettings,
    truth: Truth,
    place: Array,
    outlets: tuple[str, ...],
    duration_s: float,
    generator: np.random.Generator,
) -> Device:
    """Flow through the section at a place (3,) mm of the image, behind which these outlets lie."""

    def measure(time_s: float, number: int, time_ns: int) -> Message:
        flow = sum(truth.flow_at(time_s, outlet) for outlet in outlets)
        deviation = max(settings.noise * abs(flow), 0.2)
        x, y, z = place.tolist()
        return SectionFlow(
            stream="ultrasound/section_flow",
            sequence=number,
            source_time_ns=time_ns,
            sensor="ultrasound",
            position=(x, y, z),
            flow_ml_s=flow + deviation * float(generator.normal()),
            deviation_ml_s=deviation,
        )

    return Measuring(read_quantity(settings.every or "1 s", "s", name="section_flow.every"), duration_s, measure)


def doppler(
    settings: DopplerSettings,
    truth: Truth,
    distance_mm: float,
    place: Array,
    along: Array,
    tracker_from_image: Array,
    duration_s: float,
    generator: np.random.Generator,
) -> Device:
    """Velocity along a beam at a place (3,) of the axis, which runs along (3,) there; mm, image."""
    angle = read_quantity(settings.angle, "rad", name="doppler.angle")
    error = read_quantity(settings.angle_error, "rad", name="doppler.angle_error")
    noise = read_quantity(settings.noise, "mm/s", name="doppler.noise")
    side = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    side /= np.linalg.norm(side)
    told = math.cos(angle) * along + math.sin(angle) * side
    true_angle = angle + error * float(generator.normal())
    true = math.cos(true_angle) * along + math.sin(true_angle) * side
    rotation = tracker_from_image[:3, :3]
    x, y, z = (rotation @ place + tracker_from_image[:3, 3]).tolist()
    right, back, up = (rotation @ told).tolist()

    def measure(time_s: float, number: int, time_ns: int) -> Message:
        velocity = float(truth.velocity_at(time_s, distance_mm) @ true)
        return DopplerVelocity(
            stream="ultrasound/doppler",
            sequence=number,
            source_time_ns=time_ns,
            sensor="ultrasound",
            position=(x, y, z),
            direction=(right, back, up),
            velocity_mm_s=velocity + noise * float(generator.normal()),
            deviation_mm_s=noise,
            angle_deviation_deg=math.degrees(error),
        )

    return Measuring(read_quantity(settings.every or "1 s", "s", name="doppler.every"), duration_s, measure)


def cardiac_output(
    settings: CardiacOutputSettings, truth: Truth, duration_s: float, generator: np.random.Generator
) -> Device:
    """The mean inflow, as thermodilution measures it where all of the heart's output passes the inlet."""
    inlet = truth.port_names[0]
    beat = np.linspace(0.0, truth.period, 100, endpoint=False)
    mean = float(np.mean([truth.flow_at(truth.transient_s + time, inlet) for time in beat])) / ML_S_PER_L_MIN

    def measure(time_s: float, number: int, time_ns: int) -> Message:
        deviation = settings.noise * mean
        return CardiacOutput(
            stream="monitor/cardiac_output",
            sequence=number,
            source_time_ns=time_ns,
            sensor="thermodilution",
            output_l_min=mean + deviation * float(generator.normal()),
            deviation_l_min=deviation,
            port=inlet,
        )

    return Measuring(read_quantity(settings.every or "10 s", "s", name="cardiac_output.every"), duration_s, measure)
