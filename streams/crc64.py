"""CRC-64 as OpenIGTLink uses it: polynomial 0x42F0E1EBA9EA3693 (ECMA-182), from 0, bits in their order.

Short data go through a table byte by byte. Long data are cut into lanes that go through the table side by side in
NumPy; that the CRC of a whole follows from those of its parts is its linearity over GF(2).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x42F0E1EBA9EA3693
_MASK = (1 << 64) - 1
LANES = 512
SHORT = 4096


def _make_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 56
        for _ in range(8):
            value = (value << 1) ^ (POLYNOMIAL if value >> 63 else 0)
            value &= _MASK
        table.append(value)
    return table


_TABLE = _make_table()
_ARRAY = np.array(_TABLE, dtype=np.uint64)


def _step(data: bytes, crc: int) -> int:
    table = _TABLE
    for byte in data:
        crc = ((crc << 8) & _MASK) ^ table[(crc >> 56) ^ byte]
    return crc


@cache
def _shift_tables(length: int) -> list[list[int]]:
    """What a CRC becomes after so many zero bytes, as eight tables: one for each of its bytes."""
    basis = []
    for bit in range(64):
        basis.append(1 << bit)
    squared, remaining = _one_zero_byte(), length
    while remaining:
        if remaining & 1:
            basis = [_times(squared, value) for value in basis]
        squared = [_times(squared, value) for value in squared]
        remaining >>= 1
    tables = []
    for place in range(8):
        column = [0] * 256
        for byte in range(256):
            for bit in range(8):
                if byte >> bit & 1:
                    column[byte] ^= basis[8 * place + bit]
        tables.append(column)
    return tables


def _one_zero_byte() -> list[int]:
    return [_step(b"\0", 1 << bit) for bit in range(64)]


def _times(matrix: list[int], value: int) -> int:
    result = bit = 0
    while value:
        if value & 1:
            result ^= matrix[bit]
        value >>= 1
        bit += 1
    return result


def crc64(data: bytes) -> int:
    """The CRC of some bytes."""
    length = len(data) // LANES
    if len(data) < SHORT:
        return _step(data, 0)
    lanes: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8, count=length * LANES).reshape(LANES, length)
    columns = np.ascontiguousarray(lanes.T).astype(np.uint64)
    crc = np.zeros(LANES, dtype=np.uint64)
    eight, fifty_six = np.uint64(8), np.uint64(56)
    for column in columns:
        crc = (crc << eight) ^ _ARRAY[(crc >> fifty_six) ^ column]
    tables = _shift_tables(length)
    whole = 0
    for value in crc.tolist():
        shifted = 0
        for place in range(8):
            shifted ^= tables[place][whole >> (8 * place) & 0xFF]
        whole = shifted ^ value
    return _step(data[length * LANES :], whole)
