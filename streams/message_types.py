"""The types of the messages between devices, twin and viewers, and what of a message its type can judge.

Use them from `streams.messages`, which also reads and writes them.
"""

import sys
from typing import Annotated

import msgspec

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

MAX_SAMPLES = 4096
"""Samples in one message at most."""

MAX_NAME = 200
"""Characters in a stream's name at most."""

MAX_STREAMS = 256
"""Streams of one device, and of all, at most."""

ENDED = "ended"
"""Status of a device's last heartbeat."""

MAX_TEXT = 4096
"""Characters in a free text at most."""

MAX_IMAGE_SIDE = 4096
"""Pixels along a side of an image at most."""

BYTES_PER_PIXEL = {"mono8": 1, "mono16": 2, "rgb8": 3}
"""Pixel formats whose rows are sent plainly, one after another; mono16 is little-endian."""

PIXEL_FORMATS = (*BYTES_PER_PIXEL, "jpeg")

QUATERNION_TOLERANCE = 1e-3
"""How far from 1 the norm of a valid pose's quaternion may be."""

LEAST_NORM, LARGEST_NORM = 1.0 - 0.999 * QUATERNION_TOLERANCE, 1.0 + 0.999 * QUATERNION_TOLERANCE
"""Between these it is within the tolerance for sure, however it is rounded."""

LONGEST_PERIOD_NS = 10_000_000_000
"""Between two samples of a message at most."""

NO_TURN = (0.0, 0.0, 0.0, 0.0)

# What a type can say is judged while a message is decoded, which costs next to nothing; what is said with several
# fields together (a rotation's norm, an image's size) is judged after it, by `fault`.
Length = Annotated[float, msgspec.Meta(ge=0.0, le=sys.float_info.max)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Period = Annotated[int, msgspec.Meta(ge=1, le=LONGEST_PERIOD_NS)]
Samples = Annotated[tuple[Finite, ...], msgspec.Meta(min_length=1, max_length=MAX_SAMPLES)]
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_IMAGE_SIDE)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag=True):
    """Base of all messages."""

    stream: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
    """Which stream this belongs to; one publisher each."""
    sequence: Annotated[int, msgspec.Meta(ge=0)]
    """Number in the stream, from 0."""
    source_time_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    """When it was measured, by the source's clock."""


class ToolPose(_Message, frozen=True, kw_only=True, gc=False):
    """Where a tracker sees a tool: its tip and its orientation in the tracker's frame."""

    tool: Name
    position: Triple
    """mm; of the tip"""
    quaternion: tuple[Finite, Finite, Finite, Finite]
    """w, x, y, z: tracker_from_tool; the tool's z axis points out of its tip"""
    valid: bool
    """False while the tool is not seen; position and quaternion then mean nothing."""
    error: Length | None = None
    """RMS error as the tracker states it, mm"""


class FiducialTouch(_Message, frozen=True, kw_only=True, gc=False):
    """A person touched a fiducial with a tracked tool and said so."""

    fiducial: Name
    tool: str
    position: Triple
    """mm, in the tracker's frame"""


class PatientRegistration(_Message, frozen=True, kw_only=True, gc=False):
    """The patient was registered by another way than touched fiducials: a surface, another navigation system."""

    method: Name
    """in a word, such as surface"""
    position: Triple
    """mm, of image_from_tracker: planning image (LPS) from the tracker's frame"""
    quaternion: tuple[Finite, Finite, Finite, Finite]
    """w, x, y, z of image_from_tracker"""
    covariance: Annotated[tuple[Finite, ...], msgspec.Meta(min_length=36, max_length=36)]
    """6 x 6 by rows, of its error: a small turn [rad] about ``center`` and a displacement [mm] there, in the image's
    axes"""
    center: Triple = (0.0, 0.0, 0.0)
    """mm, LPS"""


class PressureSamples(_Message, frozen=True, kw_only=True, gc=False):
    """Consecutive samples of a pressure transducer; ``source_time_ns`` is the first one's time."""

    sensor: str
    tool: str | None
    """The tool at whose tip it measures; None for a fixed line."""
    sample_period_ns: Period
    values_mmhg: Samples
    port: str | None = None
    """Of a fixed line: the port of the case at which it measures."""
    natural_frequency_hz: Length | None = None
    """Of a fluid-filled line, as a fast flush shows it; None where nobody measured it."""
    damping: Length | None = None
    """The same for its damping ratio."""
    zero_deviation_mmhg: Length | None = None
    """Standard deviation of its zero, with the height of the transducer: small where it was just zeroed and leveled."""


class FlowSample(_Message, frozen=True, kw_only=True, gc=False):
    """Flow through a port."""

    sensor: str
    port: str
    flow_ml_s: Finite
    """into the inlet, or out of an outlet"""
    deviation_ml_s: Length
    """standard deviation of its error"""


class SectionFlow(_Message, frozen=True, kw_only=True, gc=False):
    """Flow through the vessel's cross-section at a place: of an ultrasound probe, of phase-contrast MR."""

    sensor: str
    position: Triple
    """mm, LPS, planning image: near the section's middle"""
    flow_ml_s: Finite
    """downstream"""
    deviation_ml_s: Length
    """standard deviation of its error"""
    averaging_ns: Annotated[int, msgspec.Meta(ge=0, le=60_000_000_000)] = 0
    """time before ``source_time_ns`` that it is the mean of; 0 for the flow at an instant"""


class DopplerVelocity(_Message, frozen=True, kw_only=True, gc=False):
    """Velocity of the blood along a beam in a sample volume."""

    sensor: str
    position: Triple
    """mm, in the tracker's frame: the sample volume's middle"""
    direction: Triple
    """in the tracker's frame, of any length: positive velocities go along it"""
    velocity_mm_s: Finite
    """along the beam, not corrected for an angle"""
    deviation_mm_s: Length
    """standard deviation of its error"""
    angle_deviation_deg: Length = 5.0
    """standard deviation of the beam's angle"""


class CardiacOutput(_Message, frozen=True, kw_only=True, gc=False):
    """Output of the heart, by thermodilution or pulse contour."""

    sensor: str
    output_l_min: Finite
    deviation_l_min: Length
    """standard deviation of its error"""
    averaging_ns: Annotated[int, msgspec.Meta(ge=0, le=600_000_000_000)] = 10_000_000_000
    """time before ``source_time_ns`` that it is the mean of"""
    port: str | None = None
    """the port of the case that all of it passes; None where the vessel takes only a part: it is then not used"""


class WaveformSamples(_Message, frozen=True, kw_only=True, gc=False):
    """Consecutive samples of a waveform other than pressure, such as an ECG; ``source_time_ns`` is the first one's."""

    sensor: str
    quantity: str
    unit: str
    sample_period_ns: Period
    values: Samples


class VitalSign(_Message, frozen=True, kw_only=True, gc=False):
    """A number from a monitor, such as a heart rate or a cardiac output."""

    device: str
    quantity: str
    value: Finite
    unit: str


class ImageFrame(_Message, frozen=True, kw_only=True, gc=False):
    """One image of a fluoroscope, an ultrasound machine or a camera."""

    device: str
    width: Side
    height: Side
    pixel_format: str
    """one of PIXEL_FORMATS"""
    data: memoryview
    """rows from the top, without padding; or a JPEG file; of what was received, a view into its frame"""
    spacing_mm: tuple[Length, Length] | None = None
    """between columns and between rows, where it is known"""


class Note(_Message, frozen=True, kw_only=True, gc=False):
    """Text that a person or a device wrote down."""

    source: str
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class Trigger(_Message, frozen=True, kw_only=True, gc=False):
    """An instant, such as an R-wave."""

    kind: Name


class Heartbeat(_Message, frozen=True, kw_only=True, gc=False):
    """A device is there."""

    device: Name
    status: str
    """ENDED: it will say no more, and is not to be missed."""
    synchronized: bool = False
    """The device's clock is kept by PTP or NTP: its streams' times are taken as they are."""
    streams: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_STREAMS)] = ()
    """The streams of this device, by name."""


class SessionStart(_Message, frozen=True, kw_only=True, gc=False):
    """First event of a session: everything that its result depends on besides the case and the events."""

    case_hash: str
    seed: int
    settings: dict[str, float | str | int | bool]


class Tick(_Message, frozen=True, kw_only=True, gc=False):
    """The session's clock."""

    lag_ns: int = 0
    """How long the oldest message that still waits for the session has been waiting."""
    stages: StageTimes | None = None
    """How long messages took on their way through the session since the tick before."""


class ProcedureEnd(_Message, frozen=True, kw_only=True, gc=False):
    """The procedure is over."""

    reason: str


class ClockEstimate(msgspec.Struct, frozen=True, gc=False):
    """How a stream's clock stands to the session's."""

    offset_ns: int
    """Added to the source's time to give the session's."""
    drift_ppm: float
    """How fast the offset grows, in millionths."""
    trusted: bool
    """The source is known to be synchronized; nothing is added."""


class IntakeReport(_Message, frozen=True, kw_only=True, gc=False):
    """What the twin's own intake saw since the session began; one of the session's own events."""

    flags: tuple[str, ...]
    """What forbids trust: silent streams, a failed recording, plain text on the network."""
    counters: dict[str, int]
    clocks: dict[str, ClockEstimate]


class TwinState(_Message, frozen=True, kw_only=True, gc=False):
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
    vessel_place: VesselPlace | None = None
    """Where in the vessel tree the tip is; None where that is not known."""
    inflow_shape: tuple[Estimate, ...] = ()
    """Cosine and sine of each harmonic by which the inflow differs from the planned one, as shares of its mean."""
    sensors: dict[str, SensorState] = {}
    """By the pressure sensor's name."""
    registration_offset: RegistrationOffset | None = None
    consistency: Consistency | None = None
    tip_pressure_parts: UncertaintyParts | None = None
    """Of the pressure at the tip, mmHg."""
    forecasts: tuple[Forecast, ...] = ()
    """Made with each R-wave."""
    stages: StageTimes | None = None
    """How long messages took on their way through the session since the state before; what the network took is not in
    it."""


Message = (
    ToolPose
    | FiducialTouch
    | PatientRegistration
    | PressureSamples
    | FlowSample
    | SectionFlow
    | DopplerVelocity
    | CardiacOutput
    | WaveformSamples
    | VitalSign
    | ImageFrame
    | Note
    | Trigger
    | Heartbeat
    | SessionStart
    | Tick
    | ProcedureEnd
    | IntakeReport
    | TwinState
)

MESSAGE_TYPES: tuple[type[_Message], ...] = (
    ToolPose,
    FiducialTouch,
    PatientRegistration,
    PressureSamples,
    FlowSample,
    SectionFlow,
    DopplerVelocity,
    CardiacOutput,
    WaveformSamples,
    VitalSign,
    ImageFrame,
    Note,
    Trigger,
    Heartbeat,
    SessionStart,
    Tick,
    ProcedureEnd,
    IntakeReport,
    TwinState,
)

OWN_TYPES = (SessionStart, Tick, IntakeReport, TwinState)
"""Only the twin itself says these; from a device they are refused."""


def end_time_ns(message: Message) -> int:
    """When a message was complete, by the source's clock: of samples, the time of the last one."""
    if isinstance(message, PressureSamples):
        return message.source_time_ns + message.sample_period_ns * (len(message.values_mmhg) - 1)
    if isinstance(message, WaveformSamples):
        return message.source_time_ns + message.sample_period_ns * (len(message.values) - 1)
    return message.source_time_ns
