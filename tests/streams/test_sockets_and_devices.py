"""Sockets on loopback, and simulated devices."""

import socket
import time
from pathlib import Path

import numpy as np
import pytest

from streams.devices import FiducialTouches, FlowDevice, PressureDevice, TrackerDevice, TriggerDevice, merge
from streams.errors import InputError, MalformedMessage
from streams.messages import ToolPose, Trigger, decode, encode
from streams.sockets import Publisher, Subscriber
from streams.wire import unpack

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def pair():
    with socket.socket() as probe:  # ZeroMQ lets go of a port only some time after closing
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    subscriber = Subscriber(endpoint, bind=True)
    publisher = Publisher(endpoint)
    publisher.endpoint = endpoint
    yield publisher, subscriber
    publisher.close()
    subscriber.close()


def trigger(number):
    return Trigger(stream="ecg", sequence=number, source_time_ns=number, kind="r_wave")


def test_a_burst_arrives_whole_and_in_order(pair):
    publisher, subscriber = pair
    deadline = time.monotonic() + 5
    while not subscriber.receive(20) and time.monotonic() < deadline:
        publisher.send(trigger(0))
    subscriber.receive(100)
    for number in range(1, 3001):
        publisher.send(trigger(number))
    received = []
    while len(received) < 3000 and time.monotonic() < deadline + 5:
        received += subscriber.receive(100)
    sequence = [unpack(frame).sequence for _, frame in received]
    assert sequence[-3000:] == list(range(1, 3001))
    times = [stamp for stamp, _ in received]
    assert times == sorted(times)


def test_a_port_in_use_is_named(pair):
    endpoint = pair[0].endpoint
    with pytest.raises(InputError, match=f"{endpoint} is in use"):
        Subscriber(endpoint, bind=True)


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5590", "tcp://192.168.1.7:5590", "tcp://hospital:5590"])
def test_plain_text_stays_on_this_machine(endpoint):
    with pytest.raises(InputError, match="beyond this machine"):
        Publisher(endpoint)


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:5590", "tcp://127.0.0.1", "tcp://127.0.0.1:port", "ipc://x"])
def test_what_is_no_endpoint_is_refused(endpoint):
    with pytest.raises(InputError, match="no endpoint"):
        Subscriber(endpoint)


def devices(seed):
    pose = np.eye(4)
    pose[:3, 3] = (10.0, 20.0, 30.0)
    generators = [np.random.default_rng([seed, number]) for number in range(5)]
    return [
        TrackerDevice("c", lambda t: None if 1.0 <= t < 1.5 else pose, 60.0, 20.0, 0.2, 0.01, generators[0], 0.1),
        FiducialTouches([(0.5, "a", np.zeros(3))], "p", 0.3, generators[1]),
        PressureDevice("s", "c", lambda t: 100.0, 250.0, 20.0, 2.0, generators[2]),
        FlowDevice("f", "inlet", lambda t: 10.0, 20.0, 20.0, 0.08, generators[3]),
        TriggerDevice("r_wave", np.arange(0.0, 20.0, 0.8), generators[4]),
    ]


def test_a_seed_gives_the_same_procedure_again_and_in_time_order():
    first, second = (list(merge(devices(4), epoch_ns=10**18)) for _ in range(2))
    assert first == second
    assert first != list(merge(devices(5), epoch_ns=10**18))
    times = [due.time_s for due in first]
    assert times == sorted(times)
    for due in first[:200]:
        assert decode(encode(due.message)) == due.message


def test_noise_and_losses_are_what_was_asked_for():
    tracker, _, pressure, flow, _ = devices(1)
    sent = list(tracker.messages(0))
    positions = np.array([due.message.position for due in sent if due.message.valid])
    assert positions.std(axis=0) == pytest.approx([0.2] * 3, rel=0.1)
    assert np.mean([due.withheld for due in sent]) == pytest.approx(0.1, abs=0.03)
    values = np.concatenate([due.message.values_mmhg for due in pressure.messages(0)])
    assert (values.mean(), values.std()) == (pytest.approx(100.0, abs=0.15), pytest.approx(2.0, rel=0.05))
    flows = np.array([due.message.flow_ml_s for due in flow.messages(0)])
    assert flows.std() == pytest.approx(0.8, rel=0.15)


def test_a_hidden_tool_is_sent_as_not_valid_and_never_with_an_old_pose():
    hidden = [due.message for due in devices(1)[0].messages(0) if 1.0 <= due.time_s < 1.5]
    assert hidden
    assert all(not pose.valid and pose.position == (0.0, 0.0, 0.0) for pose in hidden)


def test_a_real_trackers_zero_pose_for_a_missing_sensor_is_never_a_valid_pose():
    path = next(iter(sorted((DATA / "streams_ndi_em_tracker_static").glob("*.csv"))), None)
    if path is None:
        pytest.skip("the NDI recording is not in ../shared/data")
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    numbers = []
    for row in rows:
        try:
            numbers.append([float(cell) for cell in row if cell.strip()])
        except ValueError:
            continue
    missing = seen = 0
    for row in numbers:
        for start in range(len(row) - 6):
            position, quaternion = tuple(row[start : start + 3]), tuple(row[start + 3 : start + 7])
            if all(value == 0.0 for value in (*position, *quaternion)):
                pose = ToolPose(stream="t", sequence=0, source_time_ns=0, tool="a", position=position,
                                quaternion=quaternion, valid=True)  # fmt: skip
                with pytest.raises(MalformedMessage, match="zero quaternion"):
                    decode(encode(pose))
                missing += 1
            elif abs(np.linalg.norm(quaternion) - 1.0) < 1e-4 and max(map(abs, position)) > 1.0:
                seen += 1
    assert missing > 0
    assert seen > 0
