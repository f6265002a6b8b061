"""The session as a fold over events, on a small made model whose truth is integrated by SciPy."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from meshes.clipping import lattice, oriented
from streams.events import Event, event_from_frame
from streams.messages import FiducialTouch, FlowSample, PressureSamples, SessionStart, Tick, ToolPose, Trigger
from streams.wire import pack
from surgical_twin.assimilation.flow_filter import FlowFilter
from surgical_twin.flow.field_decoder import FieldDecoder, ModalMap
from surgical_twin.flow.port_model import PortModel
from surgical_twin.flow.port_state import PortParameters
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.session import Session
from surgical_twin.session_model import Place, SessionModel, SessionSettings
from surgical_twin.session_state import SessionState
from surgical_twin.units import PASCAL_PER_MMHG

EPOCH = 1_700_000_000_000_000_000
PERIOD = 0.8
MEAN_FLOW = 9e-6
TREE_RESISTANCE = 4e7
PROXIMAL, DISTAL, COMPLIANCE = np.array([2e8, 3e8]), np.array([2e9, 3e9]), np.array([2.4e-10, 1.6e-10])
TRUE_RESISTANCE, TRUE_COMPLIANCE, TRUE_INFLOW = np.array([1.25, 0.85]), 0.8, 1.08
FIDUCIALS = {
    "a": np.array([0.0, 0.0, 0.0]),
    "b": np.array([60.0, 0.0, 10.0]),
    "c": np.array([0.0, 70.0, 20.0]),
    "d": np.array([40.0, 50.0, 60.0]),
    "e": np.array([10.0, 20.0, 70.0]),
}


@pytest.fixture(scope="module")
def model():
    nodes, tetrahedra = lattice((5, 5, 21), np.ones((4, 4, 20), dtype=bool))
    points = nodes * np.array([2.0, 2.0, 3.0]) * 1e-3
    tetrahedra = oriented(points, tetrahedra)
    # Pressure falls along z from the inlet's by a viscous drop, the same for either outlet.
    along = (points[:, 2] / points[:, 2].max()).astype(np.float32)
    drop = np.zeros((8, 1))
    drop[:2] = -TREE_RESISTANCE
    still = ModalMap(np.zeros((len(points), 3, 1), dtype=np.float32), np.zeros((8, 1)))
    decoder = FieldDecoder(points, tetrahedra, ("left", "right"), ModalMap(along[:, None, None], drop), still)
    ports = PortModel(
        outlets=("left", "right"),
        resistance=np.full((2, 2), TREE_RESISTANCE) + np.diag([1e7, 1e7]),
        inertance=np.full((2, 2), 1e6) + np.diag([5e5, 5e5]),
        segments=np.eye(2),
        loss=np.zeros(2),
        junction_loss=np.zeros(2),
        recovery=np.zeros(2),
        memory=np.zeros((0, 2, 2)),
        time_constants=np.zeros(0),
    )
    reduced = ReducedModel(
        ports=ports,
        decoder=decoder,
        inlet="inlet",
        range_lower=np.full(5, -1.0),
        range_upper=np.full(5, 1.0),
        port_pressure_error=np.full(3, 60.0),
        port_flow_error=np.full(2, 1e-7),
        pressure_error_bias=np.zeros(len(points)),
        pressure_error_std=np.full(len(points), 60.0),
    )
    waveform = PeriodicWaveform.named("peripheral", mean=MEAN_FLOW, period=PERIOD)
    planned = PortParameters(PROXIMAL[None], DISTAL[None], COMPLIANCE[None], np.zeros((1, 2)))
    stations = np.column_stack([np.full(10, 4.0), np.full(10, 4.0), np.linspace(2.0, 58.0, 10)])
    return SessionModel(
        case_hash="made",
        reduced=reduced,
        filter=FlowFilter(ports, waveform, planned),
        waveform=waveform,
        fiducials=FIDUCIALS,
        axis=Place.of(reduced, stations),
        port_names=("inlet", "left", "right"),
        flow_error_ml_s=np.array([0.0, 0.1, 0.1]),
        pressure_error_mmhg=np.full(3, 60.0 / PASCAL_PER_MMHG),
        settings=SessionSettings(),
    )


@pytest.fixture(scope="module")
def truth(model):
    """Inlet pressure [mmHg] over one periodic beat of the true patient, by SciPy.

    Windkessels behind the tree; the flow is split quasi-statically (the tree's inertia delays it by less than 1 ms).
    """
    proximal, distal = PROXIMAL * TRUE_RESISTANCE, DISTAL * TRUE_RESISTANCE
    compliance = COMPLIANCE * TRUE_COMPLIANCE
    ports = model.reduced.ports

    def split(time, capacitor):
        """Outlet flows and inlet pressure: R Q + L dQ/dt + Rp Q + Pc = P_in with the sum of Q given; L dQ/dt by the
        inflow's own rate, shared as the flows are."""
        inflow = TRUE_INFLOW * model.waveform.value(time)
        rate = TRUE_INFLOW * model.waveform.derivative(time)
        share = np.linalg.solve(ports.inertance, np.ones(2))
        share /= share.sum()
        system = np.zeros((3, 3))
        system[:2, :2] = ports.resistance + np.diag(proximal)
        system[:2, 2] = -1.0
        system[2, :2] = 1.0
        right = np.array([*(-capacitor - ports.inertance @ share * rate), inflow])
        solution = np.linalg.solve(system, right)
        return solution[:2], solution[2]

    def change(time, capacitor):
        flow, _ = split(time, capacitor)
        return (flow - capacitor / distal) / compliance

    start = np.full(2, MEAN_FLOW * TRUE_INFLOW / (1 / distal).sum())
    run = solve_ivp(change, (0, 12 * PERIOD), start, rtol=1e-8, max_step=0.005, dense_output=True)
    times = np.linspace(0, PERIOD, 161)
    pressure = [split(t, run.sol(11 * PERIOD + t))[1] / PASCAL_PER_MMHG for t in times]
    return lambda time: float(np.interp(time % PERIOD, times, pressure))


def event(index, message, delay_ns=3_000_000):
    return event_from_frame(index, message.source_time_ns + delay_ns, pack(message))


def procedure(truth, *, seconds=16.0, noise=2.0, bias=0.0, seed=0):
    """Messages of a procedure: tracker frame equal to the image's, the tip resting near the inlet."""
    generator = np.random.default_rng(seed)
    messages = [
        SessionStart(stream="session/start", sequence=0, source_time_ns=EPOCH, case_hash="made", seed=5, settings={})
    ]
    timed = []
    for number in range(int(seconds / PERIOD) + 1):
        timed.append(
            (number * PERIOD, Trigger(stream="ecg", sequence=number, source_time_ns=at(number * PERIOD), kind="r_wave"))
        )
    for number, (name, point) in enumerate(FIDUCIALS.items()):
        x, y, z = (float(value) for value in point + generator.normal(0, 0.2, 3))
        when = 0.1 + 0.1 * number
        timed.append(
            (
                when,
                FiducialTouch(
                    stream="touch",
                    sequence=number,
                    source_time_ns=at(when),
                    fiducial=name,
                    tool="p",
                    position=(x, y, z),
                ),
            )
        )
    for number in range(int(seconds * 50)):
        when = number / 50
        timed.append(
            (
                when,
                ToolPose(
                    stream="pose",
                    sequence=number,
                    source_time_ns=at(when),
                    tool="cath",
                    position=(4.0, 4.0, 3.0),
                    quaternion=(1.0, 0.0, 0.0, 0.0),
                    valid=True,
                ),
            )
        )
        values = tuple(float(truth(when + k / 250) + bias + generator.normal(0, noise)) for k in range(5))
        timed.append(
            (
                when + 0.017,
                PressureSamples(
                    stream="pressure",
                    sequence=number,
                    source_time_ns=at(when),
                    sensor="s",
                    tool="cath",
                    sample_period_ns=4_000_000,
                    values_mmhg=values,
                ),
            )
        )
        if number % 3 == 0:
            flow = TRUE_INFLOW * PeriodicWaveform.named("peripheral", mean=MEAN_FLOW, period=PERIOD).value(when) * 1e6
            deviation = 0.08 * flow
            timed.append(
                (
                    when,
                    FlowSample(
                        stream="flow",
                        sequence=number // 3,
                        source_time_ns=at(when),
                        sensor="f",
                        port="inlet",
                        flow_ml_s=float(flow + generator.normal(0, deviation)),
                        deviation_ml_s=deviation,
                    ),
                )
            )
        if number % 5 == 4:
            timed.append(
                (when + 0.018, Tick(stream="session/clock", sequence=number // 5, source_time_ns=at(when + 0.018)))
            )
    messages += [message for _, message in sorted(timed, key=lambda item: item[0])]
    return [event(index, message) for index, message in enumerate(messages)]


def at(seconds):
    return EPOCH + round(seconds * 1e9)


def fold(model, events):
    session, state, published = Session(model), SessionState(), []
    for item in events:
        state, outputs = session.step(state, item)
        published += outputs
    return state, published


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
