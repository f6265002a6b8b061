"""The patient's circulation as the reduced model has it, for a whole ensemble, and its periodic state.

What feeds the inlet is not part of the model, so it has to be said what stays as it is when something downstream is
changed:

* ``flow``: the inflow. Right where the inlet carries (most of) the heart's output: nothing can bypass it.
* ``pressure``: the mean pressure at the inlet. Right for a vessel that takes a small share of the heart's output from
  a large artery, whose pressure hardly notices. The inflow's size follows; its shape over the beat is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.port_model import PortModel, PortParameters, PortState
from surgical_twin.flow.waveform import PeriodicWaveform

Array = NDArray[np.float64]
Source = Literal["flow", "pressure"]

MAIN_FLOW = 2.5e-3 / 60.0
"""m^3/s: an inlet that carries more than this, half of a resting heart's output, has little beside it to go to."""

TIME_STEP = 0.005
"""s, at most"""

PERIODIC = 2e-4
"""A beat is periodic when its capacitors' mean pressures are what its mean flows hold up, Pc = Pd + Rd Q, to this share
of the pressure: a criterion that a bed which fills slowly does not meet by changing little."""

MOST_BEATS = 200


def usual_source(inflow: float) -> Source:
    """What most likely stays as it is, by the mean inflow [m^3/s]."""
    return "flow" if inflow >= MAIN_FLOW else "pressure"


@dataclass(frozen=True)
class Circulation:
    """An ensemble of patients; SI."""

    model: PortModel
    parameters: PortParameters
    waveform: PeriodicWaveform
    """The inflow's shape and planned size; its period is that of the heart."""
    scale: Array
    """(members,) factor on the inflow"""

    @property
    def members(self) -> int:
        """How many."""
        return len(self.scale)

    def with_period(self, period: float) -> Circulation:
        """The same flow shape over a beat of another length [s]."""
        times = self.waveform.spline.x * (period / self.waveform.period)
        return replace(self, waveform=PeriodicWaveform.from_table(times, self.waveform.spline(self.waveform.spline.x)))


@dataclass(frozen=True)
class Beat:
    """One periodic beat of an ensemble, at equal steps; SI."""

    time: Array
    """(nt,) s after the R-wave; the last is the period"""
    flow: Array
    """(nt, members, N)"""
    inlet_pressure: Array
    """(nt, members)"""
    outlet_pressure: Array
    """(nt, members, N)"""
    states: tuple[PortState, ...]
    """of each time"""

    @classmethod
    def of(cls, states: Sequence[PortState], step: float) -> Beat:
        """From the states at the end of each step [s]."""
        return cls(
            time=np.arange(1.0, len(states) + 1.0) * step,
            flow=np.stack([state.flow for state in states]),
            inlet_pressure=np.stack([state.inlet_pressure for state in states]),
            outlet_pressure=np.stack([state.outlet_pressure for state in states]),
            states=tuple(states),
        )

    @property
    def last(self) -> PortState:
        """Where the next beat begins."""
        return self.states[-1]

    @property
    def mean_flow(self) -> Array:
        """(members, N)"""
        return np.asarray(self.flow.mean(axis=0))

    @property
    def mean_inlet_pressure(self) -> Array:
        """(members,)"""
        return np.asarray(self.inlet_pressure.mean(axis=0))

    @property
    def mean_outlet_pressure(self) -> Array:
        """(members, N)"""
        return np.asarray(self.outlet_pressure.mean(axis=0))


def periodic_beat(circulation: Circulation, start: PortState | None = None, *, time_step: float = TIME_STEP) -> Beat:
    """Run an ensemble until a beat repeats.

    Args:
        circulation: whose.
        start: from where; the steady state of the mean inflow where None.
        time_step: s, at most.

    Raises:
        InputError: it does not settle.
    """
    waveform, scale = circulation.waveform, circulation.scale
    steps = max(16, int(np.ceil(waveform.period / time_step)))
    step = waveform.period / steps
    stepper = circulation.model.stepper(circulation.parameters, step)
    state = start or circulation.model.steady_state(circulation.parameters, scale * waveform.mean)
    times = np.arange(1, steps + 1) * step % waveform.period
    inflow, rate = np.outer(waveform.spline(times), scale), np.outer(waveform.spline(times, 1), scale)
    bed = circulation.parameters
    for _ in range(MOST_BEATS):
        states = stepper.states(state, inflow, rate)
        state = states[-1]
        beat = Beat.of(states, step)
        capacitors = np.mean([one.capacitor_pressure for one in states], axis=0)
        off = bed.distal_pressure + bed.distal_resistance * beat.mean_flow - capacitors
        if float((np.abs(off).max(axis=1) / np.abs(beat.mean_inlet_pressure)).max()) < PERIODIC:
            return beat
    raise InputError(f"The circulation has not settled after {MOST_BEATS} beats; a compliance may be far too large.")


def held(circulation: Circulation, source: Source, before: Beat) -> tuple[Circulation, Beat]:
    """The periodic state of a changed circulation, what feeds it being held.

    Args:
        circulation: after the change.
        source: what stays as it was ``before``.
        before: the beat before the change.

    Raises:
        InputError: it does not settle, or no inflow gives the pressure.
    """
    beat = periodic_beat(circulation)
    if source == "flow":
        return circulation, beat
    target = before.mean_inlet_pressure
    distal = circulation.parameters.distal_pressure.mean(axis=1)
    for _ in range(30):
        off = beat.mean_inlet_pressure / target - 1.0
        if float(np.abs(off).max()) < PERIODIC:
            return circulation, beat
        # Mean pressure above the venous one goes nearly in proportion to the inflow.
        factor = (target - distal) / np.maximum(beat.mean_inlet_pressure - distal, 1e-3 * target)
        circulation = replace(circulation, scale=circulation.scale * np.clip(factor, 0.05, 20.0))
        beat = periodic_beat(circulation)
    raise InputError("No inflow gives the inlet pressure there was before; hold the flow instead (--hold flow).")
