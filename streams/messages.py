"""The messages between devices, twin and viewers, and what makes one valid.

Wire units are clinical: mm, mmHg, mL/s; times are nanoseconds since the Unix epoch. Messages are immutable; each names
its stream and its number in it, so that a lost one is noticed. Unknown fields are ignored, so that a
newer sender can be understood.
"""

from collections.abc import Callable
from functools import cache, reduce
from operator import or_
from typing import Any, get_type_hints

import msgspec

from streams.errors import MalformedMessage, UnknownType
from streams.estimates import (
    Consistency,
    Estimate,
    Finite,
    Forecast,
    RegistrationOffset,
    SensorState,
    StageTimes,
    Triple,
    UncertaintyParts,
    VesselPlace,
)
from streams.message_faults import doubtful, fault
from streams.message_types import (
    BYTES_PER_PIXEL,
    ENDED,
    LARGEST_NORM,
    LEAST_NORM,
    LONGEST_PERIOD_NS,
    MAX_IMAGE_SIDE,
    MAX_NAME,
    MAX_SAMPLES,
    MAX_STREAMS,
    MAX_TEXT,
    MESSAGE_TYPES,
    NO_TURN,
    OWN_TYPES,
    PIXEL_FORMATS,
    QUATERNION_TOLERANCE,
    CardiacOutput,
    ClockEstimate,
    DopplerVelocity,
    FiducialTouch,
    FlowSample,
    Heartbeat,
    ImageFrame,
    IntakeReport,
    Length,
    Message,
    Name,
    Note,
    PatientRegistration,
    Period,
    PressureSamples,
    ProcedureEnd,
    Samples,
    SectionFlow,
    SessionStart,
    Side,
    Tick,
    ToolPose,
    Trigger,
    TwinState,
    VitalSign,
    WaveformSamples,
    end_time_ns,
)

__all__ = [
    "BYTES_PER_PIXEL",
    "ENDED",
    "LARGEST_NORM",
    "LEAST_NORM",
    "LONGEST_PERIOD_NS",
    "MAX_IMAGE_SIDE",
    "MAX_NAME",
    "MAX_SAMPLES",
    "MAX_STREAMS",
    "MAX_TEXT",
    "MESSAGE_TYPES",
    "NO_TURN",
    "OWN_TYPES",
    "PIXEL_FORMATS",
    "QUATERNION_TOLERANCE",
    "CardiacOutput",
    "ClockEstimate",
    "Consistency",
    "DopplerVelocity",
    "Estimate",
    "FiducialTouch",
    "Finite",
    "FlowSample",
    "Forecast",
    "Heartbeat",
    "ImageFrame",
    "IntakeReport",
    "Length",
    "Message",
    "Name",
    "Note",
    "PatientRegistration",
    "Period",
    "PressureSamples",
    "ProcedureEnd",
    "RegistrationOffset",
    "Samples",
    "SectionFlow",
    "SensorState",
    "SessionStart",
    "Side",
    "StageTimes",
    "Tick",
    "ToolPose",
    "Trigger",
    "Triple",
    "TwinState",
    "UncertaintyParts",
    "VesselPlace",
    "VitalSign",
    "WaveformSamples",
    "decode",
    "decode_by_type",
    "doubtful",
    "encode",
    "end_time_ns",
    "fault",
    "message_schemas",
]


class _Head(msgspec.Struct, tag_field=None):
    """The part of a message that also a type of a later version has."""

    type: str
    stream: str
    sequence: int
    source_time_ns: int


_KINDS: dict[str, Any] = {kind.__name__: kind for kind in MESSAGE_TYPES}
_head_decoder = msgspec.msgpack.Decoder(_Head)
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as MessagePack; equal messages give equal bytes."""
    return _encoder.encode(message)


decode_by_type: Callable[[bytes | memoryview], Message] = _decoder.decode
"""The message in MessagePack bytes, judged by its type alone; raises what msgspec raises.

For where most messages are sound and each counts: what passes here still needs `doubtful`, what does not `decode`.
"""


def decode(payload: bytes | memoryview) -> Message:
    """The message in MessagePack bytes.

    Raises:
        MalformedMessage: it is none, or its values cannot be.
    """
    try:
        message = _decoder.decode(payload)
    except msgspec.ValidationError as error:
        message = _decode_unjudged(payload, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(payload, error) from error
    else:
        if message.stream.isascii() and "\0" not in message.stream and not doubtful(message):
            return message
    reason = fault(message)
    if reason is not None:
        raise MalformedMessage(f"{type(message).__name__}: {reason}")
    return message


def _decode_unjudged(payload: bytes | memoryview, error: msgspec.ValidationError) -> Message:
    """The message in bytes that its type refuses, where it has the right fields.

    A tool that is not seen may be anywhere; of all others `fault` says in words what is wrong.

    Raises:
        MalformedMessage: it has not.
    """
    try:
        plain = _unjudged_decoder().decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unreadable(payload, error) from error
    kind = _KINDS[type(plain).__name__]
    return kind(**{name: getattr(plain, name) for name in kind.__struct_fields__})


@cache
def _unjudged_decoder() -> msgspec.msgpack.Decoder[Any]:
    """Decodes the same types without their limits."""
    plain = []
    for kind in MESSAGE_TYPES:
        hints = get_type_hints(kind)  # leaves the limits out
        fields = [
            (field.name, hints[field.name], *(() if field.required else (field.default,)))
            for field in msgspec.structs.fields(kind)
        ]
        plain.append(msgspec.defstruct(kind.__name__, fields, kw_only=True, tag_field="type", tag=kind.__name__))
    return msgspec.msgpack.Decoder(reduce(or_, plain))


def _unreadable(payload: bytes | memoryview, error: Exception) -> MalformedMessage:
    """Tell a message of a type from a later version from bytes that are no message."""
    try:
        head = _head_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return MalformedMessage(str(error))
    if head.type in _KINDS:
        return MalformedMessage(str(error))
    return UnknownType(f"the type {head.type[:MAX_NAME]!r} is not known")


def message_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of each message type, by its name; for the recording and for other languages."""
    return {kind.__name__: msgspec.json.schema(kind) for kind in MESSAGE_TYPES}
