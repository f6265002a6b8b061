"""The watchdog: a process that does nothing but start the session's again when that dies or hangs.

The watching process has read the case and loaded everything before it forks, so that a session that takes over needs no
time for that: it begins with the model in memory, the last checkpoint and the end of the recording. The watching
process holds no socket, no thread and no part of the session.
"""

import ctypes
import mmap
import os
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

import typer

from surgical_twin.errors import InputError

LOOK_S = 0.02
"""How often the session's process is looked at."""

HANGS_S = 5.0
"""A session whose loop has not gone round for so long hangs."""

ENDS_S = 60.0
"""A session that is over may take so long to write what is left and say what it did."""

STARTS_S = 60.0
"""It may take so long to go round for the first time."""

MOST_RESTARTS = 5
RESTARTS_WITHIN_S = 60.0
"""A session that ends more often within this time is not started again: what ends it is still there."""

PR_SET_PDEATHSIG = 1

_time = struct.Struct("<q?")
"""when the loop last went round, and whether the session is over"""


class Pulse:
    """When the session's loop last went round, in memory that both processes see."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _time.size)

    def beat(self) -> None:
        """The loop has gone round."""
        self._memory[:] = _time.pack(time.monotonic_ns(), False)

    def over(self) -> None:
        """The loop has ended in good order, and goes round no more."""
        self._memory[:] = _time.pack(time.monotonic_ns(), True)

    def clear(self) -> None:
        """Another process begins."""
        self._memory[:] = _time.pack(0, False)

    @property
    def last_ns(self) -> int:
        """By the monotonic clock; 0 where it has not gone round yet."""
        found: int = _time.unpack(self._memory[:])[0]
        return found

    @property
    def is_over(self) -> bool:
        """Whether the loop has ended in good order."""
        return bool(_time.unpack(self._memory[:])[1])


def watched(pulse: Pulse, say: Callable[[str], None]) -> int:
    """Fork: returns in the process that is to run the session, with how many were before it.

    The watching process does not return from here: it ends with the session's exit status. A session that a signal
    killed or that hangs is started again; one that ends by itself, in good order or not, is over.

    Args:
        pulse: the session has to keep it beating.
        say: tells the person at the terminal what happened.

    Raises:
        typer.Exit: in the watching process, at the end.
        InputError: in the watching process, where the session ended again and again.
    """
    restarts: deque[float] = deque(maxlen=MOST_RESTARTS + 1)
    number = 0
    while True:
        pulse.clear()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _end_with(parent)
            return number
        status = _watch(child, pulse, say)
        if status >= 0:
            raise typer.Exit(status)
        number += 1
        restarts.append(time.monotonic())
        if len(restarts) > MOST_RESTARTS and restarts[-1] - restarts[0] < RESTARTS_WITHIN_S:
            raise InputError(
                f"The session ended {len(restarts)} times within {RESTARTS_WITHIN_S:g} s and is not started again; "
                "look at what the log says, and go on with --resume."
            )
        say(f"The session's process was ended by {signal.Signals(-status).name}; it goes on in a new one.")


def _watch(child: int, pulse: Pulse, say: Callable[[str], None]) -> int:
    """Wait for a session's end: its exit status, or the negative of the signal that ended it."""
    asked: list[int] = []

    def forward(number: int, _: object) -> None:
        asked.append(number)
        os.kill(child, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    begun = time.monotonic()
    try:
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                # What a person ended is not begun again, however it took that.
                return 128 - code if code < 0 and asked else code
            last_ns = pulse.last_ns
            silent_s = (time.monotonic_ns() - last_ns) * 1e-9 if last_ns else 0.0
            if silent_s > (ENDS_S if pulse.is_over else HANGS_S) or (
                not last_ns and time.monotonic() - begun > STARTS_S
            ):
                say(f"The session has hung for {silent_s or STARTS_S:.0f} s and is ended.")
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return -signal.SIGKILL
            time.sleep(LOOK_S)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with(parent: int) -> None:
    """Have this process killed when the watching one ends: two sessions must not want the same sockets."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
