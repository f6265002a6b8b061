"""The traffic of an operating room that benchmarks of the streams send, and what these share.

4 tracked tools at 120 Hz, 4 pressures at 1 kHz in batches of 5, and an image of 512 x 512 at 15 Hz. Senders run as
processes of their own: `streams_load.py` starts itself with an option for each.
"""

from __future__ import annotations

import json
import os
import socket
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import zmq

from streams import igtl
from streams.igtl import IgtlMessage
from streams.messages import Heartbeat, ImageFrame, PressureSamples, ToolPose
from streams.session_clock import now_ns
from streams.sockets import Publisher
from streams.wire import pack

POSES, POSE_HZ = 4, 120.0
PRESSURES, PRESSURE_HZ, BATCH = 4, 1000.0, 5
IMAGE_HZ, SIDE = 15.0, 512

WAITING = 20_000
"""Frames that wait at either end when they are sent without pace."""


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


def case_without_flow() -> Any:
    """What a session needs of a case to run without a flow model."""
    return SimpleNamespace(case_hash="load", fiducials={}, waveform=SimpleNamespace(period=0.8), port_names=("inlet",),
                           lumen=None, reduced=SimpleNamespace(estimated=False, decoder=None),
                           filter=SimpleNamespace(initial=lambda seed, period: None))  # fmt: skip


def resident_mb() -> float:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


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


def push_poses(endpoint: str, count: int) -> None:
    """Send poses as fast as they go, stamped when they are sent."""
    pusher = zmq.Context.instance().socket(zmq.PUSH)
    pusher.connect(endpoint)
    pusher.send(str(count).encode())
    for n in range(count):
        pusher.send(pack(message("pose", n % POSES, n // POSES, now_ns(), [])))
    pusher.close(linger=60_000)
