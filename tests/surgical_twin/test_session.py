"""The session as a fold over events, on a small made model whose truth is integrated by SciPy."""

import importlib.util
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.events import Event, event_from_frame
from streams.messages import FiducialTouch, FlowSample, PressureSamples, Tick, ToolPose
from streams.wire import pack

_SPEC = importlib.util.spec_from_file_location("made_patient", Path(__file__).with_name("made_patient.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)
EPOCH, PERIOD, TRUE_INFLOW = made.EPOCH, made.PERIOD, made.TRUE_INFLOW
at, event, fold, procedure = made.at, made.event, made.fold, made.procedure
model, truth = made.model, made.truth


def test_a_patient_the_plan_does_not_know_is_found_from_pressure_and_flow(model, truth):
    _, states = fold(model, procedure(truth))
    late = [state for state in states if state.model_time_ns > at(12.0)]
    errors, inside = [], 0
    for state in late:
        inlet = state.port_pressure_mmhg["inlet"]
        value = truth((state.model_time_ns - EPOCH) * 1e-9)
        errors.append(inlet.value - value)
        inside += inlet.lower <= value <= inlet.upper
    assert np.sqrt(np.mean(np.square(errors))) < 2.0
    assert inside / len(late) >= 0.9
    inflow = late[-1].parameters["inflow_factor"]
    assert inflow.lower <= TRUE_INFLOW <= inflow.upper
    assert inflow.upper - inflow.lower < 0.3
    assert not late[-1].flags


def test_the_same_events_give_the_same_bytes(model, truth):
    events = procedure(truth, seconds=3.0)
    first, second = (b"".join(pack(state) for state in fold(model, events)[1]) for _ in range(2))
    assert first == second


def test_before_registration_no_tip_is_shown_and_the_state_says_why(model, truth):
    events = procedure(truth, seconds=3.0)
    _, states = fold(model, events)
    assert "not_registered" in states[0].flags
    assert states[0].tip is None
    assert states[-1].registered
    assert states[-1].tre is not None
    assert np.linalg.norm(np.array(states[-1].tip) - [4.0, 4.0, 3.0]) < 1.0


def test_a_lost_tool_is_unknown_within_half_a_second(model, truth):
    events = [
        item
        for item in procedure(truth, seconds=4.0)
        if not (isinstance(item.message, ToolPose) and item.message.source_time_ns > at(2.0))
    ]
    _, states = fold(model, events)
    after = [state for state in states if state.source_time_ns > at(2.6)]
    assert all("tip_unknown" in state.flags and state.tip is None for state in after)


def test_an_unzeroed_transducer_is_refused_and_named(model, truth):
    good = procedure(truth, seconds=6.0)
    bad = procedure(truth, seconds=9.0, bias=-80.0)
    events = good + [item for item in bad if item.message.source_time_ns > at(6.0)]
    _, states = fold(model, events)
    assert "pressure_implausible" in states[-1].flags
    flowing = states[-1].port_pressure_mmhg["inlet"].value
    assert flowing == pytest.approx(truth((states[-1].model_time_ns - EPOCH) * 1e-9), abs=6.0)


def test_silence_of_the_pressure_line_is_stale_and_the_model_runs_on(model, truth):
    events = [
        item
        for item in procedure(truth, seconds=8.0)
        if not (isinstance(item.message, PressureSamples | FlowSample) and item.message.source_time_ns > at(5.0))
    ]
    _, states = fold(model, events)
    assert "pressure_stale" in states[-1].flags
    assert states[-1].measured_pressure_mmhg is None
    assert states[-1].model_time_ns > at(7.5)


def test_a_lagging_session_spares_the_filter_and_says_so(model, truth):
    """Ticks that tell of a lag of 300 ms: poses are taken as ever, of each stream some observations still count."""

    def lagging(one):
        if isinstance(one.message, Tick) and one.message.source_time_ns > at(6.0):
            return event(one.index, msgspec.structs.replace(one.message, lag_ns=300_000_000))
        return one

    events = procedure(truth, seconds=12.0)
    state, published = fold(model, [lagging(one) for one in events])
    rested, _ = fold(model, events)
    assert state.counters["thinned"] > 250
    assert 20 < state.counters["assimilated"] - rested.counters["assimilated"] // 2 < 60
    late = [one for one in published if one.source_time_ns > at(6.5)]
    assert all("overloaded" in one.flags for one in late)
    # The tip is still where the newest pose puts it, and the pressure still near the truth.
    assert all(one.tip_valid for one in late)
    assert late[-1].tip_pressure_mmhg.value == pytest.approx(truth(late[-1].model_time_ns / 1e9 - EPOCH / 1e9), abs=4.0)


def test_wrong_duplicate_late_and_lying_messages_are_counted_and_skipped(model, truth):
    events = procedure(truth, seconds=2.0)
    index = len(events)
    pressure = next(item for item in reversed(events) if isinstance(item.message, PressureSamples))
    future = FlowSample(
        stream="flow2",
        sequence=0,
        source_time_ns=at(100.0),
        sensor="f",
        port="inlet",
        flow_ml_s=5.0,
        deviation_ml_s=1.0,
    )
    extra = [
        event_from_frame(index, at(2.0), b"nonsense"),
        Event(index + 1, pressure.receive_time_ns, pressure.frame, pressure.message),
        event_from_frame(index + 2, at(2.0), pack(future)),
        event(
            index + 3,
            FiducialTouch(
                stream="touch", sequence=99, source_time_ns=at(2.0), fiducial="zz", tool="p", position=(0, 0, 0)
            ),
        ),
    ]
    before, _ = fold(model, events)
    after, _ = fold(model, events + extra)
    assert after.counters["malformed"] == 1
    assert after.counters["duplicates"] == 1
    assert after.counters["implausible_time"] == 1
    assert after.counters["unknown_fiducial"] == 1
    np.testing.assert_array_equal(after.ensemble.log_factors, before.ensemble.log_factors)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_no_order_of_messages_and_no_value_raises(model, truth, data):
    events = procedure(truth, seconds=1.5)
    order = data.draw(st.permutations(range(0, len(events), 3)))
    wild = PressureSamples(
        stream="pressure",
        sequence=data.draw(st.integers(0, 10_000)),
        source_time_ns=data.draw(st.integers(0, 2**62)),
        sensor="s",
        tool="cath",
        sample_period_ns=data.draw(st.integers(1, 10_000_000_000)),
        values_mmhg=(data.draw(st.floats(-1e300, 1e300)),),
    )
    shuffled = [events[0], *(events[place] for place in order), event_from_frame(9999, at(1.0), pack(wild)), events[-1]]
    fold(model, shuffled)
