"""The commands around the streams, as a user types them."""

import json
import os
import socket
import subprocess
import sys
import termios
import threading
import time

import pytest
from typer.testing import CliRunner

from streams.errors import InputError as StreamsInputError
from streams.igtl import IgtlMessage, pack, string_content
from streams.messages import Heartbeat, PressureSamples
from streams.recording import read_recording
from streams.sockets import Publisher, Subscriber
from streams.wire import unpack
from surgical_twin.cli import app
from surgical_twin.errors import InputError
from surgical_twin.pace import Keyboard, read_speed

TABLE = "t,p\n" + "\n".join(f"{number * 0.004:.3f},{80 + number % 40}" for number in range(500)) + "\n"
MAP = '[time]\ncolumn = "t"\n[[pressure]]\ncolumn = "p"\nunit = "mmHg"\n'


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words):
    result = run(*words)
    assert isinstance(result.exception, InputError | StreamsInputError), (result.output, result.exception)
    return str(result.exception)


def endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def recording(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "map.toml").write_text(MAP)
    result = run("import", tmp_path / "t.csv", "--map", tmp_path / "map.toml", "--out", tmp_path / "r.mcap")
    assert result.exit_code == 0, result.output
    return tmp_path / "r.mcap"


def test_import_info_cut_export_and_anonymize(recording, tmp_path):
    assert "pressure/p" in run("info", recording).output
    assert "as they were recorded" in run("info", recording).output
    assert run("cut", recording, tmp_path / "cut.mcap", "--to", "1").exit_code == 0
    assert len(read_recording(tmp_path / "cut.mcap").events) < len(read_recording(recording).events)
    assert run("export", recording, "--csv", tmp_path / "tables").exit_code == 0
    assert len((tmp_path / "tables" / "pressures.csv").read_text().splitlines()) == 501
    log = tmp_path / "audit.jsonl"
    assert run("anonymize", recording, tmp_path / "anonymous.mcap", "--audit", log).exit_code == 0
    shown = run("audit", log)
    assert shown.exit_code == 0
    assert "anonymized" in shown.output
    line = json.loads(log.read_text())
    line["who"] = "someone else"
    log.write_text(json.dumps(line) + "\n")
    changed = run("audit", log)
    assert changed.exit_code == 1
    assert "line 1 is not as it was written" in changed.output


def test_keys_are_made_listed_and_revoked(tmp_path):
    folder = tmp_path / "keys"
    assert run("keys", folder).exit_code == 0
    assert run("keys", folder, "--new", "tracker", "--role", "publish poses").exit_code == 0
    assert "publish poses" in run("keys", folder).output
    assert "dance" in refused("keys", folder, "--new", "x", "--role", "dance")
    assert "--role" in refused("keys", folder, "--new", "x")
    assert "40" in refused("keys", folder, "--new", "x", "--role", "watch", "--public-key", "short")
    assert "tracker" in run("keys", folder, "--revoke", "tracker").output
    assert "not on the list" in refused("keys", folder, "--revoke", "tracker")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cut", "nowhere.mcap", "new.mcap"), "cannot be read"),
        (("cut", "r.mcap", "r.mcap"), "exists"),
        (("cut", "r.mcap", "new.mcap", "--from", "50"), "nothing"),
        (("cut", "r.mcap", "new.mcap", "--from", "2", "--to", "1"), "--to"),
        (("cut", "r.mcap", "new.mcap", "--from", "nan"), "must not be negative"),
        (("cut", "r.mcap", "new.mcap", "--to", "nan"), "must be after it"),
        (("cut", "empty.mcap", "new.mcap"), "too short"),
        (("anonymize", "map.toml", "new.mcap"), "no MCAP recording"),
        (("export", "map.toml", "--csv", "folder"), "no MCAP recording"),
        (("export", "r.mcap"), "--csv"),
        (("export", "r.mcap", "--mp4", "film.mp4", "--from", "nan"), "not negative"),
        (("import", "t.csv", "--out", "new.mcap"), "--map"),
        (("import", "t.csv", "--map", "map.toml", "--out", "r.mcap"), "exists"),
        (("import", "r.mcap", "--out", "new.mcap"), "no kind"),
        (("import", "x.hea", "--out", "new.mcap"), "cannot be read"),
        (("import", "x.mha", "--tip", "Stylus=1,2", "--out", "new.mcap"), "three numbers"),
        (("record", "new.mcap", "--devices", "tcp://0.0.0.0:1"), "--insecure"),
        (("record", "r.mcap", "--duration", "1"), "exists"),
        (("record", "new.mcap", "--duration", "-1"), "positive"),
        (("record", "new.mcap", "--duration", "nan"), "positive"),
        (("play", "nowhere.mcap", "--devices", "tcp://127.0.0.1:59997"), "cannot be read"),
        (("play", "r.mcap", "--speed", "fast"), "no speed"),
        (("audit", "nowhere.jsonl"), "cannot be read"),
        (("bridge", "dicom", "--listen", "18944"), "no protocol"),
        (("bridge", "igtl"), "--connect"),
        (("bridge", "igtl", "--listen", "many"), "no address"),
        (("bridge", "igtl", "--listen", "0.0.0.0:18944"), "--insecure"),
        (("bridge", "igtl", "--listen", "1", "--coordinates", "xyz"), "neither"),
        (("bridge", "igtl", "--listen", "1", "--port", "art=inlet"), "says nothing to a bridge to igtl"),
        (("bridge", "sdc", "--listen", "1"), "says nothing to a bridge to sdc"),
        (("bridge", "sdc"), "--connect"),
        (("bridge", "sdc", "--connect", "http://192.0.2.1:6464/a"), "--tls"),
        (("bridge", "sdc", "--connect", "http://127.0.0.1:6464/a", "--port", "art"), "SIGNAL=PORT"),
        (("bridge", "lsl", "--stream", "Monitor"), "--insecure"),
        (("replay", "r.mcap", "--pause"), "terminal"),
        (("replay", "r.mcap", "--from", "-1"), "not negative"),
        (("replay", "r.mcap", "--from", "nan"), "not negative"),
        (("replay", "r.mcap", "--speed", "0"), "no speed"),
        (("live", "nowhere", "--keys", "k", "--insecure"), "no case"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_nothing_half_written(recording, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mcap").touch()
    before = {path.name for path in tmp_path.iterdir()}
    assert said in refused(*words)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_record_keeps_what_devices_send_without_a_twin(tmp_path):
    where = endpoint()
    command = [sys.executable, "-m", "surgical_twin", "record", str(tmp_path / "new.mcap"), "--devices", where,
               "--duration", "12"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as recorder:
        publisher = Publisher(where)
        number = 0
        while recorder.poll() is None:
            publisher.send(Heartbeat(stream="h", sequence=number, source_time_ns=time.time_ns(), device="d", status=""))
            number += 1
            time.sleep(0.02)
        publisher.close()
        output, error = recorder.communicate()
    assert recorder.returncode == 0, error
    assert "head of the chain" in output.replace("\n", " ")
    recording = read_recording(tmp_path / "new.mcap")
    beats = [event.message.sequence for event in recording.events if isinstance(event.message, Heartbeat)]
    assert len(beats) > 50
    assert beats == list(range(beats[0], beats[-1] + 1))
    assert recording.chain.fault is None
    assert not recording.truncated


def test_play_sends_a_recording_as_if_it_were_measured_now(recording):
    where = endpoint()
    subscriber = Subscriber(where)
    done = threading.Event()
    heard = []

    def listen():
        while not done.is_set():
            heard.extend(subscriber.receive(20))

    thread = threading.Thread(target=listen)
    thread.start()
    result = run("play", recording, "--devices", where, "--speed", "4")
    time.sleep(0.3)
    done.set()
    thread.join()
    subscriber.close()
    assert result.exit_code == 0, result.output
    messages = [unpack(frame) for _, frame in heard]
    assert sum(len(message.values_mmhg) for message in messages if isinstance(message, PressureSamples)) == 500
    assert all(abs(message.source_time_ns - time.time_ns()) < 60 * 10**9 for message in messages)


def test_the_bridge_command_listens_and_passes_on(tmp_path):
    devices, states = endpoint(), endpoint()
    subscriber = Subscriber(devices)
    port = endpoint().rpartition(":")[2]
    command = [sys.executable, "-m", "surgical_twin", "bridge", "igtl", "--listen", port, "--devices", devices,
               "--states", states]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bridge:
        deadline = time.monotonic() + 60
        connection = None
        while connection is None and time.monotonic() < deadline:
            subscriber.receive(100)
            try:
                connection = socket.create_connection(("127.0.0.1", int(port)))
            except OSError:
                continue
        heard = []
        while not heard and time.monotonic() < deadline:
            connection.sendall(pack(IgtlMessage("STRING", "d", 1, string_content("here"))))
            heard = subscriber.receive(200)
        connection.close()
        bridge.terminate()
        output, error = bridge.communicate(timeout=20)
    subscriber.close()
    assert unpack(heard[0][1]).text == "here"
    assert bridge.returncode == 0, error
    assert "Note" in output


def test_keys_are_read_from_a_terminal_one_by_one_and_it_is_left_as_it_was(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(theirs)
        with Keyboard() as keyboard:
            assert keyboard.there
            assert keyboard.read(0.0) == ""
            os.write(ours, b" .q")
            assert keyboard.read(2.0) == " .q"
        assert termios.tcgetattr(theirs) == before
    os.close(ours)


def test_speeds():
    assert (read_speed("real"), read_speed("full"), read_speed("2.5"), read_speed("4x")) == (1.0, None, 2.5, 4.0)
    for text in ("", "0", "-1", "inf", "nan", "fast"):
        with pytest.raises(InputError):
            read_speed(text)
