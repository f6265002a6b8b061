"""Messages and frames: what goes in comes out, and what is wrong is named."""

import math
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import MalformedMessage
from streams.messages import (
    MESSAGE_TYPES,
    FiducialTouch,
    FlowSample,
    Heartbeat,
    PatientRegistration,
    PressureSamples,
    ToolPose,
    Trigger,
    decode,
    encode,
    message_schemas,
)
from streams.wire import pack, unpack

HEAD = {"stream": "tracker/catheter", "sequence": 3, "source_time_ns": 1_700_000_000_000_000_000}
finite = st.floats(-1e6, 1e6)
triple = st.tuples(finite, finite, finite)


def unit(values):
    norm = math.hypot(*values)
    return tuple(value / norm for value in values)


quaternion = st.tuples(*[st.floats(0.1, 1.0)] * 4).map(unit)
messages = st.one_of(
    st.builds(ToolPose, **{k: st.just(v) for k, v in HEAD.items()}, tool=st.just("c"), position=triple,
              quaternion=quaternion, valid=st.booleans(), error=st.none() | st.floats(0, 10)),
    st.builds(FiducialTouch, **{k: st.just(v) for k, v in HEAD.items()}, fiducial=st.just("a"), tool=st.just("p"),
              position=triple),
    st.builds(PatientRegistration, **{k: st.just(v) for k, v in HEAD.items()}, method=st.just("surface"),
              position=triple, quaternion=quaternion,
              covariance=st.floats(1e-3, 1e3).map(lambda size: tuple(size * (n % 7 == 0) for n in range(36))),
              center=triple),
    st.builds(PressureSamples, **{k: st.just(v) for k, v in HEAD.items()}, sensor=st.just("s"),
              tool=st.none() | st.just("c"), sample_period_ns=st.integers(1, 10**9),
              values_mmhg=st.lists(finite, min_size=1, max_size=20).map(tuple)),
    st.builds(FlowSample, **{k: st.just(v) for k, v in HEAD.items()}, sensor=st.just("s"), port=st.just("inlet"),
              flow_ml_s=finite, deviation_ml_s=st.floats(0, 10)),
    st.builds(Trigger, **{k: st.just(v) for k, v in HEAD.items()}, kind=st.just("r_wave")),
    st.builds(Heartbeat, **{k: st.just(v) for k, v in HEAD.items()}, device=st.just("d"), status=st.text(max_size=8)),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(message=messages)
def test_a_message_survives_the_wire_and_equal_messages_give_equal_bytes(message):
    assert unpack(pack(message)) == message
    assert encode(message) == encode(decode(encode(message)))


@settings(max_examples=200, deadline=None)
@given(message=messages, data=st.data())
def test_a_damaged_frame_is_a_message_or_malformed_and_nothing_else(message, data):
    frame = bytearray(pack(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    for damaged in (bytes(frame), cut):
        with suppress(MalformedMessage):
            unpack(damaged)


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=200))
def test_any_bytes_are_survived(noise):
    with pytest.raises(MalformedMessage):
        unpack(noise)


POSE = {**HEAD, "type": "ToolPose", "tool": "c", "position": (1.0, 2.0, 3.0), "quaternion": (1.0, 0.0, 0.0, 0.0)}
SAMPLES = {
    **HEAD,
    "type": "PressureSamples",
    "sensor": "s",
    "tool": None,
    "sample_period_ns": 1,
    "values_mmhg": (80.0,),
}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({**POSE, "valid": True, "quaternion": (0.0, 0.0, 0.0, 0.0), "position": (0.0, 0.0, 0.0)}, "zero quaternion"),
        ({**POSE, "valid": True, "quaternion": (1.0, 1.0, 0.0, 0.0)}, "norm"),
        ({**POSE, "valid": True, "position": (math.nan, 0.0, 0.0)}, "finite"),
        ({**POSE, "valid": True, "error": -1.0}, "error"),
        ({**POSE, "valid": "yes"}, "bool"),
        ({**POSE}, "valid"),
        ({**POSE, "valid": True, "sequence": -1}, "sequence"),
        ({**POSE, "valid": True, "stream": ""}, "stream"),
        ({**POSE, "valid": True, "source_time_ns": -5}, "source time"),
        ({**SAMPLES, "values_mmhg": ()}, "0 samples"),
        ({**SAMPLES, "values_mmhg": (80.0,) * 5000}, "5000 samples"),
        ({**SAMPLES, "values_mmhg": (math.inf,)}, "finite"),
        ({**SAMPLES, "sample_period_ns": 0}, "period"),
        ({**SAMPLES, "type": "Telepathy"}, "Telepathy"),
    ],
)
def test_what_is_wrong_is_named(fields, reason):
    with pytest.raises(MalformedMessage, match=reason):
        decode(msgspec.msgpack.encode(fields))


def test_a_lost_tool_may_say_anything_about_its_place():
    pose = decode(msgspec.msgpack.encode({**POSE, "valid": False, "quaternion": (0.0, 0.0, 0.0, 0.0)}))
    assert pose.valid is False


def test_a_newer_sender_with_more_fields_is_understood():
    assert decode(msgspec.msgpack.encode({**SAMPLES, "temperature": 36.6})).values_mmhg == (80.0,)


def test_any_language_sees_the_documented_fields():
    decoded = msgspec.msgpack.decode(encode(Trigger(**HEAD, kind="r_wave")))
    assert decoded == {**HEAD, "type": "Trigger", "kind": "r_wave"}


def test_a_frame_under_another_name_is_refused():
    frame = pack(Trigger(**HEAD, kind="r_wave"))
    with pytest.raises(MalformedMessage, match="name"):
        unpack(b"someone/else" + frame[frame.index(b"\0") :])


def test_every_type_has_a_schema():
    assert set(message_schemas()) == {kind.__name__ for kind in MESSAGE_TYPES}
