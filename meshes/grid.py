"""A scalar field on a regular grid placed anywhere in the patient: the bridge between SimpleITK and NumPy.

A voxel index ``(i, j, k)`` counts along the image's own axes; its position in the patient is
``origin + direction @ diag(spacing) @ (i, j, k)`` (ITK Software Guide, section 4.1.4), in mm, LPS. The array is
stored as NumPy reads it from SimpleITK, that is ``values[k, j, i]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Values ``(nz, ny, nx)`` with the placement of their voxel centers: origin (3,), spacing (3,), direction (3,
    3)."""

    values: npt.NDArray[Any]
    origin: Array
    spacing: Array
    direction: Array

    @classmethod
    def of(cls, image: sitk.Image, dtype: npt.DTypeLike = np.float32) -> Grid:
        """Copy a three-dimensional scalar image."""
        return cls(
            # A true copy, whatever the type: a view would outlive the image's memory.
            np.array(sitk.GetArrayViewFromImage(image), dtype=dtype, order="C"),
            np.array(image.GetOrigin(), dtype=float),
            np.array(image.GetSpacing(), dtype=float),
            np.array(image.GetDirection(), dtype=float).reshape(3, 3),
        )

    def like(self, values: npt.NDArray[Any]) -> Grid:
        """Other values at the same places."""
        return Grid(values, self.origin, self.spacing, self.direction)

    def image(self) -> sitk.Image:
        """The same as a SimpleITK image."""
        values = self.values.astype(np.uint8) if self.values.dtype == bool else self.values
        image = sitk.GetImageFromArray(values)
        image.SetOrigin(tuple(float(v) for v in self.origin))
        image.SetSpacing(tuple(float(v) for v in self.spacing))
        image.SetDirection(tuple(float(v) for v in self.direction.ravel()))
        return image

    @property
    def size(self) -> npt.NDArray[np.int64]:
        """Number of voxels along the image axes i, j, k."""
        return np.array(self.values.shape[::-1], dtype=np.int64)

    @property
    def matrix(self) -> Array:
        """The (3, 3) matrix from index steps to mm."""
        return self.direction * self.spacing

    def to_index(self, points: npt.ArrayLike) -> Array:
        """Continuous indices (n, 3) in i, j, k order of positions (n, 3) in mm."""
        return (np.atleast_2d(np.asarray(points, dtype=float)) - self.origin) @ np.linalg.inv(self.matrix).T

    def to_position(self, index: npt.ArrayLike) -> Array:
        """Positions (n, 3) in mm of continuous indices (n, 3) in i, j, k order."""
        return np.atleast_2d(np.asarray(index, dtype=float)) @ self.matrix.T + self.origin

    def positions_of(self, flat: npt.NDArray[np.integer]) -> Array:
        """Positions (n, 3) in mm of voxels given by their flat index into ``values.ravel()``."""
        k, j, i = np.unravel_index(flat, self.values.shape)
        return self.to_position(np.stack([i, j, k], axis=1))

    def contains(self, points: npt.ArrayLike, margin: float = 0.0) -> npt.NDArray[np.bool_]:
        """Whether positions lie between voxel centers, ``margin`` voxels away from the outermost."""
        index = self.to_index(points)
        inside: npt.NDArray[np.bool_] = np.all((index >= margin) & (index <= self.size - 1 - margin), axis=1)
        return inside

    def sample(self, points: npt.ArrayLike, order: int = 1, outside: float | None = None) -> Array:
        """Interpolate at positions (n, 3); beyond the grid the nearest value, or ``outside`` where it is given."""
        index = self.to_index(points)
        mode, value = ("nearest", 0.0) if outside is None else ("constant", outside)
        sampled: Array = ndimage.map_coordinates(
            self.values, index[:, ::-1].T, order=order, mode=mode, cval=value, output=np.float64
        )
        return sampled

    def gradient_at(self, points: npt.ArrayLike, step: float | None = None) -> Array:
        """Central-difference gradient (n, 3) per mm in patient axes, with a step of half a voxel unless given."""
        points = np.atleast_2d(np.asarray(points, dtype=float))
        step = 0.5 * float(self.spacing.min()) if step is None else step
        columns = []
        for axis in np.eye(3):
            columns.append((self.sample(points + step * axis) - self.sample(points - step * axis)) / (2 * step))
        return np.stack(columns, axis=1)

    def crop(self, low: Sequence[int], high: Sequence[int]) -> Grid:
        """The block of voxels ``low <= (i, j, k) < high``, clipped to what there is."""
        lo = np.clip(low, 0, self.size)
        hi = np.clip(high, lo, self.size)
        block = self.values[lo[2] : hi[2], lo[1] : hi[1], lo[0] : hi[0]]
        return Grid(block, self.to_position(lo)[0], self.spacing, self.direction)
