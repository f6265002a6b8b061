"""The vessel as the AR page draws it, sent once, and a state as it is sent then, in binary, little-endian::

    u32 magic "STW1"   u32 sequence   f64 time [s]   u32 bits (1 trusted, 2 tip known)   u32 vertices n   u32 bytes m
    f32[3] tip [m]     f32[9] axes of its 95 % ellipsoid [m], by rows     f32[3] tip pressure, lower, upper [mmHg]
    f32[2] distance to the wall and its deviation [mm]     f32 distance to the target [mm]     f32 0
    u16[n] value along the color scale, 0 to 65535
    u8[m] JSON {"alerts": [[priority, words, seen]], "rows": [[name, words]]}

NaN stands for what is not known.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewer import colors
from viewer.actors import ellipsoid_axes, pressure_modes, typical_radius
from viewer.alerts import AlertBoard, doubts
from viewer.decimation import LEAST, coarser, within_budget
from viewer.errors import InputError
from viewer.gltf import GLTF_FROM_LPS, Structure, geometry
from viewer.guidance import Guidance, Guide
from viewer.lettering import format_age, format_estimate
from viewer.quantities import PRESSURE

if TYPE_CHECKING:
    import pyvista as pv

    from streams.messages import TwinState

HEAD = struct.Struct("<IIdIII19f")
MAGIC = 0x31575453
_NAN = float("nan")

COARSER = (0.24, 0.08)
"""Shares of the triangles that a page may draw instead of all, where it would be too slow."""


class ArModel:
    """The vessel and its surroundings as the page draws them, and a state as it is sent.

    Args:
        lumen: display surface with pressure modes, mm LPS.
        anatomy: drawn see-through around it.
        guide: for distances; none are told without it.
        anchors: fiducials by name, (3,) mm LPS, by which a headset lays the model over the patient.
        limits: fixed ends of the color scale in mmHg.
        triangles: at most so many are sent.
    """

    def __init__(
        self,
        lumen: pv.PolyData,
        *,
        anatomy: pv.PolyData | None = None,
        guide: Guide | None = None,
        anchors: Mapping[str, ArrayLike] | None = None,
        limits: tuple[float, float] = (60.0, 140.0),
        triangles: int = 50_000,
    ) -> None:
        self._limits = colors.check_limits(limits)
        modes = pressure_modes(lumen)
        self._guide = guide
        # Each mode is a value at the vertices: decimation carries them over as it carries a cycle's phases.
        cycle = modes.T if modes.shape[1] > 1 else np.vstack([modes.T, modes.T])
        wanted = [Structure("lumen", lumen, scalars=np.zeros(lumen.n_points), cycle=cycle)]
        if anatomy is not None and anatomy.n_points:
            wanted.append(Structure("anatomy", anatomy, opacity=0.16))
        kept = within_budget(wanted, triangles)
        self._modes = np.ascontiguousarray(np.asarray(kept[0].cycle)[: modes.shape[1]].T, dtype=np.float32)
        self._center = np.asarray(lumen.center, dtype=float)
        turn = GLTF_FROM_LPS[:3, :3]
        self.anchors_m = {
            name: turn @ (np.asarray(place, dtype=float) - self._center) for name, place in (anchors or {}).items()
        }
        self._radius_m = 0.5e-3 * float(np.linalg.norm(np.ptp(np.asarray(lumen.points), axis=0)))
        self._tool_m = 1e-3 * float(np.clip(0.28 * typical_radius(lumen, None), 0.4, 2.5))
        self.binary = self._pack(kept)

    @property
    def vertices(self) -> int:
        """Of the vessel as sent."""
        return len(self._modes)

    def _pack(self, structures: list[Structure]) -> bytes:
        parts, heads = [], []
        for one in structures:
            points, normals, triangles = geometry(one, self._center)
            levels = [coarser(points, triangles, max(LEAST, round(share * len(triangles)))) for share in COARSER]
            heads.append(
                {
                    "name": one.name,
                    "vertices": len(points),
                    "triangles": [len(level) for level in (triangles, *levels)],
                    "opacity": one.opacity,
                    "color": colors.unit_rgb(one.color),
                }
            )
            parts += [points.astype("<f4"), normals.astype("<f4")]
            parts += [level.astype("<u4") for level in (triangles, *levels)]
        head = json.dumps(
            {
                "structures": heads,
                "limits": self._limits,
                "title": PRESSURE.title,
                "unit": PRESSURE.unit,
                "radius": self._radius_m,
                "tool": self._tool_m,
                "anchors": [{"name": name, "at": at.tolist()} for name, at in self.anchors_m.items()],
            }
        ).encode()
        filled = struct.pack("<I", len(head)) + head
        filled += b"\0" * (-len(filled) % 4)
        return filled + b"".join(part.tobytes() for part in parts) + PRESSURE.table(256).tobytes()

    def message(self, state: TwinState, board: AlertBoard) -> bytes:
        """A state as it is sent.

        Raises:
            InputError: a state of another case.
        """
        count = len(state.field_coefficients)
        if count not in (0, self._modes.shape[1]):
            raise InputError(
                f"the state holds {count} field coefficients but the display surface has {self._modes.shape[1]} "
                "pressure modes; they are not of the same case."
            )
        values = np.zeros(0, dtype="<u2")
        if count:
            pressure = self._modes @ np.array(state.field_coefficients, dtype=np.float32)
            values = quantized(pressure, self._limits)
        known = False
        tip, axes = np.full(3, _NAN), np.full((3, 3), _NAN)
        if state.tip is not None and state.tip_valid and state.tip_covariance is not None:
            known = True
            turn = GLTF_FROM_LPS[:3, :3]
            tip = turn @ (np.array(state.tip) - self._center)
            axes = turn @ ellipsoid_axes(state.tip_covariance)
        guidance = None if self._guide is None else self._guide.look(state)
        estimate = state.tip_pressure_mmhg
        conditions = (*state.flags, *(() if guidance is None else guidance.conditions))
        board.take(conditions, state.source_time_ns * 1e-9)
        words = json.dumps(
            {
                "alerts": [[int(a.priority), a.words, a.acknowledged] for a in board.alerts],
                "rows": _rows(state, guidance),
            }
        ).encode()
        trusted = not doubts(state.flags) and count > 0
        head = HEAD.pack(
            MAGIC,
            state.sequence & 0xFFFFFFFF,
            state.source_time_ns * 1e-9,
            int(trusted) | 2 * int(known),
            len(values),
            len(words),
            *tip,
            *axes.ravel(),
            *((_NAN,) * 3 if estimate is None else (estimate.value, estimate.lower, estimate.upper)),
            *((_NAN,) * 2 if guidance is None else (guidance.wall_mm, guidance.wall_std_mm)),
            _NAN if guidance is None or guidance.target_mm is None else guidance.target_mm,
            0.0,
        )
        return head + values.tobytes() + words


def quantized(values: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.uint16]:
    """Values along a color scale as 16-bit numbers: off by at most 1/131070 of the scale; NaN is its low end."""
    low, high = limits
    share = (values - np.float32(low)) * np.float32(65535.0 / (high - low))
    np.nan_to_num(share, copy=False)
    return np.asarray(np.rint(np.clip(share, 0.0, 65535.0, out=share), out=share), dtype="<u2")


def _rows(state: TwinState, guidance: Guidance | None) -> list[list[str]]:
    """What stands beside the picture: name and words."""
    rows = []
    if guidance is not None:
        side = "" if guidance.wall_mm >= 0.0 else " OUTSIDE"
        rows.append(["Wall", f"{abs(guidance.wall_mm):.1f} ± {1.96 * guidance.wall_std_mm:.1f} mm{side}"])
        if guidance.target_mm is not None:
            rows.append(["Target", f"{guidance.target_mm:.1f} mm"])
    rows.append(["Registration", "none" if not state.registered else f"TRE {state.tre or _NAN:.2f} mm"])
    for port, flow in list(state.port_flow_ml_s.items())[:3]:
        rows.append([f"{port.replace('_', ' ')} mL/s", f"{' ('.join(format_estimate(flow))})"])
    oldest = max((age for name, age in state.age_ns.items() if name.startswith(("tracker", "pressure"))), default=None)
    if oldest is not None:
        rows.append(["Oldest data", format_age(oldest)])
    return rows
