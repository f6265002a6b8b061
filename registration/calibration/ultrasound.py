r"""Where the pixels of a tracked ultrasound image are: probe_from_image from an N-wire phantom.

An N is three wires in a plane: two parallel, one diagonal. An image plane cuts them in three dots on a line,
and by similar triangles the middle dot divides the image segment between the outer ones as its place on the
diagonal divides the N (Comeau 1998). With a = |m - l| / |r - l| the middle dot's place in the phantom is

    x = D_l + a' (D_r - D_l),

the point of the diagonal D that lies at the part a of the way from the left to the right wire. So each image
gives, per N, one known point in the phantom, hence in the probe's frame, for a known pixel; the affine
probe_from_image (two columns for the pixel axes, one for the origin) follows by least squares, outliers left
out. The columns are then made orthogonal, each with its own length (mm per pixel), and the same distances are
minimized again under that constraint (soft L1), together with the distances of the outer dots from their wires,
which hold the image's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy.spatial.transform import Rotation

from registration.calibration.pivot import check_poses
from registration.errors import InputError
from registration.rigid import Array, apply_to_points
from registration.verdict import Limits, Verdict, judge, worst

LIMITS_MM = Limits(1.0, 2.5)
LEAST_IMAGES = 10


@dataclass(frozen=True)
class NWire:
    """One N: front and back ends (2, 3) in mm, in the phantom's frame, of the left, diagonal and right wire."""

    left: Array
    diagonal: Array
    right: Array


@dataclass(frozen=True)
class ProbeCalibration:
    """Result of `calibrate_probe`.

    Attributes:
        probe_from_image: (4, 4), pixels (column, row, 0) to mm; its columns' lengths are mm per pixel.
        spacing_mm: (2,) mm per pixel along columns and rows.
        middle_errors_mm: (images, Ns) distance of each middle wire's dot, mapped, from where the N puts it.
        mean_mm: mean of those kept.
        std_mm: their standard deviation.
        wire_rms_mm: RMS distance of all dots from their wires.
        kept: (images, Ns) dots used.
        skew_deg: how far the unconstrained fit's axes were from a right angle.
        verdict: whether to use it.
    """

    probe_from_image: Array
    spacing_mm: Array
    middle_errors_mm: Array
    mean_mm: float
    std_mm: float
    wire_rms_mm: float
    kept: NDArray[np.bool_]
    skew_deg: float
    verdict: Verdict


def middle_wire_points(wires: list[NWire], dots: Array) -> Array:
    """Places (images, Ns, 3) of the middle dots in the phantom's frame, mm, from dots (images, Ns, 3, 2) in
    pixels, in the order left, diagonal, right.

    The pixel's two sides may differ: the part along a line is the same in pixels and mm.
    """
    left, middle, right = dots[:, :, 0], dots[:, :, 1], dots[:, :, 2]
    across = right - left
    part = np.sum((middle - left) * across, axis=2) / np.sum(across**2, axis=2)
    result = np.zeros((*part.shape, 3))
    for k, wire in enumerate(wires):
        # Lines from the left to the right wire at the height u of the N: the diagonal is at the part
        # f + u (b - f) of the way, f in front and b behind; so u = (part - f) / (b - f).
        ends = [_part_between(wire.left[e], wire.right[e], wire.diagonal[e]) for e in (0, 1)]
        u = (part[:, k] - ends[0]) / (ends[1] - ends[0])
        result[:, k] = wire.diagonal[0] + u[:, None] * (wire.diagonal[1] - wire.diagonal[0])
    return result


def calibrate_probe(
    wires: list[NWire], dots: ArrayLike, phantom_from_probe: ArrayLike, *, limits: Limits = LIMITS_MM
) -> ProbeCalibration:
    """probe_from_image from images of an N-wire phantom.

    Args:
        wires: the phantom's Ns.
        dots: (images, Ns, 3, 2) pixels (column, row) of the left, diagonal and right dot of each N.
        phantom_from_probe: (images, 4, 4) the probe's pose in the phantom's frame for each image, mm.
        limits: on the mean middle-wire error.

    Raises:
        InputError: too few images, dots of another shape or not finite, a probe that did not move.
    """
    poses = check_poses(phantom_from_probe, LEAST_IMAGES, "probe calibration")
    seen = _check_dots(dots, len(poses), len(wires))
    inverse = np.linalg.inv(poses)
    points = middle_wire_points(wires, seen)
    in_probe = np.einsum("nij,nkj->nki", inverse[:, :3, :3], points) + inverse[:, None, :3, 3]
    if np.linalg.svd((in_probe - in_probe.mean(axis=(0, 1))).reshape(-1, 3), compute_uv=False)[1] < 1.0:
        raise InputError("the dots stay on one line in the probe's frame; tilt and move the probe between images.")
    middle = seen[:, :, 1].reshape(-1, 2)
    goal = in_probe.reshape(-1, 3)
    rows = np.column_stack([middle, np.ones(len(middle))])
    kept = np.ones(len(rows), dtype=bool)
    for _ in range(10):
        affine = np.linalg.lstsq(rows[kept], goal[kept], rcond=None)[0].T
        misses = np.linalg.norm(rows @ affine.T - goal, axis=1)
        # Lengths of 3D Gaussian errors: beyond 3.5 of their median over 1.54 is one in two thousand.
        fresh = misses <= 3.5 * float(np.median(misses)) / 1.538 * 1.2
        if np.array_equal(fresh, kept):
            break
        kept = fresh
    skew = abs(90.0 - float(np.degrees(np.arccos(_cosine(affine[:, 0], affine[:, 1])))))
    matrix = _refine(affine, wires, seen, poses, points, kept.reshape(points.shape[:2]))
    errors, wire_rms = _errors(matrix, wires, seen, poses, points, kept.reshape(points.shape[:2]))
    used = errors[kept.reshape(errors.shape)]
    verdicts = [judge("mean middle-wire error", float(used.mean()), limits, "mm")]
    if skew > 2.0:
        verdicts.append(Verdict("check", f"the fitted pixel axes are {skew:.1f} degrees from a right angle"))
    if np.sum(~kept) > 0.2 * len(kept):
        verdicts.append(Verdict("check", f"{int(np.sum(~kept))} of {len(kept)} dots do not fit; check them"))
    return ProbeCalibration(
        probe_from_image=matrix,
        spacing_mm=np.linalg.norm(matrix[:3, :2], axis=0),
        middle_errors_mm=errors,
        mean_mm=float(used.mean()),
        std_mm=float(used.std()),
        wire_rms_mm=wire_rms,
        kept=kept.reshape(errors.shape),
        skew_deg=skew,
        verdict=worst(verdicts),
    )


def probe_errors(
    probe_from_image: ArrayLike, wires: list[NWire], dots: ArrayLike, phantom_from_probe: ArrayLike
) -> Array:
    """Middle-wire errors (images, Ns) in mm of a calibration on other images: what to judge it by."""
    poses = check_poses(phantom_from_probe, 1, "probe validation")
    seen = _check_dots(dots, len(poses), len(wires))
    points = middle_wire_points(wires, seen)
    every = np.ones(points.shape[:2], dtype=bool)
    return _errors(np.asarray(probe_from_image, dtype=np.float64), wires, seen, poses, points, every)[0]


def _part_between(left: Array, right: Array, point: Array) -> float:
    across = right - left
    return float((point - left) @ across / (across @ across))


def _check_dots(dots: ArrayLike, images: int, ns: int) -> Array:
    seen = np.asarray(dots, dtype=np.float64)
    if seen.shape != (images, ns, 3, 2):
        raise InputError(f"dots have shape {seen.shape}; {images} images of {ns} N-wires need ({images}, {ns}, 3, 2).")
    if not np.isfinite(seen).all():
        where = int(np.flatnonzero(~np.isfinite(seen).all(axis=(1, 2, 3)))[0])
        raise InputError(f"image {where} has a dot that is not finite; leave images with missing dots out.")
    return seen


def _in_phantom(matrix: Array, seen: Array, poses: Array) -> Array:
    """Dots (images, Ns, 3, 3) in the phantom's frame, mm."""
    flat = np.concatenate([seen, np.zeros((*seen.shape[:-1], 1))], axis=-1)
    in_probe = apply_to_points(matrix, flat)
    return np.einsum("nij,nkwj->nkwi", poses[:, :3, :3], in_probe) + poses[:, None, None, :3, 3]


def _from_wires(wires: list[NWire], places: Array) -> Array:
    """Vectors (images, Ns, 3, 3) from each wire's nearest point to its dot."""
    ends = np.array([[w.left, w.diagonal, w.right] for w in wires])
    start, along = ends[:, :, 0], ends[:, :, 1] - ends[:, :, 0]
    along = along / np.linalg.norm(along, axis=2, keepdims=True)
    offset = places - start
    return offset - np.sum(offset * along, axis=3, keepdims=True) * along


def _refine(
    affine: Array, wires: list[NWire], seen: Array, poses: Array, points: Array, kept: NDArray[np.bool_]
) -> Array:
    first, second = affine[:, 0], affine[:, 1]
    lengths = np.array([np.linalg.norm(first), np.linalg.norm(second)])
    axes = np.column_stack([first / lengths[0], second / lengths[1], np.cross(first, second) / lengths.prod()])
    u, _, vt = np.linalg.svd(axes)
    start = Rotation.from_matrix(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)
    # Written about the middle of the dots, so that turning and shifting do not fight.
    center = seen.reshape(-1, 2).mean(axis=0)
    anchor = affine @ np.array([*center, 1.0])

    def build(x: Array) -> Array:
        rotation = (Rotation.from_rotvec(x[:3]) * start).as_matrix()
        result = np.eye(4)
        scale = lengths * np.exp(x[6:8])
        result[:3, 0], result[:3, 1] = rotation[:, 0] * scale[0], rotation[:, 1] * scale[1]
        result[:3, 2] = rotation[:, 2] * np.sqrt(scale.prod())
        result[:3, 3] = anchor + x[3:6] - result[:3, :2] @ center
        return result

    def residuals(x: Array) -> Array:
        places = _in_phantom(build(x), seen, poses)
        outer = _from_wires(wires, places)[:, :, ::2]
        return np.concatenate([(places[:, :, 1] - points)[kept].ravel(), outer[kept].ravel()])

    found = optimize.least_squares(residuals, np.zeros(8), x_scale="jac", loss="soft_l1", f_scale=0.5)
    return build(found.x)


def _errors(
    matrix: Array, wires: list[NWire], seen: Array, poses: Array, points: Array, kept: NDArray[np.bool_]
) -> tuple[Array, float]:
    places = _in_phantom(matrix, seen, poses)
    distances = np.linalg.norm(_from_wires(wires, places), axis=3)[kept]
    return np.linalg.norm(places[:, :, 1] - points, axis=2), float(np.sqrt(np.mean(distances**2)))


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
