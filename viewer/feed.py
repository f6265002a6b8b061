"""Bringing states to the scene, and noticing when they stop coming."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from viewer.alerts import REPLAY, doubts
from viewer.errors import InputError
from viewer.scene import Scene

if TYPE_CHECKING:
    from streams.messages import TwinState

log = logging.getLogger(__name__)

STALE_AFTER_S = 1.0
"""Silence after which the picture is marked as not trusted: a dozen states late at the twin's slowest useful
pace."""


class Feed:
    """Polls a source of states for a window or page that redraws at its own pace.

    Args:
        scene: what shows them.
        next_state: returns the newest state not returned before, or None if there is none; must not block.
        stale_after_s: silence in seconds after which the scene says so.
        clock: seconds from any origin, never going back.
    """

    def __init__(
        self,
        scene: Scene,
        next_state: Callable[[], TwinState | None],
        *,
        stale_after_s: float = STALE_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not stale_after_s > 0.0:
            raise InputError(f"the time to silence is {stale_after_s:g} s; give a positive number of seconds.")
        self._scene = scene
        self._next_state = next_state
        self._stale_after_s = stale_after_s
        self._clock = clock
        self._heard = clock()
        self._state: TwinState | None = None
        self._problem: str | None = None

    @property
    def status(self) -> str:
        """One line for a status bar."""
        silent = self._clock() - self._heard
        if self._state is None:
            return f"waiting for the twin ({silent:.0f} s)"
        if silent > self._stale_after_s:
            return f"the twin has been silent for {silent:.1f} s"
        if self._problem is not None:
            return self._problem
        if doubts(self._state.flags):
            return f"state {self._state.sequence}: not trusted"
        return f"state {self._state.sequence}: {'replay' if REPLAY in self._state.flags else 'live'}"

    def poll(self) -> bool:
        """Take the newest state into the scene; whether the picture changed."""
        state = self._next_state()
        now = self._clock()
        if state is not None:
            self._heard, self._state = now, state
            try:
                self._scene.update(state)
                self._problem = None
            except InputError as error:
                # A state that cannot be shown must not end the display in the middle of a procedure.
                if self._problem is None:
                    log.error("%s", error)
                self._problem = str(error)
                self._scene.show_problem(self._problem)
            return True
        silent = now - self._heard
        if silent > self._stale_after_s:
            self._scene.show_silence(silent)
            return True
        return False
