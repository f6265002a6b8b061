"""How well a twin did on a simulated procedure, against the truth it never saw.

Everything is computed from the recording and the truth beside the case; nothing of the truth reaches the session.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from registration.rigid import apply_to_points, invert
from streams.events import Event
from streams.messages import PressureSamples, TwinState
from surgical_twin.axis import Axis
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.planning import load_axis
from surgical_twin.procedure import Motion
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.simulate import CATHETER, PROCEDURE_RECORD
from surgical_twin.truth import Truth, load_truth

Array = NDArray[np.float64]

APPROACH_MM = 8.0
"""Predictions ahead are taken when the tip is still this far before the narrowest place."""


@dataclass(frozen=True)
class PlayedProcedure:
    """What really happened in a simulated procedure."""

    epoch_ns: int
    image_from_tracker: Array
    motion: Motion
    path_start: float
    """mm along the axis where the catheter's path begins"""
    axis: Axis
    truth: Truth

    @classmethod
    def load(cls, case: Case) -> "PlayedProcedure":
        """Read what ``simulate`` left beside the case.

        Raises:
            InputError: no procedure was played on the case.
        """
        path = case.path(PROCEDURE_RECORD)
        if not path.is_file():
            raise InputError(f"{path} is missing: no procedure was played on this case; run surgical-twin simulate.")
        content = json.loads(path.read_text(encoding="utf-8"))
        truth = load_truth(case.path(f"truth/truth_{content['seed']}.npz"))
        assert truth is not None
        return cls(
            epoch_ns=content["epoch_ns"],
            image_from_tracker=np.array(content["image_from_tracker"]),
            motion=Motion(np.array(content["motion"]["times"]), np.array(content["motion"]["distances"])),
            path_start=content["path_start"],
            axis=load_axis(case, content["to"]),
            truth=truth,
        )

    def seconds(self, time_ns: int) -> float:
        """Time since the procedure began."""
        return (time_ns - self.epoch_ns) * 1e-9

    def distance(self, time_s: float) -> float:
        """Where the tip truly is along the axis [mm]."""
        return self.path_start + self.motion.distance(time_s)

    def tip_pressure_mmhg(self, time_s: float) -> float:
        """The true pressure at the true tip."""
        return self.truth.pressure_at(time_s, self.distance(time_s))


@dataclass(frozen=True)
class PressureTrace:
    """Pressure at the tip over time, as the twin said and as it was."""

    time: Array
    """(n,) s since the procedure began, of the state of the model"""
    value: Array
    lower: Array
    upper: Array
    truth: Array
    """all mmHg"""

    @property
    def rms(self) -> float:
        """RMS error, mmHg."""
        return float(np.sqrt(np.mean((self.value - self.truth) ** 2)))

    @property
    def coverage(self) -> float:
        """Share of the truth inside the 95 % interval."""
        return float(np.mean((self.truth >= self.lower) & (self.truth <= self.upper)))

    @property
    def mean_width(self) -> float:
        """Mean width of the 95 % interval, mmHg."""
        return float(np.mean(self.upper - self.lower))

    def between(self, begin: float, end: float) -> "PressureTrace":
        """The part between two times [s]."""
        inside = (self.time >= begin) & (self.time <= end)
        return PressureTrace(
            self.time[inside], self.value[inside], self.lower[inside], self.upper[inside], self.truth[inside]
        )


@dataclass(frozen=True)
class AheadPrediction:
    """Pressure beyond the narrowest place: predicted before the catheter crossed it, then measured there."""

    station_mm: float
    predicted_mmhg: float
    """mean over a beat"""
    lower_mmhg: float
    upper_mmhg: float
    measured_mmhg: float
    """mean over the beats in which the tip rested there"""
    truth_mmhg: float
    tip_at_prediction_mm: float

    @property
    def inside(self) -> bool:
        """Whether the measured mean lies within the predicted interval."""
        return self.lower_mmhg <= self.measured_mmhg <= self.upper_mmhg


@dataclass(frozen=True)
class Score:
    """All figures of one procedure."""

    fre_mm: float | None
    predicted_tre_mm: float
    true_tre_mm: float
    before: PressureTrace
    """The plan alone, uncorrected, over the same time as ``after``."""
    after: PressureTrace
    whole: PressureTrace
    """After assimilation, from the first state on."""
    ahead: AheadPrediction
    parameter_errors: dict[str, tuple[float, float, float, float]]
    """Per parameter: truth, estimate, lower, upper; as factors on the plan."""
    measured_time: Array
    measured_mmhg: Array
    profile_station_mm: Array
    profile_estimate: Array
    """(stations, 3): value, lower, upper averaged over the last beat before the tip crossed"""
    profile_truth: Array
    counters: dict[str, int]
    image_from_tracker: Array
    """(4, 4) as registered"""
    states: list[TwinState]


def fold(model: SessionModel, events: Sequence[Event]) -> tuple[SessionState, list[TwinState]]:
    """All states of a session on some events, and its last state."""
    session, state = Session(model), SessionState()
    published: list[TwinState] = []
    for event in events:
        state, outputs = session.step(state, event)
        published += outputs
    return state, published


def tip_trace(states: Sequence[TwinState], played: PlayedProcedure) -> PressureTrace:
    """The twin's pressure at the tip, one row per state of the model."""
    rows = []
    last = -1
    for state in states:
        if state.tip_pressure_mmhg is None or state.model_time_ns == last:
            continue
        last = state.model_time_ns
        time = played.seconds(state.model_time_ns)
        if not 0.0 <= time <= played.motion.duration:
            continue
        at_tip = state.tip_pressure_mmhg
        rows.append((time, at_tip.value, at_tip.lower, at_tip.upper, played.tip_pressure_mmhg(time)))
    if not rows:
        raise InputError("The recording holds no state with a pressure at the tip: the twin never found it.")
    return PressureTrace(*np.array(rows).T)


def score(model: SessionModel, events: Sequence[Event], case: Case) -> Score:
    """Hold a recorded procedure against the truth.

    Raises:
        InputError: no procedure was simulated on the case, the recording is of another one, or it holds no
            registration or no state with a pressure at the tip.
    """
    played = PlayedProcedure.load(case)
    if not any(0 <= played.seconds(event.receive_time_ns) <= played.motion.duration for event in events):
        raise InputError(
            f"The recording is of another procedure than the last one that was simulated on {case.folder}, "
            "and only that one's truth is kept; score a recording before simulating anew."
        )
    final, states = fold(model, events)
    unassimilated = replace(model, settings=replace(model.settings, assimilate=False))
    _, open_loop = fold(unassimilated, events)
    advance, arrival, departure = played.motion.times[1], played.motion.times[2], played.motion.times[3]
    whole = tip_trace(states, played)
    registration = final.registration
    if registration is None:
        raise InputError("The recording holds no registration: too few fiducials were touched.")
    path = played.axis.at(played.axis.stations())
    moved = apply_to_points(registration.target_from_source @ invert(played.image_from_tracker), path)
    true_tre = np.sqrt(np.mean(np.sum((moved - path) ** 2, axis=1)))
    measured_time, measured = measured_pressure(events, played)
    crossing = advance + max(
        0.0,
        (played.axis.narrowest - APPROACH_MM - played.distance(0.0))
        / (played.distance(arrival) - played.distance(0.0)),
    ) * (arrival - advance)
    stations, profile = beat_profile(states, played, crossing)
    resting = (measured_time >= arrival) & (measured_time <= departure)
    beats = np.floor((departure - arrival) / played.truth.period)
    resting &= measured_time <= arrival + beats * played.truth.period
    station = played.distance(arrival)
    predicted = [float(np.interp(station, stations, profile[:, column])) for column in range(3)]
    far = [played.truth.pressure_at(time, station) for time in played.truth.time[:-1]]
    last = states[-1].parameters
    return Score(
        fre_mm=registration.fre,
        predicted_tre_mm=float(np.sqrt(np.mean([registration.expected_tre(point) ** 2 for point in path]))),
        true_tre_mm=float(true_tre),
        before=tip_trace(open_loop, played).between(advance, played.motion.duration),
        after=whole.between(advance, played.motion.duration),
        whole=whole,
        ahead=AheadPrediction(
            station_mm=station,
            predicted_mmhg=predicted[0],
            lower_mmhg=predicted[1],
            upper_mmhg=predicted[2],
            measured_mmhg=float(measured[resting].mean()),
            truth_mmhg=float(np.mean(far)),
            tip_at_prediction_mm=played.distance(crossing),
        ),
        parameter_errors={
            name: (truth, last[name].value, last[name].lower, last[name].upper)
            for name, truth in played.truth.factors.items()
        },
        measured_time=measured_time,
        measured_mmhg=measured,
        profile_station_mm=stations,
        profile_estimate=profile,
        profile_truth=np.array(
            [np.mean([played.truth.pressure_at(t, s) for t in played.truth.time[:-1]]) for s in stations]
        ),
        counters=dict(states[-1].counters),
        image_from_tracker=registration.target_from_source,
        states=states,
    )


def measured_pressure(events: Sequence[Event], played: PlayedProcedure) -> tuple[Array, Array]:
    """Time since the procedure began [s] and value [mmHg] of every pressure sample received."""
    times, values = [], []
    for event in events:
        message = event.message
        if isinstance(message, PressureSamples) and message.tool == CATHETER:
            begin = played.seconds(message.source_time_ns)
            times += [begin + number * message.sample_period_ns * 1e-9 for number in range(len(message.values_mmhg))]
            values += list(message.values_mmhg)
    return np.array(times), np.array(values)


def beat_profile(states: Sequence[TwinState], played: PlayedProcedure, until: float) -> tuple[Array, Array]:
    """Stations [mm] and the (stations, 3) mean estimate and interval over the last beat before a time [s]."""
    chosen = [
        [(estimate.value, estimate.lower, estimate.upper) for estimate in state.axis_pressure_mmhg]
        for state in states
        if state.axis_pressure_mmhg and until - played.truth.period <= played.seconds(state.model_time_ns) <= until
    ]
    if not chosen:
        raise InputError("The recording holds no twin state from the beat before the catheter reached the stenosis.")
    return played.axis.stations(), np.mean(np.array(chosen), axis=0)
