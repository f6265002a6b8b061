"""What goes wrong in an operating room, done to the live loop: does it live on, say so, recover, and record all of it?

Devices are played from a process of their own through a relay that can hold the network back. The session is the real
one, on a case without a flow model. Times are taken at the viewer's end of the twin's states.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console
from streams_traffic import figure, free_endpoint, resident_mb

from streams.devices import FiducialTouches, PressureDevice, TrackerDevice, merge
from streams.events import Event, Malformed
from streams.intake import Intake
from streams.keys import allow, load_pair, load_public, make_pair
from streams.links import Link, LinkErrors
from streams.messages import ENDED, Heartbeat, ImageFrame, PressureSamples, ProcedureEnd, ToolPose, TwinState
from streams.playback import play
from streams.recording import RecordingScan
from streams.security import ClientSecurity, client_security, server_security
from streams.session_clock import now_ns
from streams.sockets import Frame, Publisher, Subscriber
from streams.wire import MAX_FRAME_BYTES, pack, unpack
from surgical_twin.live import Endpoints, LiveLoop
from surgical_twin.session import Session
from surgical_twin.session_state import SessionState

console = Console(stderr=True)

FIDUCIALS = {
    n: np.array(p, float) for n, p in {"a": (0, 0, 0), "b": (60, 0, 10), "c": (0, 70, 20), "d": (40, 50, 60)}.items()
}


def case_without_flow() -> Any:
    """What a session needs of a case to run without a flow model."""
    no_filter = SimpleNamespace(initial=lambda seed, period: None)
    return SimpleNamespace(case_hash="faults", fiducials=FIDUCIALS, waveform=SimpleNamespace(period=0.8),
                           port_names=("inlet",), filter=no_filter, lumen=None,
                           reduced=SimpleNamespace(estimated=False, decoder=None))  # fmt: skip


def send_devices(endpoint: str, seconds: float, errors: LinkErrors, seed: int) -> None:
    """Play a tracker and a transducer behind their links; prints what was sent and what was withheld, per stream."""
    publisher = Publisher(endpoint)
    for number in range(10):
        status = ENDED if number == 9 else ""
        publisher.send(Heartbeat(stream="hello", sequence=number, source_time_ns=now_ns(), device="d", status=status))
        time.sleep(0.05)
    pose = np.eye(4)
    rng = [np.random.default_rng([seed, n]) for n in range(5)]
    devices = [
        FiducialTouches(
            [(0.05 * n, name, point) for n, (name, point) in enumerate(FIDUCIALS.items())], "p", 0.2, rng[4]
        ),
        Link(TrackerDevice("c", lambda t: pose, 120.0, seconds, 0.1, 0.001, rng[0]), errors, rng[1]),
        Link(PressureDevice("p", "c", lambda t: 90.0, 1000.0, seconds, 1.0, rng[2]), errors, rng[3]),
    ]
    sent: Counter[str] = Counter()
    withheld: Counter[str] = Counter()

    def counted() -> Any:
        for due in merge(devices, epoch_ns=epoch):
            (withheld if due.withheld else sent)[due.message.stream] += 1
            yield due

    epoch = time.time_ns() + 50_000_000
    play(counted(), publisher, epoch_ns=epoch)
    time.sleep(0.5)
    publisher.close()
    print(json.dumps({"sent": sent, "withheld": withheld, "repeated": [d.counts["repeated"] for d in devices[1:]]}))


class Relay:
    """Carries TCP connections on to a port, and can stop carrying: a network that is split."""

    def __init__(self, port: int) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self.server.getsockname()[1]}"
        self.open = threading.Event()
        self.open.set()
        self._port = port
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.server.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.open.wait()
                sink.sendall(data)
        except OSError:
            pass
        source.close()
        sink.close()

    def close(self) -> None:
        """Take no more connections."""
        self.server.close()


class Room:
    """A twin at work and a viewer that notes when each state came."""

    def __init__(self, folder: Path, name: str) -> None:
        self.recording = folder / f"{name}.mcap"
        self.endpoints = Endpoints(free_endpoint(), free_endpoint())
        self.loop = LiveLoop(
            case_without_flow(), seed=0, endpoints=self.endpoints, record=self.recording, case="faults"
        )
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.states: list[tuple[float, TwinState]] = []
        self._done = threading.Event()
        self._viewer = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        self._viewer.start()

    def _watch(self) -> None:
        viewer = Subscriber(self.endpoints.states, bind=False, topics=("twin",))
        while not self._done.is_set():
            for _, frame in viewer.receive(20):
                state = unpack(frame)
                if isinstance(state, TwinState):
                    self.states.append((time.monotonic(), state))
        viewer.close()

    def sender(self, endpoint: str, seconds: float, **errors: float) -> subprocess.Popen[str]:
        """Devices in a process of their own."""
        command = [
            sys.executable,
            __file__,
            "--send",
            endpoint,
            "--seconds",
            str(seconds),
            "--errors",
            json.dumps(errors),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def until(self, condition: Callable[[TwinState], bool], since: float, seconds: float = 30.0) -> float | None:
        """How long after a moment the first state came that fulfils a condition [s]."""
        deadline = time.monotonic() + seconds
        seen = 0
        while time.monotonic() < deadline:
            states = self.states
            for at, state in states[seen:]:
                if at >= since and condition(state):
                    return at - since
            seen = max(0, len(states) - 1)
            time.sleep(0.005)
        return None

    def well(self, state: TwinState) -> bool:
        """Whether all is heard again, and fresh."""
        fresh = all(state.age_ns.get(name, 10**10) < 200_000_000 for name in ("tracker/c", "pressure/p"))
        return state.tip_valid and fresh and not any(flag.startswith("silent") for flag in state.flags)

    def end(self) -> Counter[str]:
        """End the session; the messages in the recording, by stream."""
        alive = self.thread.is_alive()
        self.loop.stop()
        self.thread.join(10)
        self._done.set()
        self._viewer.join(5)
        recorded: Counter[str] = Counter()
        for item in RecordingScan(self.recording).entries():
            if isinstance(item, Event) and not isinstance(item.message, Malformed):
                recorded[item.message.stream] += 1
        recorded["alive"] = alive
        return recorded


def bad_links(folder: Path, seconds: float) -> dict[str, Any]:
    """30 % loss, 10 % duplication, reordering by 200 ms, a clock that drifts by 100 ppm."""
    room = Room(folder, "links")
    errors = {"loss": 0.3, "duplication": 0.1, "jitter_s": 0.2, "clock_drift_ppm": 100.0, "clock_offset_s": 0.7}
    with room.sender(room.endpoints.devices, seconds, **errors) as sender:
        said = json.loads(sender.communicate(timeout=seconds + 60)[0])
    time.sleep(0.3)
    clocks = {name: clock.drift_ppm for name, clock in room.loop._intake.clocks.items() if name in said["sent"]}
    recorded = room.end()
    counters = room.loop.report.counters
    missing = sum(count - recorded[stream] for stream, count in said["sent"].items())
    console.print("links", said, counters, clocks)
    return {
        "alive": bool(recorded["alive"]),
        "unrecorded": missing,
        "loss_error": abs(counters["lost"] - sum(said["withheld"].values())) / max(1, sum(said["withheld"].values())),
        "duplicates_error": abs(counters["duplicates"] - sum(said["repeated"])) / max(1, sum(said["repeated"])),
    }


def killed_publisher(folder: Path) -> dict[str, Any]:
    """The devices' process is killed and started again."""
    room = Room(folder, "killed")
    first = room.sender(room.endpoints.devices, 120.0)
    assert room.until(room.well, time.monotonic()) is not None
    time.sleep(2.0)
    first.kill()
    killed = time.monotonic()
    flagged = room.until(lambda state: bool(state.flags) and any(f.startswith("silent") for f in state.flags), killed)
    invalid = room.until(lambda state: not state.tip_valid, killed)
    time.sleep(2.0)
    second = room.sender(room.endpoints.devices, 120.0)
    events = room.loop.report.events
    # From the first message that arrives again; starting an interpreter is not the twin's matter.
    while room.loop._state.newest_ns.get("tracker/c", 0) < now_ns() - 500_000_000:
        time.sleep(0.001)
    heard = time.monotonic()
    recovered = room.until(room.well, heard)
    second.kill()
    recorded = room.end()
    console.print("killed: flagged", flagged, "invalid", invalid, "recovered", recovered, "events", events)
    return {"alive": bool(recorded["alive"]), "flagged_s": flagged, "invalid_s": invalid, "recovered_s": recovered}


def split_network(folder: Path, split_s: float) -> dict[str, Any]:
    """The network is away for a while, and then carries what it held."""
    room = Room(folder, "split")
    relay = Relay(int(room.endpoints.devices.rpartition(":")[2]))
    sender = room.sender(relay.endpoint, split_s + 8.0)
    assert room.until(room.well, time.monotonic()) is not None
    time.sleep(1.0)
    relay.open.clear()
    split = time.monotonic()
    flagged = room.until(lambda state: any(f.startswith("silent") for f in state.flags), split)
    time.sleep(max(0.0, split_s - (time.monotonic() - split)))
    relay.open.set()
    healed = time.monotonic()
    recovered = room.until(room.well, healed)
    said = json.loads(sender.communicate(timeout=split_s + 60)[0])
    time.sleep(0.5)
    recorded = room.end()
    relay.close()
    missing = {stream: count - recorded[stream] for stream, count in said["sent"].items()}
    lost = room.loop.report.counters["lost"]
    console.print("split: flagged", flagged, "recovered", recovered, "not arrived", missing, "counted as lost", lost)
    return {
        "alive": bool(recorded["alive"]),
        "flagged_s": flagged,
        "recovered_s": recovered,
        "lost": sum(missing.values()),
        "silently_lost": max(0, sum(missing.values()) - lost),
    }


def stalled_viewer(folder: Path, stall_s: float) -> dict[str, Any]:
    """A viewer that does not read for a while."""
    room = Room(folder, "stalled")
    viewer = Subscriber(room.endpoints.states, bind=False, topics=("twin",))
    assert viewer.receive(3000)
    before = room.loop.report.states
    time.sleep(stall_s)
    pace = (room.loop.report.states - before) / stall_s
    begin = time.monotonic()
    while time.monotonic() - begin < 10:
        frames = viewer.receive(20)
        newest = unpack(frames[-1][1]) if frames else None
        if isinstance(newest, TwinState) and now_ns() - newest.source_time_ns < 100_000_000:
            break
    recovered = time.monotonic() - begin
    viewer.close()
    recorded = room.end()
    console.print("stalled viewer: states a second meanwhile", pace, "caught up after", recovered)
    return {"alive": bool(recorded["alive"]), "recovered_s": recovered, "states_hz": pace}


# Malformed messages --------------------------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """Real messages of every kind that devices send."""
    head = {"sequence": 5, "source_time_ns": now_ns()}
    return [
        pack(
            ToolPose(
                stream="t/c", tool="c", position=(1.0, 2.0, 3.0), quaternion=(1.0, 0.0, 0.0, 0.0), valid=True, **head
            )
        ),
        pack(
            PressureSamples(stream="p/p", sensor="p", tool="c", sample_period_ns=10**6, values_mmhg=(80.0,) * 8, **head)
        ),
        pack(Heartbeat(stream="h", device="d", status="ok", streams=("a", "b"), **head)),
        pack(ImageFrame(stream="i", device="d", width=4, height=4, pixel_format="mono8", data=bytes(16), **head)),
        pack(ProcedureEnd(stream="e", reason="x" * 20, **head)),
    ]


def mutate(frame: bytes, rng: random.Random) -> bytes:
    """A message with a few bytes changed, cut, repeated or put in."""
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(5):
            case 0 if data:
                data[at] = rng.randrange(256)
            case 1:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                del data[at : at + rng.randint(1, 8)]
            case 3:
                data += data[at : at + rng.randint(1, 32)]
            case _ if data:
                data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def malformed(count: int) -> dict[str, Any]:
    """Mutated messages through the intake and the session: each is an event, counted one way or another."""
    rng, kinds = random.Random(7), seeds()
    intake, session, state = Intake(), Session(case_without_flow()), SessionState()
    index = 0
    verdicts: Counter[str] = Counter()

    def fold(event: Event) -> None:
        nonlocal state, index
        verdicts[event.message.kind if isinstance(event.message, Malformed) else "a message still"] += 1
        state, _ = session.step(state, event.numbered(index))
        index += 1

    begin = now_ns()
    memory = []
    for number in range(count):
        at = begin + number * 50_000
        event = intake.take(Frame(at, mutate(rng.choice(kinds), rng), None))
        if event is not None:
            fold(event)
        for released in intake.release(at):
            fold(released)
        if number % max(1, count // 20) == 0:
            intake.report(at)
            memory.append(resident_mb())
    for released in intake.flush():
        fold(released)
    counted = state.counters["received"]
    console.print("malformed", verdicts, "memory", memory[0], memory[len(memory) // 2], memory[-1])
    return {"uncounted": count - counted, "memory_growth_mb": memory[-1] - memory[len(memory) // 4]}


def refusals(folder: Path) -> dict[str, Any]:
    """Clients that may not: an unknown key, a wrong role, an oversized and a replayed message."""
    keys = folder / "keys"
    allow(keys, "tracker", ("publish poses",))
    allow(keys, "screen", ("watch",))
    make_pair(folder / "stranger", "stranger")
    security = server_security(keys)
    endpoint = free_endpoint()
    subscriber = Subscriber(endpoint, security=security)
    intake = Intake(allowed=security.gatekeeper.allowed)
    stranger = ClientSecurity(load_pair(folder / "stranger", "stranger"), load_public(keys, "twin"))
    clients = {
        "unknown key": Publisher(endpoint, security=stranger),
        "wrong role": Publisher(endpoint, security=client_security(keys, "screen")),
    }
    good = Publisher(endpoint, security=client_security(keys, "tracker"))
    frame = pack(ToolPose(stream="t/c", sequence=0, source_time_ns=now_ns(), tool="c", position=(1.0, 2.0, 3.0),
                          quaternion=(1.0, 0.0, 0.0, 0.0), valid=True))  # fmt: skip
    pressure = pack(PressureSamples(stream="p", sequence=0, source_time_ns=now_ns(), sensor="p", tool=None,
                                    sample_period_ns=1, values_mmhg=(1.0,)))  # fmt: skip
    through: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    end = time.monotonic() + 4.0
    while time.monotonic() < end:
        for client in clients.values():
            client.send_frame(frame)
        good.send_frame(frame)
        good.send_frame(pressure)
        for item in subscriber.receive_frames(50):
            through[item.sender or "nobody"] += 1
            event = intake.take(item)
            if event is not None and isinstance(event.message, Malformed):
                kinds[event.message.kind] += 1
            intake.release(now_ns())
    noticed = {name: client.refused() is not None for name, client in clients.items()}
    good.send_frame(b"x" * (MAX_FRAME_BYTES + 1))
    time.sleep(0.5)
    oversized = sum(len(item.data) > MAX_FRAME_BYTES for item in subscriber.receive_frames(200))
    for client in (*clients.values(), good):
        client.close()
    subscriber.close()
    counted = dict(security.gatekeeper.refused)
    security.close()
    console.print("refusals", through, kinds, noticed, counted)
    wrong = sum(count for name, count in through.items() if name != "tracker")
    return {
        "let_through": wrong + oversized,
        "unnoticed_by_client": sum(not seen for seen in noticed.values()),
        "uncounted_by_twin": (counted.get("unknown key", 0) == 0) + (counted.get("no role for devices", 0) == 0),
        "forbidden": kinds["forbidden"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter faults, 20,000 malformed messages")
    parser.add_argument("--send", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    parser.add_argument("--errors", default="{}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        return send_devices(arguments.send, arguments.seconds, LinkErrors(**json.loads(arguments.errors)), os.getpid())
    quick = arguments.quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links = bad_links(folder, 10.0 if quick else 60.0)
        killed = killed_publisher(folder)
        split = split_network(folder, 4.0 if quick else 10.0)
        stalled = stalled_viewer(folder, 5.0)
        refused = refusals(folder)
    count = 20_000 if quick else 1_000_000
    bad = malformed(count)
    alive = all(item["alive"] for item in (links, killed, split, stalled))
    ms = lambda seconds: None if seconds is None else seconds * 1e3  # noqa: E731
    figures = {
        "session_lives": figure(float(alive), "== 1", "1"),
        "arrived_but_unrecorded": figure(links["unrecorded"], "== 0", "messages"),
        "loss_count_error": figure(links["loss_error"], "<= 0.02", "1"),
        "duplicate_count_error": figure(links["duplicates_error"], "<= 0.02", "1"),
        "killed_publisher_flagged": figure(ms(killed["flagged_s"]), "<= 200", "ms"),
        "lost_tool_invalid": figure(ms(killed["invalid_s"]), "<= 500", "ms"),
        "restarted_publisher_recovered": figure(killed["recovered_s"], "<= 1", "s"),
        "split_flagged": figure(ms(split["flagged_s"]), "<= 200", "ms"),
        "split_recovered": figure(split["recovered_s"], "<= 1", "s"),
        "split_lost": figure(split["lost"], "== 0", "messages"),
        "split_silently_lost": figure(split["silently_lost"], "== 0", "messages"),
        "stalled_viewer_recovered": figure(stalled["recovered_s"], "<= 1", "s"),
        "states_while_a_viewer_stalls": figure(stalled["states_hz"], ">= 90", "Hz"),
        "malformed_uncounted": figure(bad["uncounted"], "== 0", "messages"),
        "malformed_memory_growth": figure(bad["memory_growth_mb"], "<= 20", "MB"),
        "refused_let_through": figure(refused["let_through"], "== 0", "messages"),
        "refused_unnoticed": figure(refused["unnoticed_by_client"] + refused["uncounted_by_twin"], "== 0", "1"),
        "wrong_role_messages_refused": figure(refused["forbidden"], ">= 1", "messages"),
    }
    print(json.dumps({"benchmark": "streams_faults", "malformed": count, "figures": figures}))


if __name__ == "__main__":
    main()
