"""The pace of a replay: real, scaled or full speed, from any time, with pause and step.

What happened before the chosen time goes through at full speed: the session's state depends on it.
"""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable
from types import TracebackType

from surgical_twin.errors import InputError

KEYS = "space: pause or go on   .: to the next state   + -: faster, slower   q: end"

LOOK_S = 0.05
"""How often the keys are looked at while waiting."""

REAL, FULL = "real", "full"


def read_speed(text: str) -> float | None:
    """Times real time; None for as fast as possible.

    Raises:
        InputError: it is no speed.
    """
    if text == FULL:
        return None
    try:
        speed = 1.0 if text == REAL else float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < 1e6:
        raise InputError(f'--speed "{text}" is no speed; write real, full, or a factor such as 0.5 or 4.')
    return speed


class Keyboard:
    """Single keys from the terminal, without waiting for the end of a line; none where there is no terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._saved: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> "Keyboard":
        if self._terminal is not None:
            self._saved = termios.tcgetattr(self._terminal)
            tty.setcbreak(self._terminal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal is not None and self._saved is not None:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._saved)

    @property
    def there(self) -> bool:
        """Whether there is a terminal to read from."""
        return self._terminal is not None

    def read(self, wait_s: float = 0.0) -> str:
        """The keys that were pressed; waits for one at most this long."""
        if self._terminal is None:
            if wait_s > 0:
                time.sleep(wait_s)
            return ""
        ready, _, _ = select.select([self._terminal], [], [], wait_s)
        return os.read(self._terminal, 64).decode(errors="replace") if ready else ""


class Pace:
    """Holds a replay back until each event is due.

    Args:
        speed: times real time; None for as fast as possible.
        begin_s: before this time since the beginning everything goes at full speed.
        paused: begin with a pause, there.
        read_keys: gives the keys pressed so far, waiting at most the given time [s]; none where it is None.
        clock: a monotonic clock [s].
    """

    def __init__(
        self,
        speed: float | None,
        *,
        begin_s: float = 0.0,
        paused: bool = False,
        read_keys: Callable[[float], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.speed = speed
        self.begin_s = begin_s
        self.paused = paused
        self.ended = False
        self._read_keys = read_keys
        self._clock = clock
        self._anchor: tuple[float, float] | None = None
        """A time of the recording and the clock's time at which it was due."""
        self._stepping = False
        self._due_s = begin_s

    def reached(self, time_s: float) -> bool:
        """Whether a time since the beginning is at or past the chosen one."""
        return time_s >= self.begin_s

    def wait(self, time_s: float) -> bool:
        """Wait until an event of a time since the beginning is due; False where the replay is to end."""
        if not self.reached(time_s):
            return True
        if self._anchor is None:
            self._anchor = (time_s, self._clock())
        while True:
            remaining = self._remaining(time_s)
            if self._read_keys is not None and (remaining > 0 or self.speed is not None or self.paused):
                self._press(self._read_keys(max(0.0, min(remaining, LOOK_S))), time_s)
            elif remaining > 0:
                time.sleep(remaining)
            if self.ended:
                return False
            if self._stepping or self._remaining(time_s) <= 0:
                return True

    def showed_state(self) -> None:
        """A state was published: a step ends here."""
        if self._stepping:
            self._stepping = False
            self._anchor = (self._due_s, self._clock())

    def _remaining(self, time_s: float) -> float:
        self._due_s = time_s
        if self._stepping:
            return 0.0
        if self.paused:
            return LOOK_S
        if self.speed is None:
            return 0.0
        return (time_s - self._position()) / self.speed

    def _position(self) -> float:
        """The time of the recording that is now."""
        if self._anchor is None:
            return self._due_s
        if self.paused or self.speed is None:
            return self._anchor[0]
        return self._anchor[0] + (self._clock() - self._anchor[1]) * self.speed

    def _press(self, keys: str, time_s: float) -> None:
        for key in keys:
            # From here on the clock counts anew.
            self._anchor = (min(self._position(), time_s), self._clock())
            if key == "q":
                self.ended = True
            elif key == " ":
                self.paused = not self.paused
            elif key == ".":
                self._stepping, self.paused = True, True
            elif key in "+-" and self.speed is not None:
                self.speed *= 2.0 if key == "+" else 0.5
