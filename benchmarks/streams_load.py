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
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import zmq
from rich.console import Console

from streams import igtl
from streams.events import Event, Malformed, event_from_frame
from streams.igtl import IgtlMessage
from streams.intake import Intake
from streams.latency import LatencyHistogram
from streams.messages import Heartbeat, ImageFrame, PressureSamples, ToolPose, end_time_ns
from streams.recorder import Recorder, RecordingWriter
from streams.recording import RecordingScan, StateFrame, read_recording
from streams.session_clock import now_ns
from streams.sockets import Publisher, Subscriber
from streams.wire import pack
from surgical_twin.live import Endpoints, LiveLoop

POSES, POSE_HZ = 4, 120.0
PRESSURES, PRESSURE_HZ, BATCH = 4, 1000.0, 5
IMAGE_HZ, SIDE = 15.0, 512

WAITING = 20_000
"""Frames that wait at either end when they are sent without pace."""

console = Console(stderr=True)


def figure(value: float | None, goal: str, unit: str, **more: Any) -> dict[str, Any]:
    """One figure with its goal."""
    return {"value": value if value is None else round(value, 4), "goal": goal, "unit": unit, **more}


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def speckle(seed: int) -> bytes:
    """An image as an ultrasound machine makes them: smooth, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    smooth = 90 + 60 * np.sin(7 * x + seed) * np.cos(5 * y)
    return bytes((smooth + rng.rayleigh(12.0, (SIDE, SIDE))).clip(0, 255).astype(np.uint8))


def schedule() -> list[tuple[float, str, int]]:
    """Period, kind and number of each stream."""
    streams = [(1 / POSE_HZ, "pose", n) for n in range(POSES)]
    streams += [(BATCH / PRESSURE_HZ, "pressure", n) for n in range(PRESSURES)]
    return [*streams, (1 / IMAGE_HZ, "image", 0)]


def message(kind: str, which: int, sequence: int, time_ns: int, images: list[bytes]) -> Any:
    """The next message of a stream; samples end at ``time_ns``."""
    head = {"sequence": sequence, "source_time_ns": time_ns}
    if kind == "pose":
        place = (1.5 * which, 2.0, sequence % 97 * 0.1)
        return ToolPose(stream=f"tracker/{which}", tool=f"tool{which}", position=place, valid=True, error=0.2,
                        quaternion=(1.0, 0.0, 0.0, 0.0), **head)  # fmt: skip
    if kind == "pressure":
        head["source_time_ns"] = time_ns - (BATCH - 1) * 1_000_000
        values = tuple(80.0 + (sequence * BATCH + k) % 41 for k in range(BATCH))
        return PressureSamples(stream=f"pressure/{which}", sensor=f"p{which}", tool="tool0", sample_period_ns=1_000_000,
                               values_mmhg=values, **head)  # fmt: skip
    return ImageFrame(stream="image/0", device="fluoroscope", width=SIDE, height=SIDE, pixel_format="mono8",
                      data=images[sequence % len(images)], **head)  # fmt: skip


# The load, from a process of its own --------------------------------------------------------------


def send_load(endpoint: str, seconds: float) -> None:
    """Send the load in real time, stamped when it is sent; prints how much was sent."""
    publisher = Publisher(endpoint)
    images = [speckle(seed) for seed in range(8)]
    for number in range(20):  # until the twin's subscription has arrived
        publisher.send(
            Heartbeat(stream="load/hello", sequence=number, source_time_ns=now_ns(), device="load", status="")
        )
        time.sleep(0.05)
    begin = time.monotonic()
    due = [(begin, period, kind, which, 0) for period, kind, which in schedule()]
    sent: dict[str, int] = {}
    while True:
        due.sort()
        when, period, kind, which, sequence = due[0]
        if when - begin >= seconds:
            break
        wait = when - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        item = message(kind, which, sequence, now_ns(), images)
        publisher.send(item)
        sent[item.stream] = sequence + 1
        due[0] = (when + period, period, kind, which, sequence + 1)
    time.sleep(0.5)
    publisher.close()
    print(json.dumps(sent))


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


def case_without_flow() -> Any:
    """What a session needs of a case to run without a flow model."""
    return SimpleNamespace(case_hash="load", fiducials={}, waveform=SimpleNamespace(period=0.8), port_names=("inlet",),
                           lumen=None, reduced=SimpleNamespace(estimated=False, decoder=None),
                           filter=SimpleNamespace(initial=lambda seed, period: None))  # fmt: skip


def resident_mb() -> float:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_load(folder: Path, seconds: float) -> dict[str, Any]:
    """The load on the live loop."""
    endpoints = Endpoints(free_endpoint(), free_endpoint())
    path = folder / "load.mcap"
    loop = MeasuredLoop(case_without_flow(), seed=0, endpoints=endpoints, record=path, case="load")
    memory: list[tuple[float, float]] = []
    thread = threading.Thread(target=loop.run)
    command = [sys.executable, __file__, "--send", endpoints.devices, "--seconds", str(seconds)]
    thread.start()
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        while sender.poll() is None:
            memory.append((time.monotonic() - begin, resident_mb()))
            time.sleep(0.5)
        assert sender.stdout is not None
        sent = json.loads(sender.stdout.read())
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
        "counters": loop.report.counters,
        "megabytes": path.stat().st_size / 1e6,
    }
    console.print("load", result)
    return result


def bare_delay(seconds: float) -> dict[str, float | None]:
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
    return {"p99_ms": delay.percentile_ms(99), "p999_ms": delay.percentile_ms(99.9)}


class Stamp(msgspec.Struct):
    """The one field that the bare loop reads."""

    source_time_ns: int


# Throughput ---------------------------------------------------------------------------------------


def frames_of(seconds: float, begin: int) -> list[tuple[int, bytes]]:
    """The load's frames in their order, each with the time at which it would arrive."""
    images = [speckle(seed) for seed in range(8)]
    timed = []
    for period, kind, which in schedule():
        timed += [(n * period, kind, which, n) for n in range(int(seconds / period))]
    timed.sort()
    frames = []
    for at, kind, which, n in timed:
        time_ns = begin + round(at * 1e9)
        frames.append((time_ns + 300_000, pack(message(kind, which, n, time_ns, images))))
    return frames


def blast(endpoint: str, seconds: float, begin: int) -> None:
    """Send the load's frames as fast as they go, to a PULL that stops the sender when it is full."""
    frames = frames_of(seconds, begin)
    pusher = zmq.Context.instance().socket(zmq.PUSH)
    pusher.setsockopt(zmq.SNDHWM, WAITING)
    pusher.connect(endpoint)
    pusher.send(b"begin")
    for _, frame in frames:
        pusher.send(frame)
    pusher.close(linger=60_000)


class PullSubscriber(Subscriber):
    """The twin's receiving end on a PULL socket, so that a sender without pace loses nothing."""

    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, WAITING)
        self._socket.bind(endpoint)
        self._named = False
        self._clock = self._stamp
        self.arrivals: list[int] = []
        """when the frames would have arrived, in their order; as they do where it is empty"""
        self.taken = 0

    def _receive(self, most: int) -> Any:
        found = super()._receive(most)
        self.taken += len(found[0])
        return found

    def _stamp(self) -> int:
        return self.arrivals[self.taken - 1] if self.arrivals else now_ns()

    def close(self) -> None:
        """Close at once."""
        self._socket.close(linger=0)


def throughput(seconds: float, *, bare: bool) -> float:
    """Megabytes a second from the socket: to the bare loop's counter, or to ordered events of the intake.

    The intake is given the times at which the frames would have arrived, so that its clocks see the load as it is.
    """
    endpoint = free_endpoint()
    subscriber = PullSubscriber(endpoint)
    began = now_ns()
    arrivals = [at for at, _ in frames_of(seconds, began)]
    command = [sys.executable, __file__, "--blast", endpoint, "--seconds", str(seconds), "--begin", str(began)]
    with subprocess.Popen(command) as sender:
        subscriber._socket.recv()  # from here on the frames move, and none of them has waited for us
        size = taken = 0
        begin = time.perf_counter()
        if bare:
            while taken < len(arrivals):
                size += len(subscriber._socket.recv())
                taken += 1
        else:
            intake, seen = Intake(), 0
            subscriber.arrivals = arrivals
            while seen < len(arrivals):
                frames = subscriber.receive_frames(50, most=500)
                size += sum([len(frame.data) for frame in frames])
                seen += len(frames)
                taken += len(intake.take_all(frames)) + len(intake.release(arrivals[seen - 1]))
            taken += len(intake.flush())
            assert taken == len(arrivals)
        duration = time.perf_counter() - begin
        sender.wait()
    subscriber.close()
    return size / duration / 1e6


# pyigtl -------------------------------------------------------------------------------------------


def push_transforms(port: int, count: int) -> None:
    """Send transforms over OpenIGTLink as fast as they go."""
    matrix = np.eye(4)
    data = []
    for number in range(count):
        matrix[:3, 3] = (number % 100, 1.0, 2.0)
        data.append(
            igtl.pack(IgtlMessage("TRANSFORM", f"Tool{number % POSES}", now_ns(), igtl.transform_content(matrix)))
        )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for item in data:
            connection.sendall(item)
        time.sleep(1.0)


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
            taken += len(intake.take_all(subscriber.receive_frames(50, most=500)))
            taken += len(intake.release(now_ns() + 10**12))
        duration = time.perf_counter() - begin
        sender.wait()
    subscriber.close()
    return count / duration


def push_poses(endpoint: str, count: int) -> None:
    """Send poses as fast as they go, stamped when they are sent."""
    pusher = zmq.Context.instance().socket(zmq.PUSH)
    pusher.connect(endpoint)
    pusher.send(str(count).encode())
    for n in range(count):
        pusher.send(pack(message("pose", n % POSES, n // POSES, now_ns(), [])))
    pusher.close(linger=60_000)


# Recording and replay -----------------------------------------------------------------------------


def recording_rate(folder: Path, seconds: float) -> tuple[float, float]:
    """Megabytes a second into a recording of the load, and into a plain file with as many flushes."""
    events = [event_from_frame(n, at, frame) for n, (at, frame) in enumerate(frames_of(seconds, now_ns()))]
    size = sum(len(event.frame) for event in events)
    begin = time.perf_counter()
    with RecordingWriter(folder / "rate.mcap", metadata={"case": "rate"}) as writer:
        for event in events:
            writer.add_event(event)
    ours = size / (time.perf_counter() - begin) / 1e6
    begin = time.perf_counter()
    with (folder / "plain.bin").open("wb") as stream:
        for event in events:
            stream.write(event.frame)
    plain = size / (time.perf_counter() - begin) / 1e6
    (folder / "rate.mcap").unlink()
    (folder / "plain.bin").unlink()
    return ours, plain


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


def replay_speed(path: Path) -> float:
    """Times real time at which a recording becomes events again, checks of its chain and checksums included."""
    begin = time.perf_counter()
    first = last = 0
    for item in RecordingScan(path).entries():
        if not isinstance(item, StateFrame):
            first = first or item.receive_time_ns
            last = item.receive_time_ns
    return (last - first) * 1e-9 / (time.perf_counter() - begin)


def fold_speed(path: Path) -> float:
    """As `replay_speed`, through the session, on the case without a flow model."""
    from surgical_twin.replay import replay

    recording = read_recording(path)
    span = (recording.events[-1].receive_time_ns - recording.events[0].receive_time_ns) * 1e-9
    begin = time.perf_counter()
    report = replay(replace(recording), case_without_flow())
    assert report.identical
    return span / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 s of load instead of 10 minutes")
    parser.add_argument("--send", help=argparse.SUPPRESS)
    parser.add_argument("--blast", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--poses", help=argparse.SUPPRESS)
    parser.add_argument("--igtl", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    if arguments.send:
        return send_load(arguments.send, arguments.seconds)
    if arguments.blast:
        return blast(arguments.blast, arguments.seconds, arguments.begin)
    if arguments.poses:
        return push_poses(arguments.poses, arguments.count)
    if arguments.igtl:
        return push_transforms(arguments.igtl, arguments.count)
    seconds = 20.0 if arguments.quick else arguments.seconds
    part = 4.0 if arguments.quick else 20.0
    count = 4_000 if arguments.quick else 20_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load = run_load(folder, seconds)
        beside = bare_delay(20.0 if arguments.quick else 60.0)
        console.print("the same load at a bare loop", beside)
        replayed, folded = replay_speed(folder / "load.mcap"), fold_speed(folder / "load.mcap")
        console.print("replay, times real time: events", replayed, "with the session", folded)
        bare, ours = throughput(part, bare=True), throughput(part, bare=False)
        console.print("throughput, MB/s: bare", bare, "ours", ours)
        recorded, plain = recording_rate(folder, part)
        threaded = recorder_keeps_up(folder, part)
        console.print("recording, MB/s:", recorded, "by the thread", threaded, "plain file", plain)
    rate, peer = our_transform_rate(count), pyigtl_rates(count)
    console.print("transforms a second: ours", rate, "pyigtl delivered, taken", peer)
    no_peer = {} if peer else {"why": "pyigtl is not installed"}
    figures = {
        "messages_lost": figure(load["lost"], "== 0", "messages"),
        "messages_unrecorded": figure(load["unrecorded"], "== 0", "messages"),
        "socket_to_event_p99": figure(load["p99_ms"], "<= 2", "ms", bare_loop_ms=beside["p99_ms"]),
        "socket_to_event_p999": figure(load["p999_ms"], "<= 10", "ms", bare_loop_ms=beside["p999_ms"]),
        "memory_growth": figure(
            load["memory_growth_mb"],
            "<= 20",
            "MB",
            **({} if load["memory_growth_mb"] is not None else {"why": "too short"}),
        ),
        "throughput_against_bare_pyzmq": figure(ours / bare, ">= 0.6", "ratio"),
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
            recorded, ">= 100", "MB/s", plain_file=round(plain, 1), by_the_thread=round(threaded, 1)
        ),
        "replay_speed": figure(replayed, ">= 50", "times real time"),
        "replay_speed_with_session": figure(folded, ">= 50", "times real time"),
    }
    print(json.dumps({"benchmark": "streams_load", "seconds": seconds, "figures": figures}))


if __name__ == "__main__":
    main()
