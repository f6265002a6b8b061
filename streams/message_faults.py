"""What is wrong with a message's values, in words: what several fields say together, and what types allow."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from streams.message_types import (
    BYTES_PER_PIXEL,
    LARGEST_NORM,
    LEAST_NORM,
    MAX_IMAGE_SIDE,
    MAX_NAME,
    MAX_SAMPLES,
    MAX_STREAMS,
    MAX_TEXT,
    NO_TURN,
    PIXEL_FORMATS,
    QUATERNION_TOLERANCE,
    CardiacOutput,
    DopplerVelocity,
    FiducialTouch,
    FlowSample,
    Heartbeat,
    ImageFrame,
    Message,
    Note,
    PatientRegistration,
    PressureSamples,
    SectionFlow,
    ToolPose,
    Trigger,
    VitalSign,
    WaveformSamples,
)


def doubtful(message: Message) -> bool:
    """Whether a message that its type allows, in a stream whose name is sound, has yet to be judged by `fault`."""
    if type(message) is ToolPose:
        return message.valid and not LEAST_NORM < math.dist(message.quaternion, NO_TURN) < LARGEST_NORM
    return type(message) in (ImageFrame, PatientRegistration)


def fault(message: Message) -> str | None:
    """What is wrong with a message's values, or None."""
    if not message.stream or not message.stream.isascii() or "\0" in message.stream:
        return "the stream's name must be ASCII and not empty"
    if len(message.stream) > MAX_NAME:
        return f"the stream's name is longer than {MAX_NAME} characters"
    if message.sequence < 0:
        return "the sequence number is negative"
    if not 0 <= message.source_time_ns < 2**63:
        return "the source time is not a time since the epoch in ns"
    check = _CHECKS.get(type(message))
    return None if check is None else check(message)


def _touch_fault(touch: FiducialTouch) -> str | None:
    if not touch.fiducial:
        return "the fiducial has no name"
    return None if _finite(touch.position) else "the position is not finite"


def _registration_fault(one: PatientRegistration) -> str | None:
    if not one.method:
        return "the method has no name"
    if not _finite((*one.position, *one.quaternion, *one.center, *one.covariance)):
        return "the registration is not finite"
    norm = math.hypot(*one.quaternion)
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        return f"the quaternion's norm is {norm:.4g} and not 1"
    if len(one.covariance) != 36:
        return f"{len(one.covariance)} numbers of the covariance; 36 belong"
    covariance = np.array(one.covariance).reshape(6, 6)
    # Turns and displacements are compared at 100 mm from the center.
    weighed = covariance * np.outer(_WEIGHTS, _WEIGHTS)
    largest = float(np.abs(weighed).max())
    if not np.allclose(weighed, weighed.T, rtol=0.0, atol=1e-6 * largest):
        return "the covariance is not symmetric"
    if not largest or np.linalg.eigvalsh(weighed).min() < -1e-6 * largest:
        return "the covariance is that of no error: it has to be positive"
    return None


_WEIGHTS = np.repeat([100.0, 1.0], 3)


def _flow_fault(flow: FlowSample) -> str | None:
    if not _finite((flow.flow_ml_s, flow.deviation_ml_s)):
        return "the flow is not finite"
    return None if flow.deviation_ml_s >= 0 else "the deviation is negative"


def _pressure_fault(samples: PressureSamples) -> str | None:
    line = (samples.natural_frequency_hz, samples.damping, samples.zero_deviation_mmhg)
    if any(value is not None and not 0.0 <= value < math.inf for value in line):
        return "the line's natural frequency, its damping or its zero's deviation is negative or not finite"
    return _samples_fault(samples.values_mmhg, samples.sample_period_ns)


def _measured_fault(values: tuple[float, ...], deviations: tuple[float, ...], averaging_ns: int) -> str | None:
    if not _finite((*values, *deviations)):
        return "a value is not finite"
    if min(deviations) < 0.0:
        return "a deviation is negative"
    return None if 0 <= averaging_ns <= 600_000_000_000 else "the averaging time is negative or longer than 10 minutes"


def _heartbeat_fault(beat: Heartbeat) -> str | None:
    if len(beat.streams) > MAX_STREAMS:
        return f"{len(beat.streams)} streams; {MAX_STREAMS} are allowed"
    return None if beat.device else "the device has no name"


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


def _samples_fault(values: tuple[float, ...], period_ns: int) -> str | None:
    if not 1 <= len(values) <= MAX_SAMPLES:
        return f"{len(values)} samples; 1 to {MAX_SAMPLES} are allowed"
    if not 0 < period_ns <= 10_000_000_000:
        return "the sample period must be positive and at most 10 s"
    return None if _finite(values) else "a sample is not finite"


def _image_fault(image: ImageFrame) -> str | None:
    if not (1 <= image.width <= MAX_IMAGE_SIDE and 1 <= image.height <= MAX_IMAGE_SIDE):
        return f"an image of {image.width} x {image.height} pixels; 1 to {MAX_IMAGE_SIDE} a side are allowed"
    if image.pixel_format not in PIXEL_FORMATS:
        return f"the pixel format {image.pixel_format[:20]!r} is none of {', '.join(PIXEL_FORMATS)}"
    if image.spacing_mm is not None and not (_finite(image.spacing_mm) and min(image.spacing_mm) > 0):
        return "the spacing is not a pair of lengths"
    depth = BYTES_PER_PIXEL.get(image.pixel_format)
    if depth is None:
        return None if bytes(image.data[:2]) == b"\xff\xd8" else "the data is no JPEG"
    expected = image.width * image.height * depth
    return None if len(image.data) == expected else f"{len(image.data)} bytes of pixels where {expected} belong"


def _finite(values: tuple[float, ...]) -> bool:
    # A sum is finite only if all its parts are; one that is not may have overflowed.
    return math.isfinite(sum(values)) or all(math.isfinite(value) for value in values)


_CHECKS: dict[type, Callable[[Any], str | None]] = {
    ToolPose: _pose_fault,
    FiducialTouch: _touch_fault,
    PatientRegistration: _registration_fault,
    PressureSamples: _pressure_fault,
    SectionFlow: lambda flow: _measured_fault(
        (*flow.position, flow.flow_ml_s), (flow.deviation_ml_s,), flow.averaging_ns
    ),
    DopplerVelocity: lambda one: _measured_fault(
        (*one.position, *one.direction, one.velocity_mm_s), (one.deviation_mm_s, one.angle_deviation_deg), 0
    ),
    CardiacOutput: lambda one: _measured_fault((one.output_l_min,), (one.deviation_l_min,), one.averaging_ns),
    WaveformSamples: lambda samples: _samples_fault(samples.values, samples.sample_period_ns),
    FlowSample: _flow_fault,
    VitalSign: lambda sign: None if math.isfinite(sign.value) else "the value is not finite",
    ImageFrame: _image_fault,
    Note: lambda note: None if len(note.text) <= MAX_TEXT else f"the text is longer than {MAX_TEXT} characters",
    Trigger: lambda trigger: None if trigger.kind else "the trigger has no kind",
    Heartbeat: _heartbeat_fault,
}
