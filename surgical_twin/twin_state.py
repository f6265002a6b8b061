"""What the twin says at one tick: every number with its interval and its age, and why not to trust it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.messages import (
    Consistency,
    Estimate,
    RegistrationOffset,
    SensorState,
    TwinState,
    UncertaintyParts,
)
from surgical_twin.assimilation.flow_filter import (
    BIAS,
    DAMPING,
    DRIFT,
    FREQUENCY,
    REGISTRATION_COLUMNS,
    SENSOR_COLUMNS,
    FilterState,
)
from surgical_twin.assimilation.self_watch import DAMPED, DISTORTED, MOVED, SelfWatch, nis_bounds
from surgical_twin.intervals import NORMAL_95, estimates
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState, ShownTip, TipFix, tip_fix
from surgical_twin.units import CUBIC_METRES_PER_ML, PASCAL_PER_MMHG

Array = NDArray[np.float64]
TipPressure = tuple[Estimate, UncertaintyParts]

STREAM = "twin"

STALE_NS = 500_000_000
"""Continuous streams older than this are stale."""

OVERDUE_BEATS = 2.5
"""R-waves are missing when none has come for this many beats."""

RECENT_NS = 1_000_000_000
"""A refused observation is told of for this long."""

OVERLOADED_NS = 250_000_000
"""A session that is this far behind its messages shows what was, not what is."""

RANGE_LIMIT = 0.25
"""The reduced model is not vouched for when flows leave the trained range by this share of its width."""


def build_twin_state(model: SessionModel, state: SessionState, time_ns: int) -> TwinState:
    """Say everything the session knows at a tick of its clock.

    Args:
        model: the case.
        state: the session.
        time_ns: the tick's time.
    """
    fix = tip_fix(state, state.tool, time_ns)
    running = state.ensemble if state.beat is not None else None
    shown = None if fix is None else fix.shown(running)
    flags = list(_flags(model, state, time_ns, tip_known=fix is not None))
    common: dict[str, Any] = {
        "stream": STREAM,
        "sequence": state.published,
        "source_time_ns": time_ns,
        "age_ns": {stream: max(0, time_ns - newest) for stream, newest in sorted(state.newest_ns.items())},
        "registered": state.registration is not None,
        "fre": None if state.registration is None else state.registration.fre,
        "tre": None if shown is None else shown.tre,
        "tool": state.tool or "",
        "tip": None if shown is None else _triple(shown.position),
        "tip_covariance": None if shown is None else tuple(float(value) for value in shown.covariance.ravel()),
        "tip_valid": shown is not None,
        "measured_pressure_mmhg": state.measured_mmhg if time_ns - state.measured_ns < STALE_NS else None,
        "counters": {**state.counters, **state.watch.totals(), **(state.intake.counters if state.intake else {})},
        "innovation": state.normalized_innovation,
        "stages": state.stages,
        "vessel_place": None if fix is None or state.following is None else state.following.place,
    }
    if running is None:
        return TwinState(
            **common,
            model_time_ns=0,
            flags=tuple(flags),
            tip_pressure_mmhg=None,
            port_pressure_mmhg={},
            port_flow_ml_s={},
            parameters={},
            axis_pressure_mmhg=(),
            field_coefficients=(),
            field_deviation_mmhg=0.0,
        )

    tip_pressure, tip_parts = None, None
    if fix is not None and shown is not None:
        tip_pressure, tip_parts = _tip_pressure(model, running, shown, fix.tracker_variance)
    flow = flow_said(model, running)
    if flow.range_excess > RANGE_LIMIT:
        flags.append("out_of_trained_range")
    return TwinState(
        **common,
        **flow.fields,
        model_time_ns=running.step * model.filter.step_ns,
        flags=tuple(flags),
        tip_pressure_mmhg=tip_pressure,
        sensors=_sensors(model, running, state),
        registration_offset=None if fix is None else _registration_offset(model, running, fix),
        consistency=model.once("consistency", state.watching, _consistency),
        tip_pressure_parts=tip_parts,
        forecasts=state.forecasts,
    )


@dataclass(frozen=True)
class FlowSaid:
    """What a state says of the flow, wherever the tip is."""

    fields: dict[str, Any]
    range_excess: float


def flow_said(model: SessionModel, ensemble: FilterState) -> FlowSaid:
    """What is said of an ensemble's flow; worked out once, since poses move the tip more often than measurements move
    the ensemble."""
    said: FlowSaid = model.once("flow said", ensemble, lambda one: _flow_said(model, one))
    return said


def _flow_said(model: SessionModel, ensemble: FilterState) -> FlowSaid:
    ports = ensemble.ports
    pressure = model.port_pressure(ports) / PASCAL_PER_MMHG
    flow = model.port_flow(ports) / CUBIC_METRES_PER_ML
    axis, axis_error = model.pressure_at(model.axis, ports), model.model_error_mmhg(model.axis, ports)
    port_error = model.port_error_mmhg(ports)
    fields = {
        "port_pressure_mmhg": _by_port(model.port_names, pressure, port_error),
        "port_flow_ml_s": _by_port(model.port_names, flow, model.said_flow_error_ml_s(flow)),
        "parameters": _parameters(model, ensemble.log_factors),
        "axis_pressure_mmhg": estimates(axis, axis_error),
        "field_coefficients": tuple(model.mean_coefficients(ports).tolist()),
        "field_deviation_mmhg": float(np.sqrt(pressure[:, 0].var(ddof=1) + port_error[0] ** 2)),
        "inflow_shape": estimates(ensemble.shape),
    }
    return FlowSaid(fields, float(model.reduced.in_range(ports).mean()))


def prepare(model: SessionModel, state: SessionState) -> None:
    """Work out all that the next tick will say and that no pose changes; it is kept, and changes nothing."""
    if state.ensemble is None or state.beat is None:
        return
    flow_said(model, state.ensemble)
    _sensors(model, state.ensemble, state)
    model.once("consistency", state.watching, _consistency)
    pose = state.poses.get(state.tool or "")
    fix = None if pose is None else tip_fix(state, state.tool, pose.source_time_ns)
    if fix is not None:
        _registration_offset(model, state.ensemble, fix)


def _tip_pressure(model: SessionModel, ensemble: FilterState, shown: ShownTip, tracker_variance: float) -> TipPressure:
    """Pressure at the tip, and what its uncertainty is made of."""
    assert shown.away is not None
    mean, total, here, slope, error = model.pressure_at_tip(ensemble.ports, shown.position, shown.away)
    tracker = slope**2 * tracker_variance
    # Where the tip is and what the patient is may be known together better than either: then all of it is the patient.
    parameter = min(here, total)
    parts = UncertaintyParts(
        parameter=math.sqrt(parameter), measurement=math.sqrt(total - parameter + tracker), model=error
    )
    half = NORMAL_95 * math.sqrt(total + error**2 + tracker)
    return Estimate(mean, mean - half, mean + half), parts


def _sensors(model: SessionModel, ensemble: FilterState, state: SessionState) -> dict[str, SensorState]:
    """What is known of each pressure sensor; the same for all poses between measurements."""
    known: dict[str, SensorState] = model.once(
        "sensors", (ensemble, state.watching, state.signals), lambda _: _sensors_said(ensemble, state)
    )
    return known


def _sensors_said(ensemble: FilterState, state: SessionState) -> dict[str, SensorState]:
    said = {}
    conditions = sensor_conditions(state)
    errors = estimates(ensemble.errors)
    for slot in ensemble.sensors:
        known = errors[slot.begin : slot.begin + SENSOR_COLUMNS]
        watch = state.watching.sensors.get(slot.name)
        said[slot.name] = SensorState(
            bias_mmhg=known[BIAS],
            drift_mmhg_per_h=known[DRIFT],
            nis=None if watch is None else watch.nis,
            condition=conditions.get(slot.name, ""),
            natural_frequency_hz=None if slot.port is None else _exponential(known[FREQUENCY]),
            damping=None if slot.port is None else _exponential(known[DAMPING]),
        )
    return said


def _exponential(one: Estimate) -> Estimate:
    return Estimate(math.exp(one.value), math.exp(one.lower), math.exp(one.upper))


def _registration_offset(model: SessionModel, ensemble: FilterState, fix: TipFix) -> RegistrationOffset:
    """By how much the registration is off, as the pressures show it; the same for all poses between measurements."""

    def twist(_: object) -> tuple[Estimate, ...]:
        members = ensemble.errors[:, :REGISTRATION_COLUMNS] @ fix.factor.T
        members[:, :3] = np.degrees(members[:, :3])
        return estimates(members)

    x, y, z, right, back, up = model.once("registration offset", (ensemble, fix.factor), twist)
    return RegistrationOffset(_triple(fix.error.center), (x, y, z), (right, back, up))


def _consistency(watching: SelfWatch) -> Consistency | None:
    """Whether the innovations of all sensors' last beats are as expected."""
    beats = [beat for one in watching.sensors.values() for beat in one.beats]
    if not beats:
        return None
    offsets = np.array([beat.offset / beat.doubt for beat in beats])
    lower, upper = nis_bounds(len(beats))
    pairs = [
        (before.offset / before.doubt, after.offset / after.doubt)
        for one in watching.sensors.values()
        for before, after in zip(one.beats, one.beats[1:], strict=False)
    ]
    power = float(np.mean(offsets**2))
    whiteness = float(np.mean([a * b for a, b in pairs])) / max(power, 1e-9) if pairs else 0.0
    return Consistency(
        nis=float(np.mean([beat.nis for beat in beats])),
        lower=lower,
        upper=upper,
        whiteness=whiteness,
        spread=math.sqrt(power),
    )


SIGNAL_FLAG = "transducer_{}"
WATCH_FLAGS = {DAMPED: "line_damped", DISTORTED: "line_distorted", MOVED: "transducer_moved"}


def sensor_conditions(state: SessionState) -> dict[str, str]:
    """What each pressure sensor suffers from, by the flag's name; those that are well are not there."""
    found = {name: WATCH_FLAGS[one.condition] for name, one in sorted(state.watching.sensors.items()) if one.condition}
    found |= {name: SIGNAL_FLAG.format(one.condition) for name, one in sorted(state.signals.items()) if one.condition}
    return found


def _triple(values: Array) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _by_port(names: Sequence[str], members: Array, deviation: Array) -> dict[str, Estimate]:
    return dict(zip(names, estimates(members, deviation), strict=True))


def _parameters(model: SessionModel, log_factors: Array) -> dict[str, Estimate]:
    """Each parameter as a factor on its planned value."""
    outlets = model.port_names[1:]
    names = [f"resistance_factor.{outlet}" for outlet in outlets]
    names += [f"compliance_factor.{outlet}" for outlet in outlets]
    names += ["inflow_factor", "drop_factor"]
    discrepancy = np.zeros(len(names))
    discrepancy[: len(outlets)] = model.split_uncertainty
    logs = estimates(log_factors, discrepancy)
    return {name: _exponential(one) for name, one in zip(names, logs, strict=True)}


def _flags(model: SessionModel, state: SessionState, time_ns: int, *, tip_known: bool) -> list[str]:
    """Everything that forbids trusting the state as it stands."""
    flags = []
    if model.reduced.estimated:
        flags.append("flow_model_estimated")
    if state.lag_ns > OVERLOADED_NS:
        flags.append("overloaded")
    if state.started is None:
        flags.append("not_started")
    if state.registration is None:
        flags.append("not_registered")
    elif not tip_known:
        flags.append("tip_unknown")
    if state.registration_problem is not None:
        flags.append("registration_problem")
    if state.following is not None and state.following.drifted:
        flags.append("registration_drifted")
    if state.doubted_ns is not None:
        flags.append("registration_doubtful")
    if state.beat is None:
        flags.append("no_heart_beat")
    elif time_ns - state.beat.start_ns > OVERDUE_BEATS * state.beat.period_ns:
        flags.append("heart_beat_lost")
    if time_ns - state.measured_ns > STALE_NS:
        flags.append("pressure_stale")
    flags += [f"{condition}:{name}" for name, condition in sensor_conditions(state).items()]
    if state.watching.condition:
        flags.append(state.watching.condition)
    flags += [reason for reason, since in sorted(state.refused.items()) if time_ns - since < RECENT_NS]
    flags += state.intake.flags if state.intake is not None else ()
    return list(dict.fromkeys(flags))
