"""A small made model and procedures on it, whose truth is integrated by SciPy; for the tests of the session."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from meshes.clipping import lattice, oriented
from streams.events import event_from_frame
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
