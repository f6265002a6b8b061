"""Finding the contrast-filled lumen, and where exactly its wall is.

1.  Bright tubes of several widths are found by the eigenvalues of the Hessian (Frangi et al., MICCAI 1998; the
    generalized objectness of Antiga, Insight Journal 2007, as SimpleITK has it). Their strongest voxels are the cores:
    they say what blood looks like here. Bone is brighter, but it is no tube.
2.  Blood's and tissue's grey values are followed through the image by averaging over cores, and over what lies a little
    beside them, with a wide Gaussian, so that a coil's fading signal moves the threshold with it.
3.  The wall is where the grey value is half-way between the two, the edge of an object in a blurred image. The voxels
    above it that are connected with the seed, or with the most tube-like core, are the lumen, without the rims of bones
    and plaques that touch it (`bone`).
4.  Where the lumen gets too thin to be seen, what continues it behind is found (`bridging`).
5.  The level set is the half-way value minus the grey value, made a signed distance to its own zero: the wall lies
    between voxels where the grey values put it. Smoothing a binary mask would shrink thin vessels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from meshes.bone import Box, Parted, without_bone
from meshes.borders import lengthwise_cuts
from meshes.bridging import Gap, bridge_gaps
from meshes.errors import InputError
from meshes.grid import Array, Grid
from meshes.level_set import MARGIN_VOXELS, depth_within, distance_from, resampled, signed_distance
from meshes.lumen import Lumen
from meshes.tubes import SegmentationSettings, TubeResponses, tube_responses
from meshes.vessel_likeness import hollow, tube_share, vessel_score

Mask = npt.NDArray[np.bool_]

OTHER_SHARE, MOST_OTHERS = 0.1, 4
"""A tree that is not connected is told of if it has at least this part of the volume of the one found; so many at
most."""

LARGEST_SHARE = 0.5
"""What fills more of the image than this is no vessel tree: it is what lies around one, as bright as blood."""

BRIGHT_VESSEL_SHARE = 0.3
"""What is brighter than blood and answers to tubes with this part of an ideal one is a vessel all the same."""

PEAK_WEIGHT = 0.05
"""How much a bright, tube-like voxel outside of the vessel found at first counts for blood's grey value."""


def segment_lumen(
    image: sitk.Image,
    *,
    seed: tuple[float, float, float] | None = None,
    threshold: float | None = None,
    region: tuple[float, float, float, float, float, float] | None = None,
    settings: SegmentationSettings | None = None,
) -> Lumen:
    """Find the lumen of the contrast-filled vessel tree that a seed lies in, or of the most prominent one.

    Args:
        image: CT or MR angiogram, blood brighter than tissue.
        seed: a point in the vessel, mm, LPS.
        threshold: the wall is where the grey value is this; half-way between blood and tissue, found place by place,
            where None.
        region: two opposite corners of a box, x, y, z, x, y, z mm, LPS: nothing outside of it is looked at.
        settings: defaults where None.

    Raises:
        InputError: the seed is outside the image or in no vessel, the region holds too little of the image, or no
            vessel is found, with this threshold.
    """
    chosen = settings or SegmentationSettings()
    grid = Grid.of(image)
    if region is not None:
        box = _box_of(region, grid)
        lumen = segment_lumen(image[box], seed=seed, threshold=threshold, settings=settings)
        label = np.zeros(grid.values.shape, dtype=np.uint8)
        label[box[::-1]] = sitk.GetArrayFromImage(lumen.label)
        return replace(lumen, label=grid.like(label).image())
    if seed is not None and not grid.contains(seed)[0]:
        low, high = _bounds(grid)
        raise InputError(
            f"The seed {_point(seed)} is outside the image, which reaches from {_point(low)} to {_point(high)} mm "
            f"(LPS); "
            "give a point in the vessel."
        )
    tubes = tube_responses(image, chosen)
    candidates = _candidates(grid, tubes, seed, chosen)
    if not candidates:
        if seed is not None:
            raise InputError(
                f"The seed {_point(seed)} is in no vessel: nothing tube-like within {chosen.seed_reach:g} mm of it "
                f"stands out; "
                "give a point inside the vessel (mm, LPS)."
            )
        raise InputError(
            "No vessel was found: no bright structure in the image is a tube; is it an angiogram? Give --seed or "
            "labels."
        )
    best = max(candidates, key=lambda candidate: candidate.score)
    found = _follow_bias(grid, best, tubes, seed, chosen, threshold)
    filled = float(found.component.mean())
    if filled > LARGEST_SHARE:
        raise InputError(
            f"No vessel was found: what is as bright as blood (about {found.blood:.0f}) fills {100 * filled:.0f} % of "
            "the image; are vessels dark in it, or is it cut to the inside of one? Give --seed, --threshold or labels."
        )
    share = (found.values - found.half) / found.contrast + 0.5
    bright = (found.values > found.half) & (share < 1.0 + chosen.bone_excess) & ~found.rims
    component, gaps = bridge_gaps(found.component, bright, share, _noise(grid) / float(np.median(found.contrast)), grid)
    notes = (
        "The vessel tree at the seed is taken."
        if seed is not None
        else f"The most vessel-like of {len(candidates)} kinds of bright structure is taken; give --seed for another.",
        f"Blood is about {found.blood:.0f}, the tissue beside it {found.tissue:.0f}; the wall is "
        + ("half-way between them at each place." if threshold is None else f"where the grey value is {threshold:g}."),
        *(
            f"The vessel goes on behind a gap of {gap.length:.1f} mm at {_point(gap.way.mean(axis=0))} mm, where "
            f"hardly any lumen is seen: a severe stenosis or an occlusion. Look there."
            for gap in gaps
        ),
        *lengthwise_cuts(component, grid),
        *_other_trees(
            bright, component, found.values >= found.upper, float(np.median(found.contrast)), tubes, grid, chosen
        ),
    )
    level, mask = _level_of_tree(found, component, grid)
    # In a large volume these are most of the memory.
    del found, tubes, bright, share
    return Lumen(
        label=grid.like(component.astype(np.uint8)).image(),
        level_set=signed_distance(level, mask, blur=chosen.point_spread, ways=_line(gaps)),
        notes=notes,
    )


def _other_trees(
    bright: Mask,
    component: Mask,
    brighter: Mask,
    contrast: float,
    tubes: TubeResponses,
    grid: Grid,
    settings: SegmentationSettings,
) -> list[str]:
    """One sentence on each of the larger vessel trees of the same brightness that are not connected with the one
    found."""
    parts, count = ndimage.label(bright & ~ndimage.binary_dilation(component, iterations=2))
    sizes = np.bincount(parts[parts > 0], minlength=count + 1)
    told = []
    for number in np.argsort(-sizes, kind="stable")[:MOST_OTHERS]:
        if sizes[number] < OTHER_SHARE * component.sum():
            break
        other = parts == number
        if hollow(other, brighter) or vessel_score(other, contrast, tubes, grid) <= settings.least_vessel_score:
            continue
        depth = depth_within(other, grid.spacing)
        where = grid.positions_of(np.array([int(np.argmax(depth))]))[0]
        volume = float(sizes[number] * np.prod(grid.spacing)) / 1000.0
        told.append(
            f"Another vessel tree of {volume:.2g} ml, at {_point(where)} mm, is not connected with this one and "
            "is left "
            f"out; give that place as --seed to take it instead."
        )
    return told


def _line(gaps: list[Gap]) -> Array:
    """(n, 3) points along the ways across gaps, about a fifth of a voxel apart."""
    fine = [np.linspace(0.0, len(gap.way) - 1.0, 5 * len(gap.way)) for gap in gaps]
    lines = [
        np.column_stack([np.interp(at, np.arange(len(gap.way)), gap.way[:, axis]) for axis in range(3)])
        for at, gap in zip(fine, gaps, strict=True)
    ]
    return np.concatenate(lines) if lines else np.zeros((0, 3))


@dataclass(frozen=True)
class _Candidate:
    """One kind of bright structure: a grey value that many tube-like voxels share, and what is connected with it."""

    blood: float
    tissue: float
    component: Mask
    score: float


@dataclass(frozen=True)
class _Followed:
    """The vessel tree found with thresholds that follow the image, and what they are at each voxel."""

    component: Mask
    values: npt.NDArray[np.float32]
    """grey values that it was found in"""
    half: npt.NDArray[np.float32]
    """half-way between tissue and blood"""
    contrast: npt.NDArray[np.float32]
    upper: npt.NDArray[np.float32]
    """brighter than this is bone, plaque or metal"""
    bone: Mask
    """what of that touches the vessel"""
    rims: Mask
    """as bright as blood, by partial volume between bone and tissue"""
    blood: float
    """typical in the lumen"""
    tissue: float


def _level_of_tree(found: _Followed, component: Mask, grid: Grid) -> tuple[Grid, Mask]:
    """Half-way value minus grey value, over the contrast, and the mask, around one tree only.

    What else is bright, a little away, is turned into background.
    """
    (part,) = ndimage.find_objects(component.astype(np.uint8))
    box = tuple(slice(max(0, side.start - MARGIN_VOXELS), side.stop + MARGIN_VOXELS) for side in part)
    mask, values, half, contrast = component[box], found.values[box], found.half[box], found.contrast[box]
    near = ndimage.binary_dilation(mask, iterations=2)
    excess = np.where(near, half - values, np.maximum(np.abs(half - values), 0.25 * contrast))
    # Towards bone the wall is where it gets too bright for blood; its rim is outside.
    excess = np.where(ndimage.binary_dilation(found.bone[box]), np.maximum(excess, values - found.upper[box]), excess)
    excess = np.where(found.rims[box], np.maximum(excess, 0.1 * contrast), excess)
    inner = np.where(mask, np.minimum(excess, -0.02 * contrast), excess)
    origin = grid.to_position(np.array([side.start for side in box[::-1]], dtype=float))[0]
    return Grid((inner / contrast).astype(np.float32), origin, grid.spacing, grid.direction), mask


def _candidates(
    grid: Grid, tubes: TubeResponses, seed: tuple[float, float, float] | None, settings: SegmentationSettings
) -> list[_Candidate]:
    """Every grey value that blood might have here, with how much the structure of it is a vessel tree."""
    best = tubes.best()
    strongest = float(np.quantile(best, 0.9995))
    cores = best > settings.core_share * strongest
    if strongest <= 0 or not cores.any():
        return []
    values, noise = grid.values, _noise(grid)
    found = []
    levels = _modes(values[cores], best[cores])
    if seed is not None and best.ravel()[_nearest_voxel(grid, seed)] > 0.3 * settings.core_share * strongest:
        # A vessel with a grey value of its own, such as a vein: only if the seed lies in something like a tube.
        levels = [*levels, float(ndimage.median_filter(values, 3).ravel()[_nearest_voxel(grid, seed)])]
    for blood in levels:
        alike = cores & (np.abs(values - blood) < max(3.0 * noise, 0.15 * abs(blood)))
        if not alike.any():
            continue
        distance = distance_from(alike, grid)
        beside = (distance > 1.5) & (distance < 6.0) & (values < blood)
        if not beside.any():
            continue
        tissue = float(np.median(values[beside]))
        contrast = blood - tissue
        if contrast < 3.0 * noise:
            continue
        above = (values > 0.5 * (blood + tissue)) & (values < blood + settings.bone_excess * contrast)
        component = _connected(above, best * alike, grid, seed, settings)
        brighter = cores & (values >= blood + settings.bone_excess * contrast)
        if component is None or not component.any() or component.mean() > LARGEST_SHARE:
            continue
        if not hollow(component, brighter):
            component = _apart_from_bone(
                above,
                component,
                values >= blood + settings.bone_excess * contrast,
                tissue,
                partial(_connected, score=best * alike, grid=grid, seed=seed, settings=settings),
                tubes,
                grid,
            ).component
            found.append(_Candidate(blood, tissue, component, vessel_score(component, contrast, tubes, grid)))
    return [candidate for candidate in found if candidate.score > settings.least_vessel_score]


def _modes(values: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> list[float]:
    """The grey values that most of the weight gathers around, at most five."""
    low, high = np.quantile(values, [0.005, 0.995])
    if not high > low:
        return [float(low)]
    histogram, edges = np.histogram(values, bins=128, range=(float(low), float(high)), weights=weights)
    smooth = ndimage.gaussian_filter1d(histogram, 3.0, mode="constant")
    peaks = [
        number
        for number in range(len(smooth))
        if smooth[number] == smooth[max(0, number - 6) : number + 7].max() and smooth[number] > 0.03 * smooth.max()
    ]
    peaks.sort(key=lambda number: -smooth[number])
    return [float(0.5 * (edges[number] + edges[number + 1])) for number in peaks[:5]]


def _apart_from_bone(
    above: Mask,
    component: Mask,
    brighter: Mask,
    tissue: float,
    connected: Callable[[Mask], Mask | None],
    tubes: TubeResponses,
    grid: Grid,
) -> Parted:
    """`without_bone`, where what is brighter is a vessel if it is a tube."""

    def is_vessel(part: Mask, box: Box) -> bool:
        depth = depth_within(part, grid.spacing)
        if float(depth.max()) < tubes.radii[0]:
            return False
        there = TubeResponses(tubes.radii, tuple(response[box] for response in tubes.responses))
        return tube_share(depth, float(np.median(grid.values[box][part])) - tissue, there) > BRIGHT_VESSEL_SHARE

    return without_bone(above, component, brighter, connected, is_vessel)


def _follow_bias(
    grid: Grid,
    candidate: _Candidate,
    tubes: TubeResponses,
    seed: tuple[float, float, float] | None,
    settings: SegmentationSettings,
    threshold: float | None,
) -> _Followed:
    """The component again, with thresholds that follow the image."""
    contrast = candidate.blood - candidate.tissue
    blood, tissue = _blood_and_tissue(grid, candidate, tubes, settings)
    span = np.maximum(blood - tissue, settings.least_contrast * contrast)
    half = (tissue + 0.5 * span if threshold is None else np.full_like(tissue, threshold)).astype(np.float32)
    values = _denoised(grid, span)
    above = (values > half) & (values < blood + settings.bone_excess * span)
    component = _connected(above, candidate.component.astype(np.float32), grid, seed, settings)
    if component is None and threshold is not None:
        raise InputError(
            f"No vessel is brighter than the threshold {threshold:g}: blood is about {candidate.blood:.0f} here, and "
            f"the tissue beside it {candidate.tissue:.0f}; give --threshold a grey value between the two."
        )
    if component is None:
        component = candidate.component
    upper = (blood + settings.bone_excess * span).astype(np.float32)
    parted = _apart_from_bone(
        above,
        component,
        values >= upper,
        candidate.tissue,
        partial(_connected, score=candidate.component.astype(np.float32), grid=grid, seed=seed, settings=settings),
        tubes,
        grid,
    )
    component = ndimage.binary_fill_holes(parted.component) & ~parted.brighter
    return _Followed(
        component,
        values,
        half,
        span.astype(np.float32),
        upper,
        parted.brighter,
        parted.rims,
        float(np.median(blood[component])),
        float(np.median(tissue[component])),
    )


def _blood_and_tissue(
    grid: Grid, candidate: _Candidate, tubes: TubeResponses, settings: SegmentationSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The grey values of blood, and of the tissue beside it, around every voxel."""
    values = grid.values
    contrast = candidate.blood - candidate.tissue
    best = tubes.best()
    tube_like = best > 0.5 * settings.core_share * float(np.quantile(best[candidate.component], 0.9))
    del best
    plausible = (values > candidate.tissue + 0.3 * contrast) & (
        values < candidate.blood + settings.bone_excess * contrast
    )
    inner = _middle(candidate.component, grid)
    peaks = tube_like & plausible & (values >= ndimage.maximum_filter(values, 3) - 0.1 * contrast)
    # A peak may be noise, and is dimmer than blood in a thin vessel: the middle of a vessel, where known, says more.
    cores = np.where(inner, np.float32(1.0), np.float32(PEAK_WEIGHT) * peaks)
    distance = distance_from(candidate.component | peaks, grid)
    beside = (distance > 1.0 + float(grid.spacing.max())) & (distance < 6.0)
    beside &= values < candidate.tissue + 0.5 * contrast
    low, high = np.quantile(values[beside], [0.15, 0.85]) if beside.any() else (candidate.tissue, candidate.tissue)
    beside &= (values >= low) & (values <= high)
    # In a large volume each of these is a good part of the memory.
    del distance, inner, peaks, tube_like, plausible
    blood = _local_mean(values, cores, grid, settings.bias_length, candidate.blood)
    tissue = _local_mean(values, beside, grid, settings.bias_length, candidate.tissue)
    return blood, tissue


def _middle(component: Mask, grid: Grid) -> Mask:
    """The voxels along the middle of a structure, where partial volume at its wall does not reach."""
    depth = depth_within(component, grid.spacing)
    return np.asarray(component & (depth >= 0.6 * ndimage.maximum_filter(depth, 5)))


def _local_mean(
    values: npt.NDArray[np.float32], weight: npt.ArrayLike, grid: Grid, length: float, overall: float
) -> npt.NDArray[np.float32]:
    """Weighted mean around every voxel (normalized convolution); the overall mean where there is no weight near.

    Such a mean varies slowly: it is computed on a coarse grid, several steps to the length.
    """
    weights = np.asarray(weight, dtype=np.float32)
    factors = np.maximum(1, (length / 4.0 / grid.spacing).astype(int))
    sigma = length / (grid.spacing * factors)[::-1]
    amount, summed = (
        ndimage.gaussian_filter(_summed(part, factors), sigma, mode="constant", truncate=3.0)
        for part in (weights, weights * values)
    )
    floor = 1e-3 * float(amount.max()) + 1e-12
    coarse = (summed + floor * overall) / (amount + floor)
    if (factors == 1).all():
        return np.asarray(coarse, dtype=np.float32)
    # A block's value is that of its middle.
    index = [
        np.clip((np.arange(size) - 0.5 * (factor - 1)) / factor, 0.0, max(count - 1.0, 0.0))
        for size, factor, count in zip(grid.size, factors, coarse.shape[::-1], strict=True)
    ]
    return resampled(coarse.astype(np.float32), index)


def _summed(values: npt.NDArray[np.float32], factors: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Sums over blocks of voxels, ``factors`` (along i, j, k) to a side."""
    for axis, factor in zip((2, 1, 0), factors, strict=True):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], int(factor)), axis=axis)
    return values


def _denoised(grid: Grid, contrast: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grey values, smoothed by a Gaussian of a voxel where noise is large against the contrast of the place.

    Where the signal has faded the edge would dissolve into noise; where it has not, smoothing would only blur it.
    """
    noise = _noise(grid)
    need = np.clip((8.0 * noise - contrast) / (5.0 * noise + 1e-12), 0.0, 1.0)
    if not need.any():
        return grid.values.astype(np.float32)
    smooth = ndimage.gaussian_filter(grid.values.astype(np.float32), 1.0)
    blended: npt.NDArray[np.float32] = (grid.values * (1.0 - need) + smooth * need).astype(np.float32)
    return blended


def _noise(grid: Grid) -> float:
    """Standard deviation of the voxels' noise, from the differences of neighbors (robust)."""
    difference = np.diff(grid.values.astype(np.float32), axis=2)
    return float(1.4826 * np.median(np.abs(difference)) / np.sqrt(2.0))


def _nearest_voxel(grid: Grid, point: tuple[float, float, float]) -> int:
    """Flat index of the voxel whose center is nearest to a position."""
    i, j, k = np.clip(np.round(grid.to_index(point)[0]).astype(int), 0, grid.size - 1)
    return int(np.ravel_multi_index((k, j, i), grid.values.shape))


def _connected(
    above: Mask,
    score: npt.NDArray[np.float32],
    grid: Grid,
    seed: tuple[float, float, float] | None,
    settings: SegmentationSettings,
) -> Mask | None:
    """The connected part that the seed is in or next to, or the one with the highest sum of scores; None without
    any."""
    parts, count = ndimage.label(above, ndimage.generate_binary_structure(3, 1))
    if count == 0:
        return None
    if seed is None:
        # Of the labelled voxels only: counting takes 16 bytes a voxel.
        labelled = np.flatnonzero(parts)
        total = np.bincount(parts.ravel()[labelled], weights=score.ravel()[labelled], minlength=count + 1)
        best = int(np.argmax(total))
        return parts == best if total[best] > 0 else None
    place = np.zeros(above.shape, dtype=bool)
    place.ravel()[_nearest_voxel(grid, seed)] = True
    reach = np.where(above, distance_from(place, grid), np.inf)
    nearest = int(np.argmin(reach))
    return parts == parts.ravel()[nearest] if reach.ravel()[nearest] <= settings.seed_reach else None


def _box_of(region: tuple[float, float, float, float, float, float], grid: Grid) -> tuple[slice, ...]:
    """The voxels (along i, j, k) around a box given by two corners in mm, LPS."""
    a, b = np.array(region[:3]), np.array(region[3:])
    corners = np.array([[(a, b)[x][0], (a, b)[y][1], (a, b)[z][2]] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    index = grid.to_index(corners)
    low = np.clip(np.floor(index.min(axis=0)).astype(np.int64), 0, grid.size)
    high = np.clip(np.ceil(index.max(axis=0)).astype(np.int64) + 1, 0, grid.size)
    if (high - low < 8).any():
        first, last = _bounds(grid)
        raise InputError(
            f"The region {_point(a)} to {_point(b)} holds less than 8 voxels of the image along one axis; the image "
            f"reaches from {_point(first)} to {_point(last)} mm (LPS)."
        )
    return tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))


def _bounds(grid: Grid) -> tuple[Array, Array]:
    corners = grid.to_position(np.stack(np.meshgrid(*[[0, n - 1] for n in grid.size]), -1).reshape(-1, 3))
    return corners.min(axis=0), corners.max(axis=0)


def _point(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float)) + ")"
