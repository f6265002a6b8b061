"""What surrounds the vessels: a backdrop for the display, and points of the skin to touch."""

import numpy as np
import numpy.typing as npt
import pyvista as pv
import SimpleITK as sitk
from scipy import ndimage

from meshes.grid import Array, Grid
from meshes.lumen import Lumen

COARSE_MM = 1.5
"""The backdrop is made from voxels of at least this size: it need not be fine."""

SKIN_MARGIN = 0.04
"""Points of the skin keep this part of the image's extent from its border: what is cut off there is no skin."""


def anatomy_surface(image: sitk.Image, lumen: Lumen, *, max_triangles: int = 30_000) -> pv.PolyData:
    """The surface of bone, or of the body where there is no bone, around the lumen; mm, LPS.

    Bone is what is brighter than blood by half its contrast again; where there is hardly any, the body's outline is
    taken.
    """
    coarse = _coarse(image)
    values = ndimage.gaussian_filter(coarse.values.astype(np.float32), 0.7)
    level = _bone_level(image, lumen)
    bright = values > level
    if bright.mean() < 1e-4:
        body = body_mask(coarse)
        level, values = 0.5, ndimage.gaussian_filter(body.astype(np.float32), 1.0)
    padded = np.pad(values, 1, constant_values=float(values.min()))
    grid = Grid(padded, coarse.to_position([-1, -1, -1])[0], coarse.spacing, coarse.direction)
    volume = pv.ImageData(dimensions=tuple(int(n) for n in grid.size))
    volume.point_data["level"] = grid.values.ravel()
    surface = volume.contour([level], scalars="level")
    if surface.n_points == 0:
        return pv.PolyData()
    surface.points = grid.to_position(surface.points)
    surface = surface.smooth_taubin(n_iter=20, pass_band=0.08)
    if surface.n_cells > max_triangles:
        surface = surface.decimate(1.0 - max_triangles / surface.n_cells)
    surface.clear_data()
    return surface


def _bone_level(image: sitk.Image, lumen: Lumen) -> float:
    """Grey value between blood and what is brighter."""
    values = sitk.GetArrayViewFromImage(image)
    inside = sitk.GetArrayViewFromImage(lumen.label) > 0
    blood = values[inside].astype(float)
    return float(np.median(blood) + max(3.0 * float(np.std(blood)), 0.5 * abs(float(np.median(blood)))))


def _coarse(image: sitk.Image) -> Grid:
    factors = [
        max(1, min(int(COARSE_MM / spacing), size))
        for spacing, size in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    return Grid.of(image if max(factors) == 1 else sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors))


def body_mask(grid: Grid) -> npt.NDArray[np.bool_]:
    """The body against the air: Otsu's threshold, the largest part, its holes filled."""
    values = ndimage.gaussian_filter(grid.values.astype(np.float32), 1.0)
    # Bright vessels and bone must not pull the threshold up: it is sought below the median of what is not air.
    clipped = np.minimum(values, np.quantile(values, 0.9))
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.SetInsideValue(0)
    threshold.SetOutsideValue(1)
    mask = sitk.GetArrayFromImage(threshold.Execute(sitk.GetImageFromArray(clipped))) > 0
    parts, count = ndimage.label(mask)
    if count > 1:
        mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(mask))


def skin_points(image: sitk.Image, *, count: int = 6) -> dict[str, Array]:
    """Well-spread points of the body's surface that could be touched: name -> (3,) mm, LPS.

    The farthest points from one another, one after the other. Where the image shows no skin (the body fills it), points
    of the outermost surface that it shows.
    """
    coarse = _coarse(image)
    body = body_mask(coarse)
    surface = body & ~ndimage.binary_erosion(body, iterations=1, border_value=1)
    index = np.argwhere(surface)[:, ::-1]
    margin = np.maximum(1, SKIN_MARGIN * coarse.size)
    inner = np.all((index >= margin) & (index <= coarse.size - 1 - margin), axis=1)
    if inner.sum() < 10 * count:
        border = np.argwhere(body & ~ndimage.binary_erosion(body, iterations=1))[:, ::-1]
        index, inner = border, np.ones(len(border), dtype=bool)
    places = coarse.to_position(index[inner])
    places = places[:: max(1, len(places) // 20_000)]
    chosen = [int(np.argmax(np.linalg.norm(places - places.mean(axis=0), axis=1)))]
    nearest = np.linalg.norm(places - places[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return {f"skin_{number}": places[place] for number, place in enumerate(chosen, start=1)}
