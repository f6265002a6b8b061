"""The compiled loops against those in Python and against what was sent: the same frames, the same events."""

import gc
import os
import socket
import struct
import sys
import threading

import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import compiled, intake
from streams.intake import WITHOUT_PAUSE, Intake
from streams.messages import Heartbeat, ImageFrame, PressureSamples, ToolPose, Trigger, encode
from streams.session_clock import now_ns
from streams.sockets import Frame, Subscriber
from streams.wire import pack

packed = msgspec.msgpack.encode
EPOCH = 1_700_000_000_000_000_000
MS = 1_000_000


def pose(sequence=0, time_ns=EPOCH, stream="tracker/c", tool="c", quaternion=(1.0, 0.0, 0.0, 0.0), valid=True):
    return ToolPose(stream=stream, sequence=sequence, source_time_ns=time_ns, tool=tool, position=(1.0, 2.0, 3.0),
                    quaternion=quaternion, valid=valid)  # fmt: skip


def pressure(sequence=0, time_ns=EPOCH, stream="pressure/p", period_ns=MS, count=5):
    return PressureSamples(stream=stream, sequence=sequence, source_time_ns=time_ns, sensor="p", tool=None,
                           sample_period_ns=period_ns, values_mmhg=(80.0,) * count)  # fmt: skip


def image(sequence=0, time_ns=EPOCH, side=4):
    return ImageFrame(stream="image", sequence=sequence, source_time_ns=time_ns, device="d", width=side, height=side,
                      pixel_format="mono8", data=b"x" * side**2)  # fmt: skip


@pytest.fixture
def compiler():
    if compiled.short_way() is None:
        pytest.skip("there is no C compiler, or there are no headers of Python")


# From frames to events ---------------------------------------------------------------------------------------------


def all_events(frames, sizes, *, in_python, at_once):
    """What comes out of frames taken so many together, and all that the intake remembers of them."""
    with pytest.MonkeyPatch.context() as patch:
        if in_python:
            patch.setattr(intake, "_compiled_take", lambda: None)
        taking, out, begin = Intake(at_once=at_once), [], 0
        for size in [*sizes, len(frames)]:
            together, begin = frames[begin : begin + size], begin + size
            if together:
                out += [taking.take_all(together), taking.release(together[-1].receive_time_ns)]
        out.append(taking.flush())
        beats = {name: list(taking.liveness.pulse(name).times_ns) for name in taking.clocks}
        waiting = {name: source.waiting for name, source in taking._sources.items()}
        return out, beats, waiting, taking.clocks, taking.report(EPOCH + 10**12)


times = st.integers(-700, 700).map(lambda ms: ms * MS) | st.integers(-3000, 3000).map(lambda us: us * 1000)
norms = st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.999, 1.001, 0.9990001, 1.0009999, 1.0 - 0.999e-3, 1.0 + 0.999e-3, 3.0])


@st.composite
def messages(draw, now):
    """The bytes of one message: mostly sound and in time."""
    time_ns = max(0, now - MS + (draw(times) if draw(st.integers(0, 9)) == 0 else 0))
    number, which = draw(st.integers(0, 9)), draw(st.integers(0, 2))
    kind = draw(st.sampled_from(["pose", "pose", "pressure", "pressure", "odd pose", "huge", "image", "beat", "bytes"]))
    if kind == "pose":
        return pack(pose(number, time_ns, f"tracker/{which}"))
    if kind == "pressure":
        stream = f"pressure/{which}" if draw(st.integers(0, 5)) else "tracker/0"
        return pack(pressure(number, time_ns, stream, draw(st.sampled_from([1, MS])), 1 + which * 300))
    if kind == "odd pose":
        turn = (0.0, draw(norms), 0.0, 0.0)
        return pack(pose(number, time_ns, "tracker/0", draw(st.sampled_from("cd")), turn, draw(st.booleans())))
    if kind == "huge":
        return pack(pressure(number, draw(st.sampled_from([0, 2**63 - 1, 2**63 - 5])), "pressure/0", 10**10))
    if kind == "image":
        return pack(image(number, time_ns, draw(st.sampled_from([4, 80]))))
    if kind == "beat":
        status = draw(st.sampled_from(["", "ended"]))
        return pack(Heartbeat(stream="beat", sequence=number, source_time_ns=time_ns, device="d", status=status,
                              synchronized=draw(st.booleans()), streams=("tracker/1", "pressure/1")))  # fmt: skip
    sound = pack(draw(st.sampled_from([pose(stream="tracker/0"), pressure(stream="pressure/0")])))
    harm = draw(st.sampled_from(["cut", "flip", "name", "no zero", "any", "empty", "type"]))
    if harm == "cut":
        return sound[: draw(st.integers(0, len(sound)))]
    if harm == "flip":
        at = draw(st.integers(0, len(sound) - 1))
        return sound[:at] + bytes([draw(st.integers(0, 255))]) + sound[at + 1 :]
    harmed = {
        "name": draw(st.sampled_from([b"tracker/1\0", b"pressure/1\0", b"unknown\0"])) + sound.partition(b"\0")[2],
        "no zero": sound.partition(b"\0")[0],
        "any": draw(st.binary(max_size=40)),
        "empty": b"",
        "type": sound.replace(b"ToolPose", b"ToolPosf"),
    }
    return harmed[harm]


@st.composite
def traffic(draw):
    """Frames as they come; the streams are known and their clocks have settled when it begins."""
    frames, at = [], EPOCH
    for number in range(25):
        for which in range(3):
            at += MS
            frames.append(Frame(at, pack(pose(number, at - MS, f"tracker/{which}")), None))
            frames.append(Frame(at, pack(pressure(number, at - 5 * MS, f"pressure/{which}")), None))
    for _ in range(draw(st.integers(1, 60))):
        at += draw(st.sampled_from([0, 10_000, MS, 400 * MS]))
        sender = draw(st.sampled_from([None, None, None, None, "somebody"]))
        frames.append(Frame(at, draw(messages(at)), sender))
    return frames


@pytest.mark.usefixtures("compiler")
@settings(max_examples=300, deadline=None)
@given(
    frames=traffic(),
    sizes=st.lists(st.sampled_from([1, 2, 3, 64, 100]), max_size=12),
    at_once=st.sampled_from([(), (ToolPose,)]),
)
def test_compiled_or_not_the_same_events_come_out(frames, sizes, at_once):
    in_c, in_python = (all_events(frames, sizes, in_python=python, at_once=at_once) for python in (False, True))
    assert in_c == in_python


def form_of(draw, value):
    """One of the ways in which MessagePack says a value; some of them are not what the value was."""
    if isinstance(value, bool) or value is None:
        return packed(draw(st.sampled_from([value, value, value, None, True, 1, 0.5])))
    if isinstance(value, str):
        raw = draw(st.sampled_from([value] * 6 + ["", "c", "\N{GREEK SMALL LETTER OMEGA}", "p" * 40])).encode()
        long_form = struct.pack(">BB", 0xD9, len(raw)) + raw
        return draw(st.sampled_from([packed(raw.decode()), long_form, packed(raw)]))
    if isinstance(value, int):
        value = draw(st.sampled_from([value] * 6 + [0, 127, 128, 2**16, 10**10 + 1, 2**63 - 1, 2**63, -1, 2.0]))
        forms = [packed(value)]
        if isinstance(value, int) and 0 <= value < 2**63:
            forms += [struct.pack(">BQ", 0xCF, value), struct.pack(">Bq", 0xD3, value)]
        return draw(st.sampled_from(forms))
    if isinstance(value, float):
        value = draw(st.sampled_from([value] * 12 + [-1.0, -0.0, float("nan"), float("inf"), 1e300]))
        return draw(st.sampled_from([struct.pack(">Bd", 0xCB, value)] * 12 + [packed(3), b"\xca\x40\x00\x00\x00"]))
    items = list(value)
    if draw(st.integers(0, 7)) == 0:
        items = items[: draw(st.integers(0, len(items)))] + draw(st.sampled_from([[], [1.0], [1.0] * 13]))
    head = draw(st.sampled_from([struct.pack(">BH", 0xDC, len(items)), struct.pack(">BI", 0xDD, len(items)), None]))
    if head is None and len(items) < 16:
        head = bytes([0x90 | len(items)])
    return (head or struct.pack(">BH", 0xDC, len(items))) + b"".join(form_of(draw, item) for item in items)


@st.composite
def forms_of_messages(draw):
    """Frames whose messages are said in the ways that other encoders may choose, right or wrong."""
    message = draw(st.sampled_from([pose(), pose(valid=False), pressure(), pressure(count=20)]))
    pairs = list(msgspec.msgpack.decode(encode(message)).items())
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    harm = draw(st.sampled_from(["none"] * 6 + ["missing", "twice", "more", "surplus"]))
    if harm == "missing":
        pairs = [pair for pair in pairs if pair[0] != draw(st.sampled_from([name for name, _ in pairs]))]
    elif harm == "twice":
        pairs.append(draw(st.sampled_from(pairs)))
    elif harm == "more":
        pairs.insert(draw(st.integers(0, len(pairs))), ("colour", "red"))
    changed = draw(st.integers(-1, len(pairs) - 1))
    body = b"".join(
        packed(name) + (form_of(draw, value) if place == changed else packed(value))
        for place, (name, value) in enumerate(pairs)
    )
    head = bytes([0x80 | len(pairs)]) if len(pairs) < 16 else struct.pack(">BH", 0xDE, len(pairs))
    return message.stream.encode() + b"\0" + head + body + (b"\xc0" if harm == "surplus" else b"")


@pytest.mark.usefixtures("compiler")
@settings(max_examples=1500, deadline=None)
@given(odd=st.lists(forms_of_messages(), min_size=1, max_size=6))
def test_in_whatever_form_a_message_comes_it_is_read_as_msgspec_reads_it(odd):
    known = [pack(pose()), pack(pressure())] * 2
    frames = [Frame(EPOCH + MS * k, data, None) for k, data in enumerate([*known, *odd])]
    in_c, in_python = (all_events(frames, [4], in_python=python, at_once=()) for python in (False, True))
    assert repr(in_c) == repr(in_python)  # also that a number stays of its type


@pytest.mark.usefixtures("compiler")
def test_the_plainest_form_is_read_without_msgspec(monkeypatch):
    """Without this the test above could pass with compiled code that leaves every message to msgspec."""
    monkeypatch.setattr(intake, "decode_by_type", None)
    intake._compiled_take.cache_clear()
    try:
        taking = Intake()
        sound = [
            pressure(0, EPOCH - 5 * MS),
            pose(),
            pressure(1, EPOCH + 2 - 20 * MS, count=20),
            pose(1, EPOCH + 2, valid=False),
        ]
        taking.take_all([Frame(EPOCH + k, pack(message), None) for k, message in enumerate(sound[:2])])
        taking.take_all([Frame(EPOCH + 2 + k, pack(message), None) for k, message in enumerate(sound[2:])])
        assert {repr(event.message) for event in taking.flush()} == {repr(message) for message in sound}
    finally:
        monkeypatch.undo()
        intake._compiled_take.cache_clear()


@pytest.mark.usefixtures("compiler")
def test_sound_messages_of_known_streams_take_the_compiled_way(monkeypatch):
    """Without this the test above could pass with a compiled loop that leaves all to the long way."""
    slow = []
    admit = Intake._admit
    monkeypatch.setattr(Intake, "_admit", lambda self, frame: slow.append(frame) or admit(self, frame))
    monkeypatch.setattr(intake.Intake, "_take_quickly", None)
    taking, frames = Intake(), []
    for number in range(2 * WITHOUT_PAUSE):
        at = EPOCH + number * MS
        frames += [Frame(at, pack(pose(number, at)), None), Frame(at, pack(pressure(number, at - 5 * MS)), None)]
    taking.take_all(frames[:2])
    assert len(slow) == 2
    taking.take_all(frames[2:])
    assert len(slow) == 2
    assert [event.frame for event in taking.flush()].count(frames[-1].data) == 1
    assert taking.orderer.late == 0


@pytest.mark.usefixtures("compiler")
def test_what_the_long_way_raises_comes_out_and_nothing_is_held_on_to(monkeypatch):
    taking = Intake()
    sound = [Frame(EPOCH + n, pack(pose(n, EPOCH + n)), None) for n in range(40)]
    taking.take_all(sound)
    taking.flush()
    odd = Frame(EPOCH + 50, b"nothing", None)
    source, beats = taking._sources["tracker/c"], taking.liveness.pulse("tracker/c").times_ns
    held = [odd, odd.data, source, source.clock, source.stream, *sound, *(frame.data for frame in sound)]
    beats.clear()
    gc.collect()
    before = [sys.getrefcount(one) for one in held]

    def fail(self, frame):
        raise ZeroDivisionError

    for _ in range(3):
        monkeypatch.setattr(Intake, "_admit", fail)
        with pytest.raises(ZeroDivisionError):
            taking.take_all([*sound, odd])
        monkeypatch.undo()
        assert taking.take_all([*sound, odd])[0].frame == b"nothing"
        assert len(taking.flush()) == 40
    beats.clear()
    gc.collect()
    assert [sys.getrefcount(one) for one in held] == before


# From the socket to frames -----------------------------------------------------------------------------------------


@pytest.fixture
def receiving(way):
    """A subscriber by either way, and a plain ZeroMQ socket that is known to reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    subscriber = Subscriber(endpoint)
    sender = zmq.Context.instance().socket(zmq.PUB)
    sender.setsockopt(zmq.SNDHWM, 0)
    sender.connect(endpoint)
    for _ in range(500):
        sender.send(b"begin")
        if subscriber.receive(10):
            break
    sender.send(b"begun")
    while subscriber.receive(1000)[-1][1] != b"begun":
        pass
    yield sender, subscriber
    sender.close(linger=0)
    subscriber.close()


def receive_parts(subscriber, count, most):
    frames = []
    while len(frames) < count:
        some = subscriber.receive_frames(5000, most)
        assert 0 < len(some) <= most, f"{len(frames)} of {count} have come"
        frames += some
    return frames


@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64, 65, 129, 1000])
@pytest.mark.parametrize("most", [1, 64, 100_000])
def test_parts_of_all_sizes_come_whole_in_order_and_with_times_that_rise(receiving, count, most):
    sender, subscriber = receiving
    sizes = [0, 1, 29, 33, 34, 200, 8191, 8192, 8193, 300_000]
    sent = [bytes([n % 251]) * sizes[(n * 7) % len(sizes) if n % 50 == 3 else n % 6] for n in range(count)]
    before = now_ns()
    # Every fourth message has several parts, an empty one among them.
    position = 0
    while position < count:
        parts = sent[position : position + (3 if position % 4 == 0 else 1)]
        sender.send_multipart(parts)
        position += len(parts)
    frames = receive_parts(subscriber, count, most)
    assert [frame.data for frame in frames] == sent
    assert {frame.sender for frame in frames} == {None}
    times_ns = [frame.receive_time_ns for frame in frames]
    assert times_ns == sorted(times_ns)
    assert before <= times_ns[0]
    assert times_ns[-1] <= now_ns()
    assert subscriber.receive_frames(0) == []


def test_other_threads_work_while_frames_are_taken(receiving):
    sender, subscriber = receiving
    taken = []
    thread = threading.Thread(target=lambda: taken.extend(receive_parts(subscriber, 5000, 64)))
    thread.start()
    for number in range(5000):
        sender.send(str(number).encode())
    thread.join(30)
    assert [int(frame.data) for frame in taken] == list(range(5000))


def test_a_socket_that_is_closed_says_so(receiving):
    _, subscriber = receiving
    subscriber.monitor.close()
    subscriber._socket.close(linger=0)
    with pytest.raises(zmq.ZMQError) as raised:
        subscriber.receive_frames(0)
    assert raised.value.errno == zmq.ENOTSOCK
    subscriber.monitor = type("Closed", (), {"close": lambda self: None})()


# Building it -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compiler")
def test_it_is_compiled_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = compiled._library(compiled._folder())
    written = first.stat().st_mtime_ns
    assert compiled._library(compiled._folder()) == first
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "surgical-twin").iterdir()] == [first.name]


@pytest.mark.parametrize("command", ["false", "there-is-no-such-compiler"])
def test_without_a_compiler_the_loops_in_python_do_it_and_the_log_says_so(tmp_path, monkeypatch, caplog, command):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", command)
    with caplog.at_level("INFO"):
        assert compiled.short_way.__wrapped__() is None
    assert command in caplog.text
    assert list((tmp_path / "surgical-twin").iterdir()) == []


def test_a_damaged_library_in_the_cache_is_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_library", lambda folder: tmp_path / "damaged.so")
    (tmp_path / "damaged.so").write_bytes(os.urandom(100))
    with caplog.at_level("INFO"):
        assert compiled.short_way.__wrapped__() is None
    assert "slower" in caplog.text


def test_a_trigger_of_a_known_name_goes_the_long_way():
    taking = Intake()
    taking.take_all([Frame(EPOCH, pack(pose()), None)])
    other = Trigger(stream="tracker/c", sequence=1, source_time_ns=EPOCH, kind="r_wave")
    assert taking.take_all([Frame(EPOCH + 1, pack(other), None)]) == []
    assert [event.message for event in taking.flush()] == [pose(), other]
