"""A recording's states played as if they were live: time, speed, pause, jumps and bookmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from viewer.alerts import REPLAY
from viewer.errors import InputError

if TYPE_CHECKING:
    from streams.messages import TwinState

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 10.0)

BEFORE_S = 4.0
"""After a jump so many seconds before it are remembered, so that curves and means are there at once."""


class Player:
    """Hands out the state of the moment, each with the flag that it is a replay.

    Args:
        states: of one session, in the order of time.
        every: called with each state that goes by, those that are skipped as well.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        states: Sequence[TwinState],
        *,
        every: Callable[[TwinState], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not states:
            raise InputError("the recording holds no states of the twin; replay one of a live session.")
        self._states = [
            one if REPLAY in one.flags else msgspec.structs.replace(one, flags=(*one.flags, REPLAY)) for one in states
        ]
        first = states[0].source_time_ns
        self._times = np.array([(one.source_time_ns - first) * 1e-9 for one in states])
        if (np.diff(self._times) < 0.0).any():
            raise InputError("the recording's states are not in the order of time.")
        self.every = every
        self._clock = clock
        self._position, self._since = 0.0, clock()
        self._speed, self._paused = 1.0, False
        self._shown: int | None = None
        self.bookmarks: list[float] = []

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last state."""
        return float(self._times[-1])

    @property
    def position_s(self) -> float:
        """Seconds after the first state, now."""
        if self._paused:
            return self._position
        return min(self._position + self._speed * (self._clock() - self._since), self.duration_s)

    @property
    def paused(self) -> bool:
        """Whether a person has stopped it, or it is at its end."""
        return self._paused or self.position_s >= self.duration_s

    @property
    def speed(self) -> float:
        """Seconds of the procedure in a second."""
        return self._speed

    def play(self) -> None:
        """Go on; from the beginning where it is at its end."""
        at = self.position_s
        self._paused = False
        self._position, self._since = (0.0 if at >= self.duration_s else at), self._clock()
        if self._position == 0.0:
            self.seek(0.0)

    def pause(self) -> None:
        """Stand still."""
        self._position, self._paused = self.position_s, True

    def run_at(self, speed: float) -> None:
        """Change the speed from here on."""
        if not 0.01 <= speed <= 100.0:
            raise InputError(f"a replay at {speed:g} times the speed is none; give 0.01 to 100.")
        self._position, self._since, self._speed = self.position_s, self._clock(), speed

    def seek(self, seconds: float) -> None:
        """Jump to a time, within the recording."""
        self._position = float(np.clip(seconds, 0.0, self.duration_s))
        self._since, self._shown = self._clock(), None

    def bookmark(self) -> float:
        """Remember this time; returns it."""
        at = round(self.position_s, 1)
        if at not in self.bookmarks:
            self.bookmarks = sorted([*self.bookmarks, at])
        return at

    def next_state(self) -> TwinState | None:
        """The state of this moment, unless it was returned before.

        While it stands still the moment's state is returned again and again: it is not a twin that fell silent.
        """
        now = int(np.searchsorted(self._times, self.position_s + 1e-9, side="right")) - 1
        now = max(now, 0)
        if self._shown is None:
            first = int(np.searchsorted(self._times, self._times[now] - BEFORE_S))
        elif now == self._shown:
            return self._states[now] if self.paused else None
        else:
            first = self._shown + 1
        if self.every is not None:
            for state in self._states[first:now]:
                self.every(state)
        self._shown = now
        return self._states[now]
