"""A session that dies or hangs goes on where it was: the watchdog by itself, and the command with a killed process."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from streams.messages import FiducialTouch, PressureSamples, ToolPose, Trigger, TwinState
from streams.sockets import Publisher, Subscriber
from streams.wire import unpack
from surgical_twin.case import FIDUCIALS
from surgical_twin.demo import free_endpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the watchdog forks, which this system cannot")


def watch(tmp_path, body):
    """Run a session's body under the watchdog in a process of its own: its exit status and what was said."""
    script = textwrap.dedent("""
        import os, signal, sys, time
        from surgical_twin import watchdog
        from surgical_twin.errors import InputError
        watchdog.HANGS_S = 0.5
        pulse = watchdog.Pulse()
        import typer
        try:
            number = watchdog.watched(pulse, lambda text: print(text, flush=True))
        except typer.Exit as end:
            sys.exit(end.exit_code)
        except InputError as error:
            print("error:", error, flush=True)
            sys.exit(2)
        pulse.beat()
        print("session", number, flush=True)
    """) + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_a_killed_session_is_started_again_and_its_status_is_passed_on(tmp_path):
    status, said = watch(
        tmp_path,
        """
        if number < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(3)
        """,
    )
    assert status == 3
    assert [line for line in said.splitlines() if line.startswith("session")] == [f"session {n}" for n in range(3)]
    assert said.count("SIGKILL") == 2


def test_a_session_that_hangs_is_ended_and_started_again(tmp_path):
    status, said = watch(
        tmp_path,
        """
        if number == 0:
            time.sleep(30)
        sys.exit(0)
        """,
    )
    assert status == 0
    assert "hung" in said
    assert "session 1" in said


def test_a_session_that_is_over_may_take_its_time_to_end(tmp_path):
    status, said = watch(
        tmp_path,
        """
        pulse.over()
        time.sleep(1.5)
        print("written", flush=True)
        sys.exit(0)
        """,
    )
    assert status == 0
    assert "hung" not in said
    assert "written" in said


def test_a_session_that_dies_again_and_again_is_given_up(tmp_path):
    status, said = watch(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    assert status == 2
    assert "SIGSEGV" in said
    assert "not started again" in said
    assert said.count("session ") < 10


def test_a_session_that_ends_by_itself_is_over(tmp_path):
    assert watch(tmp_path, "sys.exit(0)")[0] == 0
    status, said = watch(tmp_path, "raise ValueError('a fault')")
    assert status == 1
    assert "session 1" not in said


LOST_STATES, LOST_EVENTS = 20, 60
"""More than a tenth of a second holds."""


class Devices:
    """What sends fiducials, a heart beat and pressure, and hears the twin's states."""

    def __init__(self, devices, states):
        self.publisher = Publisher(devices, bind=False)
        self.listener = Subscriber(states, bind=False, topics=("twin",))
        self.number = 0

    def beat(self, case):
        """One round of everything, now."""
        self.number += 1
        now, number = time.time_ns(), self.number
        common = {"sequence": number, "source_time_ns": now}
        rows = [line.split(",") for line in (case / FIDUCIALS).read_text().split()[1:]]
        for fiducial, *place in rows:
            position = tuple(float(one) + 5.0 for one in place)
            self.publisher.send(
                FiducialTouch(stream="touch/" + fiducial, tool="stylus", fiducial=fiducial, position=position, **common)
            )
        if number % 8 == 1:
            self.publisher.send(Trigger(stream="ecg", kind="r_wave", **common))
        self.publisher.send(
            ToolPose(stream="pose", tool="catheter", position=(5.0, 5.0, 5.0), quaternion=(1.0, 0.0, 0.0, 0.0),
                     valid=True, **common)
        )  # fmt: skip
        self.publisher.send(
            PressureSamples(
                stream="p",
                sensor="tip",
                tool="catheter",
                sample_period_ns=10_000_000,
                values_mmhg=(90.0, 91.0),
                **common,
            )
        )

    def states(self, case, seconds):
        """The states that come in a while."""
        found = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.beat(case)
            time.sleep(0.1)
            found += [state for _, frame in self.listener.receive() if isinstance(state := unpack(frame), TwinState)]
        return found

    def until_state(self, case, after_ns=0, seconds=40.0):
        """The first states that are of a later time than this."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [state for state in self.states(case, 0.2) if state.source_time_ns > after_ns]
            if found:
                return found
        raise AssertionError("no state came")


def session_of(watcher):
    """The process that the watching one has forked."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(watcher.pid)], capture_output=True, text=True, check=True
    )
    return int(children.stdout.split()[0])


def test_a_killed_twin_goes_on_with_its_state_and_the_recording_stays_one(planned):
    devices, states = free_endpoint(), free_endpoint()
    words = ["live", "case", "--record", "killed.mcap", "--devices", devices, "--states", states]
    live = planned.start(*words)
    case = planned.folder / "case"
    room = Devices(devices, states)
    try:
        room.until_state(case)
        before = room.states(case, 2.0)[-1]
        assert before.registered
        assert before.counters["received"] > 100
        os.kill(session_of(live), signal.SIGKILL)
        after = room.until_state(case, time.time_ns())
        assert after[0].registered  # the fiducials touched before count on
        # Of the last tenth of a second something may be lost.
        assert after[0].sequence >= before.sequence - LOST_STATES
        assert after[0].counters["received"] >= before.counters["received"] - LOST_EVENTS
        assert after[0].source_time_ns - before.source_time_ns < 10_000_000_000  # mostly the machine's load
        assert any("restarted" in state.flags for state in room.states(case, 1.0))
        last = room.states(case, 0.5)[-1]

        # The whole of it killed: nothing is left but the files.
        os.kill(live.pid, signal.SIGKILL)
        live.wait(timeout=10)
        time.sleep(0.5)
        refused = planned.run(*words)
        assert refused.returncode == 2
        assert "--resume" in refused.stderr
        live = planned.start(*words, "--resume")
        again = room.until_state(case, time.time_ns())
        assert again[0].registered
        assert again[0].sequence >= last.sequence - LOST_STATES
        live.send_signal(signal.SIGINT)
        output, error = live.communicate(timeout=60)
        assert live.returncode == 0, error + output
    finally:
        if live.poll() is None:
            live.kill()
        room.publisher.close()
        room.listener.close()
    assert not list(planned.folder.glob("*.checkpoint"))  # nothing is left to go on with
    done = planned.run("replay", "killed.mcap", "--verify")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "byte-identical" in done.stdout
    counts = [int(count) for count in re.findall(r"(\d+) (?:twin states|were recorded)", done.stdout)]
    assert counts[0] == counts[1] > last.sequence - LOST_STATES
    nothing = planned.run("live", "case", "--record", "new.mcap", "--resume")
    assert nothing.returncode == 2
    assert "no session to go on with" in nothing.stderr
