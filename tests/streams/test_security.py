"""Keys, roles and refusals, on real sockets: who is let in, and that both sides notice who is not."""

import os
import socket
import time

import pytest
import zmq

from streams.errors import InputError
from streams.intake import Intake
from streams.keys import allow, load_pair, load_public, make_pair, read_allow_list, revoke
from streams.messages import Heartbeat, PressureSamples, ProcedureEnd, Tick, ToolPose, TwinState
from streams.roles import STATES, WATCH
from streams.security import ClientSecurity, client_security, new_client, server_security
from streams.sockets import Frame, Publisher, Subscriber
from streams.wire import MAX_FRAME_BYTES, pack
from surgical_twin import display
from viewer.listener import StateListener


def endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def pose(sequence, stream="tracker/c", time_ns=None):
    return ToolPose(stream=stream, sequence=sequence, source_time_ns=time_ns or time.time_ns(), tool="c",
                    position=(1.0, 2.0, 3.0), quaternion=(1.0, 0.0, 0.0, 0.0), valid=True)  # fmt: skip


def pressure(sequence):
    return PressureSamples(stream="pressure/p", sequence=sequence, source_time_ns=time.time_ns(), sensor="p", tool="c",
                           sample_period_ns=4_000_000, values_mmhg=(80.0,))  # fmt: skip


def twin_state():
    return TwinState(stream="twin", sequence=0, source_time_ns=5, model_time_ns=0, age_ns={}, flags=(),
                     registered=False, fre=None, tre=None, tool="", tip=None, tip_covariance=None, tip_valid=False,
                     tip_pressure_mmhg=None, measured_pressure_mmhg=None, port_pressure_mmhg={}, port_flow_ml_s={},
                     parameters={}, axis_pressure_mmhg=(), field_coefficients=(), field_deviation_mmhg=0.0,
                     counters={}, innovation=None)  # fmt: skip


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "keys"
    allow(folder, "tracker", ("publish poses",))
    allow(folder, "transducer", ("publish pressure",))
    allow(folder, "screen", ("watch",))
    return folder


@pytest.fixture
def server(keys):
    security = server_security(keys)
    where = endpoint()
    subscriber = Subscriber(where, security=security)
    yield where, subscriber, security
    subscriber.close()
    security.close()


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.usefixtures("way")
def test_a_client_on_the_list_is_let_in_and_named(server, keys):
    where, subscriber, _ = server
    publisher = Publisher(where, security=client_security(keys, "tracker"))
    received = []

    def arrived():
        publisher.send(pose(0))
        received.extend(subscriber.receive_frames(20))
        return received

    assert until(arrived)
    assert {frame.sender for frame in received} == {"tracker"}
    assert publisher.refused() is None
    publisher.close()


def refused_client(server, security):
    """Whether a client gets nothing through, and why it and the server say so."""
    where, subscriber, gate = server
    publisher = Publisher(where, security=security)
    try:

        def noticed():
            publisher.send(pose(0))
            assert not subscriber.receive_frames(0)
            subscriber.monitor.look()
            return publisher.refused() is not None and subscriber.monitor.refused > 0

        assert until(noticed)
        assert not subscriber.receive_frames(100)
        return publisher.refused(), gate.gatekeeper.refused
    finally:
        publisher.close()


def test_a_stranger_with_the_twins_public_key_is_refused_and_both_sides_notice(server, keys, tmp_path):
    make_pair(tmp_path / "stranger", "stranger")
    stranger = ClientSecurity(load_pair(tmp_path / "stranger", "stranger"), load_public(keys, "twin"))
    said, counted = refused_client(server, stranger)
    assert "400" in said
    assert counted["unknown key"] >= 1


def test_a_watcher_may_not_publish_at_all(server, keys):
    said, counted = refused_client(server, client_security(keys, "screen"))
    assert "400" in said
    assert counted["no role for devices"] >= 1


def test_a_client_without_keys_is_refused_and_both_sides_notice(server):
    said, _ = refused_client(server, None)
    assert said


def test_a_wrong_public_key_of_the_twin_is_noticed(server, keys, tmp_path):
    make_pair(tmp_path / "other", "other")
    wrong = ClientSecurity(load_pair(keys, "tracker"), load_public(tmp_path / "other", "other"))
    said, _ = refused_client(server, wrong)
    assert said


def test_a_publisher_may_not_watch(keys):
    security = server_security(keys)
    where = endpoint()
    states = Publisher(where, bind=True, security=security, domain=STATES, keep_last=True)
    watcher = Subscriber(where, bind=False, security=client_security(keys, "screen"))
    spy = Subscriber(where, bind=False, security=client_security(keys, "tracker"))
    heard = []

    def settled():
        states.send(pose(0))
        heard.extend(watcher.receive(20))
        return heard and spy.refused() is not None

    assert until(settled)
    assert not spy.receive(50)
    for item in (watcher, spy, states, security):
        item.close()


def test_a_revoked_client_stays_outside(keys):
    revoke(keys, "tracker")
    assert read_allow_list(keys).named("tracker") is None
    assert not (keys / "tracker.key_secret").exists()
    with pytest.raises(InputError, match="not on the list"):
        revoke(keys, "tracker")


def test_roles_are_held_message_by_message(keys):
    intake = Intake(allowed=read_allow_list(keys))

    def verdict(message, sender):
        event = intake.take(Frame(time.time_ns(), pack(message), sender))
        return None if event is None else event.message.kind

    assert verdict(pose(0), "tracker") is None
    assert verdict(pressure(0), "tracker") == "forbidden"
    assert verdict(pressure(0), "transducer") is None
    assert verdict(pose(1), "transducer") == "forbidden"
    assert verdict(ProcedureEnd(stream="e", sequence=0, source_time_ns=1, reason=""), "tracker") == "forbidden"
    # A stream belongs to who began it, also against another who may say the same kind of message.
    assert verdict(Heartbeat(stream="tracker/c", sequence=5, source_time_ns=1, device="x", status=""),
                   "transducer") == "forbidden"  # fmt: skip
    assert verdict(pose(2), "") == "forbidden"


def test_what_only_the_twin_says_is_refused_from_a_device_with_and_without_keys():
    intake = Intake()
    for message in (
        Tick(stream="clock", sequence=0, source_time_ns=1),
        pose(0, stream="session/clock"),
        pose(0, stream="twin"),
    ):
        event = intake.take(Frame(10**18, pack(message), None))
        assert event.message.kind == "forbidden"


@pytest.mark.usefixtures("way")
def test_an_oversized_message_ends_its_connection_and_nothing_else(keys):
    where = endpoint()
    subscriber = Subscriber(where)
    honest, wild = Publisher(where), zmq.Context.instance().socket(zmq.PUB)
    wild.setsockopt(zmq.LINGER, 0)
    wild.connect(where)
    assert until(lambda: (honest.send(pose(0)), subscriber.receive(20))[1])
    wild.send(b"x" * (MAX_FRAME_BYTES + 1))
    time.sleep(0.2)
    assert until(lambda: (honest.send(pose(1)), subscriber.receive(20))[1])
    frames = subscriber.receive(50)
    assert all(len(frame) < 1000 for _, frame in frames)
    wild.close()
    honest.close()
    subscriber.close()


def test_secret_keys_are_their_owners_alone(keys):
    secret = keys / "twin.key_secret"
    assert secret.stat().st_mode & 0o077 == 0
    secret.chmod(0o644)
    with pytest.raises(InputError, match="read by others"):
        server_security(keys)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[client]]\nname = 'x'\npublic_key = 'short'\nroles = ['watch']\n", "5 characters"),
        (f"[[client]]\nname = 'x'\npublic_key = '{'a' * 40}'\nroles = ['dance']\n", "dance"),
        ("[[client]\n", "mend"),
        ("[[client]]\nname = 3\n", "mend"),
    ],
)
def test_a_bad_list_is_refused_with_what_is_wrong(keys, text, expected):
    (keys / "allow.toml").write_text(text)
    with pytest.raises(InputError, match=expected):
        read_allow_list(keys)


def test_names_and_roles_of_new_keys_are_checked(keys):
    with pytest.raises(InputError, match="dance"):
        allow(keys, "x", ("dance",))
    with pytest.raises(InputError, match="letters"):
        allow(keys, "../x", ("watch",))
    with pytest.raises(InputError, match="on the list"):
        allow(keys, "tracker", ("watch",))
    with pytest.raises(InputError, match="twin itself"):
        allow(keys, "twin", ("watch",))


def test_plain_text_beyond_this_machine_needs_keys_or_a_word(keys):
    with pytest.raises(InputError, match="--insecure"):
        Subscriber("tcp://0.0.0.0:0", bind=True)
    security = server_security(keys)
    Subscriber(endpoint().replace("127.0.0.1", "0.0.0.0"), bind=True, security=security).close()
    security.close()
    Subscriber(endpoint().replace("127.0.0.1", "0.0.0.0"), bind=True, insecure=True).close()


def test_one_who_says_too_much_is_held_to_the_limit_and_the_others_are_not():
    from streams.inbox import Inbox

    inbox = Inbox()
    now = 10**18
    flood = [Frame(now, b"x\0y", "wild") for _ in range(150_000)]
    inbox.put(flood)
    inbox.put([Frame(now, pack(pose(0)), "tracker")])
    taken = inbox.take()
    assert inbox.counts["rate_limited"] == 50_000
    assert sum(frame.sender == "tracker" for frame in taken) == 1


def test_the_display_that_live_starts_watches_with_a_key_that_nobody_else_can_read(keys, tmp_path, monkeypatch):
    security = server_security(keys)
    where = endpoint()
    states = Publisher(where, bind=True, security=security, domain=STATES, keep_last=True)
    devices_at = endpoint()
    devices = Subscriber(devices_at, security=security)
    started = []
    monkeypatch.setattr(display.subprocess, "Popen", lambda command, env: started.append((command, env)))
    key = new_client(keys)
    security.admit("display", (WATCH,), key)
    display.start_display(tmp_path, where, window=True, web=False, key=key)
    ((command, environment),) = started
    handed = environment[display.DISPLAY_KEY]
    assert not any(part in argument for part in handed.split() for argument in command)
    assert not any(part in path.read_text() for part in handed.split()[1:2] for path in keys.iterdir())

    monkeypatch.setenv(display.DISPLAY_KEY, handed)
    own = display.handed_security()
    assert display.DISPLAY_KEY not in os.environ  # nor in what the display starts
    assert display.handed_security() is None
    forger = Publisher(devices_at, security=own)
    state = twin_state()
    with StateListener(where, security=own) as listener:
        shown = []

        def seen():
            states.send(state)
            forger.send(pose(0))
            shown.extend([found for found in [listener.poll()] if found is not None])
            return shown and forger.refused()

        assert until(seen)
        assert shown[0] == state
    assert not devices.receive_frames(50)
    monkeypatch.setenv(display.DISPLAY_KEY, "no key")
    with pytest.raises(InputError, match="none"):
        display.handed_security()
    for item in (forger, states, devices, security):
        item.close()


@pytest.mark.parametrize("host", ["*", "0.0.0.0"])
def test_the_display_reaches_a_twin_that_publishes_everywhere_on_this_machine(host, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(display.subprocess, "Popen", lambda command, env: started.append(command))
    display.start_display(tmp_path, f"tcp://{host}:5591", window=False, web=True)
    assert "tcp://127.0.0.1:5591" in started[0]
