"""Two trackers on one rigid body: their clocks brought together by how fast the body turns.

The speed of turning is the same for every frame fixed to the body, whatever the mounting, and in every world
frame; so two pose streams are comparable before anything else about them is known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from registration.calibration.time_offset import TimeOffset, find_time_offset
from registration.errors import InputError
from registration.pose_files import PoseStream
from registration.rigid import Array

LEAST_POSES = 20
"""Fewer poses show no course of turning that could be compared."""


class PoseInterpolator:
    """Poses of a stream between its stamps: rotations on the great arc, positions on a straight line."""

    def __init__(self, stream: PoseStream, *, longest_gap_s: float) -> None:
        """Take the stream's valid poses; a gap longer than `longest_gap_s` is not bridged."""
        used = stream.used()
        if len(used.time_s) < 2:
            raise InputError(f"{stream.name} has a single valid pose; nothing lies between.")
        # Stamps of some clocks count from 1970: times are kept from the first one, to keep their last digits.
        self.start_s = float(used.time_s[0])
        self._times = used.time_s - self.start_s
        self._positions = used.poses[:, :3, 3]
        self._rotations = Slerp(self._times, Rotation.from_matrix(used.poses[:, :3, :3]))
        self._longest = longest_gap_s

    def since_start(self, elapsed_s: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Poses (n, 4, 4) at times (n,) after `start_s`, and whether each may be used (n,).

        A time outside the stream or within a long gap has no pose: the nearest one is returned there, marked
        False.
        """
        t = self._times
        upper = np.clip(np.searchsorted(t, elapsed_s, side="right"), 1, len(t) - 1)
        gap = t[upper] - t[upper - 1]
        good = (elapsed_s >= t[0]) & (elapsed_s <= t[-1]) & (gap <= self._longest)
        inside = np.clip(elapsed_s, t[0], t[-1])
        part = ((inside - t[upper - 1]) / gap)[:, None]
        result = np.tile(np.eye(4), (len(elapsed_s), 1, 1))
        result[:, :3, 3] = (1.0 - part) * self._positions[upper - 1] + part * self._positions[upper]
        result[:, :3, :3] = self._rotations(inside).as_matrix()
        return result, good

    def __call__(self, time_s: Array) -> tuple[Array, NDArray[np.bool_]]:
        """As `since_start`, for stamps of the stream's clock."""
        return self.since_start(np.asarray(time_s, dtype=np.float64) - self.start_s)


def turning_speed(stream: PoseStream, *, window_s: float = 0.1) -> tuple[Array, Array]:
    """Stamps (n,) in seconds and speeds of turning (n,) in rad/s over `window_s`; NaN within gaps.

    Raises:
        InputError: a recording that is too short to turn in.
    """
    if len(stream.time_s) < LEAST_POSES:
        raise InputError(
            f"{stream.name} has {len(stream.time_s)} valid poses of different times; at least {LEAST_POSES} are needed."
        )
    period = float(np.median(np.diff(stream.time_s)))
    window = max(window_s, 2.0 * period)
    t = np.arange(stream.time_s[0] + 0.5 * window, stream.time_s[-1] - 0.5 * window, period)
    at = PoseInterpolator(stream, longest_gap_s=3.0 * window)
    (before, ok_before), (after, ok_after) = at(t - 0.5 * window), at(t + 0.5 * window)
    turned = Rotation.from_matrix(np.swapaxes(before[:, :3, :3], 1, 2) @ after[:, :3, :3]).magnitude()
    return t, np.where(ok_before & ok_after, turned / window, np.nan)


def find_pose_stream_offset(a: PoseStream, b: PoseStream, *, reach_s: float | None = None) -> TimeOffset:
    """Lag of b's clock behind a's, from the speeds of turning of two streams of one rigid body.

    Args:
        a: first stream.
        b: second stream; its stamps may start from another epoch.
        reach_s: largest lag looked for. If not given, clocks that overlap are searched within 1 s, and clocks
            that do not are first aligned at their first samples and searched within half the recording.

    Raises:
        InputError: as `find_time_offset`; a body that does not turn.
    """
    a, b = a.used(), b.used()
    shift = 0.0
    if reach_s is None:
        together = min(a.time_s[-1], b.time_s[-1]) - max(a.time_s[0], b.time_s[0])
        shorter = min(np.ptp(a.time_s), np.ptp(b.time_s))
        if together > 0.8 * shorter:
            reach_s = 1.0
        else:
            shift = float(b.time_s[0] - a.time_s[0])
            reach_s = 0.5 * float(shorter)
    (ta, speed_a), (tb, speed_b) = turning_speed(a), turning_speed(b)
    if not (np.nanmax(speed_a, initial=0.0) >= 0.02 and np.nanmax(speed_b, initial=0.0) >= 0.02):
        raise InputError("the body did not turn while both devices tracked it; turn it about several axes.")
    window = max(0.1, 2 * float(np.median(np.diff(ta))), 2 * float(np.median(np.diff(tb))))
    if window > 0.1:
        (ta, speed_a), (tb, speed_b) = turning_speed(a, window_s=window), turning_speed(b, window_s=window)
    found = find_time_offset(ta, speed_a, tb - shift, speed_b, reach_s=reach_s, signed=False)
    return TimeOffset(**{**found.__dict__, "lag_s": found.lag_s + shift})
