"""Late data, fixed lines and faults of sensors in a session, on a made tree whose truth SciPy integrates."""

import importlib.util
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streams.events import event_from_frame
from streams.messages import CardiacOutput, DopplerVelocity, PressureSamples, SectionFlow, Tick, ToolPose
from streams.transducer import MMHG_PER_CM
from streams.wire import pack

_SPEC = importlib.util.spec_from_file_location("made_patient", Path(__file__).with_name("made_patient.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)
EPOCH, at, event, fold, procedure = made.EPOCH, made.at, made.event, made.fold, made.procedure
model, truth = made.model, made.truth
LINE_BIAS = 2.0


def renumbered(events):
    return [event_from_frame(number, one.receive_time_ns, one.frame) for number, one in enumerate(events)]


def with_line(truth, events, *, zero=None, change=lambda time_s, value: value):
    """The events with an arterial line at the inlet that reads 2 mmHg too much."""
    generator = np.random.default_rng(9)
    seconds = max(one.message.source_time_ns for one in events) * 1e-9 - EPOCH * 1e-9
    lines = []
    for number in range(int(seconds * 50) - 1):
        when = number / 50
        values = [truth(when + k / 250) + LINE_BIAS + generator.normal(0, 2.0) for k in range(5)]
        message = PressureSamples(
            stream="line",
            sequence=number,
            source_time_ns=at(when),
            sensor="line",
            tool=None,
            port="inlet",
            sample_period_ns=4_000_000,
            values_mmhg=tuple(float(change(when, value)) for value in values),
            zero_deviation_mmhg=zero,
        )
        lines.append(event(0, message, delay_ns=20_000_000))
    return renumbered(sorted([*events, *lines], key=lambda one: one.receive_time_ns))


def changed(events, change):
    """The events with the catheter's pressures changed from their time [s] and values on."""
    made = []
    for one in events:
        message = one.message
        if isinstance(message, PressureSamples) and message.sensor == "s":
            when = (message.source_time_ns - EPOCH) * 1e-9
            message = msgspec.structs.replace(
                message, values_mmhg=tuple(float(change(when, v)) for v in message.values_mmhg)
            )
            one = event_from_frame(one.index, one.receive_time_ns, pack(message))
        made.append(one)
    return made


@pytest.fixture(scope="module")
def steady(model, truth):
    events = with_line(truth, procedure(truth, seconds=12.0, bias=-3.0), zero=0.3)
    return fold(model, events)


def test_the_bias_of_a_catheter_is_found_beside_a_line_that_was_zeroed(model, truth):
    events = with_line(truth, procedure(truth, seconds=12.0, bias=-1.5), zero=2.0)
    _, states = fold(model, events)
    catheter, line = states[-1].sensors["s"].bias_mmhg, states[-1].sensors["line"].bias_mmhg
    # What they differ by is seen; what they share is not, and the intervals say so.
    assert catheter.value - line.value == pytest.approx(-1.5 - LINE_BIAS, abs=0.5)
    assert catheter.lower <= -1.5 <= catheter.upper
    assert line.lower <= LINE_BIAS <= line.upper


def test_a_line_learns_nothing_wrong_of_its_frequency(steady):
    _, states = steady
    frequency = states[-1].sensors["line"].natural_frequency_hz
    assert frequency.lower < 40.0
    assert frequency.upper > 15.0  # the made line is perfect


def test_late_data_give_what_they_would_have_given_in_time(model, truth):
    events = procedure(truth, seconds=6.0)
    shuffled = []
    for one in events:
        late = isinstance(one.message, PressureSamples) and 40 <= one.message.sequence < 90
        receive = one.receive_time_ns + (300_000_000 if late and one.message.sequence % 2 == 0 else 0)
        shuffled.append(event_from_frame(one.index, receive, one.frame))
    shuffled = renumbered(sorted(shuffled, key=lambda one: one.receive_time_ns))
    in_time, _ = fold(model, events)
    late, states = fold(model, shuffled)
    without, _ = fold(
        model,
        [
            one
            for one in events
            if not (
                isinstance(one.message, PressureSamples)
                and 40 <= one.message.sequence < 90
                and one.message.sequence % 2 == 0
            )
        ],
    )
    assert late.counters["rewound"] == 25
    off, missing = (
        np.abs(other.ensemble.log_factors.mean(axis=0) - in_time.ensemble.log_factors.mean(axis=0)).max()
        for other in (late, without)
    )
    # What is late is put at its own time; what is in time counts as of the ensemble's, up to 25 ms off.
    assert off < 0.25 * missing
    again = fold(model, shuffled)[1]
    assert [pack(one) for one in again] == [pack(one) for one in states]


def test_a_line_whose_port_nobody_knows_is_not_used_and_does_not_hide_the_catheter(model, truth):
    events = with_line(truth, procedure(truth, seconds=2.0))
    unknown = [
        event_from_frame(one.index, one.receive_time_ns, pack(msgspec.structs.replace(one.message, port="nowhere")))
        if isinstance(one.message, PressureSamples) and one.message.sensor == "line"
        else one
        for one in events
    ]
    state, states = fold(model, unknown)
    assert state.tool == "cath"
    assert "place_unknown" in states[-1].flags
    assert list(states[-1].sensors) == ["s"]


def named(states, flag, since_s):
    """Seconds from a time until a flag is raised; None where it never is."""
    for state in states:
        when = (state.source_time_ns - EPOCH) * 1e-9
        if when >= since_s and flag in state.flags:
            return when - since_s
    return None


def test_a_transducer_that_drops_by_20_cm_is_named_within_three_beats_and_recovered(model, truth):
    events = with_line(truth, procedure(truth, seconds=16.0))
    dropped = changed(events, lambda when, value: value + 20.0 * MMHG_PER_CM * (when >= 8.0))
    _, states = fold(model, dropped)
    assert named(states, "transducer_moved:s", 8.0) < 3 * 0.8 + 0.1
    assert named(states, "transducer_moved:s", 0.0) >= 8.0
    last = states[-1]
    assert not any(flag.startswith("transducer") for flag in last.flags)
    assert last.sensors["s"].bias_mmhg.value == pytest.approx(20.0 * MMHG_PER_CM, abs=4.0)
    assert last.port_pressure_mmhg["inlet"].value == pytest.approx(truth((last.model_time_ns - EPOCH) * 1e-9), abs=4.0)


def test_a_damped_line_is_named_and_trusted_again_once_it_is_free(model, truth):
    mean = np.mean([truth(time) for time in np.linspace(0, 0.8, 50)])
    events = with_line(truth, procedure(truth, seconds=18.0))
    damped = changed(events, lambda when, v: mean + 0.25 * (v - mean) if 7.0 <= when < 12.0 else v)
    _, states = fold(model, damped)
    assert named(states, "line_damped:s", 7.0) < 3 * 0.8 + 0.1
    assert named(states, "line_damped:s", 0.0) >= 7.0
    assert not states[-1].flags


def test_nothing_is_named_where_nothing_is_wrong(steady):
    _, states = steady
    flags = {flag for state in states if state.source_time_ns > at(2.0) for flag in state.flags}
    assert flags <= {"pressure_implausible"}


def test_a_tip_that_jumps_puts_the_registration_in_doubt(model, truth):
    moved = []
    for one in procedure(truth, seconds=4.0):
        message = one.message
        if isinstance(message, ToolPose) and message.source_time_ns > at(2.0):
            x, y, z = message.position
            message = msgspec.structs.replace(message, position=(x, y, z + 10.0))
            one = event_from_frame(one.index, one.receive_time_ns, pack(message))
        moved.append(one)
    before, after = (fold(model, events)[1][-1] for events in (procedure(truth, seconds=4.0), moved))
    assert "registration_doubtful" in after.flags
    assert "registration_doubtful" not in before.flags
    assert after.tre > 2.5 * before.tre


def test_flows_of_sections_outputs_and_beams_move_the_ensemble_or_say_why_not(model, truth):
    events = procedure(truth, seconds=3.0)
    count = len(events)
    output = CardiacOutput(
        stream="co",
        sequence=0,
        source_time_ns=at(3.0),
        sensor="td",
        output_l_min=9.72e-6 * 60e3,
        deviation_l_min=0.001,
        port="inlet",
    )
    state, _ = fold(model, events)
    told, _ = fold(model, [*events, event(count, output)])
    spread = [model.filter.inflow_factor(one.ensemble.log_factors).std() for one in (state, told)]
    assert spread[1] < spread[0]
    assert model.filter.inflow_factor(told.ensemble.log_factors).mean() == pytest.approx(1.08, abs=0.01)
    section = SectionFlow(
        stream="us",
        sequence=0,
        source_time_ns=at(3.0),
        sensor="us",
        position=(4.0, 4.0, 30.0),
        flow_ml_s=9.0,
        deviation_ml_s=0.5,
    )
    beam = DopplerVelocity(
        stream="d",
        sequence=0,
        source_time_ns=at(3.0),
        sensor="d",
        position=(4.0, 4.0, 30.0),
        direction=(0.0, 0.0, 0.0),
        velocity_mm_s=100.0,
        deviation_mm_s=10.0,
    )
    tick = Tick(stream="session/clock", sequence=999, source_time_ns=at(3.01))
    _, states = fold(model, [*events, event(count, section), event(count + 1, beam), event(count + 2, tick)])
    assert "place_unknown" in states[-1].flags  # this case has no centerline, and a beam without direction is none


def test_a_forecast_of_a_steady_patient_is_what_he_is(steady, truth):
    _, states = steady
    mean = np.mean([truth(time) for time in np.linspace(0, 0.8, 80, endpoint=False)])
    for forecast in states[-1].forecasts:
        inlet = forecast.port_pressure_mmhg["inlet"]
        assert inlet.lower <= mean <= inlet.upper
        assert inlet.value == pytest.approx(mean, abs=3.0)
    assert [one.beats for one in states[-1].forecasts] == [1, 5, 30]
    parts, tip = states[-1].tip_pressure_parts, states[-1].tip_pressure_mmhg
    total = np.sqrt(parts.parameter**2 + parts.measurement**2 + parts.model**2)
    assert (tip.upper - tip.lower) / (2 * 1.96) == pytest.approx(total, rel=1e-3)


def test_a_clamp_is_not_taken_for_two_sensors_that_are_off(model, truth):
    def after(when, value):
        return value * (1.0 + 0.5 * (1.0 - np.exp(-max(0.0, when - 8.0) / 0.8)))

    events = with_line(truth, changed(procedure(truth, seconds=20.0), after), change=after)
    _, states = fold(model, events)
    assert any("circulation_changed" in one.flags for one in states)
    last = [one for one in states if one.model_time_ns > at(18.0)]
    off = [one.port_pressure_mmhg["inlet"].value - after(when, truth(when)) for one in last
           for when in [(one.model_time_ns - EPOCH) * 1e-9]]  # fmt: skip
    assert np.sqrt(np.mean(np.square(off))) < 5.0
    for sensor in ("s", "line"):
        assert abs(last[-1].sensors[sensor].bias_mmhg.value) < 6.0
