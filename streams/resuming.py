"""Going on with a recording whose writer was cut off: by a kill, a crash, a power failure.

What the file holds behind a mark that the writer gave earlier is read back, whatever broke off at its end is cut away,
and writing goes on in the same file and the same chain of hashes. So one procedure stays one recording, whatever
happened to the process that wrote it.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import msgspec
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from streams.errors import InputError
from streams.events import Event
from streams.hash_chain import HashChain, Seal
from streams.mcap_reader import Stored
from streams.mcap_writer import MAGIC, McapTables
from streams.recorder import CHAIN_CHANNEL, RecordingMark, RecordingWriter
from streams.recording import EntryChannel, StateFrame

_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQII")
_LENGTH = struct.Struct("<Q")

_seal_decoder = msgspec.msgpack.Decoder(Seal)


def resume_recording(path: Path, mark: RecordingMark) -> tuple[RecordingWriter, list[Event | StateFrame]]:
    """Open a recording to go on with it.

    Args:
        path: the file.
        mark: a place in it that its writer gave (`Recorder.mark`).

    Returns:
        What goes on writing it, and all that it holds behind the mark, in order.

    Raises:
        InputError: there is no such file, it was finished, or it is not the one that the mark is of.
    """
    try:
        file = path.open("r+b")
    except OSError as error:
        raise InputError(f"{path} cannot be gone on with ({error.strerror}); check the path.") from error
    try:
        return _resume(file, path, mark)
    except BaseException:
        file.close()
        raise


def _resume(file: BinaryIO, path: Path, mark: RecordingMark) -> tuple[RecordingWriter, list[Event | StateFrame]]:
    length = file.seek(0, 2)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC or length < mark.offset:
        raise InputError(f"{path} is not the recording that was cut off; name that one.")
    file.seek(mark.offset)
    schemas, channels = list(mark.tables.schemas), list(mark.tables.channels)
    known = {
        number: EntryChannel.of(topic, schemas[schema - 1][0] if schema else None, metadata)
        for number, (topic, _, schema, metadata) in enumerate(channels, start=1)
    }
    chain = HashChain(head=mark.head, length=mark.entries)
    entries: list[Event | StateFrame] = []
    states, last_time, end = mark.states, mark.last_time, mark.offset
    for records, boundary in _chunks(file, path, mark.offset, length):
        end = boundary
        for record in records:
            if isinstance(record, Schema):
                schemas.append((record.name, record.encoding, record.data))
            elif isinstance(record, Channel):
                channels.append((record.topic, record.message_encoding, record.schema_id, dict(record.metadata)))
                schema = schemas[record.schema_id - 1][0] if record.schema_id else None
                known[record.id] = EntryChannel.of(record.topic, schema, record.metadata)
            elif known[record[0]].topic == CHAIN_CHANNEL:
                if _seal_decoder.decode(record[4]).head != chain.head:
                    raise InputError(f"{path} was changed since it was written; it cannot be gone on with.")
                chain.seal()
            else:
                channel = known[record[0]]
                chain.add(channel.digest(record))
                entry = channel.entry(record)
                states += isinstance(entry, StateFrame)
                last_time = record[2]
                entries.append(entry)
    file.seek(end)
    file.truncate()
    tables = McapTables(tuple(schemas), tuple(channels))
    place = RecordingMark(end, chain.head, chain.length, states, last_time, tables)
    return RecordingWriter.resumed(file, place, chain), entries


_Records = list[Schema | Channel | Stored]


def _chunks(file: BinaryIO, path: Path, begin: int, length: int) -> Iterator[tuple[_Records, int]]:
    """The records of each whole chunk, and where it ends with the indexes that belong to it."""
    at = begin
    while True:
        found = _record_at(file, at, length)
        if found is None:
            return
        opcode, data = found
        if opcode in (Opcode.DATA_END, Opcode.METADATA):
            raise InputError(f"{path} was finished; a recording that has its end is not gone on with.")
        if opcode != Opcode.CHUNK:
            return
        records = _unpacked(data)
        if records is None:
            return
        at += _RECORD.size + len(data)
        for _ in {record[0] for record in records if isinstance(record, tuple)}:
            index = _record_at(file, at, length)
            if index is None or index[0] != Opcode.MESSAGE_INDEX:
                return
            at += _RECORD.size + len(index[1])
        yield records, at


def _record_at(file: BinaryIO, at: int, length: int) -> tuple[int, bytes] | None:
    """Opcode and content of a record; None where the file breaks off in it."""
    if at + _RECORD.size > length:
        return None
    file.seek(at)
    opcode, size = _RECORD.unpack(file.read(_RECORD.size))
    if at + _RECORD.size + size > length:
        return None
    return opcode, file.read(size)


def _unpacked(chunk: bytes) -> _Records | None:
    """The records of a chunk; None where they are not those that were written."""
    _, _, _, checksum, name_length = _CHUNK_HEAD.unpack_from(chunk)
    begin = _CHUNK_HEAD.size + name_length + _LENGTH.size
    try:
        data: bytes = lz4.frame.decompress(chunk[begin:]) if name_length else chunk[begin:]
    except RuntimeError:
        return None
    if zlib.crc32(data) != checksum:
        return None
    records: _Records = []
    at = 0
    while at < len(data):
        opcode, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        content = data[at : at + size]
        if opcode == Opcode.MESSAGE:
            channel, sequence, log_time, publish_time = _MESSAGE.unpack_from(content)
            records.append((channel, sequence, log_time, publish_time, content[_MESSAGE.size :]))
        elif opcode == Opcode.SCHEMA:
            records.append(Schema.read(ReadDataStream(BytesIO(content))))
        elif opcode == Opcode.CHANNEL:
            records.append(Channel.read(ReadDataStream(BytesIO(content))))
        at += size
    return records
