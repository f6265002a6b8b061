"""Reads MCAP files from the beginning to the end, chunks taken apart, with every checksum compared.

The format's own library reads each field of each record from the stream by itself, of which the indexes of messages,
which reading in order has no use for, took most of the time. Here a record is read at once, and those are only added to
the checksum; all records that are not read for each message are the library's (https://mcap.dev/spec).
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

import lz4.frame
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, InvalidMagic, RecordLengthLimitExceeded
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Footer, McapRecord, Metadata, Schema
from mcap.stream_reader import CRCValidationError, get_chunk_data_stream

MAGIC = b"\x89MCAP0\r\n"
LARGEST_RECORD = 1 << 30
"""A longer record is damage."""

Stored = tuple[int, int, int, int, bytes]
"""A message as the file has it: number of its channel, sequence, log time, publish time, data."""

_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_READ: dict[Opcode, Any] = {
    Opcode.CHUNK: Chunk,
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
    Opcode.METADATA: Metadata,
    Opcode.DATA_END: DataEnd,
    Opcode.FOOTER: Footer,
}
"""Of whole files; what else there is says nothing that is not said by these."""


def opened_records(stream: BinaryIO) -> Iterator[McapRecord | Stored]:
    """The schemas, channels, messages, metadata and the footer of a file, in their order.

    Raises:
        McapError: it is no MCAP file, breaks off, or a checksum does not fit.
        Exception: whatever the library's parser trips over in what is damaged.
    """
    for record in _records(stream):
        if isinstance(record, Chunk):
            yield from _of_chunk(unpacked(record))
        else:
            yield record


def _records(stream: BinaryIO) -> Iterator[McapRecord | Stored]:
    """The records of a file as they stand."""
    magic = stream.read(len(MAGIC))
    if len(magic) < len(MAGIC):
        raise EndOfFile
    if magic != MAGIC:
        raise InvalidMagic(tuple(magic))
    checksum = zlib.crc32(magic)
    while True:
        head = stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            raise EndOfFile
        opcode, length = _RECORD.unpack(head)
        if length > LARGEST_RECORD:
            raise RecordLengthLimitExceeded(opcode, length, LARGEST_RECORD)
        content = stream.read(length)
        if len(content) < length:
            raise EndOfFile
        if opcode == Opcode.MESSAGE:
            yield _message(content, 0, length)
        elif opcode in _READ:
            record = _READ[Opcode(opcode)].read(ReadDataStream(BytesIO(content)))
            if isinstance(record, DataEnd):
                if record.data_section_crc not in (0, checksum):
                    raise CRCValidationError(expected=record.data_section_crc, actual=checksum, record=record)
            else:
                yield record
            if isinstance(record, Footer):
                if stream.read(len(MAGIC)) != MAGIC:
                    raise EndOfFile
                return
        checksum = zlib.crc32(content, zlib.crc32(head, checksum))


def _of_chunk(data: bytes) -> Iterator[McapRecord | Stored]:
    """The records of a chunk's content."""
    length, at = len(data), 0
    while at < length:
        opcode, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + size > length:
            raise EndOfFile
        if opcode == Opcode.MESSAGE:
            yield _message(data, at, size)
        elif opcode == Opcode.SCHEMA:
            yield Schema.read(ReadDataStream(BytesIO(data[at : at + size])))
        elif opcode == Opcode.CHANNEL:
            yield Channel.read(ReadDataStream(BytesIO(data[at : at + size])))
        at += size


def _message(data: bytes, at: int, size: int) -> Stored:
    channel, sequence, log_time, publish_time = _MESSAGE.unpack_from(data, at)
    return channel, sequence, log_time, publish_time, data[at + _MESSAGE.size : at + size]


def unpacked(chunk: Chunk) -> bytes:
    """The content of a chunk.

    Raises:
        CRCValidationError: it is not what was written.
    """
    if chunk.compression not in ("", "lz4"):
        content, length = get_chunk_data_stream(chunk, validate_crc=True)
        return bytes(content.read(length))
    data: bytes = lz4.frame.decompress(chunk.data) if chunk.compression else chunk.data
    found = zlib.crc32(data)
    if chunk.uncompressed_crc not in (0, found):
        raise CRCValidationError(expected=chunk.uncompressed_crc, actual=found, record=chunk)
    return data
