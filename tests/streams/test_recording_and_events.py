"""Recordings: complete, in order, and salvaged to the last chunk; and the count of what never came."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.errors import InputError
from streams.events import Malformed, SequenceWatch, event_from_frame
from streams.messages import ImageFrame, Tick, Trigger
from streams.recorder import Recorder, RecordingWriter
from streams.recording import RecordingFile, RecordingScan, read_recording
from streams.wire import pack


def tick(number, time_ns=None):
    return Tick(stream="session/clock", sequence=number, source_time_ns=time_ns or 1000 + number)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "whole.mcap"
    recorder = Recorder(path, metadata={"case": "made", "seed": "3"})
    events = []
    for number in range(400):
        frame = b"\xff garbage" if number % 97 == 5 else pack(tick(number))
        # Equal stamps: the order has to come from the numbers.
        events.append(event_from_frame(number, 5000 + number // 10, frame))
    for event in events:
        recorder.record_event(event)
        if event.index % 50 == 0:
            recorder.record_state(pack(Trigger(stream="twin", sequence=event.index, source_time_ns=1, kind="k")), 1)
            time.sleep(0.06)
    recorder.close()
    assert recorder.failure is None
    return path, events


def test_everything_comes_back_in_order(recorded):
    path, events = recorded
    recording = read_recording(path)
    assert recording.events == events
    assert isinstance(recording.events[5].message, Malformed)
    assert recording.metadata == {"case": "made", "seed": "3"}
    assert len(recording.states) == 8
    assert not recording.truncated


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_recording_cut_anywhere_gives_its_beginning(recorded, tmp_path_factory, share):
    path, events = recorded
    whole = path.read_bytes()
    cut = tmp_path_factory.mktemp("cut") / "cut.mcap"
    cut.write_bytes(whole[: int(share * (len(whole) - 1))])
    try:
        recording = read_recording(cut)
    except InputError:
        assert share < 0.2  # the beginning of the file itself is missing
        return
    assert recording.truncated
    assert recording.events == events[: len(recording.events)]
    assert recording.notes


def test_a_flipped_byte_is_noticed(recorded, tmp_path):
    path, events = recorded
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    (tmp_path / "flipped.mcap").write_bytes(damaged)
    recording = read_recording(tmp_path / "flipped.mcap")
    assert recording.truncated
    assert recording.events == events[: len(recording.events)]


def test_a_killed_process_loses_no_more_than_the_last_tenth_of_a_second(tmp_path):
    script = f"""
import time
from pathlib import Path
from streams.recorder import Recorder
from streams.events import event_from_frame
from streams.messages import Tick
from streams.wire import pack
recorder = Recorder(Path({str(tmp_path / "killed.mcap")!r}), metadata={{"case": "x"}})
for number in range(100000):
    now = time.time_ns()
    recorder.record_event(event_from_frame(number, now, pack(Tick(stream="c", sequence=number, source_time_ns=now))))
    print(now, flush=True)
    time.sleep(0.005)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = [process.stdout.readline() for _ in range(200)][-1]
        os.kill(process.pid, signal.SIGKILL)
    recording = read_recording(tmp_path / "killed.mcap")
    assert recording.truncated
    assert int(last) - recording.events[-1].receive_time_ns < 100_000_000


def test_what_is_no_recording_is_refused(tmp_path):
    (tmp_path / "text.mcap").write_text("not a recording")
    (tmp_path / "empty.mcap").write_bytes(b"")
    for name in ("text.mcap", "empty.mcap", "missing.mcap"):
        with pytest.raises(InputError, match=name):
            read_recording(tmp_path / name)


def test_a_recording_is_never_written_over(recorded):
    path, _ = recorded
    with pytest.raises(InputError, match="exists"):
        Recorder(path, metadata={})


def see(*numbers):
    watch = SequenceWatch()
    for number in numbers:
        watch, _ = watch.see("s", number)
    return watch.totals()


def test_losses_late_arrivals_duplicates_and_restarts_are_told_apart():
    assert see(0, 1, 2) == {"lost": 0, "duplicates": 0, "late_arrivals": 0, "restarts": 0}
    assert see(0, 3)["lost"] == 2
    assert see(0, 3, 1) == {"lost": 1, "duplicates": 0, "late_arrivals": 1, "restarts": 0}
    assert see(0, 1, 1)["duplicates"] == 1
    assert see(5, 6, 7, 0, 1) == {"lost": 0, "duplicates": 0, "late_arrivals": 0, "restarts": 1}
    assert see(40, 41)["lost"] == 0


@settings(max_examples=100, deadline=None)
@given(sent=st.integers(1, 60), seed=st.randoms(use_true_random=False))
def test_every_message_that_was_sent_is_received_or_lost(sent, seed):
    kept = [0, *(number for number in range(1, sent) if seed.random() < 0.7), sent]
    assert see(*kept)["lost"] == sent + 1 - len(set(kept))


def test_what_is_written_at_once_is_sealed_chunk_by_chunk(tmp_path):
    """So that a file that is cut off or damaged later is vouched for up to there."""
    path = tmp_path / "r.mcap"
    with RecordingWriter(path, metadata={"case": "c"}) as writer:
        for number in range(20_000):
            writer.add_event(event_from_frame(number, 5000 + number, pack(tick(number))))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    scan = RecordingScan(path)
    found = sum(1 for _ in scan.entries())
    assert found > 5000
    assert scan.chained
    assert scan.chain.fault is None
    assert scan.chain.sealed > 0.9 * found


def test_a_long_recording_is_gone_through_in_little_memory(tmp_path):
    path = tmp_path / "r.mcap"
    pixels = bytes(500_000)
    with RecordingWriter(path, metadata={"case": "c"}) as writer:
        for number in range(100):
            image = ImageFrame(stream="image", sequence=number, source_time_ns=number, device="d", width=1000,
                               height=500, pixel_format="mono8", data=pixels)  # fmt: skip
            writer.add_event(event_from_frame(number, 5000 + number, pack(image)))
    file = RecordingFile(path)
    tracemalloc.start()
    assert sum(1 for _ in file.entries()) == 100
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10e6  # of 50 MB
    assert not file.truncated
