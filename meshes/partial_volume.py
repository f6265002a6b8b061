"""The true area of a vessel too thin for its wall to be seen, from how much brightness is in its section.

A scanner blurs a thin vessel, and does not take brightness from it: over a disk that holds the blurred vessel,
integral (I - tissue) / (blood - tissue) dA is its area, however small it is against a voxel (the idea of densitometry
in quantitative angiography). It needs the grey values of blood and tissue near by, and no other bright thing within
the disk.
"""

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage, optimize
from scipy.spatial import cKDTree

from meshes.centerline import Centerline
from meshes.grid import Array, Grid
from meshes.ports import plane_axes
from meshes.sections import Sections

THIN_VOXELS = 1.6
"""A vessel of a radius below this many voxels is measured by its brightness."""

DISK_VOXELS = 1.5
"""The disk reaches this many voxels beyond the wall, as wide as voxels are in each direction: three standard deviations
of the blur."""

RING_VOXELS = 2.0
"""Width of the ring around the disk that says what tissue is."""

THROAT_VOXELS = 3.0
"""So many voxels to each side of a throat its shape is looked at."""

POINT_SPREAD_VOXELS = 0.5
"""Standard deviation of the scanner's blur; averaging over a voxel and interpolation come on top."""

ALONG_VOXELS = 0.75
"""Standard deviation of the average along the vessel, in voxels: sections nearer to one another share their noise."""

LEAST_CONTRAST = 0.1
"""Blood and tissue differ by at least this part of blood's grey value."""

BLOOD_REACH_MM = 20.0
"""Blood's grey value is taken from where the vessel is wide, within this distance."""


def thin_areas(image: sitk.Image, centerline: Centerline, sections: Sections) -> Array:
    """(n,) area [mm2] at each point of the centerline: by brightness where the vessel is thin, else the section's.

    Args:
        image: what the vessel was found in.
        centerline: of the vessel tree.
        sections: its cross-sections by the wall.
    """
    grid = Grid.of(image)
    voxel = float(np.cbrt(np.prod(grid.spacing)))
    plain = sections.radius
    thin = np.flatnonzero(plain < THIN_VOXELS * voxel)
    wide = np.flatnonzero(plain > 1.25 * THIN_VOXELS * voxel)
    area = sections.area.copy()
    if len(thin) == 0 or len(wide) == 0:
        return area
    values = grid.sample(centerline.points)
    wide_tree = cKDTree(centerline.points[wide])
    tangents = centerline.tangents()
    measured = area.copy()
    for point in thin:
        near = wide_tree.query_ball_point(centerline.points[point], BLOOD_REACH_MM)
        if not near:
            continue
        blood = float(np.median(values[wide[near]]))
        brightness = _area_by_brightness(
            grid, centerline.points[point], tangents[point], max(float(plain[point]), 0.3 * voxel), blood, voxel
        )
        if np.isfinite(brightness):
            measured[point] = brightness
    for branch in centerline.branches:
        ids = branch.point_ids
        arc = centerline.arc_length[ids]
        weights = np.exp(-0.5 * ((arc[:, None] - arc[None]) / (ALONG_VOXELS * voxel)) ** 2)
        averaged = weights @ measured[ids] / weights.sum(axis=1)
        chosen = np.isin(ids, thin)
        # From one measure to the other without a step.
        share = np.clip((THIN_VOXELS * voxel - plain[ids]) / (0.4 * voxel), 0.0, 1.0)
        area[ids[chosen]] = (area[ids] + share * (averaged - area[ids]))[chosen]
        for throat in _minima(averaged, chosen):
            step = float(np.linalg.norm(tangents[ids[throat]] @ grid.direction * grid.spacing))
            window = np.flatnonzero(np.abs(arc - arc[throat]) <= max(2.0 * step, THROAT_VOXELS * voxel))
            blur = np.sqrt((POINT_SPREAD_VOXELS * voxel) ** 2 + step**2 / 4.0)
            fitted = _unblurred(arc[window] - arc[throat], measured[ids[window]], blur)
            closest = np.abs(arc[window] - arc[throat]) <= 0.5 * max(2.0 * step, THROAT_VOXELS * voxel)
            area[ids[window[closest]]] = fitted[closest]
    return area


def _minima(values: Array, chosen: npt.NDArray[np.bool_]) -> list[int]:
    """The smallest value of each run of chosen points, unless at the run's edge: there the vessel only tapers."""
    runs, count = ndimage.label(chosen)
    found = []
    for number in range(1, count + 1):
        run = np.flatnonzero(runs == number)
        place = int(run[np.argmin(values[run])])
        if run[0] < place < run[-1] and run[0] > 0 and run[-1] < len(values) - 1:
            found.append(place)
    return found


def _unblurred(x: Array, area: Array, blur: float) -> Array:
    """(n,) areas at a throat as they were before a blur along the vessel.

    The radius is taken as r0 + c (x - x0)^2; its area, blurred with a Gaussian of deviation s, is
    pi (r0^2 + 2 r0 c (d^2 + s^2) + c^2 (d^4 + 6 d^2 s^2 + 3 s^4)), d = x - x0; r0, c and x0 are fitted to what is seen.
    Beside the throat, where areas are large, the vessel has another shape, and counts less.
    """

    def seen(parameters: Array, s: float) -> Array:
        r0, c, x0 = parameters
        d = (x - x0) ** 2
        return np.asarray(np.pi * (r0**2 + 2 * r0 * c * (d + s**2) + c**2 * (d**2 + 6 * d * s**2 + 3 * s**4)))

    smallest, reach = float(np.sqrt(max(area.min(), 0.0) / np.pi)), float(np.abs(x).max())
    start = np.array([max(0.5 * smallest, 1e-3), 0.1 / max(reach, 1e-3), 0.0])
    limits = ([0.0, 0.0, -0.5 * reach], [np.inf, np.inf, 0.5 * reach])
    weight = 1.0 / np.sqrt(area + 0.3 * np.median(area) + 1e-9)
    fit = optimize.least_squares(lambda parameters: (seen(parameters, blur) - area) * weight, start, bounds=limits)
    return seen(fit.x, 0.0)


def _area_by_brightness(grid: Grid, center: Array, normal: Array, radius: float, blood: float, voxel: float) -> float:
    """Area [mm2] from the brightness in a disk around a point; tissue is what lies in the ring around the disk.

    Where voxels are longer along one axis than along another, so are the disk and the ring: the blur is.
    """
    first, second = plane_axes(normal)
    outer = radius + (DISK_VOXELS + RING_VOXELS) * float(grid.spacing.max())
    steps = np.arange(-outer, outer + 1e-9, 0.25 * voxel)
    u, v = np.meshgrid(steps, steps, indexing="ij")
    offset, away = u[..., None] * first + v[..., None] * second, np.hypot(u, v)
    width = np.linalg.norm((offset @ grid.direction) * grid.spacing, axis=-1) / np.maximum(away, 1e-9)
    beyond = (away - radius) / np.maximum(width, 1e-9)
    disk, outside = beyond <= DISK_VOXELS, (beyond > DISK_VOXELS) & (beyond <= DISK_VOXELS + RING_VOXELS)
    values = grid.sample((center + offset).reshape(-1, 3)).reshape(u.shape)
    around = values[outside]
    deviation = np.abs(around - np.median(around))
    tissue = float(around[deviation <= 2.5 * 1.4826 * np.median(deviation)].mean())
    # Without contrast (a label map, an edge of the image) brightness says nothing.
    if blood - tissue < LEAST_CONTRAST * abs(blood):
        return np.nan
    return max(float(((values[disk] - tissue) / (blood - tissue)).sum() * (0.25 * voxel) ** 2), 0.0)
