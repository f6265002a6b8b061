"""Values made of our own dataclasses, to bytes and back, to the bit.

A session that is to go on in another process needs its state there exactly as it was: the next states have to come out
byte for byte as a replay gives them. So numbers keep their bits, mappings their order, and arrays their layout in
memory, since the order in which a library adds numbers up may depend on it.

What both processes have, such as the case's flow model, is not stored: values that refer to it name it (``known``).
An array or a record that is referred to from several places is stored once.

Not ``pickle``: what is read makes objects of this project's own value classes only and runs nothing, so that a
forged file can at worst hold wrong numbers.
"""

import importlib
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from surgical_twin.errors import InputError

PACKAGES = ("surgical_twin", "registration", "streams", "meshes")
"""Whose classes may be made."""

_PLAIN = (type(None), bool, int, float, str, bytes)

_TUPLE, _LIST, _MAPPING, _SET, _DEQUE, _ARRAY, _SCALAR, _RECORD, _ENUM, _KNOWN, _AGAIN = range(11)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def encode_value(value: object, known: Mapping[str, object] | None = None) -> bytes:
    """A value as bytes; equal values of equal layout give equal bytes.

    Args:
        value: of ours.
        known: what the reader has as well, by name; it is told by identity.

    Raises:
        TypeError: it holds something that is neither plain data nor a value class of ours.
    """
    writing = _Writing({id(one): name for name, one in (known or {}).items()})
    content = writing.plain(value)
    names = [f"{kind.__module__}:{kind.__qualname__}" for kind in writing.classes]
    return _encoder.encode([names, content])


def decode_value(data: bytes, known: Mapping[str, object] | None = None) -> Any:
    """The value of which `encode_value` made these bytes.

    Raises:
        InputError: they are no such bytes, or of another version of the software.
    """
    try:
        names, content = _decoder.decode(data)
        return _Reading([_class(name) for name in names], known or {}).value(content)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the steps below trip over
        raise InputError(f"A stored state cannot be read ({error}); it is damaged or of another version.") from error


class _Writing:
    """One value on its way to bytes."""

    def __init__(self, known: Mapping[int, str]) -> None:
        self.classes: dict[type, int] = {}
        self._known = known
        self._seen: dict[int, tuple[int, Any]] = {}
        """by identity: number, and the object, which must stay so that its identity is not given to another"""

    def plain(self, value: Any) -> Any:
        """What MessagePack can say: plain values as they are, all others as a list that begins with their kind."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is tuple or kind is list:
            return [_TUPLE if kind is tuple else _LIST, *(self.plain(item) for item in value)]
        if kind is dict or kind is MappingProxyType:
            return [_MAPPING, *(self.plain(item) for pair in value.items() for item in pair)]
        if kind is frozenset or kind is set:
            return [_SET, kind is frozenset, *(self.plain(item) for item in sorted(value))]
        if kind is deque:
            return [_DEQUE, value.maxlen, *(self.plain(item) for item in value)]
        if isinstance(value, np.generic):
            return [_SCALAR, value.dtype.str, value.tobytes()]
        if id(value) in self._known:
            return [_KNOWN, self._known[id(value)]]
        if id(value) in self._seen:
            return [_AGAIN, self._seen[id(value)][0]]
        if kind is np.ndarray:
            self._remember(value)
            return _plain_array(value)
        if kind.__module__.partition(".")[0] in PACKAGES:
            if isinstance(value, Enum):
                return [_ENUM, self.classes.setdefault(kind, len(self.classes)), value.name]
            names = _field_names(kind)
            if names is not None:
                number = self.classes.setdefault(kind, len(self.classes))
                content = [_RECORD, number, *(self.plain(getattr(value, name)) for name in names)]
                self._remember(value)
                return content
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} is no value that can be stored")

    def _remember(self, value: Any) -> None:
        self._seen[id(value)] = len(self._seen), value


def _plain_array(array: NDArray[Any]) -> list[Any]:
    if array.dtype.hasobject:
        raise TypeError("an array of objects is no value that can be stored")
    contiguous = array.flags.c_contiguous
    strides = None if contiguous else list(array.strides)
    return [_ARRAY, array.dtype.str, list(array.shape), strides, array.tobytes(), array.flags.writeable]


def _array(dtype: str, shape: list[int], strides: list[int] | None, data: bytes, writeable: bool) -> NDArray[Any]:
    values: NDArray[Any] = np.frombuffer(data, dtype=dtype).reshape(shape)
    if strides is None:
        values = values.copy()
    else:
        # A view of a larger array or a transposed one: the same steps from element to element in an array of its own.
        least = sum(step * (count - 1) for step, count in zip(strides, shape, strict=True) if step < 0)
        most = sum(step * (count - 1) for step, count in zip(strides, shape, strict=True) if step > 0)
        size = values.dtype.itemsize
        room = np.zeros((most - least) // size + 1 if values.size else 1, dtype=dtype)
        laid = as_strided(room[-least // size :], shape=shape, strides=strides)
        laid[...] = values
        values = laid
    if not writeable:
        values.flags.writeable = False
    return values


class _Reading:
    """One value on its way back; arrays and records are numbered in the order in which they are complete."""

    def __init__(self, classes: list[type], known: Mapping[str, object]) -> None:
        self._classes, self._known = classes, known
        self._seen: list[Any] = []

    def value(self, content: Any) -> Any:
        """What a plain content stands for."""
        if not isinstance(content, list):
            return content
        kind, *rest = content
        match kind:
            case 0:
                return tuple(self.value(item) for item in rest)
            case 1:
                return [self.value(item) for item in rest]
            case 2:
                items = [self.value(item) for item in rest]
                return dict(zip(items[::2], items[1::2], strict=True))
            case 3:
                found = [self.value(item) for item in rest[1:]]
                return frozenset(found) if rest[0] else set(found)
            case 4:
                return deque((self.value(item) for item in rest[1:]), maxlen=rest[0])
            case 5:
                return self._remembered(_array(*rest))
            case 6:
                return np.frombuffer(rest[1], dtype=rest[0])[0]
            case 7:
                return self._remembered(_record(self._classes[rest[0]], [self.value(item) for item in rest[1:]]))
            case 8:
                return self._classes[rest[0]][rest[1]]  # type: ignore[index]
            case 9:
                return self._known[rest[0]]
            case 10:
                return self._seen[rest[0]]
        raise InputError(f"A stored state holds a value of unknown kind {kind}; it is of another version.")

    def _remembered(self, value: Any) -> Any:
        self._seen.append(value)
        return value


def _record(kind: type, values: list[Any]) -> Any:
    names = _field_names(kind)
    if names is None or len(names) != len(values):
        raise InputError(f"A stored state holds another {kind.__name__} than this version knows.")
    if issubclass(kind, tuple):
        return kind(*values)
    given = dict(zip(names, values, strict=True))
    if issubclass(kind, msgspec.Struct):
        return kind(**given)
    # What `__init__` would derive or check was there when the value was made.
    made = object.__new__(kind)
    for name, value in given.items():
        object.__setattr__(made, name, value)
    return made


_known_fields: dict[type, tuple[str, ...] | None] = {}


def _field_names(kind: type) -> tuple[str, ...] | None:
    """The fields of a value class; None where it is none."""
    if kind not in _known_fields:
        _known_fields[kind] = _fields_of(kind)
    return _known_fields[kind]


def _fields_of(kind: type) -> tuple[str, ...] | None:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if is_dataclass(kind):
        return tuple(one.name for one in fields(kind))
    named: tuple[str, ...] | None = getattr(kind, "_fields", None) if issubclass(kind, tuple) else None
    return named


@lru_cache(maxsize=256)
def _class(name: str) -> type:
    module, _, path = name.partition(":")
    if module.partition(".")[0] not in PACKAGES:
        raise InputError(f"A stored state names {name}, which is not of this project.")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, type) or (_field_names(found) is None and not issubclass(found, Enum)):
        raise InputError(f"A stored state names {name}, which is no value class.")
    return found
