"""What the session remembers between two events, and where that puts the tip."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.pose_error import PoseError
from streams.estimates import StageTimes
from streams.events import SequenceWatch
from streams.messages import Forecast, IntakeReport, SessionStart, ToolPose
from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.flow_filter import FilterState
from surgical_twin.assimilation.self_watch import SelfWatch
from surgical_twin.assimilation.sights import error_factor
from surgical_twin.assimilation.signal_watch import SignalWatch
from surgical_twin.beat_means import BeatMeans
from surgical_twin.following import Following
from surgical_twin.late_data import Taken
from surgical_twin.patient_registration import Registered
from surgical_twin.tip_kernel import spread_of_tips

Array = NDArray[np.float64]

TRACKER_ERROR_MM = 0.3
"""Error per axis [mm] of a tool's tip where its tracker states none."""

POSE_LIFETIME_NS = 450_000_000
"""A pose older than this says nothing about where the tip is: a lost tool is shown as such within half a second."""


def replace[T](value: T, **changes: Any) -> T:
    """As `dataclasses.replace`, for those that do nothing when they are made: a tenth of its cost for many fields.

    The session takes several such copies of its state for each event. A dictionary copied as a whole is not filled
    field by field.
    """
    copied = object.__new__(type(value))
    object.__setattr__(copied, "__dict__", value.__dict__ | changes)  # also where the type is frozen
    return copied


@dataclass(frozen=True)
class TipFix:
    """Where a tool's tip is, in image space, as fiducials put it, and the lumen where the case wants it."""

    position: Array
    """(3,) mm, LPS"""
    error: PoseError
    """of the registration"""
    tracker_variance: float
    """mm^2 per axis"""

    @property
    def covariance(self) -> Array:
        """(3, 3) mm^2: registration and tracker together."""
        total: Array = self.error.point_covariance(self.position) + np.eye(3) * self.tracker_variance
        return total

    @cached_property
    def factor(self) -> Array:
        """(6, 6) `error_factor` of the registration's error."""
        return error_factor(self.error)

    def shown(self, ensemble: FilterState | None) -> "ShownTip":
        """The tip with what the pressures measured along the vessel say of the registration."""
        if ensemble is None:
            covariance = self.error.point_covariance(self.position)
            return ShownTip(self.position, self.covariance, float(np.sqrt(np.trace(covariance))))
        away, middle, covariance = spread_of_tips(ensemble.errors, self.position - self.error.center, self.factor)
        tre = math.sqrt(float(covariance[0, 0] + covariance[1, 1] + covariance[2, 2]))
        covariance.flat[::4] += self.tracker_variance
        return ShownTip(self.position + middle, covariance, tre, away)


@dataclass(frozen=True)
class ShownTip:
    """Where a tool's tip is by all that is known."""

    position: Array
    """(3,) mm, LPS"""
    covariance: Array
    """(3, 3) mm^2: registration and tracker together"""
    tre: float
    """Expected error of the registration there, RMS, mm"""
    away: Array | None = None
    """(members, 3) mm: where each member has it, from there; None without an ensemble"""


@dataclass(frozen=True)
class SessionState:
    """Everything the session remembers between two events."""

    started: SessionStart | None = None
    watch: SequenceWatch = field(default_factory=SequenceWatch)
    counters: Mapping[str, int] = field(default_factory=dict)
    newest_ns: Mapping[str, int] = field(default_factory=dict)
    """Per stream: the newest source time seen."""
    touches: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    registration: Registered | None = None
    registration_problem: str | None = None
    poses: Mapping[str, ToolPose] = field(default_factory=dict)
    tool: str | None = None
    """The tool whose tip carries the pressure sensor."""
    following: Following | None = None
    """That tool's way through the vessel since the last registration."""
    beat: Beat | None = None
    beats: int = 0
    """Beats since the circulation was last seen to change."""
    ensemble: FilterState | None = None
    measured_mmhg: float | None = None
    measured_ns: int = 0
    normalized_innovation: float | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    """Why observations were last refused, with the time of the last such refusal."""
    lag_ns: int = 0
    """How far the session was behind its messages at the last tick."""
    stages: StageTimes | None = None
    """How long messages took, as the last tick said."""
    used_ns: Mapping[str, int] = field(default_factory=dict)
    """Per stream: time of the last observation that was given to the filter."""
    doubted_ns: int | None = None
    """When the tip last jumped as no catheter does; None where it did not since the last registration."""
    registrations: int = 0
    """How often the patient was registered."""
    taken: tuple[Taken, ...] = ()
    """The last observations, for those that come late."""
    before_change: FilterState | None = None
    """The ensemble before the circulation changed, for the first beats after it did."""
    checkpoints: tuple[FilterState, ...] = ()
    """The ensemble at the last R-waves, the newest last."""
    watching: SelfWatch = field(default_factory=SelfWatch)
    signals: Mapping[str, SignalWatch] = field(default_factory=dict)
    """By pressure sensor."""
    means: BeatMeans | None = None
    forecasts: tuple[Forecast, ...] = ()
    intake: IntakeReport | None = None
    """What the intake last said of the streams: silent ones, losses, clocks."""
    published: int = 0
    ended: bool = False

    def counting(self, **increments: int) -> "SessionState":
        """The state with some counters raised."""
        counters = dict(self.counters)
        for name, increment in increments.items():
            counters[name] = counters.get(name, 0) + increment
        return replace(self, counters=counters)

    def refusing(self, reason: str, time_ns: int) -> "SessionState":
        """The state after an observation was refused for a reason."""
        return replace(self, refused={**self.refused, reason: time_ns}).counting(refused=1)


FASTEST_MM_S = 100.0
"""A catheter's tip is not moved faster by hand."""

JUMP_MM = 3.0
"""Beyond what the tracker's noise makes of a tip at rest."""

LONGEST_STEP_NS = 250_000_000
"""Poses farther apart in time show no jump."""


def jumped(before: ToolPose, after: ToolPose) -> bool:
    """Whether a tip moved as no catheter does: the patient, the tracker or its reference was pushed."""
    elapsed = after.source_time_ns - before.source_time_ns
    if not (before.valid and after.valid and 0 < elapsed < LONGEST_STEP_NS):
        return False
    noise = max(before.error or 0.0, after.error or 0.0, TRACKER_ERROR_MM)
    return math.dist(before.position, after.position) > JUMP_MM + 6.0 * noise + FASTEST_MM_S * elapsed * 1e-9


def registered_tip(registration: Registered, pose: ToolPose) -> Array:
    """(3,) mm: a tool's tip in image space, as the patient was registered."""
    image_from_tracker = registration.target_from_source
    return np.asarray(image_from_tracker[:3, :3] @ np.array(pose.position) + image_from_tracker[:3, 3])


def tip_fix(state: SessionState, tool: str | None, time_ns: int) -> TipFix | None:
    """Where a tool's tip is in the image, or None where that is not known at this time."""
    pose = state.poses.get(tool or "")
    if pose is None or not pose.valid or state.registration is None:
        return None
    if abs(time_ns - pose.source_time_ns) > POSE_LIFETIME_NS:
        return None
    position, error = registered_tip(state.registration, pose), state.registration.error
    if state.following is not None and state.following.drift is not None:
        # What the lumen showed of the drift contains what the fiducials left open.
        drift = state.following.drift
        position, error = drift.correction[:3, :3] @ position + drift.correction[:3, 3], drift.error
    deviation = TRACKER_ERROR_MM if pose.error is None else pose.error / np.sqrt(3.0)
    return TipFix(position, error, float(deviation) ** 2)
