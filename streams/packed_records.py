"""Many small records that are kept until the end, in little memory: encoded, and compressed a few hundred at a time.

Records of one kind differ from one another in few bytes, so that compressed together they take a quarter or less.
"""

import zlib
from collections.abc import Iterator

BLOCK_BYTES = 65_536


class PackedRecords:
    """An append-only list of encoded records."""

    def __init__(self) -> None:
        self._count = 0
        self._blocks: list[bytes] = []
        self._open = bytearray()

    def __len__(self) -> int:
        return self._count

    def add(self, record: bytes) -> None:
        """Keep a record behind the others."""
        self._count += 1
        self._open += record
        if len(self._open) > BLOCK_BYTES:
            self._blocks.append(zlib.compress(self._open))
            self._open.clear()

    def blocks(self) -> Iterator[bytes]:
        """All records in their order, many at once, one behind the other."""
        for block in self._blocks:
            yield zlib.decompress(block)
        if self._open:
            yield bytes(self._open)
