"""Whether a registration of images may be believed: folds, landmarks, and a picture to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RBFInterpolator

from registration.errors import InputError
from registration.rigid import Array, check_points


@dataclass(frozen=True)
class JacobianCheck:
    """Volume change of a transform over an image: smallest and largest Jacobian determinant, the part of the volume
    in which it is not positive (the transform folds there), and the longest displacement in mm."""

    smallest: float
    largest: float
    folded: float
    longest_mm: float


def check_jacobian(transform: sitk.Transform, image: sitk.Image) -> JacobianCheck:
    """Jacobian determinant of a fixed-to-moving transform on an image's grid."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    )
    vectors = sitk.GetArrayFromImage(field)
    dimension = image.GetDimension()
    # Along the image's axes; a rotation of the grid leaves the determinant alone.
    turned = vectors @ np.array(image.GetDirection()).reshape(dimension, dimension)
    gradient = np.empty((*turned.shape[:-1], dimension, dimension))
    for k, spacing in enumerate(image.GetSpacing()):
        gradient[..., k] = np.gradient(turned, spacing, axis=dimension - 1 - k)
    determinant = np.linalg.det(gradient + np.eye(dimension))
    return JacobianCheck(
        float(determinant.min()),
        float(determinant.max()),
        float(np.mean(determinant <= 0.0)),
        float(np.linalg.norm(vectors, axis=-1).max()),
    )


def landmark_errors(transform: sitk.Transform, fixed_points: ArrayLike, moving_points: ArrayLike) -> Array:
    """Distances (n,) in mm of mapped fixed landmarks from their moving partners: an error no metric can flatter."""
    fixed, moving = check_points(fixed_points, "fixed landmarks"), check_points(moving_points, "moving landmarks")
    if len(fixed) != len(moving):
        raise InputError(f"{len(fixed)} fixed but {len(moving)} moving landmarks; give them in pairs.")
    mapped = np.array([transform.TransformPoint(point.tolist()) for point in fixed])
    return np.asarray(np.linalg.norm(mapped - moving, axis=1))


def checkerboard(fixed: sitk.Image, moving_on_fixed: sitk.Image, *, squares: int = 8) -> Array:
    """Three slices (a 3D image) or one (2D), squares taken in turn from both images, each scaled to 0..1; the edges
    of structures run on across the squares where the registration is right."""
    a, b = (_scaled(sitk.GetArrayFromImage(image)) for image in (fixed, moving_on_fixed))
    if a.shape != b.shape:
        raise InputError("resample the moving image onto the fixed one before drawing both.")
    if a.ndim == 2:
        return _squares(a, b, squares)
    planes = []
    spacing = np.array(fixed.GetSpacing())[::-1]
    for axis in range(3):
        middle = a.shape[axis] // 2
        plane = _squares(np.take(a, middle, axis), np.take(b, middle, axis), squares)
        rest = np.delete(spacing, axis)
        # Square pixels: repeat rows or columns of the coarser direction.
        rows, columns = (
            np.linspace(0, n - 1, max(1, round(n * s / spacing.min()))).round().astype(int)
            for n, s in zip(plane.shape, rest, strict=True)
        )
        planes.append(plane[np.ix_(rows, columns)])
    height = max(plane.shape[0] for plane in planes)
    padded = [np.pad(plane, ((0, height - plane.shape[0]), (0, 4))) for plane in planes]
    return np.concatenate(padded, axis=1)


def _scaled(values: Array) -> Array:
    low, high = np.quantile(values, (0.01, 0.99))
    return np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)


def _squares(a: Array, b: Array, squares: int) -> Array:
    side = max(4, min(a.shape) // squares)
    rows, columns = np.indices(a.shape)
    return np.where((rows // side + columns // side) % 2 == 0, a, b)


@dataclass(frozen=True)
class ThinPlateWarp:
    """A smooth warp through landmark pairs (thin plates in 3D: kernel r, linear part), with what it does to a
    landmark that it does not know.

    `leave_one_out` (n,) are the distances in mm at which each landmark lands when the others alone make the warp.
    """

    leave_one_out: Array
    _spline: RBFInterpolator

    def __call__(self, points: ArrayLike) -> Array:
        """Points (n, 3) of the source frame in the target frame."""
        return np.asarray(self._spline(check_points(points)))


def thin_plate_warp(source: ArrayLike, target: ArrayLike, *, smoothing: float = 0.0) -> ThinPlateWarp:
    """Warp that takes source landmarks (n, 3) onto target landmarks, n >= 8.

    Raises:
        InputError: too few landmarks, counts that differ, or landmarks in a plane.
    """
    s, t = check_points(source, "source landmarks"), check_points(target, "target landmarks")
    if len(s) != len(t) or len(s) < 8:
        raise InputError(f"{len(s)} and {len(t)} landmarks; a warp needs at least 8 pairs.")
    singular = np.linalg.svd(s - s.mean(axis=0), compute_uv=False)
    if singular[2] < 1e-3 * singular[0]:
        raise InputError("the landmarks lie in a plane, which fixes no warp of space; add landmarks off the plane.")

    def spline(keep: NDArray[np.intp]) -> RBFInterpolator:
        return RBFInterpolator(s[keep], t[keep], kernel="linear", degree=1, smoothing=smoothing)

    every = np.arange(len(s))
    left = np.array([np.linalg.norm(spline(every[every != k])(s[k : k + 1])[0] - t[k]) for k in every])
    return ThinPlateWarp(left, spline(every))
