"""The catheter followed through the vessel during a session: its branch, its place, the drift of the registration.

Every pose of the tool that carries the pressure sensor is laid onto the case's branch tree, which names the branch and
estimates how far the registration has drifted: a catheter cannot leave the lumen. Whether that drift is also taken out
of the tip's position is the case's choice (``[registration] follow_lumen``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from registration.lumen.drift import Drift
from registration.lumen.tracking import LumenTrack, LumenTracker
from registration.pose_error import PoseError
from registration.rigid import Array
from streams.messages import Estimate, VesselPlace

INTERVAL_NS = 40_000_000
"""Poses closer in time than this say nothing new about the place in the tree."""

NORMAL_95 = 1.959963984540054

DRIFT_MM = 2.0
DRIFT_SURE = 16.3
"""A registration is said to have drifted by more than `DRIFT_MM` at the tip, where no drift at all lies outside the
99.9 % region (chi-squared of three directions) of the one that was found, and the one that was found outside that of
the error which the fiducials leave open: what was known to be uncertain is no drift."""


@dataclass(frozen=True)
class Following:
    """What is known of the catheter's way."""

    track: LumenTrack
    place: VesselPlace
    drift: Drift | None
    """What is taken out of the tip's position; None where the case does not want it."""
    drifted: bool
    """Whether the registration has drifted, beyond doubt, by what is not taken out."""


def follow(
    tracker: LumenTracker,
    before: Following | None,
    registered: PoseError,
    tip: Array,
    time_ns: int,
    *,
    correct: bool,
) -> Following | None:
    """What is known after a pose.

    Args:
        tracker: of the case's vessel.
        before: what was known; None at the beginning and after a new registration.
        registered: the registration's error.
        tip: (3,) of the tool in image space, as registered, mm.
        time_ns: of the pose.
        correct: whether the case wants the drift taken out.
    """
    time_s = time_ns * 1e-9
    if before is None:
        track = tracker.begin(registered)
    elif before.track.time_s is not None and time_s - before.track.time_s < INTERVAL_NS * 1e-9:
        return before
    else:
        track = before.track
    track = tracker.follow(track, time_s, tip)
    state = tracker.state(track)
    if state is None:
        return before
    half = NORMAL_95 * state.along_std_mm
    moved = state.tip - tip
    place = VesselPlace(
        branch=state.branch,
        probability=state.probability,
        along_mm=Estimate(state.along_mm, state.along_mm - half, state.along_mm + half),
        outside_mm=state.outside_mm if correct else float(tracker.tree.outside(tip[None])[0]),
        drift_mm=float(np.linalg.norm(moved)),
        drift_deviation_mm=float(np.sqrt(state.error.mean_square(state.tip))),
    )
    drifted = False
    if not correct and place.drift_mm > DRIFT_MM:
        found, known = state.error.point_covariance(state.tip), registered.point_covariance(state.tip)
        drifted = min(float(moved @ np.linalg.solve(one, moved)) for one in (found, known)) > DRIFT_SURE
    return Following(
        track,
        place,
        track.drift if correct else None,
        drifted=drifted,
    )
