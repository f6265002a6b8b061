"""Where the image's border cuts a vessel lengthwise: what lies outside of it is missing from the lumen."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from meshes.grid import Grid

LEAST_LENGTHWISE = 3.5
"""A cut this many times longer than wide runs along a vessel; across a vessel, even obliquely, it is rounder."""

FEWEST_VOXELS = 12


def lengthwise_cuts(mask: npt.NDArray[np.bool_], grid: Grid) -> list[str]:
    """One sentence on each side of the image along which it cuts the vessel.

    Args:
        mask: the lumen, on the whole grid.
        grid: the image's.
    """
    told = []
    for axis in range(3):
        for place in (0, mask.shape[axis] - 1):
            parts, count = ndimage.label(np.take(mask, place, axis=axis), np.ones((3, 3)))
            for number in range(1, count + 1):
                found = np.argwhere(parts == number)
                if len(found) < FEWEST_VOXELS:
                    continue
                index = np.insert(found, axis, place, axis=1)[:, ::-1]
                positions = grid.to_position(index)
                # A voxel's own spread on top: a row of voxels has a width.
                spread = np.linalg.eigvalsh(np.cov(positions.T))[1:] + float(grid.spacing.min()) ** 2 / 12.0
                if np.sqrt(spread[1] / spread[0]) < LEAST_LENGTHWISE:
                    continue
                where = ", ".join(f"{value:.4g}" for value in positions.mean(axis=0))
                length = np.sqrt(12.0 * spread[1])
                told.append(
                    f"The image's border cuts the vessel lengthwise over some {length:.0f} mm around "
                    f"({where}) mm: its lumen is too narrow there; take a larger image, or leave it out with --region."
                )
    return told
