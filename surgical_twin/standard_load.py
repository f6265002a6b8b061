"""What the devices of an ordinary procedure send on a case: to see how much of it a session can bear.

The catheter goes to and fro along the vessel's axis, its pressure is that of the plan with noise, the fiducials were
touched before. Nothing here is truth: the messages only have to take the ways through the session that real ones take.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registration.point_files import read_point_file
from streams.messages import (
    FiducialTouch,
    FlowSample,
    Message,
    PressureSamples,
    ToolPose,
    Trigger,
)
from surgical_twin.session_model import SessionModel
from surgical_twin.units import CUBIC_METRES_PER_ML, PASCAL_PER_MMHG

Array = NDArray[np.float64]

SPEED_MM_S = 20.0
BATCH_S = 0.02
"""A pressure message holds the samples of this time."""


@dataclass(frozen=True)
class LoadSettings:
    """How much the devices send."""

    pose_hz: float = 120.0
    tools: int = 1
    """The first carries the pressure sensor."""
    pressure_hz: float = 1000.0
    pressures: int = 1
    flow_hz: float = 20.0


def read_stations(path: Path) -> Array:
    """(n, 3) mm: the stations along a case's axis."""
    return read_point_file(path).points


def standard_load(
    model: SessionModel, stations: Array, settings: LoadSettings, begin_ns: int, seconds: float
) -> Iterator[Message]:
    """The messages of all devices in the order of their times.

    Args:
        model: the case.
        stations: (n, 3) mm, along the vessel's axis.
        settings: the rates.
        begin_ns: time of the first, ns.
        seconds: how long it goes on.
    """
    yield from _touches(model, begin_ns)
    streams = [_beats(model, begin_ns, seconds)]
    streams += [_poses(stations, settings.pose_hz, number, begin_ns, seconds) for number in range(settings.tools)]
    streams += [
        _pressures(model, settings.pressure_hz, number, begin_ns, seconds) for number in range(settings.pressures)
    ]
    if settings.flow_hz > 0:
        streams.append(_flows(model, settings.flow_hz, begin_ns, seconds))
    yield from merge(*streams, key=lambda message: message.source_time_ns)


def _times(period_s: float, begin_ns: int, seconds: float) -> Iterator[tuple[int, int, float]]:
    """Number, time and seconds since the beginning of everything that comes with a period."""
    for number in range(int(seconds / period_s)):
        at = number * period_s
        yield number, begin_ns + round(at * 1e9), at


def _touches(model: SessionModel, begin_ns: int) -> Iterator[Message]:
    rng = np.random.default_rng(0)
    for number, (name, place) in enumerate(sorted(model.fiducials.items())):
        x, y, z = (place + rng.normal(0.0, 0.2, 3)).tolist()
        yield FiducialTouch(
            stream="load/touch",
            sequence=number,
            source_time_ns=begin_ns,
            fiducial=name,
            tool="stylus",
            position=(x, y, z),
        )


def _beats(model: SessionModel, begin_ns: int, seconds: float) -> Iterator[Message]:
    for number, time_ns, _ in _times(model.waveform.period, begin_ns, seconds):
        yield Trigger(stream="load/ecg", sequence=number, source_time_ns=time_ns, kind="r_wave")


def _poses(stations: Array, rate_hz: float, tool: int, begin_ns: int, seconds: float) -> Iterator[Message]:
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(stations, axis=0), axis=1))])
    rng = np.random.default_rng(tool)
    for number, time_ns, at in _times(1.0 / rate_hz, begin_ns, seconds):
        there = (SPEED_MM_S * at + 7.0 * tool) % (2.0 * lengths[-1])
        along = min(there, 2.0 * lengths[-1] - there)
        x, y, z = (np.interp(along, lengths, column) for column in stations.T)
        dx, dy, dz = rng.normal(0.0, 0.1, 3).tolist()
        yield ToolPose(
            stream=f"load/tool{tool}",
            sequence=number,
            source_time_ns=time_ns,
            tool=f"tool{tool}",
            position=(float(x) + dx, float(y) + dy, float(z) + dz),
            quaternion=(1.0, 0.0, 0.0, 0.0),
            valid=True,
            error=0.2,
        )


def _pressures(model: SessionModel, rate_hz: float, sensor: int, begin_ns: int, seconds: float) -> Iterator[Message]:
    rng = np.random.default_rng(100 + sensor)
    planned = model.filter.planned
    conductance = float(np.sum(1.0 / (planned.proximal_resistance + planned.distal_resistance)))
    mean = model.waveform.mean / conductance / PASCAL_PER_MMHG
    count = max(1, round(BATCH_S * rate_hz))
    for number, time_ns, _ in _times(count / rate_hz, begin_ns, seconds):
        yield PressureSamples(
            stream=f"load/pressure{sensor}",
            sequence=number,
            source_time_ns=time_ns,
            sensor=f"p{sensor}",
            tool=f"tool{sensor}" if sensor == 0 else None,
            sample_period_ns=round(1e9 / rate_hz),
            values_mmhg=tuple((mean + rng.normal(0.0, 2.0, count)).tolist()),
        )


def _flows(model: SessionModel, rate_hz: float, begin_ns: int, seconds: float) -> Iterator[Message]:
    rng = np.random.default_rng(200)
    port = model.port_names[1]
    flow = model.waveform.mean / CUBIC_METRES_PER_ML / (len(model.port_names) - 1)
    for number, time_ns, _ in _times(1.0 / rate_hz, begin_ns, seconds):
        yield FlowSample(
            stream="load/flow",
            sequence=number,
            source_time_ns=time_ns,
            sensor="probe",
            port=port,
            flow_ml_s=float(flow * (1.0 + rng.normal(0.0, 0.2))),
            deviation_ml_s=0.3 * flow,
        )
