"""Writes MCAP files with compressed, indexed chunks.

The format's own library writes each message with some thirty small writes, which took most of a recording's time. Here
a message is packed at once and a chunk is joined from its messages; all records that are not written for each message
are the library's (https://mcap.dev/spec).
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import BinaryIO, NamedTuple

import lz4.frame
from mcap.data_stream import ReadDataStream, RecordBuilder
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

from streams.packed_records import PackedRecords

MAGIC = b"\x89MCAP0\r\n"
COMPRESSION = "lz4"
LARGE = 65_536
"""Bytes of a chunk from which on it is worth to leave it as it is where compression gains nothing: noisy images."""

WORTH = 0.9
"""Compression that leaves more than this share gains nothing."""

LEFT_ALONE = 24
"""Large chunks after such a one that are not even tried: a second of images."""

_message = struct.Struct("<BQHIQQ")
_chunk = struct.Struct("<BQQQQII")
_length = struct.Struct("<Q")
_index = struct.Struct("<BQHI")
_head = struct.Struct("<BQ")
_chunk_head = struct.Struct("<QQQII")
_index_head = struct.Struct("<HI")
_footer_head = struct.Struct("<BQQQ")

MESSAGE_HEAD = _message.size - 9
"""Bytes of a message record besides its opcode, its length and its data."""


class McapTables(NamedTuple):
    """The schemas and channels that a file has so far, in the order of their numbers, from 1."""

    schemas: tuple[tuple[str, str, bytes], ...]
    """name, encoding, data"""
    channels: tuple[tuple[str, str, int, dict[str, str]], ...]
    """topic, encoding, number of the schema, metadata"""


class McapWriter:
    """Writes one file from its beginning to its end, or goes on with one whose writer was cut off."""

    def __init__(self, stream: BinaryIO, *, chunk_bytes: int, profile: str, library: str) -> None:
        """Begin a file.

        Args:
            stream: where it goes.
            chunk_bytes: a chunk is closed when it has become longer.
            profile: says what the channels' names mean.
            library: what wrote it.
        """
        self._stream, self._chunk_bytes = stream, chunk_bytes
        self._offset = 0
        self._crc: int | None = 0
        """of all before the summary; None where some of it was not written here"""
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._begin_index()
        self._parts: list[bytes] = []
        """the records of the chunk that is open"""
        self._length = 0
        self._entries: dict[int, list[int]] = {}
        """by channel: time and offset of each message of the chunk that is open, one after another"""
        self._write(MAGIC)
        self._write(_record(Header(profile, library)))

    @classmethod
    def resumed(cls, stream: BinaryIO, *, chunk_bytes: int, offset: int, tables: McapTables) -> "McapWriter":
        """Go on with a file that ends with a whole chunk.

        Args:
            stream: the file, to be read and written, at its end.
            chunk_bytes: a chunk is closed when it has become longer.
            offset: the file's length.
            tables: the schemas and channels that it has.
        """
        writer = object.__new__(cls)
        writer._stream, writer._chunk_bytes = stream, chunk_bytes
        writer._offset, writer._crc = offset, None
        writer._schemas = [
            Schema(number, data, encoding, name)
            for number, (name, encoding, data) in enumerate(tables.schemas, start=1)
        ]
        writer._channels = [
            Channel(number, topic, encoding, dict(metadata), schema)
            for number, (topic, encoding, schema, metadata) in enumerate(tables.channels, start=1)
        ]
        writer._begin_index()
        writer._parts, writer._length = [], 0
        writer._entries = {channel.id: [] for channel in writer._channels}
        return writer

    def _begin_index(self) -> None:
        """Forget what the summary is to say of chunks and metadata."""
        self._chunks = PackedRecords()
        """indexes of the chunks, encoded: of a session of hours there are some hundred thousand"""
        self._earliest, self._latest = 2**64 - 1, 0
        """log times of all messages"""
        self._metadata: list[MetadataIndex] = []
        self._counts: dict[int, int] = {}
        self._left_alone = 0
        """large chunks yet to come that are not tried to be compressed"""

    @property
    def offset(self) -> int:
        """The file's length so far, without the chunk that is open."""
        return self._offset

    @property
    def open_bytes(self) -> int:
        """Length of the chunk that is open."""
        return self._length

    def tables(self) -> McapTables:
        """The schemas and channels so far."""
        return McapTables(
            tuple((one.name, one.encoding, one.data) for one in self._schemas),
            tuple((one.topic, one.message_encoding, one.schema_id, one.metadata) for one in self._channels),
        )

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
        if self._crc is None:
            self._index_anew()
        self._write(_record(DataEnd(self._crc or 0)))  # 0 says that there is none
        begin = self._offset
        statistics = Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=self._counts,
            chunk_count=len(self._chunks),
            message_count=sum(self._counts.values()),
            metadata_count=len(self._metadata),
            message_start_time=self._earliest if self._chunks else 0,
            message_end_time=self._latest,
            schema_count=len(self._schemas),
        )
        groups: list[tuple[Opcode, Iterable[bytes]]] = [
            (Opcode.SCHEMA, map(_record, self._schemas)),
            (Opcode.CHANNEL, map(_record, self._channels)),
            (Opcode.STATISTICS, [_record(statistics)]),
            (Opcode.CHUNK_INDEX, self._chunks.blocks()),
            (Opcode.METADATA_INDEX, map(_record, self._metadata)),
        ]
        self._crc = 0  # from here on of the summary
        offsets = b""
        for opcode, parts in groups:
            group_begin = self._offset
            for part in parts:
                self._write(part)
            if self._offset > group_begin:
                place = SummaryOffset(
                    group_opcode=opcode, group_start=group_begin, group_length=self._offset - group_begin
                )
                offsets += _record(place)
        offsets_begin = self._offset
        self._write(offsets)
        head = _footer_head.pack(Opcode.FOOTER, 20, begin, offsets_begin)
        self._write(_record(Footer(begin, offsets_begin, zlib.crc32(head, self._crc))))
        self._write(MAGIC)
        self._stream.flush()

    def _add(self, record: bytes) -> None:
        self._parts.append(record)
        self._length += len(record)

    def _write(self, data: bytes) -> None:
        if self._crc is not None:
            self._crc = zlib.crc32(data, self._crc)
        self._stream.write(data)
        self._offset += len(data)

    def _index_anew(self) -> None:
        """Find all chunks and metadata of a file of which a part was not written here."""
        self._stream.flush()
        self._begin_index()
        chunk: ChunkIndex | None = None
        at = len(MAGIC)
        while at < self._offset:
            self._stream.seek(at)
            opcode, length = _head.unpack(self._stream.read(_head.size))
            if opcode == Opcode.MESSAGE_INDEX and chunk is not None:
                channel, size = _index_head.unpack(self._stream.read(_index_head.size))
                chunk.message_index_offsets[channel] = at
                chunk.message_index_length += _head.size + length
                self._counts[channel] = self._counts.get(channel, 0) + size // 16
            elif opcode != Opcode.MESSAGE_INDEX and chunk is not None:
                self._index(chunk)
                chunk = None
            if opcode == Opcode.CHUNK:
                chunk = self._chunk_at(at, _head.size + length)
            elif opcode == Opcode.METADATA:
                name = Metadata.read(ReadDataStream(BytesIO(self._stream.read(length)))).name
                self._metadata.append(MetadataIndex(offset=at, length=_head.size + length, name=name))
            at += _head.size + length
        if chunk is not None:
            self._index(chunk)
        self._stream.seek(self._offset)

    def _index(self, chunk: ChunkIndex) -> None:
        """Keep what the summary is to say of a chunk."""
        self._chunks.add(_record(chunk))
        self._earliest = min(self._earliest, chunk.message_start_time)
        self._latest = max(self._latest, chunk.message_end_time)

    def _chunk_at(self, at: int, length: int) -> ChunkIndex:
        """The index of a chunk record whose head has just been read, yet without its messages'."""
        first, last, size, _, name_length = _chunk_head.unpack(self._stream.read(_chunk_head.size))
        name = self._stream.read(name_length).decode()
        (compressed,) = _length.unpack(self._stream.read(_length.size))
        return ChunkIndex(
            message_start_time=first,
            message_end_time=last,
            chunk_start_offset=at,
            chunk_length=length,
            message_index_offsets={},
            message_index_length=0,
            compression=name,
            compressed_size=compressed,
            uncompressed_size=size,
        )

    def _compressed(self, records: bytes) -> tuple[str, bytes]:
        """The content of a chunk and how it is compressed; as it is where compression gains nothing."""
        large = len(records) > LARGE
        if large and self._left_alone:
            self._left_alone -= 1
            return "", records
        data: bytes = lz4.frame.compress(records)
        if large and len(data) > WORTH * len(records):
            self._left_alone = LEFT_ALONE
            return "", records
        return COMPRESSION, data

    def _close_chunk(self) -> None:
        """Write the chunk that is open with the index of its messages, where it has any."""
        filled = [item for item in self._entries.items() if item[1]]
        if not filled:
            return
        entries = dict(sorted(filled, key=lambda item: item[1][1]))
        records = b"".join(self._parts)
        self._parts, self._length = [], 0
        self._entries = {channel: [] for channel in self._entries}
        compression, data = self._compressed(records)
        first = min(min(found[::2]) for found in entries.values())
        last = max(max(found[::2]) for found in entries.values())
        name = compression.encode()
        size = _chunk.size - 9 + len(name) + _length.size + len(data)
        head = _chunk.pack(Opcode.CHUNK, size, first, last, len(records), zlib.crc32(records), len(name))
        head += name + _length.pack(len(data))
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
        self._index(
            ChunkIndex(
                message_start_time=first,
                message_end_time=last,
                chunk_start_offset=begin,
                chunk_length=index_begin - begin,
                message_index_offsets=places,
                message_index_length=self._offset - index_begin,
                compression=compression,
                compressed_size=len(data),
                uncompressed_size=len(records),
            )
        )


def _record(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())
