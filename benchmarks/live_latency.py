"""How old a pose is when it is shown and how soon a pressure sample is assimilated, in a live session under load.

The twin runs in a process of its own, as `surgical-twin live` does, with 128 ensemble members and a recording; another
process sends a tracked catheter at 120 Hz, its pressure at 1 kHz and a flow probe in real time over ZeroMQ. Latencies
are the session's own: from the time that its receiving thread stamped on a message. Then the session's process is
killed, and the time without a state is taken by a client. For memory, a long procedure is folded and recorded as fast
as it goes.

The case is the phantom planned up to the estimate from the anatomy, or one given with `--case`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import typer

from streams.events import event_from_frame
from streams.messages import TwinState
from streams.recorder import Recorder
from streams.session_clock import now_ns
from streams.sockets import Publisher, Subscriber
from streams.wire import pack, unpack
from surgical_twin.assimilation.flow_filter import FlowFilter
from surgical_twin.case import AXIS, Case
from surgical_twin.latency_budget import events_of
from surgical_twin.live import Endpoints, LiveLoop
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.standard_load import LoadSettings, read_stations, standard_load
from surgical_twin.warm_up import warm_up
from surgical_twin.watchdog import Pulse, watched

MEMBERS = 128
START_S = 60.0
KNOWN = 100
"""Observations before the kill."""
PIECE_S = 10.0
"""Of the long procedure; the memory is looked at after each."""
FEWEST_PIECES = 8


def free_endpoint() -> str:
    """An address on this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def session_model(case: Path) -> SessionModel:
    """The case with the benchmark's ensemble."""
    model = SessionModel.load(Case.open(case))
    known = model.filter
    settings = replace(known.settings, members=MEMBERS)
    return replace(model, filter=FlowFilter(known.model, known.waveform, known.planned, settings))


def run_twin(case: Path, folder: Path, devices: str, states: str) -> None:
    """The twin's process: the live loop under its watchdog, with a report in the end."""
    model = session_model(case)
    warm_up(model)
    pulse = Pulse()
    try:
        before = watched(pulse, lambda text: print(text, file=sys.stderr))
    except typer.Exit as end:
        sys.exit(end.exit_code)
    record = folder / "procedure.mcap"
    loop = LiveLoop(
        model, seed=0, endpoints=Endpoints(devices, states), record=record, case=str(case), go_on=before > 0
    )
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    report = loop.run(None, pulse.beat)
    (folder / f"report{before}.json").write_text(json.dumps(report.summary()))


def send(case: Path, devices: str, seconds: float) -> None:
    """The devices' process: the standard load in real time."""
    model = SessionModel.load(Case.open(case))
    publisher = Publisher(devices, bind=False)
    time.sleep(0.5)
    begin = now_ns()
    for message in standard_load(model, read_stations(case / AXIS), LoadSettings(), begin, seconds):
        ahead = message.source_time_ns - now_ns()
        if ahead > 0:
            time.sleep(ahead * 1e-9)
        publisher.send(message)
    time.sleep(0.3)
    publisher.close()


def states_until(listener: Subscriber, end: float) -> list[tuple[float, TwinState]]:
    """When each state came, and the state."""
    found = []
    while time.monotonic() < end:
        for _, frame in listener.receive(timeout_ms=20):
            state = unpack(frame)
            if isinstance(state, TwinState):
                found.append((time.monotonic(), state))
    return found


def live(case: Path, seconds: float) -> dict[str, Any]:
    """Run the session under load, twice: undisturbed, and killed in the middle."""
    figures: dict[str, Any] = {}
    for killed in (False, True):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            devices, states = free_endpoint(), free_endpoint()
            own = [sys.executable, __file__, "--case", str(case), "--sockets", devices, states]
            twin = subprocess.Popen([*own, "--twin", made])
            listener = Subscriber(states, bind=False, topics=("twin",))
            try:
                deadline = time.monotonic() + START_S
                while not states_until(listener, time.monotonic() + 0.2):
                    if time.monotonic() > deadline or twin.poll() is not None:
                        raise SystemExit("the twin did not start")
                with subprocess.Popen([*own, "--send", str(10.0 if killed else seconds)]) as sender:
                    if killed:
                        figures |= recovery(twin, listener)
                    sender.wait()
                twin.terminate()
                twin.wait(timeout=60)
            finally:
                twin.kill()
                listener.close()
            if not killed:
                figures |= latencies(json.loads((folder / "report0.json").read_text()))
    return figures


def latencies(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of an undisturbed session."""
    counters = report["counters"]
    dropped = sum(
        counters.get(name, 0) for name in ("lost", "overflow", "rate_limited", "superseded", "thinned", "late")
    )
    return {
        "pose_shown_p50": {"value": report["pose_latency_median_ms"], "goal": "<= 1", "unit": "ms"},
        "pose_shown_p99": {"value": report["pose_latency_p99_ms"], "goal": "<= 5", "unit": "ms"},
        "pressure_assimilated_p99": {"value": report["observation_latency_p99_ms"], "goal": "<= 10", "unit": "ms"},
        "dropped": {"value": dropped, "goal": "== 0", "unit": "messages"},
    }


def recovery(twin: subprocess.Popen[bytes], listener: Subscriber) -> dict[str, Any]:
    """Kill the session's process, and see how long no state comes and whether it knows what it knew."""
    deadline, known = time.monotonic() + START_S, 0
    while known < KNOWN:
        if time.monotonic() > deadline:
            raise SystemExit(f"the twin did not assimilate {KNOWN} observations")
        for _, state in states_until(listener, time.monotonic() + 0.5):
            known = state.counters.get("assimilated", 0)
            sequence = state.sequence
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(twin.pid)], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    begin = time.monotonic()
    after = [(at, state) for at, state in states_until(listener, begin + 5.0) if state.sequence > sequence + 5]
    restarted = [(at, state) for at, state in after if "restarted" in state.flags]
    if not restarted:
        return {"restart": {"value": None, "goal": "<= 2", "unit": "s", "why": "no state came after the kill"}}
    at, state = restarted[0]
    # Of the last tenth of a second something may be lost; all that was recorded has to be in.
    intact = state.registered and state.counters["assimilated"] >= known - 10
    return {
        "restart": {"value": at - begin, "goal": "<= 2", "unit": "s"},
        "state_intact": {"value": int(intact), "goal": "== 1", "unit": "yes"},
    }


def memory(case: Path, minutes: float) -> dict[str, Any]:
    """Fold and record a long procedure, and see by how much the memory grows after its first third."""
    model = session_model(case)
    stations = read_stations(case / AXIS)
    session, state = Session(model), SessionState()
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "long.mcap", metadata={})
        index, resident = 0, []
        for piece in range(round(minutes * 60.0 / PIECE_S)):
            begin_ns = 10**18 + round(piece * PIECE_S * 1e9)
            load = standard_load(model, stations, LoadSettings(), begin_ns, PIECE_S)
            for event in events_of(load, 0, model.case_hash):
                if piece and event.message.__class__.__name__ == "SessionStart":
                    continue
                numbered = event_from_frame(index, event.receive_time_ns, event.frame)
                index += 1
                recorder.record_event(numbered)
                state, outputs = session.step(state, numbered)
                for output in outputs:
                    recorder.record_state(pack(output), output.source_time_ns)
            while recorder.waiting_bytes:
                time.sleep(0.01)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        recorder.close()
    later = np.array(resident[len(resident) // 3 :])
    figure: dict[str, Any] = {"value": None, "goal": "<= 20", "unit": f"MB an hour, over {minutes:g} min"}
    if len(later) < FEWEST_PIECES:
        figure["why"] = f"the procedure has fewer than {FEWEST_PIECES} pieces of {PIECE_S:g} s after its first third"
    else:
        figure["value"] = float(np.polyfit(np.arange(len(later)), later, 1)[0]) * 3600.0 / PIECE_S
    return {
        "memory_growth": figure,
        "left_out_of_recording": {"value": recorder.left_out, "goal": "== 0", "unit": "events and states"},
    }


def main() -> None:
    """Plan, measure, print; or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 s live and 2 min for memory, for 60 s and an hour")
    parser.add_argument("--minutes", type=float, help="of the long procedure")
    parser.add_argument("--only", choices=("live", "memory"), help="one of the two parts")
    parser.add_argument("--case", type=Path, help="a planned case instead of the phantom")
    parser.add_argument("--twin", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--send", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--sockets", nargs=2, default=("", ""), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.twin is not None:
        run_twin(options.case, options.twin, *options.sockets)
        return
    if options.send is not None:
        send(options.case, options.sockets[0], options.send)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.case
        if path is None:
            # These load MPI, which does not outlive a fork: the twin's processes must not.
            from meshes.phantom import stenosed_bifurcation
            from surgical_twin.commands.planning import plan_case
            from surgical_twin.demo import phantom_request

            path = Path(folder) / "case"
            plan_case(phantom_request(stenosed_bifurcation(seed=0), Path(folder)), path, until="estimate")
        figures: dict[str, Any] = {}
        if options.only != "memory":
            figures |= live(path.resolve(), 20.0 if options.quick else 60.0)
        if options.only != "live":
            figures |= memory(path, options.minutes or (2.0 if options.quick else 60.0))
    print(json.dumps({"benchmark": "live_latency", "figures": figures}))


if __name__ == "__main__":
    main()
