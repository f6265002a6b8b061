"""What the twin's state is to an OpenIGTLink peer: tip, pressures with their intervals, flags, and the overlay mesh."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams import igtl
from streams.igtl import IgtlMessage
from streams.messages import TwinState
from streams.transducer import PASCAL_PER_MMHG

Array = NDArray[np.float64]

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Surface:
    """The lumen's surface with its pressure modes, for the overlay mesh."""

    points: Array
    """(n, 3) mm, LPS"""
    triangles: NDArray[np.int64]
    """(m, 3)"""
    modes: Array
    """(n, k) mmHg for each coefficient"""
    fiducials: Mapping[str, Array] = field(default_factory=dict)
    """(3,) mm, LPS, by name: by which a headset registers itself to the image"""


def outward(state: TwinState, *, ras: bool, surface: Surface | None = None) -> list[IgtlMessage]:
    """What the twin's state is to a peer: tip, pressures with their intervals, flags, and the overlay mesh.

    Pressures are SENSORs of value, lower and upper end of the 95 % interval, in pascal. The tip is a TRANSFORM only
    while it is known.

    Args:
        state: the twin's.
        ras: turn positions to RAS, as 3D Slicer has them.
        surface: send the overlay mesh and the fiducials as well.
    """
    time_ns = state.source_time_ns
    turn = RAS_FROM_LPS if ras else np.eye(3)
    messages = []

    def say(kind: str, device: str, content: bytes) -> None:
        messages.append(IgtlMessage(kind, device, time_ns, content))

    if state.tip is not None and state.tip_valid:
        matrix = np.eye(4)
        matrix[:3, 3] = turn @ np.array(state.tip)
        say("TRANSFORM", "TipToImage", igtl.transform_content(matrix))
    unit = igtl.pressure_unit()
    named = {"TipPressure": state.tip_pressure_mmhg}
    named |= {f"Pressure_{port}": value for port, value in state.port_pressure_mmhg.items()}
    for device, value in named.items():
        if value is not None:
            triple = [part * PASCAL_PER_MMHG for part in (value.value, value.lower, value.upper)]
            say("SENSOR", device, igtl.sensor_content(triple, unit))
    trusted = not state.flags
    code, name = (igtl.STATUS_OK, "OK") if trusted else (igtl.STATUS_NOT_READY, "NOT_TRUSTED")
    say("STATUS", "Twin", igtl.status_content(code, name, ", ".join(state.flags)))
    say("STRING", "TwinFlags", igtl.string_content(", ".join(state.flags)))
    if surface is not None and len(state.field_coefficients) == surface.modes.shape[1]:
        pressure = surface.modes @ np.array(state.field_coefficients)
        say(
            "POLYDATA",
            "Overlay",
            igtl.polydata_content(surface.points @ turn.T, surface.triangles, pressure, "pressure_mmHg"),
        )
    if surface is not None and surface.fiducials:
        points = [(name, turn @ point) for name, point in surface.fiducials.items()]
        say("POINT", "Fiducials", igtl.point_content(points, group="fiducials"))
    return messages
