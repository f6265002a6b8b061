"""Stored values come back to the bit, with their layout, and nothing but value classes of ours is ever made."""

import contextlib
from collections import deque
from types import MappingProxyType

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from streams.messages import Tick
from surgical_twin.assimilation.beat import Beat
from surgical_twin.errors import InputError
from surgical_twin.session_state import SessionState
from surgical_twin.state_codec import decode_value, encode_value

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.lists(inner).map(lambda items: deque(items, maxlen=9))
    ),
)


@given(value=plain)
def test_plain_values_come_back_in_their_kind(value):
    data = encode_value(value)
    found = decode_value(data)
    assert type(found) is type(value)
    assert repr(found) == repr(value)  # also tells nan, -0.0 and the order of a mapping
    assert encode_value(found) == data


@given(
    array=npst.arrays(
        st.sampled_from([np.float64, np.float32, np.int64, np.bool_]), npst.array_shapes(min_dims=0, max_dims=3)
    ),
    transposed=st.booleans(),
    step=st.sampled_from([1, 2, -1]),
)
def test_arrays_come_back_with_their_layout(array, transposed, step):
    array = array.T if transposed else array
    array = array[..., ::step] if array.ndim else array
    found = decode_value(encode_value(array))
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    if array.size > 1:
        assert found.flags.c_contiguous == array.flags.c_contiguous
        assert found.flags.f_contiguous == array.flags.f_contiguous
        if not array.flags.c_contiguous:
            assert found.strides == array.strides


def test_a_state_comes_back_with_all_it_holds():
    state = SessionState(
        beat=Beat(5, 800_000_000),
        counters=MappingProxyType({"b": 1, "a": 2}),
        poses={},
        measured_mmhg=float(np.nextafter(93.0, 94.0)),
    )
    found = decode_value(encode_value(state))
    assert isinstance(found, SessionState)
    assert found.beat == state.beat
    assert list(found.counters.items()) == [("b", 1), ("a", 2)]
    assert found.measured_mmhg == state.measured_mmhg
    message = Tick(stream="session/clock", sequence=3, source_time_ns=2**63 + 5, lag_ns=1)
    assert decode_value(encode_value(message)) == message


def test_what_both_have_is_told_by_name_and_what_is_shared_stays_shared():
    model, array = np.arange(3.0), np.arange(4.0)
    beat = Beat(1, 2)
    data = encode_value({"a": [model, array, beat], "b": (array, beat, model)}, {"model": model})
    other = np.zeros(1)
    found = decode_value(data, {"model": other})
    assert found["a"][0] is found["b"][2] is other
    assert found["a"][1] is found["b"][0]
    assert found["a"][1].tolist() == array.tolist()
    assert found["a"][2] is found["b"][1]
    assert found["a"][2] == beat
    with pytest.raises(InputError, match="stored state"):
        decode_value(data)


def test_what_is_no_value_is_not_stored():
    for value in (print, object(), np.array([None]), {"a": np.random.default_rng(0)}):
        with pytest.raises(TypeError, match="no value"):
            encode_value(value)


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "streams.sockets:Publisher", "streams.nowhere:X"])
def test_a_forged_file_makes_nothing(name):
    with pytest.raises(InputError, match="stored state"):
        decode_value(msgspec.msgpack.encode([[name], [7, 0, "true"]]))


@given(data=st.binary(max_size=60))
def test_damaged_files_are_refused(data):
    with contextlib.suppress(InputError):  # nothing else leaves it
        decode_value(data)
