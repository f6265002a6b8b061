"""Frames that move: poses by time, asked for at any moment, never guessed beyond what was measured.

A moving edge keeps the poses of its last seconds. Asked for at a time between two of them it is interpolated
(rotation on the great arc, position on a line) with the larger of their covariances; asked for later than the last
valid pose it is *stale*: within `hold` the last pose is given with a covariance grown by what the tool may have moved
since, and after that there is none. A dynamic reference frame is such an edge: everything tracked is expressed in it,
so that a patient who moves takes the registration along; `reference_moved` says when the reference itself was bumped.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.frames import FrameGraph, FramePose, _check_covariance
from registration.rigid import Array, check_rigid, interpolate, invert, rotation_angle
from registration.verdict import Verdict

KEPT = 512


@dataclass
class _Track:
    times: deque[int]
    poses: deque[tuple[Array, Array]]
    lost_since: int | None = None


@dataclass(frozen=True)
class TimedPose:
    """A chain of transforms at one time: the pose, its covariance, and how it was had.

    `age_ns` is how much older than the time asked for the oldest measurement used is; `held` names the edges whose last
    pose was carried on because nothing newer is known.
    """

    pose: FramePose
    age_ns: int
    held: tuple[str, ...]


class TimedFrameGraph:
    """A frame graph whose moving edges are sampled at one time for each answer."""

    def __init__(
        self, *, hold_s: float = 0.2, longest_gap_s: float = 0.5, speed_mm_s: float = 50.0, turn_deg_s: float = 30.0
    ) -> None:
        """Take the limits.

        Args:
            hold_s: how long a last pose is carried on.
            longest_gap_s: between poses that are interpolated.
            speed_mm_s: one standard deviation of a tool's speed, for the covariance while a pose is carried on.
            turn_deg_s: the same for its turning.
        """
        self.hold_ns, self.gap_ns = round(hold_s * 1e9), round(longest_gap_s * 1e9)
        self.growth = np.repeat([math.radians(turn_deg_s), speed_mm_s], 3) ** 2
        self.graph = FrameGraph()
        self._tracks: dict[tuple[str, str], _Track] = {}

    def set(self, target: str, source: str, matrix: ArrayLike, covariance: ArrayLike | None = None) -> None:
        """A transform that does not change: a registration, a calibration. See `FrameGraph.set`."""
        self.graph.set(target, source, matrix, covariance)

    def add(
        self, target: str, source: str, time_ns: int, matrix: ArrayLike, covariance: ArrayLike | None = None
    ) -> bool:
        """Take one measured pose of a moving edge; False if it is not newer than the last one, and left out.

        Raises:
            InputError: a pose that is not rigid (NaN, zeros), or an edge that would close a loop.
        """
        name = f"{target}_from_{source}"
        pose = check_rigid(matrix, name)
        error = np.zeros((6, 6)) if covariance is None else _check_covariance(covariance, name)
        track = self._tracks.get((target, source))
        if track is None:
            self.graph.set(target, source, pose, error, time_ns)
            track = self._tracks[(target, source)] = _Track(deque(maxlen=KEPT), deque(maxlen=KEPT))
        elif track.times and time_ns <= track.times[-1]:
            return False
        track.times.append(time_ns)
        track.poses.append((pose, error))
        track.lost_since = None
        return True

    def lose(self, target: str, source: str, time_ns: int) -> None:
        """The device says that it does not see the tool: from now on its pose is only carried on."""
        track = self._tracks.get((target, source))
        if track is not None and track.lost_since is None:
            track.lost_since = time_ns

    def get(self, target: str, source: str, time_ns: int) -> TimedPose:
        """The chain between two frames at a time.

        Raises:
            InputError: frames that nothing joins; an edge without a pose at that time, named with its age.
        """
        age, held = 0, []
        for key, _ in self._edges(target, source):
            track = self._tracks.get(key)
            if track is None:
                continue
            pose, error, old, carried = self._at(key, track, time_ns)
            self.graph.set(*key, pose, error, time_ns - old)
            age = max(age, old)
            if carried:
                held.append(f"{key[0]}_from_{key[1]}")
        return TimedPose(self.graph.get(target, source), age, tuple(held))

    def _edges(self, target: str, source: str) -> tuple[tuple[tuple[str, str], bool], ...]:
        path = self.graph._path(target, source)
        if path is None:
            self.graph.get(target, source)  # says why there is none
            return ()
        return path

    def _at(self, key: tuple[str, str], track: _Track, time_ns: int) -> tuple[Array, Array, int, bool]:
        name = f"{key[0]}_from_{key[1]}"
        after = bisect_right(track.times, time_ns)
        if after == 0:
            wait = (track.times[0] - time_ns) / 1e9
            raise InputError(f"{name} was first measured {wait:.3f} s after the time asked for; poses are not guessed.")
        last, (pose, error) = track.times[after - 1], track.poses[after - 1]
        if after < len(track.times):
            following = track.times[after]
            if following - last > self.gap_ns and time_ns != last:
                gap = (following - last) / 1e9
                raise InputError(f"{name} was not measured for {gap:.2f} s around the time asked for; ask for another.")
            other, other_error = track.poses[after]
            part = (time_ns - last) / (following - last)
            larger = error if np.trace(error) >= np.trace(other_error) else other_error
            return interpolate(pose, other, part), larger, time_ns - last, False
        age = time_ns - last
        if age == 0:
            return pose, error, 0, False
        if age > self.hold_ns:
            word = "lost" if track.lost_since is not None else "stale"
            raise InputError(
                f"{name} is {word}: its last valid pose is {age / 1e9:.2f} s old; bring the tool into view."
            )
        # The tool moved somewhere meanwhile: its covariance grows about its own place, not about the origin.
        spread = np.diag(self.growth * (age / 1e9) ** 2)
        shift = np.eye(6)
        x, y, z = pose[:3, 3]
        shift[3:, :3] = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        return pose, error + shift @ spread @ shift.T, age, True


def loop_closure(
    transforms: list[ArrayLike], covariances: list[ArrayLike] | None = None
) -> tuple[float, float, Verdict]:
    """How far a loop of transforms (a_from_b, b_from_c, c_from_a) misses the identity: mm, degrees, and a verdict.

    With covariances (6, 6) the miss is judged against what they allow (chi^2, six degrees of freedom, 99.9 %).

    Raises:
        InputError: transforms or covariances that cannot be.
    """
    from scipy.spatial.transform import Rotation
    from scipy.stats import chi2

    from registration.rigid import adjoint

    total, spread = np.eye(4), np.zeros((6, 6))
    for k, transform in enumerate(transforms):
        matrix = check_rigid(transform, f"transform {k} of the loop")
        if covariances is not None:
            ad = adjoint(total)
            spread = spread + ad @ _check_covariance(covariances[k], f"transform {k} of the loop") @ ad.T
        total = total @ matrix
    miss, angle = float(np.linalg.norm(total[:3, 3])), math.degrees(rotation_angle(total))
    shown = f"the loop misses by {miss:.2f} mm and {angle:.2f} degrees"
    if covariances is None:
        return miss, angle, Verdict("pass" if miss < 1.0 and angle < 0.5 else "check", shown)
    xi = np.concatenate([Rotation.from_matrix(total[:3, :3]).as_rotvec(), total[:3, 3]])
    distance = float(xi @ np.linalg.pinv(spread) @ xi)
    if distance > chi2.ppf(0.999, 6):
        reason = f"{shown}, more than the errors allow: one of the transforms is wrong or a frame has moved"
        return miss, angle, Verdict("fail", reason)
    return miss, angle, Verdict("pass", f"{shown}, within the errors")


def reference_moved(
    before: ArrayLike, now: ArrayLike, *, limit_mm: float = 1.0, limit_deg: float = 0.5, at: ArrayLike = (0, 0, 0)
) -> Verdict:
    """Whether a reference marker moved on the patient: its pose against something fixed there, then and now.

    Args:
        before: reference_from_fixed (4, 4) at registration: a second marker, a divot's frame.
        now: the same now.
        limit_mm: movement at `at` above which the registration is not to be used.
        limit_deg: the same for turning.
        at: (3,) in the fixed thing's frame, mm.
    """
    a, b = check_rigid(before, "reference before"), check_rigid(now, "reference now")
    moved = b @ invert(a)
    point = a[:3, :3] @ np.asarray(at, dtype=np.float64) + a[:3, 3]
    length = float(np.linalg.norm(moved[:3, :3] @ point + moved[:3, 3] - point))
    angle = math.degrees(rotation_angle(moved))
    shown = f"the reference moved by {length:.2f} mm and {angle:.2f} degrees since the registration"
    if length > limit_mm or angle > limit_deg:
        return Verdict("fail", f"{shown}: register again")
    return Verdict("pass", shown)
