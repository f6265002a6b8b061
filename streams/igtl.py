"""OpenIGTLink on the wire: TRANSFORM, POSITION, QTDATA, TDATA, STRING, POINT, SENSOR, IMAGE, STATUS, POLYDATA.

All numbers are big-endian. A message is a header of 58 bytes (version, type, device, time, size, CRC) and a body; from
header version 2 on the body begins with an extended header and ends with metadata. The CRC of every body is checked.

Format: http://openigtlink.org/protocols (v1 to v3).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams.crc64 import crc64

Array = NDArray[np.float64]

HEADER = struct.Struct(">H12s20sIIQQ")
_EXTENDED = struct.Struct(">HHII")
_TWELVE = struct.Struct(">12f")
_QTDATA = struct.Struct(">20sBB3f4f")
_TDATA = struct.Struct(">20sBB12f")
_POINT = struct.Struct(">64s32s4B3ff20s")
_STATUS = struct.Struct(">Hq20s")
_IMAGE = struct.Struct(">HBBBB3H12f3H3H")
_POLYDATA = struct.Struct(">10I")

MOST_BYTES = 64_000_000
"""A body longer than this is no message."""

ASCII, UTF8 = 3, 106
STATUS_OK, STATUS_NOT_READY = 1, 13

SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}

PASCAL = 0x0C
_PREFIXES = {0x0: 1.0, 0x1: 1e1, 0x2: 1e2, 0x3: 1e3, 0x4: 1e6, 0x9: 1e-1, 0xA: 1e-2, 0xB: 1e-3, 0xC: 1e-6}


class IgtlError(ValueError):
    """Bytes that are no message; the text says why."""


class OutOfStep(IgtlError):
    """Where the next message begins cannot be known any more: the connection has to be closed."""


@dataclass(frozen=True)
class IgtlMessage:
    """A message with its body as it came, without extended header and metadata."""

    type: str
    device: str
    time_ns: int
    """0 where the sender gives none"""
    content: bytes
    metadata: dict[str, str] = field(default_factory=dict)
    version: int = 1


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", errors="replace").strip()


def _fixed(text: str, length: int) -> bytes:
    return text.encode("utf-8")[: length - 1].ljust(length, b"\0")


def pack(message: IgtlMessage) -> bytes:
    """A message as bytes, with header version 1, or 2 where it has metadata."""
    body = message.content
    version = 2 if message.metadata else message.version
    if version > 1:
        index = struct.pack(">H", len(message.metadata))
        values = b""
        for key, value in message.metadata.items():
            raw_key, raw_value = key.encode(), value.encode()
            index += struct.pack(">HHI", len(raw_key), UTF8, len(raw_value))
            values += raw_key + raw_value
        body = _EXTENDED.pack(_EXTENDED.size, len(index), len(values), 0) + body + index + values
    seconds, nanoseconds = divmod(message.time_ns, 1_000_000_000)
    fraction = (nanoseconds << 32) // 1_000_000_000
    header = HEADER.pack(
        version,
        message.type.encode("ascii")[:12],
        message.device.encode("utf-8")[:20],
        seconds & 0xFFFFFFFF,
        fraction,
        len(body),
        crc64(body),
    )
    return header + body


@dataclass
class Decoder:
    """Takes bytes as they come from a connection, and gives the messages in them.

    Attributes:
        bad: messages whose CRC or form was wrong, by why.
    """

    bad: dict[str, int] = field(default_factory=dict)
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[IgtlMessage]:
        """The messages that are whole by now.

        Raises:
            OutOfStep: the bytes are no OpenIGTLink.
        """
        buffer = self._buffer
        buffer += data
        messages = []
        at = 0
        while len(buffer) - at >= HEADER.size:
            version, kind, device, seconds, fraction, size, crc = HEADER.unpack_from(buffer, at)
            if not 1 <= version <= 3 or size > MOST_BYTES or not kind.rstrip(b"\0").isascii():
                raise OutOfStep(f"a header of version {version} with a body of {size} bytes")
            if len(buffer) - at < HEADER.size + size:
                break
            body = bytes(buffer[at + HEADER.size : at + HEADER.size + size])
            at += HEADER.size + size
            # A CRC of 0 is sent by some programs that compute none.
            if crc64(body) != crc and crc != 0:
                self._count("checksum")
                continue
            time_ns = seconds * 1_000_000_000 + (fraction * 1_000_000_000 + (1 << 31) >> 32)
            try:
                content, metadata = _split(version, body)
            except (struct.error, IgtlError):
                self._count("extended header")
                continue
            messages.append(IgtlMessage(_text(kind), _text(device), time_ns, content, metadata, version))
        del buffer[:at]
        return messages

    def _count(self, what: str) -> None:
        self.bad[what] = self.bad.get(what, 0) + 1


def _split(version: int, body: bytes) -> tuple[bytes, dict[str, str]]:
    """The content and the metadata of a body."""
    if version < 2:
        return body, {}
    extended, index_size, values_size, _ = _EXTENDED.unpack_from(body)
    end = len(body) - index_size - values_size
    if extended < _EXTENDED.size or end < extended:
        raise IgtlError("the extended header is longer than the body")
    metadata: dict[str, str] = {}
    if index_size >= 2:
        (count,) = struct.unpack_from(">H", body, end)
        if 2 + 8 * count > index_size:
            raise IgtlError("the metadata's index is cut off")
        at = end + index_size
        for number in range(count):
            key_size, _, value_size = struct.unpack_from(">HHI", body, end + 2 + 8 * number)
            if at + key_size + value_size > len(body):
                raise IgtlError("the metadata is cut off")
            key = body[at : at + key_size].decode("utf-8", errors="replace")
            metadata[key] = body[at + key_size : at + key_size + value_size].decode("utf-8", errors="replace")
            at += key_size + value_size
    return body[extended:end], metadata


def _need(content: bytes, size: int, kind: str) -> None:
    if len(content) < size:
        raise IgtlError(f"{kind} of {len(content)} bytes where {size} belong")


# Contents ------------------------------------------------------------------------------------------------------------


def transform_content(matrix: Array) -> bytes:
    """TRANSFORM of a (4, 4) matrix, mm."""
    columns = matrix[:3, :].T
    return _TWELVE.pack(*columns.ravel())


def read_transform(content: bytes) -> Array:
    """The (4, 4) matrix of a TRANSFORM."""
    _need(content, _TWELVE.size, "a TRANSFORM")
    matrix = np.eye(4)
    matrix[:3, :] = np.array(_TWELVE.unpack_from(content)).reshape(4, 3).T
    return matrix


def read_position(content: bytes) -> tuple[Array, Array]:
    """Position (3,) and quaternion (4,) w, x, y, z of a POSITION; the identity where it has no orientation."""
    _need(content, 12, "a POSITION")
    position = np.array(struct.unpack_from(">3f", content))
    if len(content) >= 28:
        x, y, z, w = struct.unpack_from(">4f", content, 12)
    elif len(content) >= 24:
        x, y, z = struct.unpack_from(">3f", content, 12)
        w = max(0.0, 1.0 - x * x - y * y - z * z) ** 0.5
    else:
        x, y, z, w = 0.0, 0.0, 0.0, 1.0
    return position, np.array([w, x, y, z])


def qtdata_content(tools: Sequence[tuple[str, Array, Array]]) -> bytes:
    """QTDATA of tools: name, (3,) position, (4,) quaternion w, x, y, z."""
    parts = []
    for name, position, (w, x, y, z) in tools:
        parts.append(_QTDATA.pack(_fixed(name, 20), 1, 0, *position, x, y, z, w))
    return b"".join(parts)


def read_qtdata(content: bytes) -> list[tuple[str, Array, Array]]:
    """The tools of a QTDATA: name, position, quaternion w, x, y, z."""
    if len(content) % _QTDATA.size:
        raise IgtlError(f"QTDATA of {len(content)} bytes, which is no multiple of {_QTDATA.size}")
    tools = []
    for name, _, _, px, py, pz, x, y, z, w in _QTDATA.iter_unpack(content):
        tools.append((_text(name), np.array([px, py, pz]), np.array([w, x, y, z])))
    return tools


def read_tdata(content: bytes) -> list[tuple[str, Array]]:
    """The tools of a TDATA: name and (4, 4) matrix."""
    if len(content) % _TDATA.size:
        raise IgtlError(f"TDATA of {len(content)} bytes, which is no multiple of {_TDATA.size}")
    tools = []
    for name, _, _, *numbers in _TDATA.iter_unpack(content):
        matrix = np.eye(4)
        matrix[:3, :] = np.array(numbers).reshape(4, 3).T
        tools.append((_text(name), matrix))
    return tools


def string_content(text: str) -> bytes:
    """STRING of a text, at most 65535 bytes of UTF-8."""
    raw = text.encode("utf-8")[:65535]
    return struct.pack(">HH", ASCII if text.isascii() else UTF8, len(raw)) + raw


def read_string(content: bytes) -> str:
    """The text of a STRING."""
    _need(content, 4, "a STRING")
    _, length = struct.unpack_from(">HH", content)
    _need(content, 4 + length, "a STRING")
    return content[4 : 4 + length].decode("utf-8", errors="replace")


def point_content(points: Sequence[tuple[str, Array]], *, group: str = "", owner: str = "") -> bytes:
    """POINT of named (3,) positions, mm."""
    return b"".join(
        _POINT.pack(_fixed(name, 64), _fixed(group, 32), 255, 255, 0, 255, *position, 0.0, _fixed(owner, 20))
        for name, position in points
    )


def read_points(content: bytes) -> list[tuple[str, Array, str]]:
    """Name, (3,) position and owner of each point of a POINT."""
    if len(content) % _POINT.size:
        raise IgtlError(f"POINT of {len(content)} bytes, which is no multiple of {_POINT.size}")
    return [
        (_text(name), np.array([x, y, z]), _text(owner))
        for name, _, _, _, _, _, x, y, z, _, owner in _POINT.iter_unpack(content)
    ]


def pressure_unit() -> int:
    """The unit pascal as SENSOR packs it: 4 bits of prefix, then pairs of unit (6 bits) and exponent (4 bits)."""
    return PASCAL << 54 | 1 << 50


def pascals(unit: int) -> float | None:
    """How many pascal the unit of a SENSOR is; None where it is no pressure."""
    prefix, kind, exponent = unit >> 60, unit >> 54 & 0x3F, unit >> 50 & 0xF
    if kind != PASCAL or exponent != 1 or unit & ((1 << 50) - 1):
        return None
    return _PREFIXES.get(prefix)


def sensor_content(values: Sequence[float], unit: int) -> bytes:
    """SENSOR of at most 255 values."""
    return struct.pack(f">BBQ{len(values)}d", len(values), 0, unit, *values)


def read_sensor(content: bytes) -> tuple[list[float], int]:
    """Values and unit of a SENSOR."""
    _need(content, 10, "a SENSOR")
    count, _, unit = struct.unpack_from(">BBQ", content)
    _need(content, 10 + 8 * count, "a SENSOR")
    return list(struct.unpack_from(f">{count}d", content, 10)), unit


def status_content(code: int, name: str, message: str) -> bytes:
    """STATUS: code 1 is OK."""
    return _STATUS.pack(code, 0, _fixed(name, 20)) + message.encode("utf-8") + b"\0"


def read_status(content: bytes) -> tuple[int, str, str]:
    """Code, name and message of a STATUS."""
    _need(content, _STATUS.size, "a STATUS")
    code, _, name = _STATUS.unpack_from(content)
    return code, _text(name), _text(content[_STATUS.size :])


def image_content(pixels: NDArray[np.generic], spacing_mm: tuple[float, float]) -> bytes:
    """IMAGE of (rows, columns) or (rows, columns, 3) pixels in little-endian."""
    rows, columns = pixels.shape[:2]
    components = pixels.shape[2] if pixels.ndim == 3 else 1
    scalar = next(code for code, kind in SCALARS.items() if np.dtype(kind) == pixels.dtype)
    x, y = spacing_mm
    size = (columns, rows, 1)
    center = ((columns - 1) / 2 * x, (rows - 1) / 2 * y, 0.0)
    axes = (x, 0.0, 0.0, 0.0, y, 0.0, 0.0, 0.0, 1.0)
    head = _IMAGE.pack(1, components, scalar, 2, 2, *size, *axes, *center, 0, 0, 0, *size)
    return head + np.ascontiguousarray(pixels).tobytes()


def read_image(content: bytes) -> tuple[NDArray[np.generic], tuple[float, float]]:
    """Pixels (rows, columns) or (rows, columns, components) of an IMAGE's first slice, and its spacing [mm]."""
    _need(content, _IMAGE.size, "an IMAGE")
    fields = _IMAGE.unpack_from(content)
    _, components, scalar, endian, _, columns, rows, slices = fields[:8]
    axes, part, whole = fields[8:17], fields[20:26], (columns, rows, slices)
    if scalar not in SCALARS or endian not in (1, 2) or not components:
        raise IgtlError(f"an IMAGE of scalars of type {scalar} in byte order {endian}")
    if part != (0, 0, 0, *whole):
        raise IgtlError("a part of an IMAGE, which is not read")
    dtype = np.dtype(SCALARS[scalar]).newbyteorder(">" if endian == 1 else "<")
    count = columns * rows * components
    _need(content, _IMAGE.size + count * slices * dtype.itemsize, "an IMAGE")
    pixels = np.frombuffer(content, dtype, count=count, offset=_IMAGE.size).astype(dtype.newbyteorder("="))
    shape = (rows, columns) if components == 1 else (rows, columns, components)
    x, y = float(np.linalg.norm(axes[0:3])), float(np.linalg.norm(axes[3:6]))
    return pixels.reshape(shape), (x, y)


def polydata_content(points: Array, triangles: NDArray[np.int64], scalars: Array, name: str) -> bytes:
    """POLYDATA of a surface with one number at each point.

    Args:
        points: (n, 3) mm.
        triangles: (m, 3) indices.
        scalars: (n,).
        name: of the numbers.
    """
    cells = np.column_stack([np.full(len(triangles), 3), triangles]).astype(">u4").tobytes()
    raw_name = name.encode("ascii", "replace") + b"\0"
    raw_name += b"\0" * (len(raw_name) % 2)
    return b"".join(
        [
            _POLYDATA.pack(len(points), 0, 0, 0, 0, len(triangles), len(cells), 0, 0, 1),
            points.astype(">f4").tobytes(),
            cells,
            struct.pack(">BBI", 0, 1, len(points)),
            raw_name,
            scalars.astype(">f4").tobytes(),
        ]
    )
