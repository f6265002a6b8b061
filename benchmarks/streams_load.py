"""A full operating room on the twin's sockets: what is lost, how late it is, how much memory it takes, and how fast.

The load is 4 tracked tools at 120 Hz, 4 pressures at 1 kHz in batches of 5, and an image of 512 x 512 at 15 Hz, sent
from a process of its own to the live loop (the real session, on a case without a flow model), which records it all.
Beside it, in the same run: a bare pyzmq loop moving the same frames, pyigtl on the same transforms, and the disk
itself. A time says little on a machine shared with others; the ratios say more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import zmq
from rich.console import Console
from streams_traffic import (
    BATCH,
    POSES,
    WAITING,
    blast,
    case_without_flow,
    figure,
    frames_of,
    free_endpoint,
    push_poses,
    push_transforms,
    resident_mb,
    send_load,
)

from streams.events import Event, Malformed, event_from_frame
from streams.intake import Intake
from streams.latency import LatencyHistogram
from streams.messages import Heartbeat, decode_by_type, end_time_ns
from streams.recorder import Recorder, RecordingWriter
from streams.recording import RecordingScan, StateFrame, read_recording
from streams.session_clock import now_ns
from streams.sockets import Subscriber
from streams.standalone import TAKEN_TOGETHER
from surgical_twin.live import Endpoints, LiveLoop

console = Console(stderr=True)


class Stamp(msgspec.Struct):
    """The one field that the bare loop reads."""

    source_time_ns: int


class MeasuredLoop(LiveLoop):
    """The live loop, with a clock at the place where a frame has become an event."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.delay = LatencyHistogram()
        self.received: dict[str, int] = {}

    def _take_device(self, event: Event) -> None:
        said = event.message
        if not isinstance(said, Malformed | Heartbeat):
            self.delay.add(now_ns() - end_time_ns(said))
            self.received[said.stream] = self.received.get(said.stream, 0) + 1
        super()._take_device(event)


def run_load(folder: Path, seconds: float) -> dict[str, Any]:
    """The load on the live loop; beside it, at the same time, a load of its own on a bare loop."""
    endpoints = Endpoints(free_endpoint(), free_endpoint())
    path = folder / "load.mcap"
    loop = MeasuredLoop(case_without_flow(), seed=0, endpoints=endpoints, record=path, case="load")
    memory: list[tuple[float, float]] = []
    thread = threading.Thread(target=loop.run)
    command = [sys.executable, __file__, "--send", endpoints.devices, "--seconds", str(seconds)]
    thread.start()
    begin = time.monotonic()
    beside_command = [sys.executable, __file__, "--bare", "--seconds", str(seconds)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender,
        subprocess.Popen(beside_command, stdout=subprocess.PIPE, text=True) as bare,
    ):
        while sender.poll() is None:
            memory.append((time.monotonic() - begin, resident_mb()))
            time.sleep(0.5)
        assert sender.stdout is not None
        assert bare.stdout is not None
        sent = json.loads(sender.stdout.read())
        beside = json.loads(bare.stdout.read())
    loop.stop()
    thread.join()
    recorded: dict[str, int] = {}
    for item in RecordingScan(path).entries():
        if isinstance(item, Event) and not isinstance(item.message, Malformed):
            recorded[item.message.stream] = recorded.get(item.message.stream, 0) + 1
    lost = sum(count - loop.received.get(stream, 0) for stream, count in sent.items())
    unrecorded = sum(count - recorded.get(stream, 0) for stream, count in sent.items())
    settled = [mb for at, mb in memory if at > 0.25 * memory[-1][0] + 2.0]
    result = {
        "sent": sum(sent.values()),
        "lost": lost,
        "unrecorded": unrecorded,
        "p50_ms": loop.delay.percentile_ms(50),
        "p99_ms": loop.delay.percentile_ms(99),
        "p999_ms": loop.delay.percentile_ms(99.9),
        "max_ms": loop.delay.percentile_ms(100),
        "memory_growth_mb": (settled[-1] - settled[0]) if len(settled) > 3 else None,
        "bare_p99_ms": beside["p99_ms"],
        "bare_p999_ms": beside["p999_ms"],
        "counters": loop.report.counters,
        "megabytes": path.stat().st_size / 1e6,
    }
    console.print("load", result)
    return result


def bare_delay(seconds: float) -> None:
    """How late the same load is at a bare pyzmq loop that reads only the stamp: what the machine itself costs."""
    endpoint = free_endpoint()
    socket_ = zmq.Context.instance().socket(zmq.SUB)
    socket_.setsockopt(zmq.RCVHWM, 100_000)
    socket_.setsockopt(zmq.SUBSCRIBE, b"")
    socket_.bind(endpoint)
    decoder, delay = msgspec.msgpack.Decoder(Stamp), LatencyHistogram()
    with subprocess.Popen(
        [sys.executable, __file__, "--send", endpoint, "--seconds", str(seconds)], stdout=subprocess.DEVNULL
    ) as sender:
        while sender.poll() is None:
            if socket_.poll(50):
                frame = socket_.recv()
                stamp = decoder.decode(memoryview(frame)[frame.find(b"\0") + 1 :])
                batch = (BATCH - 1) * 1_000_000 if frame.startswith(b"pressure") else 0
                if not frame.startswith(b"load"):
                    delay.add(now_ns() - stamp.source_time_ns - batch)
    socket_.close(linger=0)
    print(json.dumps({"p99_ms": delay.percentile_ms(99), "p999_ms": delay.percentile_ms(99.9)}))


# Throughput ---------------------------------------------------------------------------------------


class PullSubscriber(Subscriber):
    """The twin's receiving end on a PULL socket, so that a sender without pace loses nothing."""

    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, WAITING)
        self._socket.bind(endpoint)
        self._named = False
        self.arrivals: list[int] = []
        """when the frames would have arrived, in their order; as they do where it is empty"""
        self.taken = 0

    def _receive(self, most: int) -> Any:
        stamps, taken, senders, exhausted = super()._receive(most)
        begin, self.taken = self.taken, self.taken + len(taken)
        return self.arrivals[begin : self.taken] if self.arrivals else stamps, taken, senders, exhausted

    def close(self) -> None:
        """Close at once."""
        self._socket.close(linger=0)


def moved(seconds: float, kind: str) -> tuple[float, float]:
    """Megabytes a second from the socket, and processor time of the receiving thread in us a message.

    The intake is given the times at which the frames would have arrived, so that its clocks see the load as it is.

    Args:
        seconds: of the load.
        kind: "bare": to a counter; "decoding": to messages by the same decoder, and dropped; "ours": to ordered events
            of the intake.
    """
    endpoint = free_endpoint()
    subscriber = PullSubscriber(endpoint)
    began = now_ns()
    arrivals = [at for at, _ in frames_of(seconds, began)]
    command = [sys.executable, __file__, "--blast", endpoint, "--seconds", str(seconds), "--begin", str(began)]
    with subprocess.Popen(command) as sender:
        receive = subscriber._socket.recv
        receive()  # from here on the frames move, and none of them has waited for us
        size = taken = 0
        begin, processor = time.perf_counter(), time.thread_time()
        if kind == "ours":
            intake, seen = Intake(), 0
            subscriber.arrivals = arrivals
            while seen < len(arrivals):
                frames = subscriber.receive_frames(50, most=TAKEN_TOGETHER)
                size += sum([len(frame.data) for frame in frames])
                seen += len(frames)
                taken += len(intake.take_all(frames)) + len(intake.release(arrivals[seen - 1]))
            taken += len(intake.flush())
            assert taken == len(arrivals)
        else:
            decodes = kind == "decoding"
            for _ in range(len(arrivals)):
                frame = receive()
                size += len(frame)
                if decodes:
                    decode_by_type(memoryview(frame)[frame.find(b"\0") + 1 :])
        duration, processor = time.perf_counter() - begin, time.thread_time() - processor
        sender.wait()
    subscriber.close()
    return size / duration / 1e6, processor / len(arrivals) * 1e6


def throughput(seconds: float, times: int = 5) -> dict[str, tuple[float, float]]:
    """Of each way the medians of `moved`, all in turn so that each meets the same machine."""
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "decoding": [], "ours": []}
    for _ in range(times):
        for kind, runs in found.items():
            runs.append(moved(seconds, kind))
    return {kind: (median(rate for rate, _ in runs), median(cost for _, cost in runs)) for kind, runs in found.items()}


# pyigtl -------------------------------------------------------------------------------------------


def pyigtl_rates(count: int) -> tuple[float, float] | None:
    """Transforms a second that reach an application through pyigtl, and that it takes from the socket at all."""
    try:
        import pyigtl
    except ImportError:
        return None
    port = int(free_endpoint().rpartition(":")[2])
    server = pyigtl.OpenIGTLinkServer(port=port)
    taken = 0
    receive = server._receive_message_from_socket

    def counted(connection: Any) -> Any:
        nonlocal taken
        done = receive(connection)
        taken += bool(done)
        return done

    server._receive_message_from_socket = counted
    delivered = tool = 0
    with subprocess.Popen([sys.executable, __file__, "--igtl", str(port), "--count", str(count)]):
        begin = last = 0.0
        deadline = time.perf_counter() + 120
        while taken < count and time.perf_counter() < deadline:
            # As an application receives with it: the newest of each device.
            found = server.wait_for_message(f"Tool{tool % POSES}", timeout=0.02)
            tool += 1
            if found is not None:
                begin, last = begin or time.perf_counter(), time.perf_counter()
                delivered += 1
    server._connected = False
    server.communication_thread_stop_requested = True
    duration = max(last - begin, 1e-9)
    return delivered / duration, taken / duration


def our_transform_rate(count: int) -> float:
    """Poses a second from the twin's own socket to ordered events."""
    endpoint = free_endpoint()
    subscriber = PullSubscriber(endpoint)
    with subprocess.Popen([sys.executable, __file__, "--poses", endpoint, "--count", str(count)]) as sender:
        int(subscriber._socket.recv())
        intake, taken = Intake(), 0
        begin = time.perf_counter()
        while taken < count:
            taken += len(intake.take_all(subscriber.receive_frames(50, most=TAKEN_TOGETHER)))
            taken += len(intake.release(now_ns() + 10**12))
        duration = time.perf_counter() - begin
        sender.wait()
    subscriber.close()
    return count / duration


# Recording and replay -----------------------------------------------------------------------------


def recording_rate(folder: Path, seconds: float, times: int = 3) -> dict[str, float]:
    """Megabytes a second into a recording of the load, and of the same frames into a plain file.

    Both are handed to the system as often, each 40 ms of the load, and wait at the end until they are on the disk;
    medians of runs in turn.
    """
    frames = frames_of(seconds, now_ns())
    events = [event_from_frame(n, at, frame) for n, (at, frame) in enumerate(frames)]
    size = sum(len(event.frame) for event in events) / 1e6
    every = max(1, round(len(events) / seconds * 0.04))
    ours, plain, processor = [], [], []
    for _ in range(times):
        begin, used = time.perf_counter(), time.thread_time()
        writer = RecordingWriter(folder / "rate.mcap", metadata={"case": "rate"})
        for number, event in enumerate(events, start=1):
            writer.add_event(event)
            if number % every == 0:
                writer.flush()
        writer.close()
        with (folder / "rate.mcap").open("rb") as written:
            os.fsync(written.fileno())
        ours.append(size / (time.perf_counter() - begin))
        processor.append(size / (time.thread_time() - used))
        begin = time.perf_counter()
        with (folder / "plain.bin").open("wb") as stream:
            for number, event in enumerate(events, start=1):
                stream.write(event.frame)
                if number % every == 0:
                    stream.flush()
            stream.flush()
            os.fsync(stream.fileno())
        plain.append(size / (time.perf_counter() - begin))
        (folder / "rate.mcap").unlink()
        (folder / "plain.bin").unlink()
    return {"ours": median(ours), "plain": median(plain), "by_processor": median(processor)}


def recorder_keeps_up(folder: Path, seconds: float) -> float:
    """Megabytes a second that the recorder's thread takes while another thread works as the session does."""
    events = [event_from_frame(n, at, frame) for n, (at, frame) in enumerate(frames_of(seconds, now_ns()))]
    recorder = Recorder(folder / "thread.mcap", metadata={"case": "thread"})
    begin = time.perf_counter()
    for event in events:
        recorder.record_event(event)
    recorder.close()
    rate = sum(len(event.frame) for event in events) / (time.perf_counter() - begin) / 1e6
    (folder / "thread.mcap").unlink()
    return rate


def replay_speed(path: Path) -> tuple[float, float]:
    """Times real time at which a recording becomes events again, checks of its chain and checksums included.

    By the clock on the wall, and by processor time.
    """
    begin, used = time.perf_counter(), time.thread_time()
    first = last = 0
    for item in RecordingScan(path).entries():
        if not isinstance(item, StateFrame):
            first = first or item.receive_time_ns
            last = item.receive_time_ns
    span = (last - first) * 1e-9
    return span / (time.perf_counter() - begin), span / (time.thread_time() - used)


def fold_speed(path: Path) -> tuple[float, float]:
    """As `replay_speed`, through the session, on the case without a flow model."""
    from surgical_twin.replay import replay

    begin, used = time.perf_counter(), time.thread_time()
    recording = read_recording(path)
    span = (recording.events[-1].receive_time_ns - recording.events[0].receive_time_ns) * 1e-9
    report = replay(replace(recording), case_without_flow())
    assert report.identical
    return span / (time.perf_counter() - begin), span / (time.thread_time() - used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 s of load instead of 10 minutes")
    parser.add_argument("--send", help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--blast", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--poses", help=argparse.SUPPRESS)
    parser.add_argument("--igtl", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    if arguments.send:
        return send_load(arguments.send, arguments.seconds)
    if arguments.bare:
        return bare_delay(arguments.seconds)
    if arguments.blast:
        return blast(arguments.blast, arguments.seconds, arguments.begin)
    if arguments.poses:
        return push_poses(arguments.poses, arguments.count)
    if arguments.igtl:
        return push_transforms(arguments.igtl, arguments.count)
    seconds = min(20.0, arguments.seconds) if arguments.quick else arguments.seconds
    part = 4.0 if arguments.quick else 20.0
    count = 4_000 if arguments.quick else 20_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load = run_load(folder, seconds)
        replayed, folded = replay_speed(folder / "load.mcap"), fold_speed(folder / "load.mcap")
        console.print("replay, times real time, by wall and processor: events", replayed, "with the session", folded)
        through = throughput(part)
        console.print("throughput, MB/s, and us of processor a message:", through)
        recorded = recording_rate(folder, part)
        threaded = recorder_keeps_up(folder, part)
        console.print("recording, MB/s:", recorded, "by the thread", threaded)
    rate, peer = our_transform_rate(count), pyigtl_rates(count)
    console.print("transforms a second: ours", rate, "pyigtl delivered, taken", peer)
    no_peer = {} if peer else {"why": "pyigtl is not installed"}
    figures = {
        "messages_lost": figure(load["lost"], "== 0", "messages"),
        "messages_unrecorded": figure(load["unrecorded"], "== 0", "messages"),
        "socket_to_event_p99": figure(load["p99_ms"], "<= 2", "ms", bare_loop_ms=load["bare_p99_ms"]),
        "socket_to_event_p999": figure(load["p999_ms"], "<= 10", "ms", bare_loop_ms=load["bare_p999_ms"]),
        "memory_growth": figure(
            load["memory_growth_mb"],
            "<= 20",
            "MB",
            **({} if load["memory_growth_mb"] is not None else {"why": "too short"}),
        ),
        "throughput_against_bare_pyzmq": figure(
            through["ours"][0] / through["bare"][0],
            ">= 0.6",
            "ratio",
            of_a_loop_that_decodes=round(through["decoding"][0] / through["bare"][0], 3),
            processor_us_a_message={kind: round(cost, 2) for kind, (_, cost) in through.items()},
        ),
        "transform_rate_against_pyigtl": figure(
            peer and rate / peer[0],
            ">= 5",
            "ratio",
            ours_per_s=round(rate),
            delivered_by_pyigtl_per_s=peer and round(peer[0]),
            taken_by_pyigtl_per_s=peer and round(peer[1]),
            **no_peer,
        ),
        "recording_rate": figure(
            recorded["ours"],
            ">= 100",
            "MB/s",
            by_processor_time=round(recorded["by_processor"], 1),
            plain_file=round(recorded["plain"], 1),
            by_the_thread=round(threaded, 1),
        ),
        "replay_speed": figure(replayed[0], ">= 50", "times real time", by_processor_time=round(replayed[1], 1)),
        "replay_speed_with_session": figure(
            folded[0], ">= 50", "times real time", by_processor_time=round(folded[1], 1)
        ),
    }
    print(json.dumps({"benchmark": "streams_load", "seconds": seconds, "figures": figures}))


if __name__ == "__main__":
    main()
