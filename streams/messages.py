"""The messages between devices, twin and viewers, and what makes one valid.

Wire units are clinical: mm, mmHg, mL/s; times are nanoseconds since the Unix epoch. Messages are immutable; each names
its stream and its number in it, so that a lost one is noticed. Unknown fields are ignored, so that a
newer sender can be understood.
"""

import math
from typing import Any

import msgspec

from streams.errors import MalformedMessage

MAX_SAMPLES = 4096
"""Samples in one message at most."""

QUATERNION_TOLERANCE = 1e-3
"""How far from 1 the norm of a valid pose's quaternion may be."""

Triple = tuple[float, float, float]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Base of all messages."""

    stream: str
    """Which stream this belongs to; one publisher each."""
    sequence: int
    """Number in the stream, from 0."""
    source_time_ns: int
    """When it was measured, by the source's clock."""


class ToolPose(_Message, frozen=True, kw_only=True):
    """Where a tracker sees a tool: its tip and its orientation in the tracker's frame."""

    tool: str
    position: Triple
    """mm; of the tip"""
    quaternion: tuple[float, float, float, float]
    """w, x, y, z: tracker_from_tool; the tool's z axis points out of its tip"""
    valid: bool
    """False while the tool is not seen; position and quaternion then mean nothing."""
    error: float | None = None
    """RMS error as the tracker states it, mm"""


class FiducialTouch(_Message, frozen=True, kw_only=True):
    """A person touched a fiducial with a tracked tool and said so."""

    fiducial: str
    tool: str
    position: Triple
    """mm, in the tracker's frame"""


class PressureSamples(_Message, frozen=True, kw_only=True):
    """Consecutive samples of a pressure transducer; ``source_time_ns`` is the first one's time."""

    sensor: str
    tool: str | None
    """The tool at whose tip it measures; None for a fixed line."""
    sample_period_ns: int
    values_mmhg: tuple[float, ...]


class FlowSample(_Message, frozen=True, kw_only=True):
    """Flow through a port."""

    sensor: str
    port: str
    flow_ml_s: float
    """into the inlet, or out of an outlet"""
    deviation_ml_s: float
    """standard deviation of its error"""


class Trigger(_Message, frozen=True, kw_only=True):
    """An instant, such as an R-wave."""

    kind: str


class Heartbeat(_Message, frozen=True, kw_only=True):
    """A device is there."""

    device: str
    status: str


class SessionStart(_Message, frozen=True, kw_only=True):
    """First event of a session: everything that its result depends on besides the case and the events."""

    case_hash: str
    seed: int
    settings: dict[str, float | str | int | bool]


class Tick(_Message, frozen=True, kw_only=True):
    """The session's clock."""

    lag_ns: int = 0
    """How long the oldest message that still waits for the session has been waiting."""


class ProcedureEnd(_Message, frozen=True, kw_only=True):
    """The procedure is over."""

    reason: str


class Estimate(msgspec.Struct, frozen=True):
    """A value and its 95 % interval."""

    value: float
    lower: float
    upper: float


class TwinState(_Message, frozen=True, kw_only=True):
    """What the twin says at one tick."""

    model_time_ns: int
    """Time of the flow state; 0 before there is one."""
    age_ns: dict[str, int]
    """Per stream: how old its newest message is."""
    flags: tuple[str, ...]
    """Why this state is not to be trusted; empty where it is."""
    registered: bool
    fre: float | None
    """Fiducial registration error, RMS, mm; not the accuracy at the tip."""
    tre: float | None
    """Predicted target registration error at the tip, RMS, mm."""
    tool: str
    tip: Triple | None
    """mm, LPS, planning image"""
    tip_covariance: tuple[float, float, float, float, float, float, float, float, float] | None
    """mm^2, 3 x 3 by rows"""
    tip_valid: bool
    tip_pressure_mmhg: Estimate | None
    measured_pressure_mmhg: float | None
    port_pressure_mmhg: dict[str, Estimate]
    port_flow_ml_s: dict[str, Estimate]
    parameters: dict[str, Estimate]
    """Factors on the planned values."""
    axis_pressure_mmhg: tuple[Estimate, ...]
    """At the case's stations along the vessel (``axis.csv``)."""
    field_coefficients: tuple[float, ...]
    """Pressure at vertex i of the case's surface [mmHg] = sum_k coefficients[k] * pressure_mode_k[i]."""
    field_deviation_mmhg: float
    counters: dict[str, int]
    innovation: float | None
    """Last observation minus prediction, in expected standard deviations."""


Message = (
    ToolPose
    | FiducialTouch
    | PressureSamples
    | FlowSample
    | Trigger
    | Heartbeat
    | SessionStart
    | Tick
    | ProcedureEnd
    | TwinState
)

MESSAGE_TYPES: tuple[type[_Message], ...] = (
    ToolPose,
    FiducialTouch,
    PressureSamples,
    FlowSample,
    Trigger,
    Heartbeat,
    SessionStart,
    Tick,
    ProcedureEnd,
    TwinState,
)

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as MessagePack; equal messages give equal bytes."""
    return _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """The message in MessagePack bytes.

    Raises:
        MalformedMessage: it is none, or its values cannot be.
    """
    try:
        message = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from error
    reason = fault(message)
    if reason is not None:
        raise MalformedMessage(f"{type(message).__name__}: {reason}")
    return message


def fault(message: Message) -> str | None:
    """What is wrong with a message's values, or None."""
    if not message.stream or not message.stream.isascii() or "\0" in message.stream:
        return "the stream's name must be ASCII and not empty"
    if message.sequence < 0:
        return "the sequence number is negative"
    if not 0 <= message.source_time_ns < 2**63:
        return "the source time is not a time since the epoch in ns"
    match message:
        case ToolPose():
            return _pose_fault(message)
        case FiducialTouch():
            if not message.fiducial:
                return "the fiducial has no name"
            return None if _finite(message.position) else "the position is not finite"
        case PressureSamples():
            if not 1 <= len(message.values_mmhg) <= MAX_SAMPLES:
                return f"{len(message.values_mmhg)} samples; 1 to {MAX_SAMPLES} are allowed"
            if not 0 < message.sample_period_ns <= 10_000_000_000:
                return "the sample period must be positive and at most 10 s"
            return None if _finite(message.values_mmhg) else "a pressure is not finite"
        case FlowSample():
            if not _finite((message.flow_ml_s, message.deviation_ml_s)):
                return "the flow is not finite"
            return None if message.deviation_ml_s >= 0 else "the deviation is negative"
        case Trigger():
            return None if message.kind else "the trigger has no kind"
        case Heartbeat():
            return None if message.device else "the device has no name"
    return None


def _pose_fault(pose: ToolPose) -> str | None:
    if not pose.tool:
        return "the tool has no name"
    if not pose.valid:
        return None
    if not _finite((*pose.position, *pose.quaternion)):
        return "the pose is not finite"
    norm = math.hypot(*pose.quaternion)
    if norm == 0.0:
        return "a zero quaternion is no orientation; a tool that is not seen is sent with valid = false"
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        return f"the quaternion's norm is {norm:.4g} and not 1"
    if pose.error is not None and not (math.isfinite(pose.error) and pose.error >= 0):
        return "the stated error is not a length"
    return None


def _finite(values: tuple[float, ...]) -> bool:
    return all(math.isfinite(value) for value in values)


def message_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of each message type, by its name; for the recording and for other languages."""
    return {kind.__name__: msgspec.json.schema(kind) for kind in MESSAGE_TYPES}
