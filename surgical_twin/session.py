"""The session: a pure fold over ordered events.

``Session.step(state, event) -> state, outputs`` reads no clock, no socket and no random state: given the same case and
the same events it gives the same twin states, to the bit on the same machine and versions. ``live`` and
``replay`` differ only in where the events come from. Whatever is wrong with an event is counted and named in the
published state; nothing raises.

An event takes one of these ways:

* a pose, a touched fiducial or an R-wave is remembered (``SessionState``), the catheter's pose followed in the vessel;
* what is measured of pressure, flow and velocity advances the ensemble to its time and is assimilated (``observing``);
* a tick of the session's clock publishes the twin's state.
"""

import numpy as np

from registration.errors import InputError as RegistrationError
from registration.landmarks import register_landmarks
from streams.events import Event, Malformed
from streams.messages import (
    CardiacOutput,
    DopplerVelocity,
    FiducialTouch,
    FlowSample,
    Heartbeat,
    ImageFrame,
    IntakeReport,
    Message,
    Note,
    PatientRegistration,
    PressureSamples,
    ProcedureEnd,
    SectionFlow,
    SessionStart,
    Tick,
    ToolPose,
    Trigger,
    TwinState,
    VitalSign,
    WaveformSamples,
)
from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.signal_watch import SignalWatch
from surgical_twin.beat_means import FEWEST, BeatMeans, forecasts
from surgical_twin.following import follow
from surgical_twin.late_data import LAG_NS
from surgical_twin.observing import (
    MOST_SENSORS,
    Looker,
    beat_ended,
    doppler_looker,
    flow_looker,
    missing_looker,
    observe,
    output_looker,
    pressure_looker,
    section_looker,
    with_sensor,
)
from surgical_twin.patient_registration import Registered
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState, jumped, registered_tip, replace
from surgical_twin.twin_state import build_twin_state, prepare

LONGEST_STEP_NS = 5_000_000_000
"""A longer silence is not integrated through: the heart's phase would be lost anyway."""

FUTURE_NS = 1_000_000_000
"""A source time this far ahead of its arrival is a lying clock."""

FREE_RUN_LAG_NS = 100_000_000
"""Observations have this long to arrive before the ensemble moves on without them."""

THIN_ABOVE_NS = 50_000_000
"""Lagging more than this behind its messages, the session gives the filter fewer of them."""

LARGEST_THINNING_NS = 400_000_000
"""Even then each stream has one observation used in this time."""

LAGGING_STRIDE = 4
"""It also integrates in steps so many times as long, which are still a fortieth of a beat."""

NO_SIGNAL = SignalWatch()

FEWEST_FIDUCIALS = 4
"""Registration starts here: three points leave no redundancy to estimate the fiducials' error from."""


class Session:
    """One procedure on one case."""

    def __init__(self, model: SessionModel) -> None:
        self.model = model

    def step(self, state: SessionState, event: Event) -> tuple[SessionState, tuple[TwinState, ...]]:
        """Take one event: the new state and what is to be published."""
        message = event.message
        if isinstance(message, Malformed):
            return state.counting(received=1, **{message.kind: 1}), ()
        if isinstance(message, Tick):
            return self._publish(state.counting(received=1), message)
        if isinstance(message, SessionStart):
            return self._start(state.counting(received=1), message), ()
        if isinstance(message, IntakeReport):
            return replace(state.counting(received=1), intake=message), ()
        seen_ns = min(message.source_time_ns, event.receive_time_ns)  # a lying clock must not outrun true ones
        watch, verdict = state.watch.see(message.stream, message.sequence, seen_ns)
        if verdict.duplicate:
            return replace(state.counting(received=1, duplicates=1), watch=watch), ()
        if message.source_time_ns > event.receive_time_ns + FUTURE_NS:
            return replace(state.counting(received=1, implausible_time=1), watch=watch), ()
        if event.superseded:
            return replace(state.counting(received=1, superseded=1), watch=watch), ()
        newest = max(message.source_time_ns, state.newest_ns.get(message.stream, message.source_time_ns))
        state = replace(
            state,
            counters={**state.counters, "received": state.counters.get("received", 0) + 1},
            watch=watch,
            newest_ns={**state.newest_ns, message.stream: newest},
        )
        if isinstance(message, PressureSamples):
            return self._pressure(state, message, verdict.lost), ()
        return self._take(state, message), ()

    def prepare(self, state: SessionState) -> None:
        """Work out what the next tick says wherever the tip is, while there is nothing else to do; changes nothing."""
        prepare(self.model, state)

    def _take(self, state: SessionState, message: Message) -> SessionState:
        match message:
            case ToolPose():
                return self._pose(state, message)
            case FiducialTouch():
                return self._touch(state, message)
            case PatientRegistration():
                return self._registered(state, Registered.as_told(message))
            case Trigger():
                return self._trigger(state, message)
            case FlowSample():
                return self._flow(state, message)
            case SectionFlow():
                looker = section_looker(self.model, message)
                return self._measured(state, message.stream, message.source_time_ns, looker)
            case DopplerVelocity():
                looker = doppler_looker(self.model, state, message)
                return self._measured(state, message.stream, message.source_time_ns, looker)
            case CardiacOutput():
                if message.port is None:
                    return state  # only a part of it passes the vessel
                looker = output_looker(self.model, message)
                return self._measured(state, message.stream, message.source_time_ns, looker)
            case ProcedureEnd():
                return replace(state, ended=True)
            case Heartbeat() | VitalSign() | WaveformSamples() | ImageFrame() | Note():
                return state  # shown and recorded; the model does not use them
            case _:
                return state.counting(unexpected=1)

    def _start(self, state: SessionState, message: SessionStart) -> SessionState:
        if state.started is not None:
            return state.counting(unexpected=1)
        ensemble = self.model.filter.initial(message.seed, self.model.waveform.period)
        return replace(state, started=message, ensemble=ensemble)

    def _pose(self, state: SessionState, pose: ToolPose) -> SessionState:
        known = state.poses.get(pose.tool)
        if known is not None and pose.source_time_ns < known.source_time_ns:
            return state.counting(late=1)
        state = replace(state, poses={**state.poses, pose.tool: pose})
        if known is not None and pose.tool == state.tool and jumped(known, pose):
            state = self._doubted(state, pose.source_time_ns)
        if self.model.lumen is None or state.registration is None or not pose.valid or pose.tool != state.tool:
            return state
        following = follow(
            self.model.lumen,
            state.following,
            state.registration.error,
            registered_tip(state.registration, pose),
            pose.source_time_ns,
            correct=self.model.settings.follow_lumen,
        )
        return state if following is state.following else replace(state, following=following)

    def _doubted(self, state: SessionState, time_ns: int) -> SessionState:
        """The session after the patient or the tracker's reference was pushed: the registration is less than it was."""
        state = replace(state, doubted_ns=time_ns, following=None, taken=(), checkpoints=(), before_change=None)
        if state.ensemble is None:
            return state
        return replace(state, ensemble=self.model.filter.displaced(state.ensemble))

    def _touch(self, state: SessionState, touch: FiducialTouch) -> SessionState:
        if touch.fiducial not in self.model.fiducials:
            return state.counting(unknown_fiducial=1)
        touches = {**state.touches, touch.fiducial: touch.position}
        state = replace(state, touches=touches)
        if len(touches) < min(FEWEST_FIDUCIALS, len(self.model.fiducials)):
            return state
        names = sorted(touches)
        try:
            registration = register_landmarks(
                np.array([touches[name] for name in names]),
                np.array([self.model.fiducials[name] for name in names]),
            )
        except RegistrationError as error:
            # The last good registration stays, and the state says why there is no newer one.
            return replace(state, registration_problem=str(error))
        return self._registered(state, Registered.by_landmarks(registration))

    def _registered(self, state: SessionState, registration: Registered) -> SessionState:
        state = replace(
            state,
            registration=registration,
            registration_problem=None,
            registrations=state.registrations + 1,
            doubted_ns=None,
            following=None,
        )
        if state.ensemble is None:
            return state
        # What pressures said of the old registration's error is nothing to the new one.
        ensemble = self.model.filter.with_registration(state.ensemble, state.registrations)
        return replace(state, ensemble=ensemble, taken=(), checkpoints=(), before_change=None)

    def _trigger(self, state: SessionState, trigger: Trigger) -> SessionState:
        if trigger.kind != "r_wave":
            return state.counting(unexpected=1)
        if state.beat is None:
            period = round(self.model.waveform.period * 1e9)
            beat = Beat(trigger.source_time_ns, period)
            if state.ensemble is not None:  # the ensemble was spun up to phase 0, which is now
                step = trigger.source_time_ns // self.model.filter.step_ns
                state = replace(state, ensemble=replace(state.ensemble, step=step))
            return replace(state, beat=beat)
        beat = state.beat.next(trigger.source_time_ns)
        if beat is state.beat:
            return state
        state = beat_ended(self.model, replace(state, beat=beat), trigger.source_time_ns)
        if state.means is None or state.means.count < FEWEST or state.ensemble is None:
            return replace(state, means=None)
        said = forecasts(self.model, state.means, state.ensemble, beat.period_ns * 1e-9)
        return replace(state, means=None, forecasts=said)

    def _advance(self, state: SessionState, time_ns: int) -> SessionState:
        """Bring the ensemble to a time, if it is running and the time is not behind it."""
        if state.ensemble is None or state.beat is None:
            return state
        model_filter = self.model.filter
        step = time_ns // model_filter.step_ns
        if (step - state.ensemble.step) * model_filter.step_ns > LONGEST_STEP_NS:
            moved = replace(state.ensemble, step=step)
            return replace(state, ensemble=moved, taken=(), checkpoints=()).counting(gaps=1)
        stride = LAGGING_STRIDE if state.lag_ns > THIN_ABOVE_NS else 1
        return replace(state, ensemble=model_filter.advance(state.ensemble, step, state.beat, stride=stride))

    def _spared(self, state: SessionState, stream: str, time_ns: int) -> bool:
        """Whether the filter does without an observation because the session lags behind.

        A display that is late is worse than a filter that sees less: poses, ticks and what is measured go on, and each
        stream keeps one observation in a time that grows with the lag. The lag comes with the ticks, which are events,
        so a replay spares the same observations.
        """
        if state.lag_ns <= THIN_ABOVE_NS:
            return False
        interval = min(2 * state.lag_ns, LARGEST_THINNING_NS)
        return time_ns - state.used_ns.get(stream, -LARGEST_THINNING_NS) < interval

    def _pressure(self, state: SessionState, samples: PressureSamples, lost: int) -> SessionState:
        count = len(samples.values_mmhg)
        middle_ns = samples.source_time_ns + samples.sample_period_ns * (count - 1) // 2
        # A line at a port is not the catheter: where the catheter is follows a sensor at a tool's tip.
        shown = samples.tool is not None or (samples.port is None and state.tool is None)
        if middle_ns >= state.measured_ns and shown:
            following = state.following if samples.tool == state.tool else None
            mean = sum(samples.values_mmhg) / count
            state = replace(state, measured_mmhg=mean, measured_ns=middle_ns, tool=samples.tool, following=following)
        if samples.tool is not None or samples.port is not None:
            signal = state.signals.get(samples.sensor, NO_SIGNAL)
            if len(state.signals) < MOST_SENSORS or samples.sensor in state.signals:
                signal = signal.see(samples.source_time_ns, samples.sample_period_ns, samples.values_mmhg)
                state = replace(state, signals={**state.signals, samples.sensor: signal})
        if samples.tool is None and samples.port not in self.model.port_names:
            return state.refusing("place_unknown", middle_ns)
        if state.beat is None or state.ensemble is None:
            return state
        state = with_sensor(self.model, state, samples)
        missing = self._missing(state, samples, lost, middle_ns)
        looker = pressure_looker(self.model, missing, samples, middle_ns)
        return self._measured(missing, samples.stream, middle_ns, looker)

    def _missing(self, state: SessionState, samples: PressureSamples, lost: int, time_ns: int) -> SessionState:
        """The session after what is missing before a sensor's samples, where the case says why it goes missing.

        Numbers of the stream that did not come tell how many are missing; they are spread evenly over the gap. A gap
        longer than late data may be is a line that was lost, whatever was in it, and says nothing.
        """
        missingness = self.model.settings.missing.get(samples.sensor)
        before = state.used_ns.get(samples.stream)
        if not lost or missingness is None or before is None or time_ns - before > LAG_NS:
            return state
        for number in range(1, lost + 1):
            gone_ns = before + (time_ns - before) * number // (lost + 1)
            looker = missing_looker(pressure_looker(self.model, state, samples, gone_ns), missingness)
            state = self._measured(state, samples.stream, gone_ns, looker)
        return state

    def _flow(self, state: SessionState, sample: FlowSample) -> SessionState:
        if sample.port not in self.model.port_names:
            return state.counting(unexpected=1)
        if state.ensemble is None:
            return state
        return self._measured(state, sample.stream, sample.source_time_ns, flow_looker(self.model, sample))

    def _measured(self, state: SessionState, stream: str, time_ns: int, looker: Looker) -> SessionState:
        """Bring the ensemble to the time of a measurement and take it."""
        if state.beat is None or state.ensemble is None:
            return state
        if time_ns < state.ensemble.step * self.model.filter.step_ns - LAG_NS:
            return state.counting(late=1)
        if self._spared(state, stream, time_ns):
            return state.counting(thinned=1)
        state = self._advance(replace(state, used_ns={**state.used_ns, stream: time_ns}), time_ns)
        return observe(self.model, state, time_ns, looker)

    def _publish(self, state: SessionState, tick: Tick) -> tuple[SessionState, tuple[TwinState, ...]]:
        # Without observations nothing else moves the ensemble: let the model run on, so that what is shown is
        # a forecast for now and not the past.
        state = self._advance(
            replace(state, lag_ns=tick.lag_ns, stages=tick.stages), tick.source_time_ns - FREE_RUN_LAG_NS
        )
        if state.ensemble is not None and state.beat is not None:
            state = replace(state, means=BeatMeans.adding(state.means, self.model, state.ensemble))
        message = build_twin_state(self.model, state, tick.source_time_ns)
        return replace(state, published=state.published + 1), (message,)
