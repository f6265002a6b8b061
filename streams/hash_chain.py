"""A chain of hashes over everything that a recording holds, in the order it was written.

Each entry (an event or a state, with its times, number and channel) has a digest of 16 bytes, and the chain's
head takes each digest in turn:

    head_n = BLAKE2b(head_(n-1) | digest_n)

A *seal* written with each chunk lists the digests since the last one and the head they lead to. So a reader finds the
first entry that was changed, added or taken out, and not only that something was. Who can write the file can also write
it anew with another chain: the last head belongs into the audit log, outside of the file.
"""

import hashlib
import struct
from dataclasses import dataclass, field

import msgspec

DIGEST_BYTES = 16
HEAD_BYTES = 32
GENESIS = bytes(HEAD_BYTES)

STATES = "twin"
"""The channel of the twin's states."""

SMALL = 4096
"""Shorter data are joined rather than hashed in two steps."""

_times = struct.Struct("<QQI")


class Seal(msgspec.Struct, frozen=True):
    """The chain since the last seal."""

    first: int
    """Number of the first entry that this seal covers, from 0."""
    digests: bytes
    """16 bytes for each entry"""
    head: bytes
    """The chain's head after the last of them."""


def digest_prefix(channel: str, kind: str) -> bytes:
    """What the digests of all entries of a channel have in common.

    Args:
        channel: its topic.
        kind: its schema and, where it has any, its marks (late, superseded, why malformed).
    """
    return channel.encode() + b"\0" + kind.encode() + b"\0"


def entry_digest(prefix: bytes, data: bytes, *, log_time: int, publish_time: int, sequence: int) -> bytes:
    """The digest of one entry.

    Args:
        prefix: of its channel, see `digest_prefix`.
        data: its payload.
        log_time: when it arrived, ns.
        publish_time: the source's time by the session's clock, ns.
        sequence: its number.
    """
    head = _times.pack(log_time, publish_time, sequence & 0xFFFFFFFF) + prefix
    if len(data) < SMALL:
        return hashlib.blake2b(head + data, digest_size=DIGEST_BYTES).digest()
    digest = hashlib.blake2b(head, digest_size=DIGEST_BYTES)
    digest.update(data)
    return digest.digest()


@dataclass
class HashChain:
    """The chain while it is written."""

    head: bytes = GENESIS
    length: int = 0
    _unsealed: bytearray = field(default_factory=bytearray)

    def add(self, digest: bytes) -> None:
        """Take the next entry's digest."""
        self.head = hashlib.blake2b(self.head + digest, digest_size=HEAD_BYTES).digest()
        self.length += 1
        self._unsealed += digest

    def seal(self) -> Seal | None:
        """What has come since the last seal; None where nothing has."""
        if not self._unsealed:
            return None
        count = len(self._unsealed) // DIGEST_BYTES
        seal = Seal(first=self.length - count, digests=bytes(self._unsealed), head=self.head)
        self._unsealed.clear()
        return seal


@dataclass
class ChainCheck:
    """Follows a chain while its recording is read.

    Attributes:
        sealed: entries that are vouched for by a seal.
        fault: the first entry that does not fit, in words; None while all do.
        fault_entry: its number.
    """

    sealed: int = 0
    fault: str | None = None
    fault_entry: int | None = None
    head: bytes = GENESIS
    _pending: list[tuple[bytes, str, int]] = field(default_factory=list)

    @property
    def unsealed(self) -> int:
        """Entries since the last seal."""
        return len(self._pending)

    def add(self, digest: bytes, channel: str, sequence: int) -> None:
        """Take an entry as it was read, with what it is called in a sentence: its channel and number."""
        if self.fault is None:
            self._pending.append((digest, channel, sequence))

    def _name(self, place: int) -> str:
        _, channel, sequence = self._pending[place]
        return f"{'state' if channel == STATES else 'event'} {sequence} ({channel})"

    def take(self, seal: Seal) -> None:
        """Compare what was read with a seal."""
        if self.fault is not None:
            return
        waiting = b"".join([digest for digest, _, _ in self._pending])
        if seal.first == self.sealed and waiting == seal.digests and self._follow(seal):
            return
        written = [seal.digests[at : at + DIGEST_BYTES] for at in range(0, len(seal.digests), DIGEST_BYTES)]
        if seal.first != self.sealed:
            self._fail(self.sealed, f"entries {self.sealed} to {seal.first} have been taken out or moved")
            return
        for number, expected in enumerate(written):
            if number >= len(self._pending):
                self._fail(self.sealed + number, f"entry {self.sealed + number} has been taken out")
                return
            digest = self._pending[number][0]
            if digest != expected:
                later = digest in written[number + 1 :]
                what = "was preceded by an entry that has been taken out" if later else "is not as it was recorded"
                self._fail(self.sealed + number, f"{self._name(number)} {what}")
                return
        if len(self._pending) > len(written):
            self._fail(self.sealed + len(written), f"{self._name(len(written))} was added afterwards")
            return
        self._fail(self.sealed, f"the chain is broken between entries {self.sealed} and {self.sealed + len(written)}")

    def _follow(self, seal: Seal) -> bool:
        """Go on to a seal over what was read; False where it does not lead to the seal's head."""
        head = self.head
        for digest, _, _ in self._pending:
            head = hashlib.blake2b(head + digest, digest_size=HEAD_BYTES).digest()
        if head != seal.head:
            return False
        self.head = head
        self.sealed += len(self._pending)
        self._pending.clear()
        return True

    def _fail(self, entry: int, fault: str) -> None:
        self.fault, self.fault_entry = fault, entry
        self._pending.clear()
