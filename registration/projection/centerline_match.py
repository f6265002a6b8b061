r"""The pose of a vessel tree from where contrast shows its middle lines in angiograms.

Points of the projected 3D centerline and of the 2D one are matched by nearest distance on a distance map, robustly, by
Gauss-Newton on the pose, from spread starts. With one view the depth along the beam is held by magnification only; it
is reported apart, from the curvature of the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt, map_coordinates

from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.pose_error import PoseError
from registration.projection.carm import refuse_unseen
from registration.rigid import Array, apply_to_points, check_points, check_rigid, turned_about
from registration.verdict import Verdict, worst


@dataclass(frozen=True)
class CenterlineMatch:
    """Result of `register_centerline`: pose, RMS distance in pixels, part of the tree that has a partner, covariance,
    depth uncertainty along each view's beam in mm, and whether to use it."""

    world_from_tree: Array
    rms_px: float
    matched: float
    error: PoseError
    depth_std_mm: Array
    verdict: Verdict


def register_centerline(
    points: ArrayLike,
    vessels: Sequence[ArrayLike],
    cameras: Sequence[PinholeCamera],
    *,
    start: ArrayLike | None = None,
    reach_mm: float = 20.0,
    reach_deg: float = 10.0,
    seed: int = 0,
) -> CenterlineMatch:
    """Pose of a vessel tree from where contrast shows its vessels' middle lines in one or more angiograms.

    Args:
        points: (n, 3) along the tree's centerlines, about one per mm.
        vessels: per view, (height, width) mask of the middle lines (not zero on the line).
        cameras: the views' geometry.
        start: (4, 4) guess of world_from_tree; the identity if not given.
        reach_mm: how far off the guess may be.
        reach_deg: how far turned.
        seed: of the starts.

    Raises:
        InputError: counts that differ, a view without a vessel, a start from which a view shows nothing.
    """
    tree = check_points(points, "centerline points")
    if len(tree) < 10:
        raise InputError(f"{len(tree)} centerline points are too few; give at least 10.")
    if not len(vessels) or len(vessels) != len(cameras):
        raise InputError(f"{len(vessels)} vessel masks and {len(cameras)} cameras; give one camera per view.")
    maps = []
    for k, (mask, camera) in enumerate(zip(vessels, cameras, strict=True)):
        line = np.asarray(mask) != 0
        if line.shape != (camera.height, camera.width):
            raise InputError(
                f"view {k + 1} has shape {line.shape}, its camera {camera.height} x {camera.width} pixels."
            )
        if line.sum() < 10:
            raise InputError(f"view {k + 1} shows no vessel; extract the middle line first.")
        distance, nearest = distance_transform_edt(~line, return_indices=True)
        maps.append((distance, nearest))
    base = np.eye(4) if start is None else check_rigid(start, "start")
    refuse_unseen(cameras, apply_to_points(base, tree), "vessels")
    center = apply_to_points(base, tree.mean(axis=0)[None])[0]
    rng = np.random.default_rng(seed)
    tries = np.concatenate([np.zeros((1, 6)), rng.uniform(-0.8, 0.8, (40, 6))])
    unit = np.concatenate([np.repeat(np.radians(reach_deg), 3), np.repeat(reach_mm, 3)])
    thin = tree[:: max(1, len(tree) // 150)]
    ends = []
    for x in tries:
        move = turned_about(center, x[:3] * unit[:3], x[3:] * unit[3:])
        pose, cost, _ = _line_fit(move @ base, thin, maps, cameras, (40.0, 20.0, 10.0, 6.0), 3)
        ends.append((cost, pose))
    ends.sort(key=lambda item: item[0])
    finished = [_line_fit(pose, tree, maps, cameras, (6.0, 3.0, 3.0), 5) for _, pose in ends[:3]]
    pose, _, normal = min(finished, key=lambda item: item[1])
    gaps = _gaps(pose, tree, maps, cameras)
    near = gaps < 6.0
    matched = float(near.mean())
    rms = float(np.sqrt(np.mean(gaps[near] ** 2))) if near.any() else float("inf")
    # Neighboring points share their error: one independent point per ten.
    middle = apply_to_points(pose, tree).mean(axis=0)
    covariance = np.linalg.pinv(normal) * max(rms, 0.5) ** 2 * 10.0
    error = PoseError(covariance, middle)
    spread = error.point_covariance(middle)
    beams = np.array([(middle - c.world_from_camera[:3, 3]) for c in cameras])
    beams /= np.linalg.norm(beams, axis=1, keepdims=True)
    depth = np.sqrt(np.einsum("vi,ij,vj->v", beams, spread, beams))
    shown = f"RMS {rms:.1f} px over {100 * matched:.0f} % of the tree"
    verdicts = [Verdict("pass", shown)]
    if matched < 0.5:
        verdicts.append(Verdict("fail", f"{shown}: the angiogram does not show this tree"))
    elif matched < 0.8:
        verdicts.append(Verdict("check", f"{shown}: part of the tree has no contrast"))
    if depth.max() > 3.0:
        verdicts.append(Verdict("check", f"{shown}: depth along the beam is known to {depth.max():.0f} mm only"))
    return CenterlineMatch(pose, rms, matched, error, depth, worst(verdicts))


def _gaps(pose: Array, tree: Array, maps: list[tuple[Array, Array]], cameras: Sequence[PinholeCamera]) -> Array:
    """Distances (views x points,) in pixels of projected points from the nearest vessel; 1e3 outside the image."""
    moved = apply_to_points(pose, tree)
    result = []
    for (distance, _), camera in zip(maps, cameras, strict=True):
        pixel = camera.project(moved)
        inside = np.nan_to_num(pixel, nan=-1e6)
        result.append(map_coordinates(distance, inside[:, ::-1].T, order=1, mode="constant", cval=1e3))
    return np.concatenate(result)


def _line_fit(
    pose: Array,
    tree: Array,
    maps: list[tuple[Array, Array]],
    cameras: Sequence[PinholeCamera],
    scales: Sequence[float],
    repeats: int,
) -> tuple[Array, float, Array]:
    """Gauss-Newton on the distances of projected points to the nearest line pixels; pose, cost, normal matrix."""
    normal = np.eye(6)
    for scale in np.repeat(scales, repeats):
        moved = apply_to_points(pose, tree)
        center = moved.mean(axis=0)
        normal, right = np.zeros((6, 6)), np.zeros(6)
        for (_, nearest), camera in zip(maps, cameras, strict=True):
            pixel = camera.project(moved)
            column = np.clip(np.nan_to_num(pixel[:, 0]).round().astype(int), 0, camera.width - 1)
            row = np.clip(np.nan_to_num(pixel[:, 1]).round().astype(int), 0, camera.height - 1)
            goal = np.column_stack([nearest[1][row, column], nearest[0][row, column]])
            miss = np.where(np.isfinite(pixel), goal - pixel, 0.0)
            weight = 1.0 / (1.0 + np.sum(miss**2, axis=1) / scale**2) ** 2
            rotation = camera.camera_from_world[:3, :3]
            inside = moved @ rotation.T + camera.camera_from_world[:3, 3]
            by_point = np.zeros((len(tree), 2, 3))
            by_point[:, 0, 0], by_point[:, 1, 1] = camera.fx / inside[:, 2], camera.fy / inside[:, 2]
            by_point[:, 0, 2] = -camera.fx * inside[:, 0] / inside[:, 2] ** 2
            by_point[:, 1, 2] = -camera.fy * inside[:, 1] / inside[:, 2] ** 2
            by_point = by_point @ rotation
            arms = moved - center
            jacobian = np.concatenate([np.cross(arms[:, None], by_point), by_point], axis=2)
            normal += np.einsum("n,nki,nkj->ij", weight, jacobian, jacobian)
            right += np.einsum("n,nki,nk->i", weight, jacobian, miss)
        # A mild prior (0.2 rad, 40 mm per step) keeps what one view cannot see where it is.
        damped = normal + np.diag(np.repeat([25.0, 1.0 / 1600.0], 3))
        change = np.linalg.solve(damped, right)
        pose = turned_about(center, change[:3], change[3:]) @ pose
    gaps = _gaps(pose, tree, maps, cameras)
    return pose, float(np.mean(np.minimum(gaps, 25.0))), normal
