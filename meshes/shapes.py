"""Vessels made from formulas, as signed distances, and what a scanner would make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from meshes.grid import Array, Grid
from meshes.lines import arc_of

SignedDistance = Callable[[npt.ArrayLike], Array]
"""Positions (n, 3) mm to distances (n,) mm from a wall, negative inside."""


@dataclass(frozen=True)
class Tube:
    """A finely sampled centerline (n, 3) with the radius (n,) of the vessel's section at each sample; mm."""

    points: Array
    radius: Array

    @classmethod
    def through(cls, knots: npt.ArrayLike, radius_of_arc: Callable[[Array], Array], step: float = 0.1) -> Tube:
        """Interpolate the knots by a cubic spline and sample it about every ``step`` mm."""
        knots = np.asarray(knots, dtype=float)
        chord = arc_of(knots)
        points = CubicSpline(chord, knots)(np.linspace(0.0, chord[-1], int(chord[-1] / step) + 2))
        return cls(points, radius_of_arc(arc_of(points)))

    @property
    def arc(self) -> Array:
        """(n,) mm along the centerline."""
        return arc_of(self.points)

    def distance(self, positions: npt.ArrayLike) -> Array:
        """(m,) signed distance from the wall; exact to second order in the taper."""
        positions = np.atleast_2d(np.asarray(positions, dtype=float))
        _, nearest = cKDTree(self.points).query(positions, workers=1)
        arc = self.arc
        best = np.full(len(positions), np.inf)
        # The nearest sample's two neighboring segments hold the nearest point of the polyline.
        for shift in (-1, 0):
            a = np.clip(nearest + shift, 0, len(self.points) - 2)
            start, edge = self.points[a], self.points[a + 1] - self.points[a]
            t = np.clip(np.einsum("ij,ij->i", positions - start, edge) / np.einsum("ij,ij->i", edge, edge), 0, 1)
            gap = np.linalg.norm(positions - start - t[:, None] * edge, axis=1)
            slope = (self.radius[a + 1] - self.radius[a]) / (arc[a + 1] - arc[a])
            radius = self.radius[a] + t * (self.radius[a + 1] - self.radius[a])
            best = np.minimum(best, (gap - radius) / np.sqrt(1.0 + slope**2))
        return best


def narrowing(arc: Array, center: float, length: float, ratio: float) -> Array:
    """(n,) factor on the radius of a cosine-shaped stenosis: 1 - s/2 (1 + cos(2 pi (x - x0) / L)) within its length."""
    x = arc - center
    shape = 0.5 * (1.0 + np.cos(2.0 * np.pi * x / length))
    return 1.0 - ratio * np.where(np.abs(x) < length / 2, shape, 0.0)


def smooth_minimum(a: Array, b: Array, width: float) -> Array:
    """Union of two signed distances with a fillet (Quilez's quadratic polynomial)."""
    h = np.maximum(width - np.abs(a - b), 0.0) / width
    smooth: Array = np.minimum(a, b) - h * h * width / 4.0
    return smooth


def ellipsoid(points: Array, center: Array, axes: Array) -> Array:
    """First-order distance from an ellipsoid's surface: f / |grad f| with f = |x/a| - 1."""
    scaled = (points - center) / axes
    norm = np.linalg.norm(scaled, axis=1)
    slope = np.linalg.norm(scaled / axes, axis=1) / np.maximum(norm, 1e-9)
    distance: Array = (norm - 1.0) / np.maximum(slope, 1e-9)
    return distance


def turned(about_x: float, about_y: float) -> Array:
    """(3, 3) rotation about x, then about y [rad]: the axes of an oblique image."""
    cx, sx, cy, sy = np.cos(about_x), np.sin(about_x), np.cos(about_y), np.sin(about_y)
    return np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])


def scanned(
    grid: Grid,
    surfaces: list[SignedDistance],
    density: Callable[[list[Array]], Array],
    *,
    blur: float,
    noise: float,
    generator: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Grey values on a grid, as a scanner with partial volume, a Gaussian point spread and Gaussian noise sees them.

    Args:
        grid: where the voxels are; its values are not used.
        surfaces: signed distances of everything at whose surface the density jumps.
        density: the distances from all surfaces to grey values; only their signs count.
        blur: standard deviation of the point spread [mm].
        noise: standard deviation of the noise, in grey values.
        generator: draws the noise.
    """
    points = grid.positions_of(np.arange(grid.values.size))
    depths = [surface(points) for surface in surfaces]
    grey = density(depths)
    reach = 0.5 * float(np.linalg.norm(grid.spacing))
    mixed = np.flatnonzero(np.min([np.abs(depth) for depth in depths], axis=0) < reach)
    inside = [depth[mixed] for depth in depths]
    crossed = [np.flatnonzero(np.abs(depth) < reach) for depth in inside]
    # 125 samples in every voxel that a surface may cross: finer than the noise by far.
    steps = (np.arange(5) - 2.0) / 5.0
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3) @ grid.matrix.T
    total = np.zeros(len(mixed))
    for offset in offsets:
        # A surface that does not cross a voxel has all of the voxel on one side.
        for surface, depth, some in zip(surfaces, inside, crossed, strict=True):
            depth[some] = surface(points[mixed[some]] + offset)
        total += density(inside)
    grey[mixed] = total / len(offsets)
    volume = grey.reshape(grid.values.shape).astype(np.float32)
    blurred = ndimage.gaussian_filter(volume, blur / grid.spacing[::-1], mode="nearest")
    return np.asarray(blurred + generator.normal(0.0, noise, blurred.shape), dtype=np.float32)
