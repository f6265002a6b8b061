r"""Two images laid over each other by their intensities: translation, rigid or affine, across modalities.

Mattes' mutual information (2003) is maximized over a pyramid of smoothed, thinned images by SimpleITK. Mutual
information has a narrow basin, so where the search begins decides: the coarsest level is run from several starts -
the one given, the centers of mass, the middles of the volumes - and the best one, by mutual information of the *same*
samples, goes on. Whether the others ended at the same place is part of the result; so is how much of the fixed image
the moving one still covers.

SimpleITK's convention: a transform maps *fixed* points into the moving image, ``moving_from_fixed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.rigid import Array
from registration.verdict import Verdict, worst

Kind = Literal["translation", "rigid", "affine"]

BINS = 32
SAMPLES = (6_000, 20_000, 40_000)
"""Voxels compared at each level, coarse to fine: enough for a smooth metric, few enough to be fast."""

LEVELS_MM = (8.0, 4.0, 2.0)
"""Spacing of the pyramid's levels; levels finer than the image are left out."""

ITERATIONS = (120, 60, 30)
SMALL = 300_000
"""Images of fewer voxels, slices above all, are finished at their own spacing."""

LEAST_OVERLAP = 0.35
LEAST_CONTRAST = 1e-9


@dataclass(frozen=True)
class ImageRegistration:
    """Result of `register_images`.

    Attributes:
        transform: maps points of the fixed image into the moving image (what SimpleITK's resampling takes).
        moving_from_fixed: the same as a matrix, (4, 4) in 3D, (3, 3) in 2D, mm.
        mutual_information: at the end, in nats, on the coarsest level.
        start_information: at the best start, same samples.
        overlap: part of the fixed image's samples that lie in the moving image.
        starts: names of the starts tried, best first.
        agreement_mm: how far apart the best two starts ended on the coarse level; NaN for a single start.
        converged: whether the finest level stopped by itself.
        verdict: whether to use it.
    """

    transform: sitk.Transform
    moving_from_fixed: Array
    mutual_information: float
    start_information: float
    overlap: float
    starts: tuple[str, ...]
    agreement_mm: float
    converged: bool
    verdict: Verdict


def register_images(
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    kind: Kind = "rigid",
    start: sitk.Transform | ArrayLike | None = None,
    fixed_mask: sitk.Image | None = None,
    levels_mm: Sequence[float] = LEVELS_MM,
    threads: int = 1,
) -> ImageRegistration:
    """Transform that lays a moving image over a fixed one of the same or another modality, 2D or 3D.

    Args:
        fixed: the image whose frame the other is brought into.
        moving: the other image.
        kind: how many degrees of freedom: "translation", "rigid" or "affine".
        start: a guess of moving_from_fixed, as SimpleITK transform or (d+1, d+1) matrix; tried beside the others.
        fixed_mask: where in the fixed image to look (not zero), in its geometry.
        levels_mm: spacing of the pyramid, coarse to fine.
        threads: of SimpleITK; more than one changes the last digits from run to run.

    Raises:
        InputError: images of different dimension, without contrast, too small, or that never overlap.
    """
    fixed, moving = _checked(fixed, "fixed"), _checked(moving, "moving")
    dimension = fixed.GetDimension()
    if moving.GetDimension() != dimension:
        raise InputError(
            f"the fixed image is {dimension}D and the moving one {moving.GetDimension()}D; give two alike."
        )
    finest = max(min(fixed.GetSpacing()), min(moving.GetSpacing()))
    levels = [level for level in levels_mm if level > 0.75 * finest] or [finest]
    levels = [level for level in levels if _fits(fixed, level)] or [finest]
    if levels[-1] > 1.5 * finest and np.prod(fixed.GetSize()) < SMALL:
        levels.append(finest)
    pyramid = [(_level(fixed, levels[-1]), _level(moving, levels[-1]))]
    for level in reversed(levels[:-1]):  # each level from the finer one: averages of averages, at little cost
        pyramid.insert(0, (_level(pyramid[0][0], level), _level(pyramid[0][1], level)))
    starts = _starts(*pyramid[0], kind, start)
    mask = None if fixed_mask is None else sitk.Cast(fixed_mask != 0, sitk.sitkUInt8)

    tried: list[tuple[float, str, sitk.Transform]] = []
    for name, transform in starts:
        try:
            found, _ = _optimize(*pyramid[0], transform, mask, SAMPLES[0], ITERATIONS[0], levels[0], threads)
            tried.append((_information(*pyramid[0], found, mask, SAMPLES[0], threads), name, found))
        except RuntimeError:  # ITK's word for samples that all map outside
            continue
    if not tried:
        raise InputError("the images do not overlap from any start; give a start, from landmarks for instance.")
    tried.sort(key=lambda item: -item[0])
    apart = _distance(fixed, tried[0][2], tried[1][2]) if len(tried) > 1 else float("nan")
    transform, stopped = tried[0][2], True
    first = _start_information(pyramid[0], starts, mask, threads)
    for k in range(1, len(levels)):
        samples, iterations = SAMPLES[min(k, 2)], ITERATIONS[min(k, 2)]
        try:
            transform, stopped = _optimize(*pyramid[k], transform, mask, samples, iterations, levels[k], threads)
        except RuntimeError as error:
            raise InputError("the images drifted apart during the registration; give a better start.") from error
    information = _information(*pyramid[0], transform, mask, SAMPLES[0], threads)
    overlap = _overlap(pyramid[0][0], moving, transform)
    return ImageRegistration(
        transform,
        matrix_of(transform),
        information,
        first,
        overlap,
        tuple(name for _, name, _ in tried),
        apart,
        stopped,
        _judge(information, first, overlap, apart, stopped, tried, levels[-1]),
    )


def matrix_of(transform: sitk.Transform) -> Array:
    """Homogeneous matrix (d+1, d+1) of a linear SimpleITK transform: image of the origin and of the axes."""
    dimension = transform.GetDimension()
    origin = np.array(transform.TransformPoint([0.0] * dimension))
    result = np.eye(dimension + 1)
    for k in range(dimension):
        result[:dimension, k] = np.array(transform.TransformPoint(np.eye(dimension)[k].tolist())) - origin
    result[:dimension, dimension] = origin
    return result


def transform_of(matrix: ArrayLike) -> sitk.AffineTransform:
    """SimpleITK transform of a homogeneous matrix (d+1, d+1), mm."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape not in ((3, 3), (4, 4)) or not np.isfinite(m).all():
        raise InputError(f"transform has shape {m.shape} or is not finite; give a 4x4 matrix (3x3 for slices).")
    dimension = len(m) - 1
    return sitk.AffineTransform(m[:dimension, :dimension].ravel().tolist(), m[:dimension, dimension].tolist())


def resample(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, *, background: float | None = None
) -> sitk.Image:
    """The moving image on the fixed image's grid; what it does not cover gets `background` (its minimum)."""
    fill = float(np.min(sitk.GetArrayViewFromImage(moving))) if background is None else background
    return sitk.Resample(moving, fixed, transform, sitk.sitkLinear, fill)


def _checked(image: sitk.Image, which: str) -> sitk.Image:
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, 0)
    result = sitk.Cast(image, sitk.sitkFloat32)
    if min(result.GetSize()) < 8:
        raise InputError(f"the {which} image of {result.GetSize()} voxels is too small to register.")
    values = sitk.GetArrayViewFromImage(result)
    if not np.isfinite(values).all():
        raise InputError(f"the {which} image holds values that are not finite; replace them first.")
    if float(np.ptp(values)) <= LEAST_CONTRAST:
        raise InputError(f"the {which} image has the same value everywhere; there is nothing to register.")
    return result


def _fits(image: sitk.Image, level: float) -> bool:
    return min(n * s for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)) / level >= 8.0


def _level(image: sitk.Image, spacing: float) -> sitk.Image:
    """The image averaged over blocks of whole voxels to about `spacing` mm per side; never made finer than it is."""
    factors = [max(1, round(spacing / s)) for s in image.GetSpacing()]
    factors = [min(f, max(1, n // 4)) for f, n in zip(factors, image.GetSize(), strict=True)]
    return image if max(factors) == 1 else sitk.BinShrink(image, factors)


def _empty(kind: Kind, dimension: int) -> sitk.Transform:
    if kind == "translation":
        return sitk.TranslationTransform(dimension)
    if kind == "affine":
        return sitk.AffineTransform(dimension)
    if kind == "rigid":
        return sitk.Euler3DTransform() if dimension == 3 else sitk.Euler2DTransform()
    raise InputError(f'registration of kind "{kind}" is not known; use translation, rigid or affine.')


def _middle(image: sitk.Image) -> Array:
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def _mass(image: sitk.Image) -> Array:
    """Center of what stands out from the background (the image's most frequent low value), mm."""
    values = sitk.GetArrayFromImage(image).astype(np.float64)
    body = values > np.quantile(values, 0.02) + 0.1 * (np.quantile(values, 0.98) - np.quantile(values, 0.02))
    index = np.argwhere(body).mean(axis=0)[::-1] if body.any() else (np.array(image.GetSize()) - 1) / 2
    return np.array(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))


def _starts(
    fixed: sitk.Image, moving: sitk.Image, kind: Kind, start: sitk.Transform | ArrayLike | None
) -> list[tuple[str, sitk.Transform]]:
    dimension = fixed.GetDimension()
    center = _middle(fixed)

    def made(matrix: Array) -> sitk.Transform:
        transform: Any = _empty(kind, dimension)
        linear, shift = matrix[:dimension, :dimension], matrix[:dimension, dimension]
        if kind == "translation":
            transform.SetOffset((linear @ center + shift - center).tolist())
            return transform
        transform.SetCenter(center.tolist())
        if kind == "rigid":
            u, _, vt = np.linalg.svd(linear)
            linear = u @ np.diag([1.0] * (dimension - 1) + [np.linalg.det(u @ vt)]) @ vt
        transform.SetMatrix(linear.ravel().tolist())
        moved = matrix[:dimension, :dimension] @ center + shift
        transform.SetTranslation((moved - center).tolist())
        return transform

    def shifted(offset: Array, linear: Array | None = None) -> Array:
        matrix = np.eye(dimension + 1)
        if linear is not None:
            matrix[:dimension, :dimension] = linear
        matrix[:dimension, dimension] = offset
        return matrix

    given = None
    result = []
    if start is not None:
        given = matrix_of(start) if isinstance(start, sitk.Transform) else np.asarray(start, dtype=np.float64)
        if given.shape != (dimension + 1, dimension + 1) or not np.isfinite(given).all():
            raise InputError(f"start has shape {given.shape}; give a {dimension + 1}x{dimension + 1} matrix.")
        result.append(("given", made(given)))
        if kind != "translation":
            linear = given[:dimension, :dimension]
            result.append(("moments, turned as given", made(shifted(_mass(moving) - linear @ _mass(fixed), linear))))
    result.append(("moments", made(shifted(_mass(moving) - _mass(fixed)))))
    if given is None:
        result.append(("middles", made(shifted(_middle(moving) - center))))
        result.append(("scanner", made(np.eye(dimension + 1))))
    return result


def _method(mask: sitk.Image | None, image: sitk.Image, samples: int, threads: int) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    share = samples / float(np.prod(image.GetSize()))
    if share < 1.0:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, 20_241)
    if mask is not None:
        method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    # Gradients at the samples only, by central differences: filtering whole images for them takes longer.
    method.MetricUseMovingImageGradientFilterOff()
    method.MetricUseFixedImageGradientFilterOff()
    method.SetNumberOfThreads(threads)
    return method


def _optimize(
    fixed: sitk.Image,
    moving: sitk.Image,
    start: sitk.Transform,
    mask: sitk.Image | None,
    samples: int,
    iterations: int,
    spacing: float,
    threads: int,
) -> tuple[sitk.Transform, bool]:
    """The transform after one level, and whether the steps had become small before the iterations ran out."""
    method = _method(mask, fixed, samples, threads)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=spacing,
        minStep=0.001 * spacing,
        numberOfIterations=iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    result = method.Execute(fixed, moving)
    if isinstance(result, sitk.CompositeTransform) and result.GetNumberOfTransforms() == 1:
        result = result.GetNthTransform(0)
    stopped = method.GetOptimizerIteration() < iterations or method.GetOptimizerLearningRate() < 0.02 * spacing
    return result, bool(stopped)


def _information(
    fixed: sitk.Image,
    moving: sitk.Image,
    transform: sitk.Transform,
    mask: sitk.Image | None,
    samples: int,
    threads: int,
) -> float:
    method = _method(mask, fixed, samples, threads)
    method.SetInitialTransform(transform, inPlace=False)
    return -float(method.MetricEvaluate(fixed, moving))


def _start_information(
    pair: tuple[sitk.Image, sitk.Image], starts: list[tuple[str, sitk.Transform]], mask: sitk.Image | None, threads: int
) -> float:
    values = []
    for _, transform in starts:
        try:
            values.append(_information(*pair, transform, mask, SAMPLES[0], threads))
        except RuntimeError:
            continue
    return max(values, default=0.0)


def _corners(image: sitk.Image) -> list[list[float]]:
    """Points at a quarter and three quarters of each axis, mm."""
    size = image.GetSize()
    grid = np.array(np.meshgrid(*[(0.25 * (n - 1), 0.75 * (n - 1)) for n in size])).reshape(len(size), -1).T
    return [list(image.TransformContinuousIndexToPhysicalPoint(index.tolist())) for index in grid]


def _distance(image: sitk.Image, first: sitk.Transform, second: sitk.Transform) -> float:
    """Mean distance in mm between what two transforms do to the fixed image."""
    gaps = [np.subtract(first.TransformPoint(p), second.TransformPoint(p)) for p in _corners(image)]
    return float(np.mean(np.linalg.norm(gaps, axis=1)))


def _overlap(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    inside = sitk.Resample(_ones(moving), fixed, transform, sitk.sitkNearestNeighbor, 0)
    return float(np.mean(sitk.GetArrayViewFromImage(inside)))


def _ones(image: sitk.Image) -> sitk.Image:
    result = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    result.CopyInformation(image)
    return result


def _judge(
    information: float,
    first: float,
    overlap: float,
    apart: float,
    stopped: bool,
    tried: list[tuple[float, str, sitk.Transform]],
    finest: float,
) -> Verdict:
    shown = f"mutual information {information:.3f}, overlap {100 * overlap:.0f} %"
    verdicts = [Verdict("pass", shown)]
    if overlap < LEAST_OVERLAP:
        verdicts.append(Verdict("fail", f"{shown}: the images hardly overlap"))
    if information <= first + 1e-4 and information < 0.05:
        verdicts.append(Verdict("fail", f"{shown}: the images have nothing in common at this pose"))
    elif information < 0.05:
        verdicts.append(Verdict("check", f"{shown}: little in common; look at the checkerboard"))
    close = len(tried) > 1 and tried[1][0] > 0.9 * tried[0][0]
    if close and apart > 2.0 * max(finest, 2.0):
        verdicts.append(
            Verdict("check", f"{shown}: two starts ended {apart:.1f} mm apart with nearly equal mutual information")
        )
    if not stopped:
        verdicts.append(Verdict("check", f"{shown}: still moving when the iterations ran out"))
    return worst(verdicts)
