"""Hearing the twin: the newest of its states, whenever the display has time for one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

from streams.errors import MalformedMessage
from streams.messages import TwinState
from streams.security import ClientSecurity
from streams.sockets import Subscriber
from streams.wire import unpack

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5591"


class StateListener:
    """Polls the twin's states without a thread of its own.

    A display slower than the twin must not lag behind it: older states waiting in the queue are skipped,
    since each state is complete in itself. `skipped` counts them.

    Args:
        endpoint: where the twin publishes its states.
        security: keys, where the twin wants them.
        every: called with each state, those that are skipped as well: a curve in time needs them all.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        security: ClientSecurity | None = None,
        every: Callable[[TwinState], None] | None = None,
    ) -> None:
        self._subscriber = Subscriber(endpoint, bind=False, topics=("twin",), security=security)
        self.skipped = 0
        self.every = every

    def poll(self) -> TwinState | None:
        """The newest state that has not been returned yet, or None; does not block."""
        newest: TwinState | None = None
        for _, frame in self._subscriber.receive():
            try:
                message = unpack(frame)
            except MalformedMessage as error:
                # A bad frame must not end the display; the next one is a hundredth of a second away.
                log.warning("a frame of the twin cannot be read: %s", error)
                continue
            if isinstance(message, TwinState):
                self.skipped += newest is not None
                newest = message
                if self.every is not None:
                    self.every(message)
        return newest

    def close(self) -> None:
        """Disconnect."""
        self._subscriber.close()

    def __enter__(self) -> StateListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
