"""What the session does with a measurement: how it is seen, judged, watched, and given to the filter.

Every kind of measurement is turned into a `Look`: what it looks at (``assimilation.sights``), what was measured, and
the parts of its error. The rest is the same for all: judge it against the ensemble, tell the self-watch, refuse it
where it is beyond belief or its sensor is not trusted, else condition the ensemble. A measurement that comes late is
put where it belongs (``late_data``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as replace_parts

import numpy as np
from numpy.typing import NDArray

from streams.messages import CardiacOutput, DopplerVelocity, FlowSample, PressureSamples, SectionFlow
from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.flow_filter import FilterState
from surgical_twin.assimilation.missing import Missingness
from surgical_twin.assimilation.observation import ObservationError
from surgical_twin.assimilation.self_watch import CHANGED, DIVERGED, MOVED, Finding
from surgical_twin.assimilation.sights import FlowSight, LineSight, Sight, TipSight, VelocitySight
from surgical_twin.late_data import TOLERANCE_NS, Taken, ensemble_before, place_of, remembered, taken_again
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState, replace, tip_fix

Array = NDArray[np.float64]

GATE = 5.0
"""Innovations beyond this many expected standard deviations are not believed."""

CHANGED_GATE = 20.0
"""The same for pressures of a patient who is known to have changed."""

CHANGED_MODEL_ERROR = 3.0
"""So many times larger the model's error may be meanwhile."""

CHANGED_SPREAD = 4.0
"""So many times the prior's spread the circulation may then be off."""

ERRORS_KEPT_BEATS = 4
"""For so many beats after the circulation changed nothing is learned of the sensors' errors."""

CLAMPED_SPREAD = 10.0
"""The same for the outlets' resistances: one of them may have been clamped."""

ML_S_PER_L_MIN = 1000.0 / 60.0

LEAST_VELOCITY_ERROR = 0.15
"""Of the decoded velocity's magnitude: the reduced model's own error in velocity, where none was measured."""

BEFORE_THE_FAULT = 3
"""A fault that a beat shows may have begun within the beat before: the ensemble of the R-wave before that is taken."""


@dataclass(frozen=True)
class Look:
    """A measurement as the filter takes it."""

    sight: Sight
    observed: float
    error: ObservationError
    interval_s: float
    """between two of its kind"""
    refusal: str
    """the flag when it is beyond belief"""
    sensor: str | None = None
    """of a pressure that the self-watch follows"""
    missing: Missingness | None = None
    """of one that did not come: what its sensor loses because of its value"""


Looker = Callable[[FilterState], Look | str]
"""The look at an ensemble of the measurement's time, or why there is none."""


def pressure_looker(model: SessionModel, state: SessionState, samples: PressureSamples, middle_ns: int) -> Looker:
    """How samples of a pressure transducer are taken: their mean, at the middle of their time."""
    count = len(samples.values_mmhg)
    mean = math.fsum(samples.values_mmhg) / count
    noise = model.settings.pressure_noise_mmhg**2 / count
    interval = count * samples.sample_period_ns * 1e-9

    def at_port(ensemble: FilterState) -> Look | str:
        slot = ensemble.slot(samples.sensor)
        if slot is None or slot.port is None:
            return "place_unknown"
        error = float(model.port_error_mmhg(ensemble.ports)[slot.port])
        parts = ObservationError(sensor=noise, place=0.0, model=error**2)
        return Look(LineSight(samples.sensor), mean, parts, interval, "pressure_implausible", samples.sensor)

    def at_tip(ensemble: FilterState) -> Look | str:
        fix = tip_fix(state, samples.tool, middle_ns)
        if fix is None:
            return "tip_unknown"
        if ensemble.slot(samples.sensor) is None:
            return "place_unknown"
        shown = fix.shown(ensemble)
        place = model.place(fix.position)
        if place.outside_mm[0] > 0.0:
            reach = 1.0 + 2.0 * float(np.sqrt(np.linalg.eigvalsh(shown.covariance)[-1]))
            if place.outside_mm[0] > reach:
                return "tip_outside_lumen"
        ports = ensemble.ports
        gradient = model.mean_gradient(place, ports)
        parts = ObservationError(
            sensor=noise,
            # What the registration leaves open is the ensemble's; the tracker's own error is another one each time.
            place=float(gradient @ gradient) * fix.tracker_variance,
            model=float(model.model_error_mmhg(place, ports)[0]) ** 2,
        )
        sight = TipSight(samples.sensor, fix.position, fix.factor, fix.error.center, place)
        return Look(sight, mean, parts, interval, "pressure_implausible", samples.sensor)

    return at_port if samples.tool is None else at_tip


def flow_looker(model: SessionModel, sample: FlowSample) -> Looker:
    """How a flow probe's sample at a port is taken."""
    number = model.port_names.index(sample.port)
    behind = np.arange(len(model.port_names) - 1) == number - 1 if number else np.ones(len(model.port_names) - 1, bool)
    error = ObservationError(
        sensor=max(sample.deviation_ml_s, 1e-3) ** 2, place=0.0, model=float(model.flow_error_ml_s[number]) ** 2
    )
    look = Look(FlowSight(behind), sample.flow_ml_s, error, model.settings.flow_interval_s, "flow_implausible")
    return lambda ensemble: look


def section_looker(model: SessionModel, flow: SectionFlow) -> Looker:
    """How a flow through a section is taken: by the outlets behind the nearest place of the centerline."""
    if model.lumen is None or not model.outlets_behind:
        return lambda ensemble: "place_unknown"
    tree = model.lumen.tree
    distance, near = tree.tree.query(np.asarray(flow.position))
    behind = model.outlets_behind.get(tree.names[int(tree.branch[near])])
    if behind is None or not behind.any() or distance > 2.0 * tree.radii[near]:
        return lambda ensemble: "section_outside_lumen"
    model_error = float(np.sqrt(np.sum(model.flow_error_ml_s[1:][behind] ** 2)))
    averaged = flow.averaging_ns > 0
    error = ObservationError(max(flow.deviation_ml_s, 1e-3) ** 2, 0.0, model_error**2)
    interval = max(flow.averaging_ns * 1e-9, model.settings.flow_interval_s)
    look = Look(FlowSight(behind, averaged), flow.flow_ml_s, error, interval, "flow_implausible")
    return lambda ensemble: look


def output_looker(model: SessionModel, output: CardiacOutput) -> Looker:
    """How the heart's output is taken, where all of it passes a port of the case."""
    if output.port not in model.port_names:
        return lambda ensemble: "place_unknown"
    number = model.port_names.index(output.port)
    behind = np.arange(len(model.port_names) - 1) == number - 1 if number else np.ones(len(model.port_names) - 1, bool)
    deviation = max(output.deviation_l_min * ML_S_PER_L_MIN, 1e-3)
    error = ObservationError(deviation**2, 0.0, 0.0)
    look = Look(
        FlowSight(behind, averaged=True),
        output.output_l_min * ML_S_PER_L_MIN,
        error,
        max(output.averaging_ns * 1e-9, 1.0),
        "flow_implausible",
    )
    return lambda ensemble: look


def doppler_looker(model: SessionModel, state: SessionState, doppler: DopplerVelocity) -> Looker:
    """How a velocity along a beam is taken; the beam's angle and the sample volume's place have their errors."""
    length = math.dist(doppler.direction, (0.0, 0.0, 0.0))
    if state.registration is None:
        return lambda ensemble: "not_registered"
    if not length > 1e-9 or model.reduced.estimated:
        return lambda ensemble: "place_unknown"
    image_from_tracker = state.registration.target_from_source
    point = image_from_tracker[:3, :3] @ np.array(doppler.position) + image_from_tracker[:3, 3]
    beam = image_from_tracker[:3, :3] @ np.array(doppler.direction) / length
    place = model.place(point)
    if place.outside_mm[0] > 2.0:
        return lambda ensemble: "sample_volume_outside_lumen"
    relative = max([run["velocity_error"] for run in model.reduced.held_out] + [LEAST_VELOCITY_ERROR])

    def look(ensemble: FilterState) -> Look | str:
        sight = VelocitySight(point, beam)
        vector = sight.vectors(model, ensemble).mean(axis=0)
        across = math.sqrt(max(float(vector @ vector) - float(vector @ beam) ** 2, 0.0))
        size = float(np.linalg.norm(vector))
        angle = math.radians(doppler.angle_deviation_deg)
        # d(v cos a) = -v sin a da; near a beam along the vessel the second order is what is left: v da^2 / sqrt 2.
        turned = (across * angle) ** 2 + 0.5 * (size * angle**2) ** 2
        error = ObservationError(max(doppler.deviation_mm_s, 1.0) ** 2, turned, (relative * size) ** 2)
        return Look(sight, doppler.velocity_mm_s, error, model.settings.flow_interval_s, "velocity_implausible")

    return look


def with_sensor(model: SessionModel, state: SessionState, samples: PressureSamples) -> SessionState:
    """The session with a pressure sensor's errors in its ensemble, where the sensor's place is known."""
    ensemble = state.ensemble
    if ensemble is None or ensemble.slot(samples.sensor) is not None:
        return state
    if len(ensemble.sensors) >= MOST_SENSORS:
        return state
    port = None
    if samples.tool is None:
        if samples.port not in model.port_names:
            return state
        port = model.port_names.index(samples.port)
    known = model.filter.with_sensor(
        ensemble,
        samples.sensor,
        port=port,
        frequency_hz=samples.natural_frequency_hz,
        damping=samples.damping,
        zero_deviation_mmhg=samples.zero_deviation_mmhg,
    )
    return replace(state, ensemble=known, taken=(), checkpoints=())


MOST_SENSORS = 8
"""Pressure sensors whose errors the ensemble carries; more would leave it no freedom."""


def running(state: SessionState) -> tuple[FilterState, Beat]:
    """The ensemble and the beat of a session that is known to have both."""
    if state.ensemble is None or state.beat is None:
        raise AssertionError("the session has no ensemble to correct")
    return state.ensemble, state.beat


def observe(model: SessionModel, state: SessionState, time_ns: int, looker: Looker) -> SessionState:
    """Take a measurement at a time not after the ensemble's, or after which the ensemble has been advanced.

    A measurement that is late is put in its place, with all that came after it taken again.
    """
    ensemble, beat = running(state)
    if time_ns >= ensemble.step * model.filter.step_ns - TOLERANCE_NS:
        state, taken = _take(model, state, ensemble, time_ns, looker)
        return state if taken is None else replace(state, taken=remembered(state.taken, taken))
    index = place_of(state.taken, time_ns)
    before = None if index is None else ensemble_before(model, state.taken, index, time_ns, beat)
    if index is None or before is None:
        return state.counting(late=1)
    back, taken = _take(model, state, before, time_ns, looker)
    if taken is None or taken.evidence is None:
        return replace(back, ensemble=ensemble).counting(late=1)
    corrected, _ = running(back)
    corrected, again = taken_again(model, corrected, state.taken[index:], ensemble.step, beat)
    history = (*state.taken[:index], taken, *again)
    return replace(back, ensemble=corrected, taken=history).counting(rewound=1)


def _take(
    model: SessionModel, state: SessionState, ensemble: FilterState, time_ns: int, looker: Looker
) -> tuple[SessionState, Taken | None]:
    """Judge a measurement against an ensemble of its time, and use it unless it is beyond belief."""
    _, beat = running(state)
    look = looker(ensemble)
    if isinstance(look, str):
        return state.refusing(look, time_ns), None
    predicted = look.sight.predicted(model, ensemble)
    if look.missing is not None:
        return _take_missing(model, state, ensemble, time_ns, look, look.missing, predicted)
    expected, spread = float(predicted.mean()), float(predicted.var(ddof=1))
    error = look.error
    normalized = (look.observed - expected) / math.sqrt(spread + error.single)
    state = replace(state, normalized_innovation=normalized)
    if look.sensor is not None:
        watching = state.watching.see(
            look.sensor,
            time_ns,
            look.observed,
            expected,
            lasting=spread + error.model + error.place,
            passing=error.sensor,
            model=error.model,
            phase=beat.phase(time_ns),
        )
        state = replace(state, watching=watching)
        if watching.excluded(look.sensor) or _unsound(state, look.sensor):
            return state.counting(excluded=1), Taken(time_ns, look.sight, look.observed, None, ensemble)
    # Where the patient has changed, what the sensors say is news and not an error.
    followed = state.watching.condition == CHANGED and look.sensor is not None
    if not abs(normalized) <= GATE and not (followed and abs(normalized) <= CHANGED_GATE):
        return state.refusing(look.refusal, time_ns), Taken(time_ns, look.sight, look.observed, None, ensemble)
    if not model.settings.assimilate:
        return state, None
    if followed:  # while a circulation changes, the model has more to be wrong about
        error = replace_parts(error, model=CHANGED_MODEL_ERROR**2 * error.model)
    evidence = _evidence(model, state, time_ns, replace_parts(look, error=error))
    corrected = model.filter.assimilate(ensemble, predicted, look.observed, evidence, beat)
    return (
        replace(state, ensemble=corrected).counting(assimilated=1),
        Taken(time_ns, look.sight, look.observed, evidence, ensemble),
    )


def _evidence(model: SessionModel, state: SessionState, time_ns: int, look: Look) -> float:
    """The variance that gives a look its due weight."""
    _, beat = running(state)
    beats = max(0, state.beats - (time_ns < beat.start_ns))  # what is late belongs to the beat before
    return look.error.as_evidence(
        interval_s=look.interval_s,
        # The tracker's error is another one with each pose.
        place_correlation_s=0.0,
        model_correlation_s=model.settings.model_correlation(beats, beat.period_ns * 1e-9),
    )


def _take_missing(
    model: SessionModel,
    state: SessionState,
    ensemble: FilterState,
    time_ns: int,
    look: Look,
    missingness: Missingness,
    predicted: Array,
) -> tuple[SessionState, Taken | None]:
    """Use that a measurement is missing, where its sensor is trusted."""
    if not model.settings.assimilate or look.sensor is None:
        return state, None
    if state.watching.excluded(look.sensor) or _unsound(state, look.sensor):
        return state.counting(excluded=1), None
    evidence = _evidence(model, state, time_ns, look)
    _, beat = running(state)
    corrected = model.filter.assimilate_missing(ensemble, predicted, evidence, missingness, beat)
    return (
        replace(state, ensemble=corrected).counting(missing_used=1),
        Taken(time_ns, look.sight, math.nan, evidence, ensemble, missingness),
    )


def missing_looker(looker: Looker, missingness: Missingness) -> Looker:
    """How a measurement that did not come is taken, from how its neighbor that came is."""

    def look(ensemble: FilterState) -> Look | str:
        found = looker(ensemble)
        return found if isinstance(found, str) else replace_parts(found, missing=missingness)

    return look


def _unsound(state: SessionState, sensor: str) -> bool:
    """Whether a sensor's samples show that it measures no artery."""
    signal = state.signals.get(sensor)
    return signal is not None and signal.condition != ""


def beat_ended(model: SessionModel, state: SessionState, time_ns: int) -> SessionState:
    """Close a beat of the self-watch and recover from what it brought to light."""
    watching, finding = state.watching.beat(time_ns)
    state = replace(state, watching=watching, beats=state.beats + 1)
    if state.ensemble is None:
        return state
    if finding is not None:
        state = _recover(model, state, finding)
    state = _errors_kept(model, state)
    ensemble, _ = running(state)
    return replace(state, checkpoints=(*state.checkpoints, ensemble)[-BEFORE_THE_FAULT:])


def _errors_kept(model: SessionModel, state: SessionState) -> SessionState:
    """The session with the sensors' errors as they were before the circulation changed, for some beats.

    Until that was noticed they took up what the circulation had done, and go on to while it finds its new state: of a
    pressure that is farther off than parameters can follow, the rest is laid to the sensors.
    """
    if state.before_change is None or state.ensemble is None:
        return state
    ensemble = model.filter.with_errors_of(state.ensemble, state.before_change)
    over = state.beats >= ERRORS_KEPT_BEATS
    return replace(state, ensemble=ensemble, taken=(), before_change=None if over else state.before_change)


def _recover(model: SessionModel, state: SessionState, finding: Finding) -> SessionState:
    """The session after a fault was found: what the fault taught the filter is undone, and it is unsure again."""
    ensemble, beat = running(state)
    if finding.condition == CHANGED:
        if state.checkpoints:
            state = replace(state, before_change=state.before_change or state.checkpoints[0])
        ensemble = model.filter.reopened(ensemble, parameters=CHANGED_SPREAD, resistances=CLAMPED_SPREAD)
        state = replace(state, beats=0)
    elif finding.condition == DIVERGED:
        ensemble = model.filter.reopened(ensemble)
        for sensor in finding.sensors:
            ensemble = model.filter.reopened(ensemble, sensor=sensor)
    else:
        # What a sensor at fault said is taken back, with what else came in these two beats.
        if len(state.checkpoints) == BEFORE_THE_FAULT:
            ensemble = model.filter.advance(state.checkpoints[-2], ensemble.step, beat)
        if finding.condition == MOVED:
            ensemble = model.filter.reopened(ensemble, sensor=finding.sensors[0])
    return replace(state, ensemble=ensemble, taken=(), checkpoints=()).counting(recovered=1)
