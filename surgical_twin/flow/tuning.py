"""Windkessels that give a patient's pressures and flow split in the 3D flow itself, not only without the lumen.

`tune_windkessels` leaves out what the lumen does: its pressure drop and inertia, by which the inlet's pressure differs
from the outlets'. Here the 3D flow is run, the difference is measured, and the constants are corrected, until mean
and pulse pressure at the inlet and each outlet's share of the flow are met:

    R_i  = (P_mean - drop_i - Pd) / Q_i,        drop_i: mean pressure from the inlet to outlet i in the last run,
    C    such that the pulse of the beds alone is the wanted one times (pulse of the beds alone / pulse in the last
    run).

Each run starts from the beds' own periodic state under the flows of the run before, so that a few beats suffice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.beds import LinearCircuit
from surgical_twin.flow.run import FlowRun
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import PROXIMAL_SHARE, Windkessel, compliance_for

Array = NDArray[np.float64]

TOLERANCE = 0.01
MOST_RUNS = 6


@dataclass(frozen=True)
class Targets:
    """What a clinic measures; SI. Pressures are those at the inlet."""

    mean_pressure: float
    pulse_pressure: float
    split: Mapping[str, float]
    """share of each outlet in the mean flow; they sum to one"""
    distal_pressure: float = 0.0

    def __post_init__(self) -> None:
        if self.mean_pressure <= self.distal_pressure or self.pulse_pressure <= 0:
            raise InputError("The mean pressure must exceed the distal pressure, and the pulse pressure be positive.")
        shares = list(self.split.values())
        if not shares or min(shares) <= 0 or abs(sum(shares) - 1.0) > 1e-6:
            listed = ", ".join(f"{name} {share:g}" for name, share in self.split.items())
            raise InputError(f"The outlets' shares of the flow must be positive and sum to 1; they are {listed}.")


@dataclass(frozen=True)
class Tuned:
    """What tuning found."""

    beds: dict[str, Windkessel]
    start: dict[str, float]
    """Pa, each capacitor's pressure at the beginning of a beat in the periodic state"""
    errors: dict[str, float]
    """relative, of the last run: mean_pressure, pulse_pressure, and each outlet's flow"""
    runs: int


def murray_split(radii: Mapping[str, float]) -> dict[str, float]:
    """Shares of the flow in proportion to r^3 (Murray, Proc. Natl. Acad. Sci. 12 (1926) 207-214)."""
    total = sum(radius**3 for radius in radii.values())
    return {name: radius**3 / total for name, radius in radii.items()}


def periodic_state(circuit: LinearCircuit, flow: PeriodicWaveform, steps: int = 512) -> Array:
    """(n,) stored pressures [Pa] at the beginning of a beat in the periodic state under a flow out of the port.

    Exact for the time integration used (the trapezoidal rule): a beat maps the stored pressures affinely,
    and the periodic state is that map's fixed point.
    """
    size = len(circuit.charge)
    if not size:
        return np.empty(0)
    length = flow.period / steps
    identity = np.eye(size)
    forward = np.linalg.solve(identity - 0.5 * length * circuit.rates, identity + 0.5 * length * circuit.rates)
    gain = np.linalg.inv(identity - 0.5 * length * circuit.rates)
    times = np.arange(steps + 1) * length
    driven = np.array([circuit.charge * flow.value(time) + circuit.source(time) for time in times])
    shift, power = np.zeros(size), identity
    for step in range(steps):
        shift = forward @ shift + gain @ (0.5 * length * (driven[step] + driven[step + 1]))
        power = forward @ power
    return np.linalg.solve(identity - power, shift)


def last_beat(run: FlowRun) -> slice:
    """The samples of a run's last beat, both ends among them.

    Raises:
        InputError: the run is shorter than a beat.
    """
    begin = run.time[-1] - run.period
    if begin < -1e-9 * run.period:
        raise InputError(f"The run is shorter ({run.time[-1]:g} s) than a beat ({run.period:g} s); run it longer.")
    return slice(int(np.argmin(np.abs(run.time - begin))), len(run.time))


def tune_in_flow(
    run: Callable[[dict[str, Windkessel], dict[str, float]], FlowRun],
    inflow: PeriodicWaveform,
    targets: Targets,
) -> Tuned:
    """Tune on the 3D flow.

    Args:
        run: runs the 3D flow with beds and their capacitors' starting pressures into its periodic state.
        inflow: of all inlets together.
        targets: what to meet, to 1 %.

    Raises:
        InputError: no compliance gives the pulse pressure, the lumen's own drop is more than the mean pressure, or
            the targets are not met within six runs.
    """
    wanted_pulse = targets.pulse_pressure
    total = (targets.mean_pressure - targets.distal_pressure) / inflow.mean
    resistances = {name: total / share for name, share in targets.split.items()}
    flows = {name: inflow.scaled(share) for name, share in targets.split.items()}
    errors: dict[str, float] = {}
    for count in range(1, MOST_RUNS + 1):
        beds = _beds(inflow, resistances, wanted_pulse, targets)
        start = {name: float(periodic_state(bed.circuit(), flows[name])[0]) for name, bed in beds.items()}
        done = run(beds, start)
        part = last_beat(done)
        span = done.time[part]
        flow = {name: done.port_flow[part, place] for place, name in enumerate(done.port_names)}
        pressure = {name: done.port_pressure[part, place] for place, name in enumerate(done.port_names)}
        inlet = pressure[done.port_names[0]]
        mean = _mean(span, inlet)
        pulse = float(np.ptp(inlet))
        means = {name: _mean(span, flow[name]) for name in targets.split}
        errors = {
            "mean_pressure": mean / targets.mean_pressure - 1.0,
            "pulse_pressure": pulse / targets.pulse_pressure - 1.0,
            **{name: means[name] / (share * inflow.mean) - 1.0 for name, share in targets.split.items()},
        }
        flows = {name: _as_waveform(span, flow[name]) for name in targets.split}
        if max(abs(error) for error in errors.values()) <= TOLERANCE:
            start = {name: float(periodic_state(bed.circuit(), flows[name])[0]) for name, bed in beds.items()}
            return Tuned(beds, start, errors, count)
        for name, share in targets.split.items():
            # The drop at the flow that is wanted: in proportion, as that of a smooth vessel.
            drop = (mean - _mean(span, pressure[name])) * share * inflow.mean / means[name]
            left = targets.mean_pressure - targets.distal_pressure - drop
            if left <= 0:
                raise InputError(
                    f"The flow to {name} loses {drop:.0f} Pa in the lumen, more than the mean pressure of "
                    f"{targets.mean_pressure:.0f} Pa; give less flow or more pressure."
                )
            resistances[name] = left / (share * inflow.mean)
        wanted_pulse *= targets.pulse_pressure / pulse
    listed = ", ".join(f"{name} {100 * error:+.1f} %" for name, error in errors.items())
    raise InputError(f"The Windkessels cannot be tuned to their targets: after {MOST_RUNS} runs {listed}; change them.")


def _beds(
    inflow: PeriodicWaveform, resistances: Mapping[str, float], pulse: float, targets: Targets
) -> dict[str, Windkessel]:
    whole = 1.0 / sum(1.0 / resistance for resistance in resistances.values())
    compliance = compliance_for(inflow, whole, pulse)
    return {
        name: Windkessel(
            proximal_resistance=PROXIMAL_SHARE * resistance,
            distal_resistance=(1.0 - PROXIMAL_SHARE) * resistance,
            compliance=compliance * whole / resistance,
            distal_pressure=targets.distal_pressure,
        )
        for name, resistance in resistances.items()
    }


def _mean(time: Array, values: Array) -> float:
    return float(np.trapezoid(values, time) / (time[-1] - time[0]))


def _as_waveform(time: Array, values: Array) -> PeriodicWaveform:
    """A beat as a waveform; what its ends differ by is spread over it. It begins with the beat."""
    line = (values[-1] - values[0]) * ((time - time[0]) / (time[-1] - time[0]) - 0.5)
    closed = values - line
    closed[-1] = closed[0]
    return PeriodicWaveform.from_table(time - time[0], closed)
