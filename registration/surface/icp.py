r"""Points on a surface: point-to-plane registration from many starts, with its covariance and what it cannot see.

The pose minimizes the robust sum of squared distances of the source points p_i from the tangent planes (q_i, n_i)
of their nearest target points (Chen, Medioni 1992),

    sum_i rho(n_i . (T p_i - q_i)),

by Gauss-Newton on a left perturbation about the points' centroid. All starts are run side by side on thinned
copies, under a Geman-McClure kernel that narrows from step to step; the best few are finished on the full
surface, by small_gicp (Koide 2024) where both sides are dense.

With the Hessian H = sum w J^T J, J = n^T [-(p - c)^, I], the covariance is sigma^2 H^-1. A direction that H hardly
holds - along a cylinder, about a sphere - is found from the eigenvalues of H with rotations scaled by the points'
RMS radius; there the surface says nothing, and the covariance is set to the search's reach, not to what noisy
normals pretend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import small_gicp
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from registration.errors import InputError
from registration.pose_error import PoseError, displacement_jacobian
from registration.rigid import Array, apply_to_points, check_points, check_rigid
from registration.surface.target import SurfaceTarget, neighbors_of_normal, thin_out
from registration.verdict import Limits, Verdict, judge, worst

COARSE_SOURCE = 250
"""Source points of the steps that the fittest starts take."""

FEW_SOURCE = 70
"""Source points of the first steps, which all starts take."""

DENSE_SOURCE = 1500
"""From so many source points on, small_gicp finishes."""

KEPT_PARTNERS = 0.1
"""A step shorter than this part of the surface's spacing leaves every point its partner."""

DEGENERATE_RATIO = 0.02
"""A direction held by less than this part of the best held one is called free."""

LEAST_INLIERS = 0.5

SMALL_PART = 0.15
"""Points that span less of the surface may be in cm: asked for where the registration does not pass."""

UNITS_APART = 300.0
"""Sizes farther apart than this are in meters and in mm."""

LIMITS_MM = Limits(2.0, 5.0)


@dataclass(frozen=True)
class FreeDirection:
    """A motion that the surface does not hold: a translation along, or a turn about, `axis` (3,) through `center`."""

    kind: str
    axis: Array
    ratio: float

    def __str__(self) -> str:
        x, y, z = self.axis
        motion = "sliding along" if self.kind == "translation" else "turning about"
        return f"{motion} ({x:.2f}, {y:.2f}, {z:.2f})"


@dataclass(frozen=True)
class SurfaceRegistration:
    """Result of `register_surface`; mm.

    Attributes:
        target_from_source: (4, 4).
        error: covariance about the points' centroid, and the error at any point of the target frame.
        rms: RMS distance of the inliers from the surface (plane distance).
        inliers: part of the source points on the surface.
        free: directions that the surface does not hold.
        starts: how many starts were tried.
        agreeing: how many of them ended at this pose, within 2 mm and 2 degrees.
        rival_score: robust cost of the best different pose over that of this one; inf if there is none.
        verdict: whether to use it.
    """

    target_from_source: Array
    error: PoseError
    rms: float
    inliers: float
    free: tuple[FreeDirection, ...]
    starts: int
    agreeing: int
    rival_score: float
    verdict: Verdict


def register_surface(
    source: ArrayLike,
    target: SurfaceTarget,
    *,
    start: ArrayLike | None = None,
    reach_mm: float = 30.0,
    reach_deg: float = 40.0,
    noise_mm: float = 0.5,
    limits: Limits = LIMITS_MM,
) -> SurfaceRegistration:
    """Rigid transform that lays source points (n, 3) on a surface.

    Args:
        source: points touched or scanned on the surface, mm; they may cover part of it, and some may lie off it.
        target: the surface.
        start: (4, 4) a guess, from landmarks or the last registration; without one every orientation is tried.
        reach_mm: how far off the guess may be.
        reach_deg: how far turned.
        noise_mm: standard deviation of a point's distance from the surface that is to be expected.
        limits: on the largest 95 % error over the source points.

    Raises:
        InputError: fewer than 6 points, points on a line, values that are not finite, or sizes of different units.
    """
    points = check_points(source, "source points")
    if len(points) < 6:
        raise InputError(f"{len(points)} points fix no pose on a surface; touch at least 6, better 50, spread over it.")
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if singular[1] < 1e-3 * singular[0]:
        raise InputError("the source points lie on a line; spread them over the surface.")
    if not (math.isfinite(noise_mm) and noise_mm > 0.0):
        raise InputError(f"noise of {noise_mm:g} mm is not a positive length.")
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    if not 1.0 / UNITS_APART < size / target.diameter < UNITS_APART:
        raise InputError(
            f"the source points span {size:.3g} mm and the surface {target.diameter:.3g} mm: one of them is not in mm, "
            "or is something else."
        )
    starts = _starts(points, target, start, reach_mm, reach_deg)
    thin = points[thin_out(points, COARSE_SOURCE if start is not None else COARSE_SOURCE // 2)]
    poses, scores = _coarse(starts, thin, target, noise_mm, reach_mm if start is not None else 0.15 * target.diameter)
    order = np.argsort(scores, kind="stable")
    finalists: list[Array] = []
    basin = 0.15 * _radius(points)
    for k in order:
        if all(_apart(poses[k], other, points) > basin for other in finalists):
            finalists.append(poses[k])
        if len(finalists) == 4:
            break
    finished = [_finish(pose, points, target, noise_mm) for pose in finalists]
    # A single finalist has no rival to be weighed against.
    costs = [0.0]
    if len(finished) > 1:
        costs = [_score(pose, points, target.points, target.normals, target.tree, noise_mm) for pose in finished]
    best = int(np.argmin(costs))
    pose = finished[best]
    if len(points) > 2 * DENSE_SOURCE:
        # Every point counts for how exact the pose is; which one it is, a part of them has told.
        pose = _settled(pose, points, target, noise_mm)
    others = [
        cost for k, cost in enumerate(costs) if k != best and _apart(finished[k], pose, points) > max(2.0, 4 * noise_mm)
    ]
    # Costs below that of half the expected noise are all alike.
    floor = 0.25 / 9.0
    rival = max(min(others), floor) / max(costs[best], floor) if others else math.inf
    agreeing = int(sum(_apart(p, pose, points) < 2.0 for p in poses))
    result = _judged(pose, points, target, noise_mm, max(reach_mm, 10.0), len(starts), agreeing, rival, limits)
    if result.verdict.level != "pass" and size < SMALL_PART * target.diameter:
        asked = f"the points span {size:.3g} mm of a surface of {target.diameter:.3g} mm: are both in mm?"
        return replace(result, verdict=Verdict(result.verdict.level, f"{result.verdict.reason}; {asked}"))
    return result


def _starts(points: Array, target: SurfaceTarget, start: ArrayLike | None, reach_mm: float, reach_deg: float) -> Array:
    center = points.mean(axis=0)
    if start is None:
        # Points spread evenly over all rotations (super-Fibonacci spirals, Alexa 2022); centroids laid together.
        # The points may cover a part only: their middle is tried off the surface's as well.
        turns = np.repeat(_even_rotations(120), 7, axis=0)
        size = 0.25 * np.ptp(target.points, axis=0)
        shifts = np.concatenate([np.zeros((1, 3)), np.diag(size), -np.diag(size)])
        base, middle = np.eye(4), target.points.mean(axis=0) + np.tile(shifts, (120, 1))
    else:
        base = check_rigid(start, "start")
        middle = apply_to_points(base, center)
        axes = [v for v in np.array(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1])).T.reshape(-1, 3) if v.any()]
        unit = np.array(axes) / np.linalg.norm(axes, axis=1)[:, None]
        angles = np.radians(reach_deg) * np.array([0.35, 0.75])
        turns = np.concatenate([np.zeros((1, 3)), (unit[None] * angles[:, None, None]).reshape(-1, 3)])
    rotations = Rotation.from_rotvec(turns).as_matrix() @ base[:3, :3]
    result = np.tile(np.eye(4), (len(turns), 1, 1))
    result[:, :3, :3] = rotations
    result[:, :3, 3] = middle - rotations @ center
    return result


def _even_rotations(count: int) -> Array:
    phi, psi = math.sqrt(2.0), 1.533751168755204288118041
    s = np.arange(count) + 0.5
    r, big = np.sqrt(s / count), np.sqrt(1.0 - s / count)
    a, b = 2.0 * np.pi * s / phi, 2.0 * np.pi * s / psi
    return Rotation.from_quat(
        np.column_stack([r * np.sin(a), r * np.cos(a), big * np.sin(b), big * np.cos(b)])
    ).as_rotvec()


def _step(poses: Array, points: Array, q: Array, n: Array, weights: Array) -> Array:
    """One Gauss-Newton step of all poses (s, 4, 4) for given partners q, n and weights; the new poses."""
    moved = points @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3]
    center = moved.mean(axis=1, keepdims=True)
    arms = moved - center
    rows = np.concatenate([np.cross(arms, n), n], axis=2)
    miss = np.sum(n * (q - moved), axis=2)
    weighted = rows * weights[..., None]
    normal = np.swapaxes(weighted, 1, 2) @ rows
    return _stepped(poses, normal, np.einsum("snk,sn->sk", weighted, miss), center[:, 0])


def _stepped(poses: Array, normal: Array, slope: Array, center: Array) -> Array:
    """Poses (s, 4, 4) moved by what their normal equations (s, 6, 6), (s, 6) about the centers (s, 3) ask for."""
    # Levenberg's damping, a millionth of the trace: a free direction stays where it is.
    damping = 1e-6 * np.trace(normal, axis1=1, axis2=2) + 1e-12
    change = np.linalg.solve(normal + damping[:, None, None] * np.eye(6), slope[..., None])[..., 0]
    turn = Rotation.from_rotvec(change[:, :3]).as_matrix()
    result = np.tile(np.eye(4), (len(poses), 1, 1))
    result[:, :3, :3] = turn @ poses[:, :3, :3]
    result[:, :3, 3] = np.einsum("sij,sj->si", turn, poses[:, :3, 3] - center) + center + change[:, 3:]
    return result


def _coarse(starts: Array, points: Array, target: SurfaceTarget, noise: float, reach: float) -> tuple[Array, Array]:
    """All starts side by side on the thinned clouds; poses and robust scores."""
    poses = starts
    scales = np.geomspace(max(reach, 4.0 * noise), max(3.0 * noise, 1.0 * target.spacing), 12)
    seen = points[thin_out(points, FEW_SOURCE)]  # enough to see which starts fall behind
    for k, scale in enumerate(np.concatenate([scales, np.repeat(scales[-1], 4)])):
        if k in (4, 8):
            scores = _scores(poses, seen, target, scale)
            poses = poses[_fittest(poses, scores, points, max(8, len(poses) // 4))]
            seen = points
        poses = _stepped(poses, *target.coarse_equations(poses, seen, float(scale)))
    return poses, _scores(poses, points, target, scales[-1])


def _fittest(poses: Array, scores: Array, points: Array, count: int) -> NDArray[np.intp]:
    """Indices of the `count` best poses, no more than three from one basin, so that a rival pose is not crowded out."""
    anchors = points[thin_out(points, 8)]
    places = (anchors @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3]).reshape(len(poses), -1)
    near = 0.15 * _radius(points) * math.sqrt(len(anchors))
    kept: list[int] = []
    for k in np.argsort(scores, kind="stable"):
        if len(kept) < 3 or np.sum(np.linalg.norm(places[kept] - places[k], axis=1) < near) < 3:
            kept.append(int(k))
        if len(kept) == count:
            break
    return np.array(kept)


def _radius(points: Array) -> float:
    """RMS distance of points from their middle, mm."""
    return float(np.sqrt(np.mean(np.sum((points - points.mean(axis=0)) ** 2, axis=1))))


def _scores(poses: Array, points: Array, target: SurfaceTarget, scale: float) -> Array:
    moved = points @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3]
    distance, index = target.near_coarse(moved.reshape(-1, 3))
    flat = moved.reshape(-1, 3)
    plane = np.abs(np.sum((flat - target.coarse_points[index]) * target.coarse_normals[index], axis=1))
    # Beyond the thinned surface's own spacing a plane distance means nothing.
    far = np.where(distance < 3.0 * scale, plane, distance)
    squares = (far / scale) ** 2
    return np.mean((squares / (1.0 + squares)).reshape(moved.shape[:2]), axis=1)


def _score(pose: Array, points: Array, q: Array, n: Array, tree: KDTree, noise: float) -> float:
    moved = apply_to_points(pose, points)
    distance, index = tree.query(moved)
    plane = np.abs(np.sum((moved - q[index]) * n[index], axis=1))
    scale = 3.0 * noise
    squares = (np.where(distance < 10.0 * scale, plane, distance) / scale) ** 2
    return float(np.mean(squares / (1.0 + squares)))


def _finish(pose: Array, points: Array, target: SurfaceTarget, noise: float) -> Array:
    """The pose on the full surface: by small_gicp where the source is dense, then robust steps of our own, of so many
    of the points as tell which pose is best."""
    if len(points) >= DENSE_SOURCE:
        reach = max(10.0 * noise, 4.0 * target.spacing)
        found = small_gicp.align(
            _cloud(target),
            small_gicp.PointCloud(points),
            _gicp_tree(target),
            pose,
            registration_type="PLANE_ICP",
            max_correspondence_distance=reach,
            num_threads=1,
            max_iterations=30,
            translation_epsilon=0.05 * noise,
            rotation_epsilon=0.05 * noise / _radius(points),
        )
        candidate = np.asarray(found.T_target_source)
        if found.num_inliers >= 6 and np.isfinite(candidate).all():
            pose = candidate
        if len(points) > 2 * DENSE_SOURCE:
            points = points[thin_out(points, DENSE_SOURCE)]
    return _settled(pose, points, target, noise)


def _settled(pose: Array, points: Array, target: SurfaceTarget, noise: float) -> Array:
    """The pose after robust steps of all these points on the full surface, until it moves no more."""
    stepped = math.inf
    for k in range(15):
        moved = apply_to_points(pose, points)
        if stepped > KEPT_PARTNERS * target.spacing:
            distance, index = target.tree.query(moved)
            q, n = target.points[index], target.normals[index]
        plane = np.sum((moved - q) * n, axis=1)
        scale = max(3.0 * noise, 2.5 * float(np.median(np.abs(plane))))
        weights = 1.0 / (1.0 + (plane / scale) ** 2) ** 2
        # A point whose nearest place lies far along the tangent hangs over the surface's edge.
        weights *= distance < max(8.0 * noise, 5.0 * target.spacing, 3.0 * float(np.median(distance)))
        if weights.sum() < 6.0:
            return pose
        before, pose = pose, _step(pose[None], points, q[None], n[None], weights[None])[0]
        stepped = _apart(before, pose, points)
        if k > 0 and stepped < 0.02 * noise:
            break
    u, _, vt = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = u @ vt
    return pose


_CLOUDS: dict[int, tuple[SurfaceTarget, small_gicp.PointCloud, small_gicp.KdTree]] = {}


def _prepared(target: SurfaceTarget) -> tuple[SurfaceTarget, small_gicp.PointCloud, small_gicp.KdTree]:
    """small_gicp's own form of the last target used: made once, for one surface is registered many times."""
    known = _CLOUDS.get(id(target))
    if known is None or known[0] is not target:
        cloud = small_gicp.PointCloud(target.points)
        tree = small_gicp.KdTree(cloud)
        small_gicp.estimate_normals(cloud, tree, num_neighbors=neighbors_of_normal(len(target.points)))
        _CLOUDS.clear()
        known = _CLOUDS[id(target)] = (target, cloud, tree)
    return known


def _cloud(target: SurfaceTarget) -> small_gicp.PointCloud:
    return _prepared(target)[1]


def _gicp_tree(target: SurfaceTarget) -> small_gicp.KdTree:
    return _prepared(target)[2]


def _apart(a: Array, b: Array, points: Array) -> float:
    """RMS distance in mm between the points as two poses place them."""
    return float(np.sqrt(np.mean(np.sum((apply_to_points(a, points) - apply_to_points(b, points)) ** 2, axis=1))))


def _judged(
    pose: Array,
    points: Array,
    target: SurfaceTarget,
    noise: float,
    reach: float,
    starts: int,
    agreeing: int,
    rival: float,
    limits: Limits,
) -> SurfaceRegistration:
    moved = apply_to_points(pose, points)
    distance, index = target.tree.query(moved)
    n = target.normals[index]
    plane = np.sum((moved - target.points[index]) * n, axis=1)
    good = (np.abs(plane) < 4.0 * noise) & (distance < max(8.0 * noise, 5.0 * target.spacing))
    inliers = float(good.mean())
    used = good if good.sum() >= 6 else np.ones(len(points), dtype=bool)
    rms = float(np.sqrt(np.mean(plane[used] ** 2)))
    center = moved[used].mean(axis=0)
    rows = np.einsum("ni,nij->nj", n[used], displacement_jacobian(moved[used] - center))
    hessian = rows.T @ rows
    radius = max(float(np.sqrt(np.mean(np.sum((moved[used] - center) ** 2, axis=1)))), 1e-6)
    scale = np.array([1.0 / radius] * 3 + [1.0] * 3)
    values, vectors = np.linalg.eigh(hessian * scale[:, None] * scale)
    variance = max(rms, 0.25 * noise) ** 2
    free = []
    spread = variance / np.maximum(values, 1e-12)
    for k in np.flatnonzero(values < DEGENERATE_RATIO * values[-1]):
        turn, shift = vectors[:3, k], vectors[3:, k]
        turning = np.linalg.norm(turn) > np.linalg.norm(shift)
        axis = turn if turning else shift
        free.append(
            FreeDirection(
                "rotation" if turning else "translation", axis / np.linalg.norm(axis), float(values[k] / values[-1])
            )
        )
        spread[k] = max(spread[k], reach**2)
    covariance = (vectors * spread) @ vectors.T * scale[:, None] * scale
    error = PoseError(covariance, center)
    held = error.point_covariance(moved[used])
    largest = float(np.sqrt(chi2.ppf(0.95, 3) / 3.0 * np.trace(held, axis1=1, axis2=2).max()))
    verdicts = []
    if free:
        directions = " and ".join(str(direction) for direction in free)
        verdicts.append(Verdict("fail" if len(free) > 1 else "check", f"the surface does not hold {directions}"))
    if inliers < LEAST_INLIERS:
        verdicts.append(Verdict("fail", f"only {100 * inliers:.0f} % of the points lie on the surface"))
    elif inliers < 0.8:
        verdicts.append(Verdict("check", f"only {100 * inliers:.0f} % of the points lie on the surface"))
    if rival < 1.5:
        verdicts.append(Verdict("check", "another pose fits almost as well: touch more, and more distinct, places"))
    if not free:
        verdicts.append(judge("largest error over the points (95 %)", largest, limits, "mm"))
    return SurfaceRegistration(pose, error, rms, inliers, tuple(free), starts, agreeing, rival, worst(verdicts))
