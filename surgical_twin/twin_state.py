"""What the twin says at one tick: every number with its interval and its age, and why not to trust it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.messages import Estimate, TwinState
from surgical_twin.assimilation.observation import place_variance
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState, tip_fix
from surgical_twin.units import CUBIC_METRES_PER_ML, PASCAL_PER_MMHG

Array = NDArray[np.float64]

STREAM = "twin"

NORMAL_95 = 1.959963984540054
"""A normal variable lies within this many standard deviations of its mean with 95 % probability."""

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


def estimate(members: Array, model_deviation: float = 0.0) -> Estimate:
    """Mean and 95 % interval of an ensemble whose members all share a model error.

    Args:
        members: (m,) values.
        model_deviation: standard deviation of what the model itself may be off.
    """
    mean = float(members.mean())
    half = NORMAL_95 * float(np.sqrt(members.var(ddof=1) + model_deviation**2))
    return Estimate(value=mean, lower=mean - half, upper=mean + half)


def estimates(members: Array, model_deviation: Array) -> tuple[Estimate, ...]:
    """`estimate` of each column of (m, n) values, with a model's deviation (n,) of each.

    A state holds some hundred intervals and leaves a hundred times a second: one array operation for all of them.
    """
    mean = members.mean(axis=0)
    spread = ((members - mean) ** 2).sum(axis=0) / (len(members) - 1)
    half = NORMAL_95 * np.sqrt(spread + model_deviation**2)
    columns = zip(mean.tolist(), (mean - half).tolist(), (mean + half).tolist(), strict=True)
    return tuple(Estimate(value, lower, upper) for value, lower, upper in columns)


def build_twin_state(model: SessionModel, state: SessionState, time_ns: int) -> TwinState:
    """Say everything the session knows at a tick of its clock.

    Args:
        model: the case.
        state: the session.
        time_ns: the tick's time.
    """
    fix = tip_fix(state, state.tool, time_ns)
    flags = list(_flags(model, state, time_ns, tip_known=fix is not None))
    common: dict[str, Any] = {
        "stream": STREAM,
        "sequence": state.published,
        "source_time_ns": time_ns,
        "age_ns": {stream: max(0, time_ns - newest) for stream, newest in sorted(state.newest_ns.items())},
        "registered": state.registration is not None,
        "fre": None if state.registration is None else state.registration.fre,
        "tre": None if fix is None else fix.tre,
        "tool": state.tool or "",
        "tip": None if fix is None else _triple(fix.position),
        "tip_covariance": None if fix is None else tuple(float(value) for value in fix.covariance.ravel()),
        "tip_valid": fix is not None,
        "measured_pressure_mmhg": state.measured_mmhg if time_ns - state.measured_ns < STALE_NS else None,
        "counters": {**state.counters, **state.watch.totals(), **(state.intake.counters if state.intake else {})},
        "innovation": state.normalized_innovation,
        "vessel_place": None if fix is None or state.following is None else state.following.place,
    }
    if state.ensemble is None or state.beat is None:
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

    ports = state.ensemble.ports
    pressure = model.port_pressure(ports) / PASCAL_PER_MMHG
    flow = model.port_flow(ports) / CUBIC_METRES_PER_ML
    tip_pressure = None
    if fix is not None:
        place = model.place(fix.position)
        variance = place_variance(place.mean_gradient(ports)[0], fix.covariance)
        tip_pressure = estimate(
            place.pressure(ports)[:, 0], float(np.hypot(model.model_error_mmhg(place, ports)[0], np.sqrt(variance)))
        )
    axis, axis_error = model.axis.pressure(ports), model.model_error_mmhg(model.axis, ports)
    port_error = model.port_error_mmhg(ports)
    if float(model.reduced.in_range(ports).mean()) > RANGE_LIMIT:
        flags.append("out_of_trained_range")
    return TwinState(
        **common,
        model_time_ns=state.ensemble.step * model.filter.step_ns,
        flags=tuple(flags),
        tip_pressure_mmhg=tip_pressure,
        port_pressure_mmhg=_by_port(model.port_names, pressure, port_error),
        port_flow_ml_s=_by_port(model.port_names, flow, model.flow_error_ml_s),
        parameters=_parameters(model, state.ensemble.log_factors),
        axis_pressure_mmhg=estimates(axis, axis_error),
        field_coefficients=tuple(float(value) for value in model.reduced.decoder.coefficients(ports).mean(axis=0)),
        field_deviation_mmhg=float(np.sqrt(pressure[:, 0].var(ddof=1) + port_error[0] ** 2)),
    )


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
    logs = estimates(log_factors, np.zeros(log_factors.shape[1]))
    return {
        name: Estimate(math.exp(one.value), math.exp(one.lower), math.exp(one.upper))
        for name, one in zip(names, logs, strict=True)
    }


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
    if state.beat is None:
        flags.append("no_heart_beat")
    elif time_ns - state.beat.start_ns > OVERDUE_BEATS * state.beat.period_ns:
        flags.append("heart_beat_lost")
    if time_ns - state.measured_ns > STALE_NS:
        flags.append("pressure_stale")
    flags += [reason for reason, since in sorted(state.refused.items()) if time_ns - since < RECENT_NS]
    flags += state.intake.flags if state.intake is not None else ()
    return list(dict.fromkeys(flags))
