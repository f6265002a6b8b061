"""A recording whose writer was cut off goes on in the same file: complete, in order, one chain, one index."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader

from streams.errors import InputError
from streams.events import event_from_frame
from streams.messages import ImageFrame, Tick, Trigger
from streams.recorder import RecordingWriter
from streams.recording import RecordingScan, StateFrame, read_recording
from streams.resuming import resume_recording
from streams.wire import pack


def event(number):
    frame = b"\xff garbage" if number % 41 == 5 else pack(Tick(stream="c", sequence=number, source_time_ns=number + 7))
    # A channel that comes up only later, so that it is announced behind the mark.
    if number % 60 == 59:
        frame = pack(Trigger(stream="late/one", sequence=number, source_time_ns=number, kind="r_wave"))
    if number % 30 == 17:  # in a chunk of its own kind: noise is not compressed
        noise = random.Random(number).randbytes(70_000)
        frame = pack(ImageFrame(stream="image", sequence=number, source_time_ns=number, device="d", width=280,
                                height=250, pixel_format="mono8", data=noise))  # fmt: skip
    made = event_from_frame(number, 5000 + number, frame)
    return made.marked(late=True) if number % 50 == 3 else made


def state(number):
    return pack(Trigger(stream="twin", sequence=number, source_time_ns=number, kind="k"))


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A file that was never closed, and a mark in the middle of it."""
    path = tmp_path_factory.mktemp("recording") / "open.mcap"
    writer = RecordingWriter(path, metadata={"case": "made"})
    for number in range(120):
        writer.add_event(event(number))
        if number % 10 == 0:
            writer.add_state(state(number), number)
            writer.flush()
        if number == 50:
            mark = writer.mark
    writer.abandon()
    return path.read_bytes(), mark


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_goes_on_wherever_it_broke_off(cut_off, tmp_path_factory, share):
    whole, mark = cut_off
    path = tmp_path_factory.mktemp("cut") / "cut.mcap"
    path.write_bytes(whole[: mark.offset + round(share * (len(whole) - mark.offset))])
    writer, tail = resume_recording(path, mark)
    events = [item for item in tail if not isinstance(item, StateFrame)]
    assert events == [event(number) for number in range(51, 51 + len(events))]
    if share == 1:
        assert len(events) == 60  # up to the last flush
    first = 51 + len(events)
    for number in range(first, first + 80):
        writer.add_event(event(number))
    writer.add_state(state(0), 9)
    writer.close()
    scan = RecordingScan(path)
    list(scan.entries())
    assert scan.chain.fault is None
    assert scan.chain.unsealed == 0
    recording = read_recording(path)
    assert not recording.truncated
    assert recording.events == [event(number) for number in range(first + 80)]
    assert len(recording.states) == 7 + sum(isinstance(item, StateFrame) for item in tail)
    assert recording.metadata == {"case": "made"}
    # The format's own library finds every message by the index.
    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        found = sum(1 for _ in reader.iter_messages())
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == found
    assert sorted(index.name for index in summary.metadata_indexes) == ["end", "session"]


def test_a_finished_or_another_file_is_refused(cut_off, tmp_path):
    whole, mark = cut_off
    path = tmp_path / "finished.mcap"
    path.write_bytes(whole)
    writer, _ = resume_recording(path, mark)
    writer.close()
    finished = path.read_bytes()
    with pytest.raises(InputError, match="was finished"):
        resume_recording(path, mark)
    assert path.read_bytes() == finished
    (tmp_path / "short.mcap").write_bytes(whole[: mark.offset - 1])
    (tmp_path / "text.mcap").write_text("x" * len(whole))
    for name in ("short.mcap", "text.mcap", "missing.mcap"):
        with pytest.raises(InputError, match=name):
            resume_recording(tmp_path / name, mark)


def test_a_file_that_does_not_follow_from_the_mark_is_refused(cut_off, tmp_path):
    whole, mark = cut_off
    path = tmp_path / "changed.mcap"
    path.write_bytes(whole)
    forged = type(mark)(mark.offset, bytes(32), mark.entries, mark.states, mark.last_time, mark.tables)
    with pytest.raises(InputError, match="changed"):
        resume_recording(path, forged)
