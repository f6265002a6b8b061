"""Simulated devices: what each would publish, given what is true.

A device is a generator of messages in time. The truth is a function that the caller hands over; the device adds its own
rate, noise and losses, drawn from a generator of its own, so that a seed gives the same procedure again.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streams.messages import FiducialTouch, FlowSample, Heartbeat, Message, PressureSamples, ToolPose, Trigger
from streams.rotations import quaternion_of, rotation_about
from streams.transducer import Transducer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Due:
    """A message and when it is to be sent."""

    time_s: float
    """Since the procedure began."""
    message: Message
    withheld: bool = False
    """Lost on the way: it is not sent, and its number stays missing."""


class Device(Protocol):
    """Anything that publishes during a procedure."""

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """Messages in the order of their times; the procedure begins at ``epoch_ns``."""


def merge(devices: Sequence[Device], *, epoch_ns: int) -> Iterator[Due]:
    """All devices' messages in the order of their times."""
    return heapq.merge(*(device.messages(epoch_ns) for device in devices), key=lambda due: due.time_s)


def _at(epoch_ns: int, time_s: float) -> int:
    return epoch_ns + round(time_s * 1e9)


@dataclass
class TrackerDevice:
    """Tracks one tool; noise is isotropic, in position [mm] and as a rotation vector [rad], per axis."""

    tool: str
    pose: Callable[[float], Array | None]
    """(4, 4) tracker_from_tool at a time [s], mm; None while the tool is hidden"""
    rate_hz: float
    duration_s: float
    position_noise: float
    rotation_noise: float
    generator: np.random.Generator
    loss: float = 0.0

    @property
    def stream(self) -> str:
        """The stream it publishes."""
        return f"tracker/{self.tool}"

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """A pose per period; a hidden tool is sent as not valid, never with an old pose."""
        for number in range(int(self.duration_s * self.rate_hz)):
            time_s = number / self.rate_hz
            truth = self.pose(time_s)
            position, quaternion, valid = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), False
            if truth is not None:
                noisy = truth[:3, 3] + self.generator.normal(size=3) * self.position_noise
                turned = truth[:3, :3] @ rotation_about(self.generator.normal(size=3) * self.rotation_noise)
                position, valid = (float(noisy[0]), float(noisy[1]), float(noisy[2])), True
                quaternion = quaternion_of(turned)
            message = ToolPose(
                stream=self.stream,
                sequence=number,
                source_time_ns=_at(epoch_ns, time_s),
                tool=self.tool,
                position=position,
                quaternion=quaternion,
                valid=valid,
                error=self.position_noise * math.sqrt(3.0) if valid else None,
            )
            yield Due(time_s, message, withheld=bool(self.generator.random() < self.loss))


@dataclass
class FiducialTouches:
    """A person touching fiducials with a tracked pointer, with an error per axis [mm]."""

    touches: Sequence[tuple[float, str, Array]]
    """time [s], name, (3,) true position in the tracker's frame"""
    tool: str
    noise: float
    generator: np.random.Generator

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """One message per touch."""
        for number, (time_s, name, truth) in enumerate(self.touches):
            x, y, z = (float(value) for value in truth + self.generator.normal(size=3) * self.noise)
            yield Due(
                time_s,
                FiducialTouch(
                    stream=f"touch/{self.tool}",
                    sequence=number,
                    source_time_ns=_at(epoch_ns, time_s),
                    fiducial=name,
                    tool=self.tool,
                    position=(x, y, z),
                ),
            )


@dataclass
class PressureDevice:
    """A pressure transducer that sends its samples in batches, once the last one is taken."""

    sensor: str
    tool: str | None
    pressure_mmhg: Callable[[float], float]
    rate_hz: float
    duration_s: float
    noise_mmhg: float
    generator: np.random.Generator
    samples_per_message: int = 5
    bias_mmhg: float = 0.0
    loss: float = 0.0
    transducer: Transducer | None = None
    """What the line and the transducer make of the pressure; nothing where it is None."""
    _measured: tuple[Array, Array] | None = None
    """times and what is read then, of the whole procedure"""

    def prepare(self) -> None:
        """Work out what the line makes of the whole procedure: too long a job for between two messages."""
        times = np.arange(int(self.duration_s * self.rate_hz), dtype=float) / self.rate_hz
        if self.transducer is not None and len(times):
            self._measured = times, self.transducer.measure(self.pressure_mmhg, times)

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """A batch per ``samples_per_message`` samples."""
        count = self.samples_per_message
        if self.transducer is not None and self._measured is None:
            self.prepare()
        read = self.pressure_mmhg
        if self._measured is not None:
            every, measured = self._measured
            read = lambda time_s: float(np.interp(time_s, every, measured))  # noqa: E731
        for number in range(int(self.duration_s * self.rate_hz) // count):
            times = (number * count + np.arange(count)) / self.rate_hz
            noise = self.generator.normal(size=count) * self.noise_mmhg + self.bias_mmhg
            values = tuple(float(read(time_s) + error) for time_s, error in zip(times, noise, strict=True))
            message = PressureSamples(
                stream=f"pressure/{self.sensor}",
                sequence=number,
                source_time_ns=_at(epoch_ns, times[0]),
                sensor=self.sensor,
                tool=self.tool,
                sample_period_ns=round(1e9 / self.rate_hz),
                values_mmhg=values,
            )
            yield Due(float(times[-1]), message, withheld=bool(self.generator.random() < self.loss))


@dataclass
class FlowDevice:
    """A flow probe whose error is a part of the flow."""

    sensor: str
    port: str
    flow_ml_s: Callable[[float], float]
    rate_hz: float
    duration_s: float
    relative_noise: float
    generator: np.random.Generator
    floor_ml_s: float = 0.2
    """Smallest standard deviation: a probe is not exact at rest."""

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """A sample per period."""
        for number in range(int(self.duration_s * self.rate_hz)):
            time_s = number / self.rate_hz
            truth = self.flow_ml_s(time_s)
            deviation = max(self.relative_noise * abs(truth), self.floor_ml_s)
            measured = truth + self.generator.normal() * deviation
            # The probe knows its relative error, and of the flow only what it measured.
            stated = max(self.relative_noise * abs(measured), self.floor_ml_s)
            yield Due(
                time_s,
                FlowSample(
                    stream=f"flow/{self.sensor}",
                    sequence=number,
                    source_time_ns=_at(epoch_ns, time_s),
                    sensor=self.sensor,
                    port=self.port,
                    flow_ml_s=float(measured),
                    deviation_ml_s=float(stated),
                ),
            )


@dataclass
class TriggerDevice:
    """A monitor that says when something begins, such as R-waves, with some jitter [s]."""

    kind: str
    times: Array
    generator: np.random.Generator
    jitter_s: float = 0.001

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """One message per instant."""
        for number, time_s in enumerate(self.times):
            stamped = max(0.0, float(time_s) + self.generator.normal() * self.jitter_s)
            yield Due(
                stamped,
                Trigger(
                    stream=f"trigger/{self.kind}",
                    sequence=number,
                    source_time_ns=_at(epoch_ns, stamped),
                    kind=self.kind,
                ),
            )


@dataclass
class HeartbeatDevice:
    """A device saying once a second that it is there."""

    device: str
    duration_s: float
    interval_s: float = 1.0
    synchronized: bool = False
    streams: tuple[str, ...] = ()

    def messages(self, epoch_ns: int) -> Iterator[Due]:
        """One message per interval."""
        for number in range(int(self.duration_s / self.interval_s)):
            time_s = number * self.interval_s
            yield Due(
                time_s,
                Heartbeat(
                    stream=f"heartbeat/{self.device}",
                    sequence=number,
                    source_time_ns=_at(epoch_ns, time_s),
                    device=self.device,
                    status="ready",
                    synchronized=self.synchronized,
                    streams=self.streams,
                ),
            )
