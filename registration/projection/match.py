r"""The pose of a volume from X-ray projections.

The similarity of a computed and a measured radiograph is the correlation of their *gradients* (Penney 1998: orientation
and contrast of edges change little with exposure, soft tissue and contrast agent), its mean over the views. It is
maximized from coarse to fine by CMA-like sampling that needs no derivatives: a population around the best pose so far,
shrinking; several such searches from spread starts run on the coarse level, the best go on, and Gauss-Newton ends them
(`refinement`).

With one view the depth along the beam is held by magnification only, which the error of the pose says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.pose_error import PoseError
from registration.projection.carm import Attenuation, one_direction, refuse_unseen
from registration.projection.refinement import refine
from registration.projection.similarity import View
from registration.rigid import Array, apply_to_points, check_rigid, turned_about
from registration.sampled_search import sampled_search
from registration.verdict import Limits, Verdict, judge, worst

LEAST_SIMILARITY = 0.3

SEARCHES = 3
"""Starts from which the coarse level is searched."""

AS_GOOD = 0.01
"""A correlation so little below the best one is as good."""

APART_MM = 3.0
"""Poses farther apart than this are different answers."""

LIMITS_MM = Limits(2.0, 5.0)
"""Of the 95 % error at the volume's middle."""


@dataclass(frozen=True)
class ProjectionRegistration:
    """Result of a 2D-3D registration.

    Attributes:
        world_from_volume: (4, 4) pose of the volume in the C-arm's world.
        error: its covariance.
        error_95: radius in mm that holds the error at the volume's middle in 95 % of cases.
        similarity: mean gradient correlation at the end, -1 to 1.
        start_similarity: at the given start.
        searches: how many searches were run.
        agreement_mm: distance, over the volume, of the best pose of another search that fits as well; NaN if none does.
        verdict: whether to use it.
    """

    world_from_volume: Array
    error: PoseError
    error_95: float
    similarity: float
    start_similarity: float
    searches: int
    agreement_mm: float
    verdict: Verdict


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
    limits: Limits = LIMITS_MM,
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
        limits: on the 95 % error at the volume's middle.

    Raises:
        InputError: counts or sizes that differ, images without structure, a start from which a view shows nothing.
    """
    if not len(images) or len(images) != len(cameras):
        raise InputError(f"{len(images)} images and {len(cameras)} cameras; give one camera per view.")
    arrays = [np.asarray(image, dtype=np.float64) for image in images]
    for k, (image, camera) in enumerate(zip(arrays, cameras, strict=True)):
        if image.shape != (camera.height, camera.width):
            raise InputError(
                f"view {k + 1} has shape {image.shape}, its camera {camera.height} x {camera.width} pixels."
            )
        if not np.isfinite(image).all() or float(np.ptp(image)) <= 0.0:
            raise InputError(f"view {k + 1} is flat or holds values that are not finite; take the image again.")
    base = np.eye(4) if start is None else check_rigid(start, "start")
    reach = np.linspace(0.0, 1.0, 9)[:, None, None]
    within = (volume.middle + reach * (volume.corners - volume.middle)).reshape(-1, 3)
    refuse_unseen(cameras, apply_to_points(base, within), "volume")
    rng = np.random.default_rng(seed)
    center = base[:3, :3] @ volume.middle + base[:3, 3]
    distances = [float(np.linalg.norm(apply_to_points(c.camera_from_world, center))) for c in cameras]
    at_isocenter = [camera.fx / distance for camera, distance in zip(cameras, distances, strict=True)]
    voxel = 1.0 / float(np.cbrt(abs(np.linalg.det(volume.index_from_point[:3, :3]))))
    volumes = [volume.thinned(max(1, round(size / voxel))) for size in (coarse_mm, fine_mm)]
    levels = []
    for size in (coarse_mm, fine_mm):
        factors = [max(1, round(size * scale)) for scale in at_isocenter]
        levels.append([View(i, c, f) for i, c, f in zip(arrays, cameras, factors, strict=True)])
    unit = np.concatenate([np.repeat(np.radians(reach_deg), 3), np.repeat(reach_mm, 3)])

    def pose_at(x: Array) -> Array:
        return turned_about(center, x[:3] * unit[:3], x[3:] * unit[3:]) @ base

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
    coarse = [sampled_search(lambda x: loss(x, 0), sample[k], 0.35, rng, rounds=16) for k in order[:SEARCHES]]
    coarse.sort(key=lambda item: item[1])
    fine = [
        sampled_search(lambda x: loss(x, 1), x, 0.05, rng, rounds=6)
        for x, _ in coarse[: 2 if coarse[1][1] - coarse[0][1] < 0.05 else 1]
    ]
    fine.sort(key=lambda item: item[1])
    ends: list[tuple[Array, float, PoseError, Array]] = []
    for x, _ in fine:
        guess = pose_at(x)
        if all(_apart(guess, end[0], volume) > APART_MM for end in ends):  # else it ends where that one ended
            ends.append((*refine(levels[1], volumes[1], guess, fine_mm), x))
    ends.sort(key=lambda item: -item[1])
    pose, similarity, error, x = ends[0]
    others = [_apart(other, pose, volume) for other, value, *_ in ends[1:] if value > similarity - AS_GOOD]
    first = float(np.mean([view.similarity(volumes[1], base, fine_mm) for view in levels[1]]))
    error_95 = error.error_95(apply_to_points(pose, volume.middle))
    shown = f"gradient correlation {similarity:.2f} ({first:.2f} at the start)"
    verdicts = [judge(f"{shown}, error (95 %)", error_95, limits, "mm")]
    if similarity < LEAST_SIMILARITY:
        verdicts.insert(0, Verdict("fail", f"{shown}: the radiographs do not show this volume"))
    if np.abs(x).max() > 1.25:
        verdicts.append(Verdict("check", f"{shown}: the pose lies at the edge of the reach searched; search further"))
    if max(others, default=0.0) > APART_MM:
        verdicts.append(Verdict("check", f"{shown}: a pose {max(others):.0f} mm away fits as well; take another view"))
    if one_direction(cameras):
        verdicts.append(Verdict("check", f"{shown}: one view holds the depth along the beam poorly; take a second one"))
    return ProjectionRegistration(
        pose, error, error_95, similarity, first, SEARCHES, max(others, default=float("nan")), worst(verdicts)
    )


def _apart(first: Array, second: Array, volume: Attenuation) -> float:
    """Mean distance in mm between the volume's corners in two poses."""
    between = apply_to_points(first, volume.corners) - apply_to_points(second, volume.corners)
    return float(np.linalg.norm(between, axis=1).mean())
