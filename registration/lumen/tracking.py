r"""Where a tracked catheter is in the vessel tree, and how far the registration drifted: it cannot leave the lumen.

**Map matching.** The tip is at one of the tree's stations: a hidden Markov model. Between two fixes it moves along
the vessel by a normally distributed distance whose deviation grows with time; a fix z fits station k with the
density

    exp(-1/2 [ (t_k . d)^2 / s_a^2 + |d - t_k (t_k . d)|^2 / s_l^2 ]) / (s_a s_l^2),    d = z - c_k,

s_a the axial and s_l^2 = (f R_k)^2 + noise^2 the lateral deviation: a catheter lies anywhere in the lumen of radius
R_k, more often near its middle than at its wall. The forward recursion gives each station's probability, their
sums per branch the branch's. Only stations within reach carry probability, so a step costs microseconds.

**Drift.** The correction exp(xi) of the registration minimizes

    sum_i w_i [ l_i^2 / s_l,i^2 + max(0, l_i - R_i)^2 / noise^2 ] + xi^T S_0^-1 xi,

with l_i = |P_i (exp(xi) z_i - c_k(i))| and P = I - t t^T, over the fixes of the last stretch, averaged over two
millimeters of path, each tied to the nearest station of a branch that the map matching holds possible; the second
term is the wall, S_0 what is known of the drift. Lateral offsets of neighboring fixes are alike - a catheter hugs a
wall over centimeters - so w_i counts one independent fix per `CORRELATION` radii of path. Along a straight vessel the
axial drift stays unknown, and the covariance says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.lumen.branch_tree import BranchTree
from registration.pose_error import PoseError, displacement_jacobian
from registration.rigid import Array, apply_to_points, exponential
from registration.verdict import Verdict

LATERAL = 0.4
"""Standard deviation of a catheter's distance from the centerline, per direction, in radii."""

CORRELATION = 3.5
"""Path length, in radii, over which a catheter's lateral offset stays alike."""

LEAST_MOVE_MM = 2.0
LONGEST_MEMORY = 300
OUTLYING = 4.0
"""A fix so many standard deviations (noise and drift) outside the wall is not believed."""
FORGOTTEN = 1e-7


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
    correction: Array
    error: PoseError
    verdict: Verdict


class LumenTracker:
    """Feed it fixes in order; it never raises on what a device sends, it counts (`skipped`) and carries on."""

    def __init__(
        self,
        tree: BranchTree,
        *,
        noise_mm: float = 0.7,
        drift_mm: float = 4.0,
        drift_deg: float = 3.0,
        speed_mm_s: float = 30.0,
    ) -> None:
        """Start with the catheter anywhere and no drift.

        Args:
            tree: the vessel.
            noise_mm: standard deviation of a fix per direction.
            drift_mm: RMS length of the drift to be expected at the vessel's middle.
            drift_deg: the same for its rotation.
            speed_mm_s: how fast the catheter is moved, one standard deviation.
        """
        self.tree = tree
        self.noise = noise_mm
        self.speed = speed_mm_s
        self.skipped = 0
        self._center = tree.points.mean(axis=0)
        prior = np.repeat([math.radians(drift_deg), drift_mm], 3) / math.sqrt(3.0)
        self._information = np.diag(prior**-2.0)
        self._correction = np.eye(4)
        self._covariance = np.diag(prior**2.0)
        self._belief: tuple[NDArray[np.intp], Array] | None = None
        self._time: float | None = None
        self._fixes: list[Array] = []
        self._steps: list[float] = []
        self._possible: list[NDArray[np.bool_]] = []
        self._pending: list[Array] = []

    @property
    def correction(self) -> Array:
        """(4, 4) corrected image from image as registered."""
        return self._correction.copy()

    @property
    def error(self) -> PoseError:
        """Covariance of the correction, about the vessel's middle."""
        return PoseError(self._covariance, self._center)

    def update(self, time_s: float, tip: ArrayLike) -> LumenState | None:
        """Take one fix: time, and the tip (3,) in image space as registered, mm. None if it cannot be used."""
        fix = np.asarray(tip, dtype=np.float64).ravel()
        if fix.shape != (3,) or not np.isfinite(fix).all() or not math.isfinite(time_s):
            self.skipped += 1
            return None
        if self._time is not None and time_s <= self._time:
            self.skipped += 1
            return None
        elapsed = 0.0 if self._time is None else time_s - self._time
        self._match(apply_to_points(self._correction, fix), elapsed)
        self._time = time_s
        # Averages over a stretch of path: single fixes of a resting catheter would count its place many times.
        self._pending.append(fix)
        step = float(np.linalg.norm(fix - self._pending[0]))
        if step >= max(LEAST_MOVE_MM, 3.0 * self.noise):
            self._remember(np.mean(self._pending, axis=0), step)
            self._pending = [fix]
            self._correct()
        return self._state(time_s, apply_to_points(self._correction, fix))

    def _match(self, tip: Array, elapsed: float) -> None:
        tree = self.tree
        spread = displacement_jacobian(tip - self._center)
        doubt = float(np.trace(spread @ self._covariance @ spread.T)) / 3.0
        axial = self.noise**2 + doubt + 0.25
        if self._belief is None:
            active = np.arange(len(tree.points))
            prior = np.full(len(active), 1.0 / len(active))
        else:
            old, weight = self._belief
            # Half a millimeter of the station raster, and what the catheter may have moved.
            sigma = math.hypot(self.speed * elapsed, 1.0)
            reach = tree.distances[old]
            near = np.flatnonzero((reach < 4.5 * sigma + 2.0).any(axis=0))
            kernel = np.exp(-0.5 * (reach[:, near] / sigma) ** 2)
            prior = weight @ (kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-300))
            active = near
        offset = tip - tree.points[active]
        along = np.sum(offset * tree.tangents[active], axis=1)
        across = np.maximum(np.sum(offset**2, axis=1) - along**2, 0.0)
        lateral = (LATERAL * tree.radii[active]) ** 2 + self.noise**2 + doubt
        log = -0.5 * (along**2 / axial + across / lateral) - np.log(lateral)
        log += np.log(np.maximum(prior, 1e-300))
        if self._belief is not None and log.max() < math.log(FORGOTTEN) * 3.0:
            # Nothing within reach explains the fix: the catheter was exchanged, or lost for long. Start anew.
            self._belief = None
            self._match(tip, 0.0)
            return
        weight = np.exp(log - log.max())
        weight /= weight.sum()
        keep = weight > FORGOTTEN
        self._belief = active[keep], weight[keep] / weight[keep].sum()

    def _branch_weights(self) -> Array:
        assert self._belief is not None
        active, weight = self._belief
        return np.bincount(self.tree.branch[active], weights=weight, minlength=len(self.tree.names))

    def _remember(self, fix: Array, step: float) -> None:
        self._fixes.append(fix)
        self._steps.append(step)
        assert self._belief is not None
        # While the registration drifts, a fix may belong beyond the junction that it seems to be short of.
        active, weight = self._belief
        station = active[int(np.argmax(weight))]
        doubt = (
            3.0 * float(np.sqrt(np.linalg.eigvalsh(self.error.point_covariance(fix))[-1])) + self.tree.radii[station]
        )
        around = self.tree.branch[self.tree.distances[station] < doubt]
        possible = self._branch_weights() > 0.02
        possible[around] = True
        self._possible.append(possible)
        if len(self._fixes) > LONGEST_MEMORY:
            del self._fixes[0], self._steps[0], self._possible[0]

    def _correct(self) -> None:
        if len(self._fixes) < 5:
            return
        tree = self.tree
        fixes, steps, possible = np.array(self._fixes), np.array(self._steps), np.array(self._possible)
        pose = self._correction
        for _ in range(3):
            moved = apply_to_points(pose, fixes)
            near = self._stations(moved, possible)
            offset = moved - tree.points[near]
            tangents, radii = tree.tangents[near], tree.radii[near]
            offset -= np.sum(offset * tangents, axis=1, keepdims=True) * tangents
            variance = (LATERAL * radii) ** 2 + self.noise**2
            # One independent fix per CORRELATION radii of path, and a point far outside the wall is no fix.
            weight = np.minimum(1.0, steps / (CORRELATION * radii))
            length = np.linalg.norm(offset, axis=1)
            outside = np.maximum(length - radii, 0.0)
            jacobian = displacement_jacobian(moved - self._center)
            spread = np.einsum("nij,jk,nik->n", jacobian, self._covariance, jacobian) / 3.0 + self.noise**2
            weight = weight * (outside < OUTLYING * np.sqrt(spread))
            jacobian = jacobian - tangents[:, :, None] * np.einsum("ni,nij->nj", tangents, jacobian)[:, None]
            weighted = jacobian * (weight / variance)[:, None, None]
            normal = np.einsum("nij,nik->jk", weighted, jacobian) + self._information
            slope = np.einsum("nij,ni->j", weighted, offset)
            # The wall pushes along the direction in which it was passed.
            push = np.einsum("ni,nij->nj", offset / np.maximum(length, 1e-9)[:, None], jacobian)
            firm = weight * (outside > 0.0) / self.noise**2
            normal += (push * firm[:, None]).T @ push
            slope += push.T @ (firm * outside)
            total = self._twist(pose)
            right = -slope - self._information @ total
            change = np.linalg.solve(normal, right)
            pose = self._about_center(exponential(change)) @ pose
            if np.abs(change[:3]).max() < 1e-5 and np.abs(change[3:]).max() < 1e-3:
                break
        self._correction, self._covariance = pose, np.linalg.inv(normal)

    def _stations(self, points: Array, possible: NDArray[np.bool_]) -> NDArray[np.intp]:
        """For each point the nearest station, in radii, among those of branches possible when it was measured."""
        tree = self.tree
        count = min(32, len(tree.points))
        distance, near = tree.tree.query(points, k=count)
        allowed = np.take_along_axis(possible, tree.branch[near], axis=1)
        scaled = np.where(allowed, distance / tree.radii[near], np.inf)
        best = np.argmin(scaled, axis=1)
        return np.where(np.isinf(scaled.min(axis=1)), near[:, 0], near[np.arange(len(points)), best])

    def _about_center(self, matrix: Array) -> Array:
        result = matrix.copy()
        result[:3, 3] += self._center - matrix[:3, :3] @ self._center
        return result

    def _twist(self, pose: Array) -> Array:
        """Rotation vector and displacement of the center, small, of a correction."""
        skewed = 0.5 * (pose[:3, :3] - pose[:3, :3].T)
        turn = np.array([skewed[2, 1], skewed[0, 2], skewed[1, 0]])
        return np.concatenate([turn, pose[:3, :3] @ self._center + pose[:3, 3] - self._center])

    def _state(self, time_s: float, tip: Array) -> LumenState:
        assert self._belief is not None
        tree = self.tree
        active, weight = self._belief
        branches = self._branch_weights()
        best = int(np.argmax(branches))
        mine = tree.branch[active] == best
        part = weight[mine] / weight[mine].sum()
        along = float(part @ tree.along[active[mine]])
        std = math.sqrt(max(0.0, float(part @ (tree.along[active[mine]] - along) ** 2)))
        gap = float((np.linalg.norm(tip - tree.points[active], axis=1) - tree.radii[active]).min())
        doubt = 2.0 * float(np.sqrt(np.trace(self.error.point_covariance(tip)) / 3.0)) + 2.0 * self.noise
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
            time_s,
            tip,
            tree.names[best],
            float(branches[best]),
            along,
            std,
            {tree.names[k]: float(branches[k]) for k in np.flatnonzero(branches > 1e-6)},
            self._correction.copy(),
            self.error,
            verdict,
        )
