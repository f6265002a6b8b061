"""Signed distance to a wall that a grey-value level set puts between voxels."""

import numpy as np
import numpy.typing as npt
import pyvista as pv
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from meshes.grid import Array, Grid

MARGIN_VOXELS = 5
ROUGHNESS_VOXELS = 1.0
"""Standard deviation of the kernel that takes noise off the wall."""

WAY_VOXELS = 0.75
"""Radius of a tube whose voxels are surely connected."""

MOST_VOXELS = 6_000_000
"""A level set has at most this many voxels; a larger one is made coarser, which the mesh would be anyway."""


def signed_distance(
    level: Grid, mask: npt.NDArray[np.bool_], *, blur: float = 0.0, ways: Array | None = None
) -> sitk.Image:
    """Signed distance [mm] to the zero of ``level`` around ``mask``, on a cropped grid of nearly cubic voxels.

    Args:
        level: negative inside; its zero is the wall; of any scale.
        mask: the voxels that are inside.
        blur: standard deviation [voxels] of the point spread that ``level`` was seen with. Half-way between inside and
            outside, a blurred tube of radius R looks narrower by blur^2 / 2R: that is given back.
        ways: (n, 3) mm, points of vessels too thin to be seen: they are put in as tubes ``WAY_VOXELS`` wide.

    Returns:
        float32 image, negative inside. Only the part of the inside that is connected with the mask's largest part is
        kept.
    """
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = [part.start - MARGIN_VOXELS for part in found[::-1]]
    high = [part.stop + MARGIN_VOXELS for part in found[::-1]]
    padded = _padded(level, low, high)
    step = float(padded.spacing.min())
    extent = (padded.size - 1) * padded.spacing
    step = max(step, float(np.cbrt(np.prod(extent) / MOST_VOXELS)))
    # Voxels near enough to cubic are left as they are: interpolating would only blur them.
    factors = np.where(padded.spacing / step > 1.25, np.ceil(padded.spacing / step - 0.25), 1.0)
    if step > 1.05 * padded.spacing.min():
        factors = padded.spacing / step
    size = np.maximum(np.round((padded.size - 1) * factors).astype(int) + 1, 4)
    spacing = extent / (size - 1)
    index = [np.linspace(0, n - 1, m) for n, m in zip(padded.size, size, strict=True)]
    fine = resampled(padded.values.astype(np.float32), index)
    grid = Grid(fine, padded.origin, spacing, padded.direction)
    tube = np.full(fine.shape, np.inf, dtype=np.float32)
    if ways is not None and len(ways):
        near = np.flatnonzero(fine < fine.max())
        tube.ravel()[near] = cKDTree(ways).query(grid.positions_of(near))[0] - WAY_VOXELS * float(spacing.max())
        fine = np.where(tube < 0, np.minimum(fine, -1e-3), fine)
        grid = grid.like(fine)
    inside = fine < 0
    parts, count = ndimage.label(inside, ndimage.generate_binary_structure(3, 3))
    if count > 1:
        kept = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
        fine = np.where(inside & ~kept, np.abs(fine) + 1e-4, fine)
        grid = grid.like(fine)
    smooth = redistance(_without_roughness(redistance(grid), blur * float(np.cbrt(np.prod(level.spacing)))))
    return smooth.like(np.minimum(smooth.values, tube)).image()


def _without_roughness(distance: Grid, blur: float) -> Grid:
    """Take the image's noise off the wall, and leave the vessel as wide as it is; ``blur`` [mm] is given back.

    A Gaussian G alone would shrink a tube: it moves its wall by s^2 / 2R. Applied as 2G - GG (Tukey's twicing), what is
    left is of fourth order in s, and noise of a voxel's length still falls to less than a half. Where a vessel is
    hardly wider than the kernel the distance is left as it is.
    """
    once = ndimage.gaussian_filter(distance.values, ROUGHNESS_VOXELS)
    again = ndimage.gaussian_filter(once, ROUGHNESS_VOXELS)
    twice = 2.0 * once - again
    reach = ROUGHNESS_VOXELS * float(distance.spacing.max())
    depth = ndimage.maximum_filter(-distance.values, 5)
    share = np.clip(depth / reach - 1.0, 0.0, 1.0)
    spread = (again - once) * (blur / (ROUGHNESS_VOXELS * float(distance.spacing.mean()))) ** 2
    given_back = np.clip(spread, 0.0, 0.2 * reach)
    return distance.like((distance.values + share * (twice - distance.values - given_back)).astype(np.float32))


def _padded(level: Grid, low: list[int], high: list[int]) -> Grid:
    """Crop, and pad with outside where the box leaves the image: a vessel that runs out of it is closed there."""
    inner_low = np.maximum(low, 0)
    cropped = level.crop(low, high)
    missing_low = inner_low - low
    missing_high = np.array(high) - np.minimum(high, level.size)
    width = [(int(a), int(b)) for a, b in zip(missing_low[::-1], missing_high[::-1], strict=True)]
    outside = float(np.abs(cropped.values).max())
    values = np.pad(cropped.values, width, constant_values=outside)
    origin = cropped.to_position(-missing_low.astype(float))[0]
    return Grid(values, origin, cropped.spacing, cropped.direction)


def depth_within(mask: npt.NDArray[np.bool_], spacing: Array) -> npt.NDArray[np.float32]:
    """At each voxel of a mask the distance [mm] to the nearest voxel outside of it; 0 elsewhere; spacing along i, j, k.

    The border of the image is no outside: a vessel that runs out of it is not thinner there.
    """
    depth = np.zeros(mask.shape, dtype=np.float32)
    found = ndimage.find_objects(mask.astype(np.uint8))
    if found:
        box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in found[0])
        depth[box] = ndimage.distance_transform_edt(mask[box], sampling=spacing[::-1])
    return depth


def distance_from(mask: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.float32]:
    """At every voxel of a grid the distance [mm] to the nearest voxel of a mask that is not empty; 0 within it.

    Maurer's algorithm (IEEE Trans. Pattern Anal. Mach. Intell. 25 (2003) 265-270) as ITK has it: on all cores, and in
    a fifth of the memory of SciPy's.
    """
    signed = sitk.SignedMaurerDistanceMap(
        grid.like(mask.astype(np.uint8)).image(), squaredDistance=False, useImageSpacing=True
    )
    distance: npt.NDArray[np.float32] = sitk.GetArrayFromImage(signed)
    return np.maximum(distance, np.float32(0.0), out=distance)


def resampled(values: npt.NDArray[np.float32], index: list[Array]) -> npt.NDArray[np.float32]:
    """Values at the products of indices per axis (i, j, k), by linear interpolation axis by axis."""
    for axis, wanted in zip((2, 1, 0), index, strict=True):
        last = values.shape[axis] - 1
        lower = np.clip(np.floor(wanted).astype(int), 0, max(last - 1, 0))
        shape = [1, 1, 1]
        shape[axis] = -1
        share = (wanted - lower).astype(np.float32).reshape(shape)
        upper = np.take(values, np.minimum(lower + 1, last), axis=axis)
        values = np.take(values, lower, axis=axis) * (1 - share) + upper * share
    return values


def wall_surface(level: Grid) -> pv.PolyData:
    """The zero of a level set as triangles, in mm, LPS; faces are in no particular orientation."""
    image = pv.ImageData(dimensions=tuple(int(n) for n in level.size))
    image.point_data["level"] = level.values.ravel()
    surface = image.contour([0.0], scalars="level", method="flying_edges")
    surface.points = level.to_position(surface.points)
    return surface


def redistance(level: Grid) -> Grid:
    """Signed distance to the zero of a level set: exact near it, to a fraction of a voxel farther away.

    The distance to the plane of the nearest of many samples of the wall, near the wall; farther away, where the
    foot's plane says less, the distance to the sample itself.
    """
    return distance_to(wall_surface(level), level)


def distance_to(surface: pv.PolyData, level: Grid) -> Grid:
    """Signed distance [mm] to a surface of triangles, on the grid and with the signs of ``level``; see `redistance`."""
    triangles = surface.faces.reshape(-1, 4)[:, 1:]
    corners = np.asarray(surface.points, dtype=float)[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    real = area > 1e-12
    normals, centers = normals[real] / area[real, None], corners[real].mean(axis=1)
    tree = cKDTree(centers)
    step = float(level.spacing.max())
    sign = np.where(level.values < 0, -1.0, 1.0)
    inside_or_near = ndimage.binary_dilation(level.values < 0, iterations=MARGIN_VOXELS - 1)
    flat = np.flatnonzero(inside_or_near)
    positions = level.positions_of(flat)
    distance, nearest = tree.query(positions, k=3, workers=-1)
    offset = np.abs(np.einsum("nkd,nkd->nk", positions[:, None] - centers[nearest], normals[nearest]))
    plane = offset.mean(axis=1)
    near = distance[:, 0] < 1.5 * step
    result = np.full(level.values.shape, (MARGIN_VOXELS - 1) * step, dtype=np.float32)
    result.ravel()[flat] = (np.where(near, np.minimum(plane, distance[:, 0]), distance[:, 0])).astype(np.float32)
    return level.like((result * sign).astype(np.float32))
