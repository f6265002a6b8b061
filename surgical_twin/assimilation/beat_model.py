"""What sensors would see over one heart beat of patients with given parameters: the periodic answer of the reduced
model.

Used before the procedure, to fit a recorded history and to ask what a sensor plan could tell. Each member is run to its
periodic state; between beats its capacitors are moved by what their mean pressures still lack,

    Pc += (Pd + Rd mean(Q) - mean(Pc)) x / (e^x - 1),   x = period / (Rd C),

which is exact for a single Windkessel and settles one that would take a hundred beats within a few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from registration.lumen.branch_tree import BranchTree
from surgical_twin.errors import InputError
from surgical_twin.flow.port_model import PortParameters, PortState
from surgical_twin.session_model import Place, SessionModel
from surgical_twin.units import CUBIC_METRES_PER_ML, PASCAL_PER_MMHG, read_quantity

Array = NDArray[np.float64]

TIME_STEP = 0.005
"""s, at most"""
PHASES = 40
SETTLED = 2e-4
"""A beat is periodic when its capacitors' mean pressures are what its mean flows hold up, to this share of the
pressure."""
MOST_BEATS = 60
CLOSED = 1e4
"""Factor on the resistance behind a clamped port, and its compliance's inverse."""


@dataclass(frozen=True)
class Sensor:
    """What is measured where."""

    quantity: str
    """``pressure`` [mmHg] or ``flow`` [mL/s]"""
    where: str
    """as it was written"""
    port: int | None = None
    """0 for the inlet, then the outlets; None for a place in the lumen"""
    place: Place | None = None

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.quantity} at {self.where}"

    @property
    def unit(self) -> str:
        """Of its values."""
        return "mmHg" if self.quantity == "pressure" else "mL/s"


@dataclass(frozen=True)
class Manoeuvre:
    """What is done to the patient while the sensors measure."""

    name: str = "rest"
    heart_rate_factor: float = 1.0
    clamped: tuple[int, ...] = ()
    """outlets, from 0"""


@dataclass(frozen=True)
class BeatModel:
    """Predicts sensors' values over one beat for members with parameters as `flow_prior` orders them."""

    model: SessionModel
    period_s: float
    phases: int = PHASES

    @property
    def outlets(self) -> tuple[str, ...]:
        """Names, in the order of the columns."""
        return tuple(self.model.reduced.ports.outlets)

    def parameters(self, columns: Array) -> PortParameters:
        """Windkessels and drop factor of members (m, k)."""
        planned, count = self.model.filter.planned, len(self.outlets)
        resistance = np.exp(columns[:, :count])
        return PortParameters(
            proximal_resistance=planned.proximal_resistance * resistance,
            distal_resistance=planned.distal_resistance * resistance,
            compliance=planned.compliance * np.exp(columns[:, count : 2 * count]),
            distal_pressure=np.repeat(planned.distal_pressure, len(columns), axis=0),
            drop_factor=np.exp(columns[:, 2 * count + 1]),
        )

    def inflow(self, columns: Array, phase: Array, period_s: float) -> tuple[Array, Array]:
        """(n, m) inflow [m^3/s] and its rate of change at phases (n,) of the beat."""
        waveform, count = self.model.waveform, len(self.outlets)
        own = waveform.period
        value = waveform.spline((phase % 1.0) * own)[:, None]
        rate = waveform.spline((phase % 1.0) * own, 1)[:, None] * (own / period_s)
        shape = columns[:, 2 * count + 2 :]
        order = np.arange(1, shape.shape[1] // 2 + 1)
        angle, speed = 2.0 * np.pi * np.outer(phase, order), 2.0 * np.pi * order / period_s
        waves, slopes = np.empty((len(phase), shape.shape[1])), np.empty((len(phase), shape.shape[1]))
        waves[:, 0::2], waves[:, 1::2] = np.cos(angle), np.sin(angle)
        slopes[:, 0::2], slopes[:, 1::2] = -speed * np.sin(angle), speed * np.cos(angle)
        scale = np.exp(columns[:, 2 * count])
        mean = waveform.mean
        return scale * (value + mean * (waves @ shape.T)), scale * (rate + mean * (slopes @ shape.T))

    def states(self, columns: Array, manoeuvre: Manoeuvre | None = None) -> list[PortState]:
        """The periodic beat at the phases k / phases, k = 1..phases.

        Raises:
            InputError: a member does not settle.
        """
        done = manoeuvre or Manoeuvre()
        period = self.period_s / done.heart_rate_factor
        bed = self.parameters(columns)
        if done.clamped:
            factor = np.ones(len(self.outlets))
            factor[list(done.clamped)] = CLOSED
            bed = replace(
                bed,
                proximal_resistance=bed.proximal_resistance * factor,
                distal_resistance=bed.distal_resistance * factor,
                compliance=bed.compliance / factor,
            )
        every = max(1, int(np.ceil(period / (self.phases * TIME_STEP))))
        steps = every * self.phases
        value, rate = self.inflow(columns, np.arange(1, steps + 1) / steps, period)
        stepper = self.model.reduced.ports.stepper(bed, period / steps)
        state = self.model.reduced.ports.steady_state(bed, value.mean(axis=0))
        x = np.minimum(period / (bed.distal_resistance * bed.compliance), 50.0)
        lead = x / np.expm1(x)
        for beat in range(MOST_BEATS):
            states = stepper.states(state, value, rate)
            state = states[-1]
            flow = np.mean([one.flow for one in states], axis=0)
            capacitor = np.mean([one.capacitor_pressure for one in states], axis=0)
            inlet = np.mean([one.inlet_pressure for one in states], axis=0)
            lack = bed.distal_pressure + bed.distal_resistance * flow - capacitor
            if float((np.abs(lack).max(axis=1) / np.abs(inlet)).max()) < SETTLED:
                return states[every - 1 :: every]
            if beat % 2 == 0:  # the flows settle in between
                moved = state.capacitor_pressure + lack * lead
                state = self.model.reduced.ports.complete(state.flow, moved, rate[-1], bed, state.lagged_flow)
        raise InputError(
            f"The circulation has not settled after {MOST_BEATS} beats; a compliance of the plan may be far too large."
        )

    def seen(self, states: Sequence[PortState], sensors: Sequence[Sensor]) -> Array:
        """(m, sensors, phases) what the sensors see of a beat."""
        found = []
        for sensor in sensors:
            values = []
            for state in states:
                if sensor.place is not None:
                    values.append(sensor.place.pressure(state)[:, 0])
                elif sensor.quantity == "pressure":
                    values.append(self.model.port_pressure(state)[:, sensor.port or 0] / PASCAL_PER_MMHG)
                else:
                    values.append(self.model.port_flow(state)[:, sensor.port or 0] / CUBIC_METRES_PER_ML)
            found.append(np.stack(values, axis=1))
        return np.stack(found, axis=1)

    def predict(self, columns: Array, sensors: Sequence[Sensor], manoeuvre: Manoeuvre | None = None) -> Array:
        """(m, sensors, phases) of members (m, k); phases as in `states`."""
        return self.seen(self.states(columns, manoeuvre), sensors)

    def drop(self, states: Sequence[PortState], sensor: Sensor) -> Array:
        """(phases,) mmHg: mean pressure at a sensor less that at the inlet; zero for a flow."""
        if sensor.quantity != "pressure":
            return np.zeros(len(states))
        inlet = Sensor("pressure", "inlet", port=0)
        both = self.seen(states, [sensor, inlet]).mean(axis=0)
        return np.asarray(both[0] - both[1])


def read_sensor(text: str, model: SessionModel, tree: BranchTree | None) -> Sensor:
    """A sensor from text: QUANTITY@PLACE, the quantity ``pressure`` or ``flow``.

    A place is a port (``inlet``, ``outlet_1``), a branch and the way along it (``branch_1+25mm``; ``branch_1`` alone is
    its middle), or a point ``X,Y,Z`` in mm.

    Raises:
        InputError: it is none of these, or not in the lumen.
    """
    quantity, _, where = text.partition("@")
    quantity, where = quantity.strip().lower(), where.strip()
    if quantity not in ("pressure", "flow") or not where:
        raise InputError(f'"{text}" is no sensor; write pressure@PLACE or flow@PORT, as in pressure@outlet_1.')
    if where in model.port_names:
        return Sensor(quantity, where, port=model.port_names.index(where))
    if quantity == "flow":
        raise InputError(f'"{text}": flow is measured at a port: {", ".join(model.port_names)}.')
    point = _point(where, text, model, tree)
    place = model.place(point)
    if float(place.outside_mm[0]) > 1.0:
        raise InputError(f'"{text}" lies {float(place.outside_mm[0]):.1f} mm outside of the lumen.')
    return Sensor(quantity, where, place=place)


def _point(where: str, text: str, model: SessionModel, tree: BranchTree | None) -> Array:
    parts = where.split(",")
    if len(parts) == 3:
        try:
            return np.array([float(part) for part in parts])
        except ValueError:
            pass
    name, _, along = where.partition("+")
    branches: Mapping[str, int] = {} if tree is None else {f"branch_{one}": k for k, one in enumerate(tree.names)}
    if tree is None or name not in branches:
        known = ", ".join([*model.port_names, *branches])
        raise InputError(f'"{text}": there is no "{name}"; places are {known}, and X,Y,Z in mm.')
    own = np.flatnonzero(tree.branch == branches[name])
    length = float(tree.along[own].max())
    if along:
        wanted = read_quantity(along if any(c.isalpha() for c in along) else f"{along} mm", "mm", name=text)
    else:
        wanted = 0.5 * length
    if not 0.0 <= wanted <= length:
        raise InputError(f'"{text}": {name} is {length:.0f} mm long.')
    order = own[np.argsort(tree.along[own])]
    return np.array([np.interp(wanted, tree.along[order], tree.points[order, axis]) for axis in range(3)])
