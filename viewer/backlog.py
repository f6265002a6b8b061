"""What is on its way to browsers that do not keep up: nothing more is sent then, and one that takes nothing is let go.

Messages to all browsers of a page go one after the other. Without this a browser that stalls (a tablet out of reach)
would keep the picture from all others, and the pictures that it does not take would fill this machine's memory.
"""

from __future__ import annotations

import logging
import time
import weakref
from asyncio import WriteTransport
from collections.abc import Callable
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)

LONGEST_S = 5.0
"""A browser that has taken nothing for so long is let go; its page says that it lost the connection."""


class Backlog:
    """The messages of a page's server.

    Args:
        server: trame's, before it is started.
        clock: seconds, never going back.
    """

    def __init__(self, server: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._server, self._clock = server, clock
        self._since: float | None = None
        self._transports: weakref.WeakSet[WriteTransport] = weakref.WeakSet()
        server.controller.on_server_bind.add(lambda bound: bound.app.on_response_prepare.append(self._see))

    async def _see(self, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.WebSocketResponse) and isinstance(request.transport, WriteTransport):
            self._transports.add(request.transport)

    def holds(self) -> bool:
        """Whether messages are on their way still; ask often."""
        monitor = self._server.context.network_monitor
        if monitor is None or not monitor.pending:
            self._since = None
            return False
        now = self._clock()
        if self._since is None:
            self._since = now
        if now - self._since > LONGEST_S:
            self._since = now
            for transport in [one for one in self._transports if one.get_write_buffer_size()]:
                log.warning("a browser has taken nothing for %.0f s and is let go", LONGEST_S)
                transport.abort()
        return True
