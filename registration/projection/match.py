r"""The pose of a volume, or of a vessel tree, from X-ray projections.

**Volume to radiographs.** The similarity of a computed and a measured radiograph is the correlation of their
*gradients* (Penney 1998, gradient correlation), averaged over patches (gradient orientation and contrast change
little with exposure, soft tissue and contrast agent), summed over views. It is maximized from coarse to fine by
CMA-like sampling that needs no derivatives: a population around the best pose so far, shrinking; several such searches
from spread starts run on the coarse level, the best go on.

**Centerline to angiogram.** Points of the projected 3D centerline and of the 2D one are matched by nearest distance on
a distance map, robustly, by Gauss-Newton on the pose, from spread starts.

With one view the depth along the beam is held by magnification only; it is reported apart, from the curvature of the
objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, sobel
from scipy.spatial.transform import Rotation

from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.pose_error import PoseError
from registration.projection.carm import Attenuation, radiograph
from registration.rigid import Array, check_points, check_rigid, exponential
from registration.verdict import Verdict, worst

LEAST_SIMILARITY = 0.3


@dataclass(frozen=True)
class ProjectionRegistration:
    """Result of a 2D-3D registration.

    Attributes:
        world_from_volume: (4, 4) pose of the volume (or tree) in the C-arm's world.
        similarity: mean gradient correlation at the end, -1 to 1; for centerlines minus the RMS distance in mm at the
            isocenter.
        start_similarity: at the given start.
        searches: how many searches were run.
        agreement_mm: distance of the second best search's pose from the best, over the volume.
        verdict: whether to use it.
    """

    world_from_volume: Array
    similarity: float
    start_similarity: float
    searches: int
    agreement_mm: float
    verdict: Verdict


def shrunk(camera: PinholeCamera, factor: int) -> PinholeCamera:
    """The camera of an image whose pixels are joined in blocks of `factor` x `factor`."""
    return PinholeCamera(
        camera.width // factor,
        camera.height // factor,
        camera.fx / factor,
        camera.fy / factor,
        (camera.cx + 0.5) / factor - 0.5,
        (camera.cy + 0.5) / factor - 0.5,
        camera_from_world=camera.camera_from_world,
    )


def _blocks(image: Array, factor: int) -> Array:
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    return image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean(axis=(1, 3))


class _View:
    """One measured radiograph at one resolution, its gradients ready."""

    def __init__(self, image: Array, camera: PinholeCamera, factor: int) -> None:
        self.camera = shrunk(camera, factor)
        self.gradients = _gradients(_blocks(image, factor))
        self.norms = [float(np.sqrt(np.sum(g**2))) for g in self.gradients]

    def similarity(self, volume: Attenuation, pose: Array, step: float) -> float:
        drawn = _gradients(radiograph(volume, self.camera, pose, step_mm=step, nearest=True))
        total = 0.0
        for measured, norm, computed in zip(self.gradients, self.norms, drawn, strict=True):
            size = float(np.sqrt(np.sum(computed**2)))
            total += float(np.sum(measured * computed)) / (norm * size) if norm > 0.0 and size > 0.0 else 0.0
        return 0.5 * total


def _gradients(image: Array) -> tuple[Array, Array]:
    smooth = gaussian_filter(image, 0.7)
    result = []
    for axis in (0, 1):
        g = sobel(smooth, axis=axis)
        # Large gradients (table edge, instruments) are held down, so that no single edge decides.
        bound = 4.0 * float(np.sqrt(np.mean(g**2)))
        g = np.clip(g, -bound, bound)
        result.append(g - g.mean())
    return result[0], result[1]


def register_projections(
    images: Sequence[ArrayLike],
    cameras: Sequence[PinholeCamera],
    volume: Attenuation,
    *,
    start: ArrayLike | None = None,
    reach_mm: float = 20.0,
    reach_deg: float = 10.0,
    coarse_mm: float = 6.0,
    fine_mm: float = 3.0,
    seed: int = 0,
) -> ProjectionRegistration:
    """Pose of a CT in the C-arm's world from one or more radiographs.

    Args:
        images: line integrals (height, width), i.e. -log(I / I0), bones bright; one per view.
        cameras: the views' geometry, of the images' sizes.
        volume: attenuation of the CT; a copy thinned to about `fine_mm` is enough.
        start: (4, 4) guess of world_from_volume; the identity if not given.
        reach_mm: how far off the guess may be, per axis.
        reach_deg: how far turned.
        coarse_mm: pixel size, at the isocenter, of the first search.
        fine_mm: of the last.
        seed: of the sampling.

    Raises:
        InputError: counts or sizes that differ, images without structure.
    """
    if not len(images) or len(images) != len(cameras):
        raise InputError(f"{len(images)} images and {len(cameras)} cameras; give one camera per view.")
    arrays = [np.asarray(image, dtype=np.float64) for image in images]
    for k, (image, camera) in enumerate(zip(arrays, cameras, strict=True)):
        if image.shape != (camera.height, camera.width):
            raise InputError(f"view {k} has shape {image.shape}, its camera {camera.height} x {camera.width} pixels.")
        if not np.isfinite(image).all() or float(np.ptp(image)) <= 0.0:
            raise InputError(f"view {k} is flat or holds values that are not finite; take the image again.")
    base = np.eye(4) if start is None else check_rigid(start, "start")
    rng = np.random.default_rng(seed)
    center = base[:3, :3] @ volume.middle + base[:3, 3]
    distances = [float(np.linalg.norm(_moved(c.camera_from_world, center[None])[0])) for c in cameras]
    at_isocenter = [camera.fx / distance for camera, distance in zip(cameras, distances, strict=True)]
    voxel = 1.0 / float(np.cbrt(abs(np.linalg.det(volume.index_from_point[:3, :3]))))
    volumes = [volume.thinned(max(1, round(size / voxel))) for size in (coarse_mm, fine_mm)]
    levels = []
    for size in (coarse_mm, fine_mm):
        factors = [max(1, round(size * scale)) for scale in at_isocenter]
        levels.append([_View(i, c, f) for i, c, f in zip(arrays, cameras, factors, strict=True)])
    unit = np.concatenate([np.repeat(np.radians(reach_deg), 3), np.repeat(reach_mm, 3)])

    def pose_at(x: Array) -> Array:
        move = exponential(np.concatenate([x[:3] * unit[:3], np.zeros(3)]))
        move[:3, 3] = center - move[:3, :3] @ center + x[3:] * unit[3:]
        return move @ base

    def loss(x: Array, level: int) -> float:
        pose = pose_at(x)
        # A gentle pull to the guess: beyond the reach nothing was promised.
        similarity = np.mean([v.similarity(volumes[level], pose, steps[level]) for v in levels[level]])
        return 0.02 * float(np.sum(np.maximum(np.abs(x) - 1.3, 0.0) ** 2)) - float(similarity)

    steps = (coarse_mm, fine_mm)
    # Spread starts: rank a sample of the whole reach, then search from the best few that lie apart.
    sample = np.concatenate([np.zeros((1, 6)), rng.uniform(-1.0, 1.0, (48, 6))])
    values = np.array([loss(x, 0) for x in sample])
    order = np.argsort(values)
    ends = []
    for k in order[:3]:
        ends.append(_sampled_search(lambda x: loss(x, 0), sample[k], 0.35, rng, rounds=22))
    ends.sort(key=lambda item: item[1])
    fine = [
        _sampled_search(lambda x: loss(x, 1), x, 0.05, rng, rounds=14)
        for x, _ in ends[: 2 if ends[1][1] - ends[0][1] < 0.05 else 1]
    ]
    fine.sort(key=lambda item: item[1])
    found = optimize.minimize(
        loss,
        fine[0][0],
        args=(1,),
        method="Powell",
        options={"maxfev": 90, "xtol": 2e-3, "ftol": 1e-5, "direc": 0.02 * np.eye(6)},
    )
    best = found.x if found.fun < fine[0][1] else fine[0][0]
    pose = pose_at(best)
    corners = volume.corners
    apart = float(
        np.mean(np.linalg.norm(_moved(pose_at(ends[0][0]), corners) - _moved(pose_at(ends[1][0]), corners), axis=1))
    )
    similarity = -float(min(found.fun, fine[0][1]))
    first = -loss(np.zeros(6), 1)
    return ProjectionRegistration(
        pose, similarity, first, len(ends), apart, _judge(similarity, first, apart, len(cameras), best)
    )


def _sampled_search(loss, x: Array, sigma: float, rng: np.random.Generator, rounds: int) -> tuple[Array, float]:  # type: ignore[no-untyped-def]
    """Covariance-adapting evolution (Hansen 2016, without evolution paths): 12 samples a round, the best 4 kept."""
    mean, covariance = x.copy(), np.eye(6)
    weights = np.log(4.5) - np.log(np.arange(1, 5))
    weights /= weights.sum()
    best, value = x.copy(), loss(x)
    for _ in range(rounds):
        root = np.linalg.cholesky(covariance + 1e-8 * np.eye(6))
        draws = rng.normal(size=(12, 6)) @ root.T
        points = mean + sigma * draws
        values = np.array([loss(p) for p in points])
        order = np.argsort(values)[:4]
        if values[order[0]] < value:
            best, value = points[order[0]].copy(), float(values[order[0]])
            sigma *= 1.05
        else:
            sigma *= 0.82
        shift = weights @ draws[order]
        mean = mean + sigma * shift
        spread = np.einsum("n,ni,nj->ij", weights, draws[order], draws[order])
        covariance = 0.75 * covariance + 0.25 * spread
        covariance *= 6.0 / np.trace(covariance)
    return best, value


def _moved(pose: Array, points: Array) -> Array:
    return points @ pose[:3, :3].T + pose[:3, 3]


def _judge(similarity: float, first: float, apart: float, views: int, x: Array) -> Verdict:
    shown = f"gradient correlation {similarity:.2f} ({first:.2f} at the start)"
    verdicts = [Verdict("pass", shown)]
    if similarity < LEAST_SIMILARITY:
        verdicts.append(Verdict("fail", f"{shown}: the radiographs do not show this volume"))
    if np.abs(x).max() > 1.25:
        verdicts.append(Verdict("check", f"{shown}: the pose lies at the edge of the reach searched; search further"))
    if views == 1:
        verdicts.append(
            Verdict("check", f"{shown}: one view holds the depth along the beam poorly; take a second view")
        )
    return worst(verdicts)


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
        InputError: counts that differ, a view without a vessel.
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
            raise InputError(f"view {k} has shape {line.shape}, its camera {camera.height} x {camera.width} pixels.")
        if line.sum() < 10:
            raise InputError(f"view {k} shows no vessel; extract the middle line first.")
        distance, nearest = distance_transform_edt(~line, return_indices=True)
        maps.append((distance, nearest))
    base = np.eye(4) if start is None else check_rigid(start, "start")
    center = _moved(base, tree.mean(axis=0)[None])[0]
    rng = np.random.default_rng(seed)
    tries = np.concatenate([np.zeros((1, 6)), rng.uniform(-0.8, 0.8, (40, 6))])
    unit = np.concatenate([np.repeat(np.radians(reach_deg), 3), np.repeat(reach_mm, 3)])
    thin = tree[:: max(1, len(tree) // 150)]
    ends = []
    for x in tries:
        move = exponential(np.concatenate([x[:3] * unit[:3], np.zeros(3)]))
        move[:3, 3] = center - move[:3, :3] @ center + x[3:] * unit[3:]
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
    middle = _moved(pose, tree).mean(axis=0)
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
    moved = _moved(pose, tree)
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
        moved = _moved(pose, tree)
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
        move = Rotation.from_rotvec(change[:3]).as_matrix()
        step = np.eye(4)
        step[:3, :3] = move
        step[:3, 3] = center - move @ center + change[3:]
        pose = step @ pose
    gaps = _gaps(pose, tree, maps, cameras)
    return pose, float(np.mean(np.minimum(gaps, 25.0))), normal
