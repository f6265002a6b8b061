"""Who was not let in at the twin's sockets: counted for the session, and told to the log and the audit log.

What comes with a key is the gatekeeper's to judge and to tell (`streams.security`). Who comes without one, or with a
wrong key of the twin, fails in the handshake before that, and only the socket's monitor notices.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streams.security import ServerSecurity
from streams.sockets import Monitor

AT_MOST_EVERY_S = 5.0
"""Between two notes: whoever tries on and on does not fill the disk."""

log = logging.getLogger(__name__)


@dataclass
class RefusalWatch:
    """Watches the monitors of all of the twin's sockets."""

    monitors: Sequence[Monitor]
    security: ServerSecurity | None
    note: Callable[..., None]
    """takes what happened and its details, for the audit log"""
    _noted: Counter[str] = field(default_factory=Counter)
    _due_s: float = 0.0

    def count(self) -> int:
        """All attempts so far that failed; notes those without keys."""
        for monitor in self.monitors:
            monitor.look()
        without = self._without_keys()
        now = time.monotonic()
        if without != self._noted and now >= self._due_s:
            self._due_s = now + AT_MOST_EVERY_S
            self._tell(without)
        return sum(monitor.refused for monitor in self.monitors)

    def close(self) -> dict[str, int]:
        """Note what has not been noted; all attempts that failed, by reason."""
        total = self.count()
        self._tell(self._without_keys())
        if self.security is None:
            return {"handshake failed": total} if total else {}
        return dict(self.security.gatekeeper.refused + self._noted)

    def _without_keys(self) -> Counter[str]:
        if self.security is None:
            return Counter()
        return sum((monitor.without_keys() for monitor in self.monitors), Counter())

    def _tell(self, without: Counter[str]) -> None:
        for reason, attempts in (without - self._noted).items():
            log.warning("%d attempts to connect were refused: %s", attempts, reason)
            self.note("client refused", attempts=attempts, why=reason)
        self._noted = without
