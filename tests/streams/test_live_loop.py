"""The live loop on real sockets, with the real session on a case without a flow model: what is shown, and replayed."""

import socket
import threading
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from mcap.reader import make_reader

from streams.audit import read_audit
from streams.command_channel import (
    AddNote,
    ClockTime,
    CommandClient,
    EndProcedure,
    Intervention,
    Landmarks,
    Register,
    StateAt,
    StateNow,
    Streams,
    WhatIf,
)
from streams.errors import InputError
from streams.keys import allow
from streams.messages import (
    FiducialTouch,
    Heartbeat,
    ImageFrame,
    Note,
    PatientRegistration,
    PressureSamples,
    ProcedureEnd,
    ToolPose,
    TwinState,
)
from streams.recorder import RecordingWriter
from streams.recording import RecordingFile, RecordingScan, StateFrame, read_recording
from streams.rewriting import anonymize, cut
from streams.security import client_security, server_security
from streams.sockets import Publisher, Subscriber
from streams.wire import pack, unpack
from surgical_twin.live import Endpoints, LiveLoop
from surgical_twin.pace import Pace
from surgical_twin.replay import replay

FIDUCIALS = {
    name: np.array(point, dtype=float)
    for name, point in {
        "a": (0, 0, 0),
        "b": (60, 0, 10),
        "c": (0, 70, 20),
        "d": (40, 50, 60),
        "e": (10, 20, 70),
    }.items()
}


def case_without_flow():
    """All that a session needs of a case as long as no pressure is assimilated."""
    return SimpleNamespace(
        case_hash="made",
        fiducials=FIDUCIALS,
        waveform=SimpleNamespace(period=0.8),
        filter=SimpleNamespace(initial=lambda seed, period: None),
        port_names=("inlet", "left"),
        lumen=None,
        reduced=SimpleNamespace(estimated=False, decoder=None),
    )


def endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Room:
    """A running twin, a device and a viewer."""

    def __init__(self, folder, *, keys=None, **more):
        self.endpoints = Endpoints(endpoint(), endpoint(), endpoint())
        self.recording = folder / "live.mcap"
        self.audit = folder / "audit.jsonl"
        self.security = None if keys is None else server_security(keys)
        self.loop = LiveLoop(case_without_flow(), seed=1, endpoints=self.endpoints, record=self.recording, case="case",
                             security=self.security, audit_log=self.audit, **more)  # fmt: skip
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()
        client = None if keys is None else client_security(keys, "all")
        self.device = Publisher(self.endpoints.devices, security=client)
        self.viewer = Subscriber(self.endpoints.states, bind=False, topics=("twin",), security=client)
        self.asking = CommandClient(self.endpoints.commands, security=client)
        self.numbers = {}
        self.ended = False
        self.states = []

    def say(self, kind, stream, **fields):
        number = self.numbers.get(stream, 0)
        self.numbers[stream] = number + 1
        message = kind(stream=stream, sequence=number, source_time_ns=time.time_ns(), **fields)
        self.device.send(message)
        return message

    def pose(self, valid=True):
        self.say(
            ToolPose, "tracker/c", tool="c", position=(4.0, 4.0, 3.0), quaternion=(1.0, 0.0, 0.0, 0.0), valid=valid
        )

    def pressure(self):
        self.say(PressureSamples, "pressure/p", sensor="p", tool="c", sample_period_ns=1_000_000, values_mmhg=(80.0,))

    def look(self, wait_ms=20):
        new = [unpack(frame) for _, frame in self.viewer.receive(wait_ms)]
        self.states += new
        return new

    def until(self, condition, say=lambda: None, seconds=10.0):
        """Say something every few ms until a state fulfils a condition; that state, and how long it took."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            say()
            for state in self.look(8):
                if condition(state):
                    return state, time.monotonic() - begin
        raise AssertionError(f"no such state; the last had flags {self.states[-1].flags if self.states else None}")

    def begin(self):
        """Wait until the twin hears the device, and touch the fiducials."""
        hello = lambda: self.say(Heartbeat, "hello", device="d", status="")  # noqa: E731
        self.until(lambda state: "hello" in state.age_ns, hello)
        for name, point in FIDUCIALS.items():
            self.say(FiducialTouch, "touch", fiducial=name, tool="p", position=tuple(point.tolist()))
        self.until(lambda state: state.registered and state.tip_valid, lambda: (self.pose(), self.pressure()))

    def end(self):
        self.loop.stop()
        self.thread.join(10)
        if self.ended:
            return self.loop.report
        self.ended = True
        for item in (self.device, self.viewer, self.asking):
            item.close()
        if self.security is not None:
            self.security.close()
        return self.loop.report


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    room.begin()
    yield room
    room.end()


def test_a_procedure_is_recorded_with_all_that_went_wrong_and_replays_to_the_byte(room):
    for number in range(200):
        room.pose()
        room.pressure()
        if number % 20 == 0:
            room.device.send_frame(b"\xff\x00garbage")
            room.device.send_frame(b"later\0" + msgspec.msgpack.encode(
                {"type": "Telepathy", "stream": "later", "sequence": number, "source_time_ns": 1}))  # fmt: skip
            room.say(ImageFrame, "fluoro", device="f", width=4, height=2, pixel_format="mono8", data=bytes(8))
        if number == 100:
            room.numbers["pressure/p"] += 7
        time.sleep(0.003)
    time.sleep(0.2)
    room.look()
    report = room.end()
    recording = read_recording(room.recording)
    assert not recording.truncated
    assert recording.chain.fault is None
    assert len(recording.events) == report.events
    counters = report.counters
    assert counters["malformed"] == counters["unknown_type"] == 10
    assert counters["lost"] == 7
    again = replay(recording, case_without_flow())
    assert again.identical
    assert again.states == again.recorded_states == report.states
    assert room.states[-1] in [unpack(frame) for frame in recording.states]
    # Without the patient, and as a part, it still comes to the same.
    anonymize(room.recording, room.recording.with_name("anonymous.mcap"))
    assert replay(read_recording(room.recording.with_name("anonymous.mcap")), case_without_flow()).identical
    cut(room.recording, room.recording.with_name("part.mcap"), end_s=0.7)
    part = replay(read_recording(room.recording.with_name("part.mcap")), case_without_flow())
    assert part.identical
    assert 10 < part.states < again.states
    cut(room.recording, room.recording.with_name("middle.mcap"), begin_s=0.5)
    assert not replay(read_recording(room.recording.with_name("middle.mcap")), case_without_flow()).comparable


def test_a_lost_tool_is_flagged_at_once_and_invalid_within_half_a_second(room):
    for _ in range(20):
        room.pose()
        time.sleep(0.01)
    flagged, after = room.until(lambda state: "silent:tracker/c" in state.flags, room.pressure)
    assert after < 0.4  # 0.1 s by design; the rest is for a busy machine
    assert flagged.flags
    _, after = room.until(lambda state: not state.tip_valid, room.pressure)
    assert after < 0.5
    room.until(lambda state: state.tip_valid and not any("silent" in flag for flag in state.flags),
               lambda: (room.pose(), room.pressure()))  # fmt: skip


def test_a_tool_sent_as_not_seen_is_invalid_in_the_next_state(room):
    _, after = room.until(lambda state: not state.tip_valid, lambda: (room.pose(valid=False), room.pressure()))
    assert after < 0.3


def test_a_publisher_that_starts_again_is_heard_at_once(room):
    for _ in range(30):
        room.pressure()
        room.pose()
        time.sleep(0.005)
    room.device.close()
    time.sleep(0.1)  # no program starts again sooner
    room.device = Publisher(room.endpoints.devices)
    room.numbers = {"pressure/p": 3, "tracker/c": 2}  # the first ones were lost while it connected
    state, after = room.until(lambda state: state.counters["restarts"] >= 2, lambda: (room.pose(), room.pressure()))
    assert after < 1.0
    assert state.tip_valid
    assert state.counters["duplicates"] == 0


def test_a_session_that_cannot_keep_up_goes_on_showing_and_says_so(room):
    """Each pressure message takes 10 ms and comes every 2 ms: three seconds of work in half a second."""
    step = room.loop.session.step

    def slow(state, event):
        if isinstance(event.message, PressureSamples):
            time.sleep(0.01)
        return step(state, event)

    room.loop.session.step = slow
    for _ in range(300):
        room.pressure()
        room.look(2)
    seen, after = room.until(lambda state: "overloaded" in state.flags, room.pose)
    assert after < 2.0
    room.until(lambda state: "overloaded" not in state.flags, room.pose)
    behind = [state for state in room.states if state.sequence >= seen.sequence - 20]
    gaps = np.diff([state.source_time_ns for state in behind]) / 1e6
    assert np.percentile(gaps, 90) < 60  # ms; 20 where nothing else runs
    assert room.states[-1].tip_valid


def test_a_late_viewer_sees_the_state_at_once_and_the_whole_of_it(room):
    viewer = Subscriber(room.endpoints.states, bind=False, topics=("twin",))
    try:
        frames = viewer.receive(2000)
        assert isinstance(unpack(frames[0][1]), TwinState)
        assert unpack(frames[0][1]).registered
    finally:
        viewer.close()


def test_questions_are_answered_and_commands_are_events(room):
    ask = room.asking.ask
    now = ask(ClockTime()).result
    assert abs(now - time.time_ns()) < 10**9
    assert ask(Landmarks()).result["touched"].keys() == FIDUCIALS.keys()
    assert ask(Landmarks()).result["image"]["b"] == [60.0, 0.0, 10.0]
    assert ask(StateNow()).result["registered"] is True
    at = ask(StateAt(time_ns=now)).result
    assert 0 <= now - at["source_time_ns"] < 10**9
    assert "remembered" in ask(StateAt(time_ns=5)).reason
    assert "tracker/c" in ask(Streams()).result
    # This room has no planned case, which the process that answers says.
    what_if = ask(WhatIf(interventions=(Intervention("clamp", "left"),)), timeout_s=60)
    assert not what_if.ok
    assert "case" in what_if.reason
    assert "none of auto" in ask(WhatIf(interventions=(Intervention("clamp", "left"),), hold="x")).reason
    assert "interventions" in ask(WhatIf(interventions=())).reason
    assert ask(AddNote(text="clamp on")).ok
    assert ask(EndProcedure(reason="done")).ok
    room.thread.join(5)
    assert not room.thread.is_alive()
    messages = [event.message for event in read_recording(room.recording).events]
    assert [message.text for message in messages if isinstance(message, Note)] == ["clamp on"]
    assert any(isinstance(message, ProcedureEnd) for message in messages)
    entries, fault = read_audit(room.audit)
    assert fault is None
    assert [entry.what for entry in entries] == ["live session begun", "Note", "ProcedureEnd", "live session ended"]
    assert entries[-1].details["recording_head"] == read_recording(room.recording).head


def test_a_request_that_cannot_be_read_gets_a_reply(room):
    import zmq

    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(room.endpoints.commands)
    request = zmq.Context.instance().socket(zmq.REQ)
    request.connect(room.endpoints.commands)
    try:
        for payload in (b"", b"\xff", msgspec.msgpack.encode({"type": "Dance"}), msgspec.msgpack.encode([1, 2])):
            dealer.send(payload)
            assert dealer.poll(2000)
            assert msgspec.msgpack.decode(dealer.recv())["ok"] is False
        request.send(msgspec.msgpack.encode({"type": "ClockTime", "id": "7"}))
        assert request.poll(2000)
        assert msgspec.msgpack.decode(request.recv())["id"] == "7"
    finally:
        dealer.close(linger=0)
        request.close(linger=0)


def test_with_keys_everything_works_and_roles_hold(tmp_path):
    folder = tmp_path / "keys"
    allow(folder, "all", ("publish poses", "publish pressure", "watch"))
    room = Room(tmp_path, keys=folder)
    room.begin()
    assert room.asking.ask(StateNow()).ok
    reply = room.asking.ask(EndProcedure())
    assert not reply.ok
    assert "role" in reply.reason
    room.say(ProcedureEnd, "end", reason="x")
    state, _ = room.until(lambda state: state.counters.get("forbidden", 0) > 0, room.pose)
    assert state.registered
    stranger = Publisher(room.endpoints.devices)
    room.until(lambda state: state.counters.get("refused_clients", 0) > 0,
               lambda: (stranger.send_frame(b"x"), room.pose()))  # fmt: skip
    assert stranger.refused()
    stranger.close()
    room.end()
    assert any("handshake" in reason or "without keys" in reason for reason in room.loop.report.refused_clients)
    assert replay(read_recording(room.recording), case_without_flow()).identical


def test_plain_text_on_the_network_is_said_in_every_state(tmp_path):
    with pytest.raises(InputError, match="--insecure"):
        LiveLoop(case_without_flow(), seed=1, endpoints=Endpoints("tcp://0.0.0.0:1", endpoint()), record=None, case="c")
    device = endpoint().replace("127.0.0.1", "0.0.0.0")
    loop = LiveLoop(case_without_flow(), seed=1, endpoints=Endpoints(device, endpoint()), record=tmp_path / "r.mcap",
                    case="c", insecure=True)  # fmt: skip
    loop.run(lambda state: loop.stop() if state.sequence >= 20 else None)
    states = [unpack(frame) for frame in read_recording(tmp_path / "r.mcap").states]
    assert len(states) > 20
    assert all("insecure_plain_text" in state.flags for state in states)


def test_a_recording_that_fails_is_said_in_the_state_and_nothing_stops(room):
    room.loop._recorder._writer._file.close()
    state, _ = room.until(lambda state: "recording_failed" in state.flags, room.pose)
    room.until(lambda later: later.sequence > state.sequence + 20, room.pose)
    room.end()
    assert room.loop.report.recording_failure


# The pace of a replay ------------------------------------------------------------------------------------------------


@pytest.fixture
def second(tmp_path):
    """A recording of about a second."""
    room = Room(tmp_path)
    room.begin()
    begin = time.monotonic()
    while time.monotonic() - begin < 1.0:
        room.pose()
        time.sleep(0.01)
    room.end()
    return read_recording(room.recording)


class Clock:
    """A clock that keys and waiting move."""

    def __init__(self, keys=()):
        self.now, self.keys = 0.0, dict(keys)

    def __call__(self):
        return self.now

    def read(self, wait_s):
        if wait_s < 0:
            raise ValueError("no terminal waits for less than nothing")
        self.now += max(wait_s, 0.0005)
        due = [key for at, key in sorted(self.keys.items()) if at <= self.now]
        self.keys = {at: key for at, key in self.keys.items() if at > self.now}
        return "".join(due)


def span(recording):
    return (recording.events[-1].receive_time_ns - recording.events[0].receive_time_ns) * 1e-9


@pytest.mark.parametrize("speed", [1.0, 4.0, 0.5])
def test_a_replay_takes_its_time(second, speed):
    clock = Clock()
    result = replay(second, case_without_flow(), pace=Pace(speed, read_keys=clock.read, clock=clock))
    assert result.identical
    assert clock.now == pytest.approx(span(second) / speed, rel=0.25)


def test_a_session_that_does_not_keep_up_with_the_pace_is_waited_for(second):
    clock = Clock()

    def slow(number, state):
        clock.now += 0.05  # states come faster than this

    assert replay(second, case_without_flow(), slow, Pace(1.0, read_keys=clock.read, clock=clock)).identical


def test_what_was_before_goes_at_full_speed(second):
    clock = Clock()
    result = replay(second, case_without_flow(), pace=Pace(1.0, begin_s=0.8, read_keys=clock.read, clock=clock))
    assert result.identical
    assert clock.now == pytest.approx(span(second) - 0.8, rel=0.25)


def test_pause_step_and_end(second):
    """Paused at the beginning, three steps, then on until it is ended."""
    clock = Clock({1.0: ".", 2.0: ".", 3.0: ".", 10.0: " ", 10.2: "q"})
    shown = []
    result = replay(second, case_without_flow(), lambda number, state: shown.append(clock.now),
                    Pace(1.0, paused=True, read_keys=clock.read, clock=clock))  # fmt: skip
    assert [round(at) for at in shown[:3]] == [1, 2, 3]
    assert all(at >= 10.0 for at in shown[3:])
    assert len(shown) > 5
    assert result.ended_early
    assert result.states < result.recorded_states


def test_the_pace_changes_while_it_runs(second):
    clock = Clock({0.01: "-", 0.02: "-"})
    replay(second, case_without_flow(), pace=Pace(1.0, read_keys=clock.read, clock=clock))
    assert clock.now == pytest.approx(4 * span(second), rel=0.25)


def test_a_recording_is_replayed_while_it_is_read_as_one_that_was_read_before(tmp_path):
    room = Room(tmp_path)
    room.begin()
    room.until(lambda state: state.sequence > 60, room.pose)
    room.end()
    whole = replay(read_recording(room.recording), case_without_flow())
    assert whole.identical
    file = RecordingFile(room.recording)
    assert replay(file, case_without_flow()) == whole
    assert (file.truncated, file.chain.unsealed) == (False, 0)
    # Cut off, and ended early.
    with room.recording.open("rb") as stream:
        chunks = make_reader(stream).get_summary().chunk_indexes
    content = room.recording.read_bytes()
    room.recording.write_bytes(content[: chunks[len(chunks) // 2].chunk_start_offset])
    cut = RecordingFile(room.recording)
    report = replay(cut, case_without_flow())
    assert report == replay(read_recording(room.recording), case_without_flow())
    assert cut.truncated
    assert 0 < report.recorded_states < whole.recorded_states
    clock = Clock({0.001: "q"})
    assert replay(cut, case_without_flow(), pace=Pace(1.0, read_keys=clock.read, clock=clock)).ended_early


def test_a_state_that_was_changed_in_the_file_is_the_first_that_differs(tmp_path):
    path = tmp_path / "r.mcap"
    room = Room(tmp_path)
    room.begin()
    room.until(lambda state: state.sequence > 40, room.pose)
    room.end()
    recording = read_recording(room.recording)
    with RecordingWriter(path, metadata=recording.metadata) as writer:
        states = 0
        for item in RecordingScan(room.recording).entries():
            if isinstance(item, StateFrame):
                frame = item.frame
                if states == 17:
                    frame = pack(msgspec.structs.replace(unpack(frame), field_deviation_mmhg=123.0))
                writer.add_state(frame, item.time_ns)
                states += 1
            else:
                writer.add_event(item)
    assert replay(RecordingFile(path), case_without_flow()).first_difference == 17
    assert replay(read_recording(path), case_without_flow()).first_difference == 17


def test_a_state_that_differs_names_its_event(second):
    """A pose that says something else: the first state after it differs."""
    victims = [n for n, event in enumerate(second.events) if isinstance(event.message, ToolPose)]
    victim = victims[len(victims) // 2]
    event = second.events[victim]
    changed = msgspec.structs.replace(event.message, position=(5.0, 5.0, 5.0))
    second.events[victim] = type(event)(event.index, event.receive_time_ns, pack(changed), changed)
    result = replay(second, case_without_flow())
    assert not result.identical
    assert victim < result.first_different_event <= victim + 5


ELSEWHERE = {
    "method": "surface",
    "position": (1.0, 2.0, 3.0),
    "quaternion": (1.0, 0.0, 0.0, 0.0),
    "covariance": tuple(0.1 * (number % 7 == 0) for number in range(36)),
}


def test_a_session_begins_with_a_registration_that_was_found_elsewhere(tmp_path):
    room = Room(tmp_path, registration=ELSEWHERE)
    try:
        state, _ = room.until(lambda one: one.tip_valid, lambda: (room.pose(), room.pressure()))
        assert state.registered
        assert state.fre is None
        np.testing.assert_allclose(state.tip, (5.0, 6.0, 6.0))
        # A navigation system says where the patient is now; then a person does, by command.
        moved = {**ELSEWHERE, "position": (11.0, 2.0, 3.0)}
        room.say(PatientRegistration, "navigation", **moved)
        room.until(lambda one: one.tip is not None and abs(one.tip[0] - 15.0) < 1e-6, room.pose)
        assert room.asking.ask(Register(**{**ELSEWHERE, "position": (21.0, 2.0, 3.0)})).ok
        room.until(lambda one: one.tip is not None and abs(one.tip[0] - 25.0) < 1e-6, room.pose)
        refused = room.asking.ask(Register(**{**ELSEWHERE, "covariance": (0.0,) * 36}))
        assert not refused.ok
        assert "no error" in refused.reason
        room.look()
    finally:
        room.end()
    assert replay(read_recording(room.recording), case_without_flow()).identical
    assert [entry.what for entry in read_audit(room.audit)[0]].count("PatientRegistration") == 2
