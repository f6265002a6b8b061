"""A tracked catheter followed through the vessel tree: its branch, its place there, and the registration's drift.

The tracker changes nothing: it takes what is known and a fix and gives what is known then, so that a recorded
procedure gives the same states again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.lumen.branch_tree import BranchTree
from registration.lumen.drift import Drift, Stretch, fit_drift
from registration.lumen.map_matching import Belief, match
from registration.pose_error import PoseError
from registration.rigid import Array
from registration.verdict import Verdict

LEAST_MOVE_MM = 2.0
LONGEST_MEMORY = 300
LEAST_FIXES = 5
"""So many averaged fixes begin to correct the drift."""


@dataclass(frozen=True)
class LumenState:
    """Where the catheter is after one fix.

    Attributes:
        time_s: of the fix.
        tip: (3,) corrected position, image frame, mm.
        branch: name of the likeliest branch.
        probability: of that branch.
        along_mm: distance from the branch's beginning, the posterior's mean on that branch.
        along_std_mm: its standard deviation.
        branches: probability of every branch that is possible at all.
        outside_mm: how far the corrected tip lies outside the lumen; zero inside.
        correction: (4, 4) corrected image from image as registered.
        error: covariance of the correction.
        verdict: pass while the corrected tip lies in the lumen.
    """

    time_s: float
    tip: Array
    branch: str
    probability: float
    along_mm: float
    along_std_mm: float
    branches: dict[str, float]
    outside_mm: float
    correction: Array
    error: PoseError
    verdict: Verdict


@dataclass(frozen=True)
class LumenTrack:
    """Everything that is known of a catheter on its way; begun by `LumenTracker.begin`."""

    prior: Array
    """(6, 6) of the drift before any fix, about the tree's middle."""
    drift: Drift
    stretch: Stretch
    belief: Belief | None = None
    time_s: float | None = None
    tip: Array | None = None
    """(3,) of the last fix, as registered"""
    pending: tuple[Array, ...] = ()
    """Fixes since the last one that was averaged over."""
    skipped: int = 0


@dataclass(frozen=True)
class LumenTracker:
    """Follows a catheter in a vessel; it never raises on what a device sends, it counts (`skipped`) and carries on.

    Attributes:
        tree: the vessel.
        noise_mm: standard deviation of a fix per direction.
        drift_mm: RMS length of the drift to be expected at the vessel's middle.
        drift_deg: the same for its rotation.
        speed_mm_s: how fast the catheter is moved, one standard deviation.

    Raises:
        InputError: a noise that is not a positive length.
    """

    tree: BranchTree
    noise_mm: float = 0.7
    drift_mm: float = 4.0
    drift_deg: float = 3.0
    speed_mm_s: float = 30.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_mm) and self.noise_mm > 0.0):
            raise InputError(f"noise of {self.noise_mm:g} mm is not a positive length.")
        # What is compiled is compiled now, not while a catheter waits for its first fix.
        place, noise = self.tree.points[0], self.noise_mm
        belief = match(self.tree, None, place, moved_mm=0.0, noise_mm=noise, doubt_mm2=1.0)
        match(self.tree, belief, place, moved_mm=1.0, noise_mm=noise, doubt_mm2=1.0)
        begun = self.begin()
        stretch = Stretch(place[None], np.ones(1), np.ones((1, len(self.tree.names)), dtype=bool))
        fit_drift(self.tree, stretch, begun.drift, begun.prior, noise)

    def begin(self, registered: PoseError | None = None) -> LumenTrack:
        """The catheter anywhere, and no drift but what is to be expected.

        Args:
            registered: error of the registration itself; what is said later of the correction then contains it.
        """
        prior = np.diag(np.repeat([math.radians(self.drift_deg), self.drift_mm], 3) ** 2.0 / 3.0)
        if registered is not None:
            prior = prior + registered.about(self.tree.middle).covariance
        nothing = Stretch(np.zeros((0, 3)), np.zeros(0), np.zeros((0, len(self.tree.names)), dtype=bool))
        return LumenTrack(prior, Drift(np.eye(4), PoseError(prior, self.tree.middle)), nothing)

    def follow(self, track: LumenTrack, time_s: float, tip: ArrayLike) -> LumenTrack:
        """What is known after one fix: time, and the tip (3,) in image space as registered, mm."""
        fix = np.asarray(tip, dtype=np.float64).ravel()
        if fix.shape != (3,) or not math.isfinite(fix.sum()) or not math.isfinite(time_s):
            return replace(track, skipped=track.skipped + 1)
        if track.time_s is not None and time_s <= track.time_s:
            return replace(track, skipped=track.skipped + 1)
        moved = 0.0 if track.time_s is None else self.speed_mm_s * (time_s - track.time_s)
        correction = track.drift.correction
        there = correction[:3, :3] @ fix + correction[:3, 3]
        variance = track.drift.error.mean_square(there) / 3.0
        belief = match(self.tree, track.belief, there, moved_mm=moved, noise_mm=self.noise_mm, doubt_mm2=variance)
        # Averages over a stretch of path: single fixes of a resting catheter would count its place many times.
        pending = (*track.pending, fix)
        track = LumenTrack(track.prior, track.drift, track.stretch, belief, time_s, fix, pending, track.skipped)
        step = math.dist(fix, pending[0])
        if step < max(LEAST_MOVE_MM, 3.0 * self.noise_mm):
            return track
        stretch = self._longer(track, belief, np.mean(pending, axis=0), step, variance)
        drift = track.drift
        if len(stretch.fixes) >= LEAST_FIXES:
            drift = fit_drift(self.tree, stretch, drift, track.prior, self.noise_mm)
        return replace(track, stretch=stretch, drift=drift, pending=(fix,))

    def _longer(self, track: LumenTrack, belief: Belief, fix: Array, step: float, variance: float) -> Stretch:
        # While the registration drifts, a fix may belong beyond the junction that it seems to be short of.
        tree, old = self.tree, track.stretch
        station = belief.stations[int(np.argmax(belief.weight))]
        doubt = 3.0 * math.sqrt(3.0 * variance) + tree.radii[station]
        possible = belief.by_branch(tree) > 0.02
        possible[tree.branch[tree.distances[station] < doubt]] = True
        kept = slice(-LONGEST_MEMORY + 1, None)
        return Stretch(
            np.vstack([old.fixes[kept], fix]),
            np.append(old.steps[kept], step),
            np.vstack([old.possible[kept], possible]),
        )

    def state(self, track: LumenTrack) -> LumenState | None:
        """Where the catheter is; None before the first fix."""
        if track.belief is None or track.tip is None or track.time_s is None:
            return None
        tree, error = self.tree, track.drift.error
        correction = track.drift.correction
        tip = correction[:3, :3] @ track.tip + correction[:3, 3]
        active, weight = track.belief.stations, track.belief.weight
        branches = track.belief.by_branch(tree)
        best = int(np.argmax(branches))
        mine = tree.branch[active] == best
        part = weight[mine] / weight[mine].sum()
        along = float(part @ tree.along[active[mine]])
        std = math.sqrt(max(0.0, float(part @ (tree.along[active[mine]] - along) ** 2)))
        gap = float(tree.outside(tip[None])[0])
        doubt = 2.0 * math.sqrt(error.mean_square(tip) / 3.0) + 2.0 * self.noise_mm
        if gap <= 0.0:
            verdict = Verdict("pass", f"the tip lies in {tree.names[best]}, probability {branches[best]:.2f}")
        elif gap <= doubt:
            verdict = Verdict("check", f"the tip lies {gap:.1f} mm outside the lumen, within the error of its position")
        else:
            verdict = Verdict(
                "fail",
                f"the tip lies {gap:.1f} mm outside the lumen, more than its position's error explains: register again",
            )
        return LumenState(
            track.time_s,
            tip,
            tree.names[best],
            float(branches[best]),
            along,
            std,
            {name: share for name, share in zip(tree.names, branches.tolist(), strict=True) if share > 1e-6},
            gap,
            correction,
            error,
            verdict,
        )
