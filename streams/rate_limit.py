"""How much one sender may say: a bucket of tokens that fills steadily and is emptied by what comes."""

from dataclasses import dataclass, field

MESSAGES_PER_S = 20_000.0
BYTES_PER_S = 150e6
BURST_S = 5.0
"""A sender whose network was away for this long may catch up at once."""

MOST_SENDERS = 1024


@dataclass
class TokenBucket:
    """Two allowances, of messages and of bytes; a message needs both."""

    messages_per_s: float = MESSAGES_PER_S
    bytes_per_s: float = BYTES_PER_S
    burst_s: float = BURST_S
    _messages: float = field(init=False)
    _bytes: float = field(init=False)
    _last_ns: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._messages, self._bytes = self.messages_per_s * self.burst_s, self.bytes_per_s * self.burst_s

    def allows(self, now_ns: int, size: int, messages: int = 1) -> bool:
        """Whether messages of this many bytes together are within the limits; if so they are taken off."""
        if self._last_ns:
            passed = max(0, now_ns - self._last_ns) * 1e-9
            self._messages = min(self._messages + passed * self.messages_per_s, self.messages_per_s * self.burst_s)
            self._bytes = min(self._bytes + passed * self.bytes_per_s, self.bytes_per_s * self.burst_s)
        self._last_ns = max(now_ns, self._last_ns)
        if self._messages < messages or self._bytes < size:
            return False
        self._messages -= messages
        self._bytes -= size
        return True
