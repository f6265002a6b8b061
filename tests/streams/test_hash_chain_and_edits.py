"""A recording that was tampered with says where; cutting, anonymizing and tables; the audit log."""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer

from streams.audit import note, read_audit
from streams.errors import InputError
from streams.events import Malformed, event_from_frame
from streams.messages import (
    Heartbeat,
    ImageFrame,
    Note,
    PressureSamples,
    SessionStart,
    Tick,
    ToolPose,
    TwinState,
)
from streams.recorder import Recorder, RecordingWriter
from streams.recording import read_recording
from streams.rewriting import anonymize, cut
from streams.summary import summarize
from streams.tables import write_tables
from streams.wire import pack

EPOCH = 1_700_000_000_000_000_000


def state(number, time_ns):
    return TwinState(
        stream="twin", sequence=number, source_time_ns=time_ns, model_time_ns=time_ns - 1000, age_ns={}, flags=("x",),
        registered=False, fre=None, tre=None, tool="c", tip=None, tip_covariance=None, tip_valid=False,
        tip_pressure_mmhg=None, measured_pressure_mmhg=None, port_pressure_mmhg={}, port_flow_ml_s={}, parameters={},
        axis_pressure_mmhg=(), field_coefficients=(), field_deviation_mmhg=0.0, counters={}, innovation=None,
    )  # fmt: skip


def messages():
    yield SessionStart(stream="session/start", sequence=0, source_time_ns=EPOCH, case_hash="h", seed=3, settings={})
    for number in range(200):
        at = EPOCH + number * 10_000_000
        yield ToolPose(stream="tracker/c", sequence=number, source_time_ns=at, tool="c", position=(1.0, 2.0, number),
                       quaternion=(1.0, 0.0, 0.0, 0.0), valid=number % 50 != 7, error=0.3)  # fmt: skip
        yield PressureSamples(stream="pressure/p", sequence=number, source_time_ns=at, sensor="p", tool=None,
                              sample_period_ns=2_000_000, values_mmhg=(80.0, 81.0, 82.5))  # fmt: skip
        if number == 50:
            yield Note(stream="notes", sequence=0, source_time_ns=at, source="nurse", text="Mr Smith moves")
        if number == 60:
            yield ImageFrame(stream="fluoro", sequence=0, source_time_ns=at, device="f", width=2, height=2,
                             pixel_format="mono8", data=b"abcd")  # fmt: skip
        if number == 70:
            yield Heartbeat(stream="hb", sequence=0, source_time_ns=at, device="d", status="Smith, J.")


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "whole.mcap"
    with RecordingWriter(path, metadata={"case": "/home/smith/case", "case_hash": "h", "seed": "3"}) as writer:
        for index, message in enumerate(messages()):
            writer.add_event(event_from_frame(index, message.source_time_ns + 2_000_000, pack(message)))
            if index % 40 == 39:
                writer.add_state(pack(state(index // 40, message.source_time_ns)), message.source_time_ns)
                writer.flush()
        writer.add_event(event_from_frame(index + 1, message.source_time_ns + 3_000_000, b"Smith\0garbage"))
    return path


def rewrite(source: Path, target: Path, change):
    """Write an MCAP file anew by the library alone; ``change(number, message)`` gives what to write instead."""
    with source.open("rb") as stream, target.open("wb") as out:
        reader, writer = make_reader(stream), Writer(out)
        writer.start()
        ids = {}
        for record in reader.iter_metadata():
            writer.add_metadata(record.name, record.metadata)
        for number, (schema, channel, message) in enumerate(reader.iter_messages(log_time_order=False)):
            if channel.id not in ids:
                kind = 0 if schema is None else writer.register_schema(schema.name, schema.encoding, schema.data)
                ids[channel.id] = writer.register_channel(channel.topic, channel.message_encoding, kind,
                                                          channel.metadata)  # fmt: skip
            for item in change(number, channel, message):
                writer.add_message(ids[channel.id], item.log_time, item.data, item.publish_time, item.sequence)
        writer.finish()


def test_a_whole_recording_is_vouched_for_to_its_last_entry(recorded):
    recording = read_recording(recorded)
    assert recording.chain.fault is None
    assert recording.chain.unsealed == 0
    assert recording.chain.sealed == len(recording.events) + len(recording.states)
    assert recording.head == recording.chain.head.hex()


def test_written_anew_by_another_program_without_a_change_it_is_still_vouched_for(recorded, tmp_path):
    rewrite(recorded, tmp_path / "same.mcap", lambda number, channel, message: [message])
    assert read_recording(tmp_path / "same.mcap").chain.fault is None


@pytest.mark.parametrize("victim", [3, 150, 300])
def test_a_changed_event_is_named(recorded, tmp_path, victim):
    def change(number, channel, message):
        if message.sequence == victim and channel.topic.startswith("tracker"):
            fields = msgspec.msgpack.decode(message.data)
            fields["position"] = [9.0, 9.0, 9.0]
            return [dataclasses.replace(message, data=msgspec.msgpack.encode(fields))]
        return [message]

    rewrite(recorded, tmp_path / "changed.mcap", change)
    fault = read_recording(tmp_path / "changed.mcap").chain.fault
    events = read_recording(recorded).events
    if events[victim].message.stream == "tracker/c":
        assert f"event {victim} (tracker/c) is not as it was recorded" in fault
    else:
        assert fault is None


@pytest.mark.parametrize("part", ["log_time", "publish_time", "sequence"])
def test_a_changed_time_or_number_is_named(recorded, tmp_path, part):
    def change(number, channel, message):
        if channel.topic == "pressure/p" and message.sequence in (201, 202):
            return [dataclasses.replace(message, **{part: getattr(message, part) + 5})]
        return [message]

    rewrite(recorded, tmp_path / "changed.mcap", change)
    chain = read_recording(tmp_path / "changed.mcap").chain
    assert "pressure/p" in chain.fault
    assert "not as it was" in chain.fault


def test_an_event_taken_out_or_put_in_is_noticed(recorded, tmp_path):
    def out(number, channel, message):
        return [] if channel.topic == "pressure/p" and message.sequence == 102 else [message]

    def twice(number, channel, message):
        return [message] * (2 if channel.topic == "pressure/p" and message.sequence == 102 else 1)

    rewrite(recorded, tmp_path / "out.mcap", out)
    assert "taken out" in read_recording(tmp_path / "out.mcap").chain.fault
    rewrite(recorded, tmp_path / "twice.mcap", twice)
    assert read_recording(tmp_path / "twice.mcap").chain.fault is not None


def test_an_end_that_was_taken_off_is_noticed_though_the_file_was_closed(recorded, tmp_path):
    rewrite(recorded, tmp_path / "short.mcap", lambda number, channel, message: [message] if number < 300 else [])
    recording = read_recording(tmp_path / "short.mcap")
    assert not recording.truncated
    assert recording.chain.fault is not None


def test_a_part_keeps_its_beginning_and_says_what_it_is(recorded, tmp_path):
    done = cut(recorded, tmp_path / "part.mcap", begin_s=0.5, end_s=1.0)
    part = read_recording(tmp_path / "part.mcap")
    assert isinstance(part.events[0].message, SessionStart)
    assert len(part.events) == done.events
    assert part.chain.fault is None
    times = [event.receive_time_ns - EPOCH for event in part.events[1:]]
    assert min(times) >= 500_000_000
    assert max(times) <= 1_003_000_000
    assert part.metadata["begins_later"] == "true"
    whole = {event.frame for event in read_recording(recorded).events}
    assert all(event.frame in whole for event in part.events)
    with pytest.raises(InputError, match="exists"):
        cut(recorded, tmp_path / "part.mcap")
    with pytest.raises(InputError, match="--to"):
        cut(recorded, tmp_path / "new.mcap", begin_s=2.0, end_s=1.0)
    cut(recorded, tmp_path / "beginning.mcap", end_s=1.0)
    assert "begins_later" not in read_recording(tmp_path / "beginning.mcap").metadata
    assert not list(tmp_path.glob(".*"))


def test_nothing_of_the_patient_is_left(recorded, tmp_path):
    anonymize(recorded, tmp_path / "anonymous.mcap")
    recording = read_recording(tmp_path / "anonymous.mcap")
    content = b"".join(event.frame for event in recording.events) + repr(recording.metadata).encode()
    assert b"mith" not in content
    assert b"abcd" not in content
    assert b"mith" in b"".join(event.frame for event in read_recording(recorded).events)
    times = [event.receive_time_ns for event in recording.events]
    assert all(0 <= time_ns - 946_684_800_000_000_000 < 62_000_000_000 for time_ns in times)
    readable = [event.message for event in recording.events if not isinstance(event.message, Malformed)]
    assert all(message.source_time_ns < 950_000_000_000_000_000 for message in readable)
    assert len(recording.states) == len(read_recording(recorded).states)
    # What was measured, and how long after one another, is as it was.
    before = [event for event in read_recording(recorded).events if isinstance(event.message, PressureSamples)]
    after = [event for event in recording.events if isinstance(event.message, PressureSamples)]
    assert [event.message.values_mmhg for event in before] == [event.message.values_mmhg for event in after]
    gaps = [[b.receive_time_ns - a.receive_time_ns for a, b in pairwise(x)] for x in (before, after)]
    assert gaps[0] == gaps[1]
    assert recording.chain.fault is None


def test_tables_hold_every_sample(recorded, tmp_path):
    rows = write_tables(recorded, tmp_path / "tables")
    assert rows["pressures"] == 600
    assert rows["poses"] == 200
    assert rows["states"] == 10
    with (tmp_path / "tables" / "pressures.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["pressure_mmhg"]) for row in table[:4]] == [80.0, 81.0, 82.5, 80.0]
    assert float(table[1]["time_s"]) - float(table[0]["time_s"]) == pytest.approx(0.002, abs=1e-9)
    assert not list((tmp_path / "tables").glob(".*"))


def test_a_summary_counts_by_stream(recorded):
    summary = summarize(recorded)
    assert summary.streams["tracker/c"].messages == 200
    assert summary.streams["tracker/c"].rate_hz == pytest.approx(100, rel=0.01)
    assert summary.not_messages == {"malformed": 1}
    assert summary.seed == 3
    assert summary.intact


def test_a_full_disk_is_told_and_the_session_goes_on(tmp_path):
    """A limit on the size of files stands for a full disk: writing fails in the middle of a recording."""
    script = f"""
import resource, signal, time
from pathlib import Path
from streams.recorder import Recorder
from streams.events import Malformed, event_from_frame
from streams.messages import Tick
from streams.wire import pack
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
recorder = Recorder(Path({str(tmp_path / "full.mcap")!r}), metadata={{"case": "x"}})
number = 0
while recorder.failure is None and number < 100_000:
    recorder.record_event(event_from_frame(number, number + 1, pack(Tick(stream="c", sequence=number * 7919 % 99991,
                          source_time_ns=number * number))))
    number += 1
    time.sleep(0.0001)
for _ in range(100):
    recorder.record_event(event_from_frame(number, number, b"more"))
recorder.close()
print(recorder.failure, recorder.left_out > 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "writing failed" in done.stdout
    recording = read_recording(tmp_path / "full.mcap")
    assert recording.truncated
    assert len(recording.events) > 100
    assert [event.index for event in recording.events] == list(range(len(recording.events)))
    assert recording.chain.fault is None


def test_a_disk_that_does_not_keep_up_costs_events_and_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("streams.recorder.QUEUE_BYTES", 200_000)
    recorder = Recorder(tmp_path / "slow.mcap", metadata={"case": "x"})
    writer = recorder._writer
    slow = writer.add
    monkeypatch.setattr(writer, "add", lambda entry: (time.sleep(0.001), slow(entry)))
    for number in range(1500):
        recorder.record_event(event_from_frame(number, number + 1, pack(Tick(stream="c", sequence=number,
                                                                             source_time_ns=1))))  # fmt: skip
        assert recorder.waiting_bytes <= 200_000
    assert recorder.left_out > 0
    assert "keep up" in recorder.failure
    recorder.close()
    recording = read_recording(tmp_path / "slow.mcap")
    assert len(recording.events) == 1500 - recorder.left_out
    assert recording.truncated


def test_the_audit_log_is_only_added_to(tmp_path):
    log = tmp_path / "audit.jsonl"
    for number in range(5):
        note(log, "did", number=number, who="me")
    entries, fault = read_audit(log)
    assert fault is None
    assert [entry.details["number"] for entry in entries] == list(range(5))
    assert entries[0].who == "me"
    lines = log.read_text().splitlines()
    changed = json.loads(lines[2])
    changed["details"]["number"] = 99
    for content, word in (
        ([*lines[:2], json.dumps(changed), *lines[3:]], "line 3 is not as"),
        ([*lines[:2], *lines[3:]], "line 3 does not follow"),
        ([lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
        ([*lines[:2], "{broken", *lines[3:]], "line 3 is no entry"),
    ):
        log.write_text("\n".join(content) + "\n")
        assert word in read_audit(log)[1]


def test_the_audit_log_goes_on_after_a_line_that_was_cut_off(tmp_path):
    log = tmp_path / "audit.jsonl"
    note(log, "first")
    with log.open("a") as stream:
        stream.write('{"time_ns": 17')
    note(log, "second")
    note(log, "third")
    entries, fault = read_audit(log)
    assert [entry.what for entry in entries] == ["first", "second", "third"]
    assert fault == "line 2 is no entry of an audit log"
