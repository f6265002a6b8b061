"""Writes MCAP files with compressed, indexed chunks.

The format's own library writes each message with some thirty small writes, which took most of a recording's time. Here
a message is packed at once and a chunk is joined from its messages; all records that are not written for each message
are the library's (https://mcap.dev/spec).
"""

import struct
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import lz4.frame
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

MAGIC = b"\x89MCAP0\r\n"
COMPRESSION = "lz4"

_message = struct.Struct("<BQHIQQ")
_chunk = struct.Struct("<BQQQQII3sQ")
_index = struct.Struct("<BQHI")
_footer_head = struct.Struct("<BQQQ")

MESSAGE_HEAD = _message.size - 9
"""Bytes of a message record besides its opcode, its length and its data."""


class McapWriter:
    """Writes one file from its beginning to its end."""

    def __init__(self, stream: BinaryIO, *, chunk_bytes: int, profile: str, library: str) -> None:
        """Begin a file.

        Args:
            stream: where it goes.
            chunk_bytes: a chunk is closed when it has become longer.
            profile: says what the channels' names mean.
            library: what wrote it.
        """
        self._stream, self._chunk_bytes = stream, chunk_bytes
        self._offset = self._crc = 0
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._chunks: list[ChunkIndex] = []
        self._metadata: list[MetadataIndex] = []
        self._counts: dict[int, int] = {}
        self._parts: list[bytes] = []
        """the records of the chunk that is open"""
        self._length = 0
        self._entries: dict[int, list[int]] = {}
        """by channel: time and offset of each message of the chunk that is open, one after another"""
        self._write(MAGIC)
        self._write(_record(Header(profile, library)))

    def register_schema(self, name: str, encoding: str, data: bytes) -> int:
        """Add a schema; its number."""
        schema = Schema(id=len(self._schemas) + 1, name=name, encoding=encoding, data=data)
        self._schemas.append(schema)
        self._add(_record(schema))
        return schema.id

    def register_channel(self, topic: str, encoding: str, schema: int, metadata: Mapping[str, str]) -> int:
        """Add a channel of a schema (0 for none); its number."""
        channel = Channel(
            id=len(self._channels) + 1,
            topic=topic,
            message_encoding=encoding,
            schema_id=schema,
            metadata=dict(metadata),
        )
        self._channels.append(channel)
        self._entries[channel.id] = []
        self._add(_record(channel))
        return channel.id

    def add_message(self, channel: int, *, log_time: int, publish_time: int, sequence: int, data: bytes) -> None:
        """Add a message to the chunk that is open."""
        size = len(data)
        self._entries[channel] += (log_time, self._length)
        self._parts += (
            _message.pack(Opcode.MESSAGE, MESSAGE_HEAD + size, channel, sequence, log_time, publish_time),
            data,
        )
        self._length += _message.size + size
        if self._length > self._chunk_bytes:
            self._close_chunk()

    def add_metadata(self, name: str, metadata: Mapping[str, str]) -> None:
        """Add texts by name."""
        record = _record(Metadata(name=name, metadata=dict(metadata)))
        self._metadata.append(MetadataIndex(offset=self._offset, length=len(record), name=name))
        self._write(record)

    def flush(self) -> None:
        """Close the chunk that is open, and hand everything to the stream."""
        self._close_chunk()
        self._stream.flush()

    def finish(self) -> None:
        """Write the summary; the stream stays open."""
        self._close_chunk()
        self._write(_record(DataEnd(self._crc)))
        begin = self._offset
        times = [(chunk.message_start_time, chunk.message_end_time) for chunk in self._chunks]
        statistics = Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=self._counts,
            chunk_count=len(self._chunks),
            message_count=sum(self._counts.values()),
            metadata_count=len(self._metadata),
            message_start_time=min((start for start, _ in times), default=0),
            message_end_time=max((end for _, end in times), default=0),
            schema_count=len(self._schemas),
        )
        groups: list[tuple[Opcode, list[McapRecord]]] = [
            (Opcode.SCHEMA, list(self._schemas)),
            (Opcode.CHANNEL, list(self._channels)),
            (Opcode.STATISTICS, [statistics]),
            (Opcode.CHUNK_INDEX, list(self._chunks)),
            (Opcode.METADATA_INDEX, list(self._metadata)),
        ]
        summary, offsets = b"", b""
        for opcode, records in groups:
            group = b"".join(_record(record) for record in records)
            if group:
                place = SummaryOffset(group_opcode=opcode, group_start=begin + len(summary), group_length=len(group))
                offsets += _record(place)
            summary += group
        offsets_begin = begin + len(summary)
        summary += offsets
        head = _footer_head.pack(Opcode.FOOTER, 20, begin, offsets_begin)
        self._write(summary)
        self._write(_record(Footer(begin, offsets_begin, zlib.crc32(head, zlib.crc32(summary)))))
        self._write(MAGIC)
        self._stream.flush()

    def _add(self, record: bytes) -> None:
        self._parts.append(record)
        self._length += len(record)

    def _write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._stream.write(data)
        self._offset += len(data)

    def _close_chunk(self) -> None:
        """Write the chunk that is open with the index of its messages, where it has any."""
        filled = [item for item in self._entries.items() if item[1]]
        if not filled:
            return
        entries = dict(sorted(filled, key=lambda item: item[1][1]))
        records = b"".join(self._parts)
        self._parts, self._length = [], 0
        self._entries = {channel: [] for channel in self._entries}
        data = lz4.frame.compress(records)
        first = min(min(found[::2]) for found in entries.values())
        last = max(max(found[::2]) for found in entries.values())
        name = COMPRESSION.encode()
        head = _chunk.pack(
            Opcode.CHUNK,
            _chunk.size - 9 + len(data),
            first,
            last,
            len(records),
            zlib.crc32(records),
            len(name),
            name,
            len(data),
        )
        begin = self._offset
        self._write(head)
        self._write(data)
        index_begin = self._offset
        places: dict[int, int] = {}
        indexes: list[bytes] = []
        at = index_begin
        for channel, found in entries.items():
            places[channel] = at
            index = _index.pack(Opcode.MESSAGE_INDEX, 6 + 8 * len(found), channel, 8 * len(found))
            indexes.append(index + struct.pack(f"<{len(found)}Q", *found))
            at += len(indexes[-1])
            self._counts[channel] = self._counts.get(channel, 0) + len(found) // 2
        self._write(b"".join(indexes))
        self._chunks.append(
            ChunkIndex(
                message_start_time=first,
                message_end_time=last,
                chunk_start_offset=begin,
                chunk_length=index_begin - begin,
                message_index_offsets=places,
                message_index_length=self._offset - index_begin,
                compression=COMPRESSION,
                compressed_size=len(data),
                uncompressed_size=len(records),
            )
        )


def _record(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())
