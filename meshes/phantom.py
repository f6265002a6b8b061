"""A CT of a stenosed artery that bifurcates, made from formulas, so that the truth is known.

An iliac-like artery (parent radius 4.5 mm) divides into daughters of 3.6 and 3.0 mm; the larger daughter carries a
cosine-shaped stenosis of 55 % in diameter. Each branch is the tube around a curved centerline with a radius that
varies along it; the branches are joined with a smooth minimum (Quilez's quadratic polynomial) as a carina is rounded.
The scanner is imitated by partial volume, a Gaussian point spread and Gaussian noise, on an oblique grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from meshes.grid import Array, Grid

AIR, TISSUE, BLOOD, SPONGY_BONE, CORTICAL_BONE = -1000.0, 40.0, 350.0, 720.0, 880.0

PARENT_RADIUS, LARGE_RADIUS, SMALL_RADIUS = 4.5, 3.6, 3.0
STENOSIS_RATIO = 0.55
STENOSIS_LENGTH = 14.0
STENOSIS_FROM_BIFURCATION = 15.0
SMOOTH_UNION = 2.0
BODY_AXES = np.array([42.0, 33.0, 75.0])
BONE_CENTER, BONE_AXES = np.array([2.0, 18.6, 14.0]), np.array([13.0, 11.0, 17.0])


@dataclass(frozen=True)
class Phantom:
    """The image (int16, HU), and everything that is true of it; positions in mm, LPS.

    ``truth_signed_distance`` maps positions (n, 3) to distances (n,) from the wall, negative in the lumen; it is
    exact to second order in the taper and within the smooth union to the width of the fillet.
    """

    image: sitk.Image
    truth_label: sitk.Image
    truth_signed_distance: Callable[[npt.ArrayLike], Array]
    fiducials: dict[str, Array]
    inlet_hint: Array
    stenosis_center: Array
    stenosis_direction: Array
    stenosis_length: float
    stenosis_ratio: float
    healthy_radius: float
    throat_radius: float
    centerlines: dict[str, Array]


@dataclass(frozen=True)
class _Tube:
    """A finely sampled centerline with a radius at each sample and the slope of the radius."""

    points: Array
    radius: Array

    def distance(self, positions: Array) -> Array:
        tree = cKDTree(self.points)
        _, nearest = tree.query(positions, workers=1)
        arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(self.points, axis=0), axis=1))])
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


def _tube(knots: npt.ArrayLike, radius_of_arc: Callable[[Array], Array], step: float = 0.1) -> _Tube:
    """Interpolate the knots by a cubic spline and sample it about every ``step`` mm."""
    knots = np.asarray(knots, dtype=float)
    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    points = CubicSpline(chord, knots)(np.linspace(0.0, chord[-1], int(chord[-1] / step) + 2))
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return _Tube(points, radius_of_arc(arc))


def _smooth_minimum(a: Array, b: Array, width: float) -> Array:
    h = np.maximum(width - np.abs(a - b), 0.0) / width
    smooth: Array = np.minimum(a, b) - h * h * width / 4.0
    return smooth


def _throat_profile(arc: Array, center: float) -> Array:
    """``r = R (1 - s/2 (1 + cos(2 pi (x - x0) / L)))`` within the stenosis, R outside."""
    x = arc - center
    shape = 0.5 * (1.0 + np.cos(2.0 * np.pi * x / STENOSIS_LENGTH))
    return LARGE_RADIUS * (1.0 - STENOSIS_RATIO * np.where(np.abs(x) < STENOSIS_LENGTH / 2, shape, 0.0))


def _ellipsoid(points: Array, center: Array, axes: Array) -> Array:
    """First-order distance from an ellipsoid's surface: f / |grad f| with f = |x/a| - 1."""
    scaled = (points - center) / axes
    norm = np.linalg.norm(scaled, axis=1)
    slope = np.linalg.norm(scaled / axes, axis=1) / np.maximum(norm, 1e-9)
    distance: Array = (norm - 1.0) / np.maximum(slope, 1e-9)
    return distance


def _oblique(about_x: float, about_y: float) -> Array:
    cx, sx, cy, sy = np.cos(about_x), np.sin(about_x), np.cos(about_y), np.sin(about_y)
    return np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])


def stenosed_bifurcation(*, seed: int, noise: float = 20.0, blur: float = 0.5) -> Phantom:
    """Make the phantom. ``seed`` draws the noise only; ``noise`` is its deviation in HU, ``blur`` the PSF's in mm."""
    # The parent comes from above (LPS z is superior) and the branches leave the image at the bottom.
    fork = np.array([0.0, 0.0, 6.0])
    parent = _tube(
        np.array([[2.5, -1.5, 75], [2.0, -1.0, 42], [0.8, 0.2, 24], fork.tolist(), [-0.8, 0.0, 1.0]]),
        lambda arc: np.full_like(arc, PARENT_RADIUS),
    )
    large_knots = np.array(
        [
            fork + [0.3, -0.1, 4.0],
            fork + [-0.9, 0.0, -3.5],
            *np.array([[-6.0, -1.4, -8.0], [-12.0, -4.5, -24.0], [-15.5, -7.0, -38.0], [-19.0, -9.0, -75.0]]),
        ]
    )
    start = float(np.linalg.norm(large_knots[1] - large_knots[0]))
    center = start + STENOSIS_FROM_BIFURCATION
    large = _tube(large_knots, lambda arc: _throat_profile(arc, center))
    small_knots = np.array(
        [
            fork + [0.3, -0.1, 4.0],
            fork + [1.4, 0.0, -3.5],
            *np.array([[8.0, -1.0, -9.0], [14.5, -2.0, -24.0], [18.0, -1.0, -38.0], [21.0, 2.0, -75.0]]),
        ]
    )
    small = _tube(small_knots, lambda arc: np.full_like(arc, SMALL_RADIUS))

    def signed_distance(points: npt.ArrayLike) -> Array:
        positions = np.atleast_2d(np.asarray(points, dtype=float))
        daughters = _smooth_minimum(large.distance(positions), small.distance(positions), SMOOTH_UNION)
        return _smooth_minimum(parent.distance(positions), daughters, SMOOTH_UNION)

    def body(points: Array) -> Array:
        return _ellipsoid(points, np.array([0.0, 2.0, -3.0]), BODY_AXES)

    def bone(points: Array) -> Array:
        return _ellipsoid(points, BONE_CENTER, BONE_AXES)

    spacing, size = np.array([0.6, 0.6, 0.9]), np.array([152, 128, 92])
    direction = _oblique(np.deg2rad(17.0), np.deg2rad(-15.0))
    origin = np.array([0.0, 2.0, -3.0]) - direction @ (spacing * (size - 1) / 2)
    grid = Grid(np.zeros(size[::-1], dtype=np.float32), origin, spacing, direction)
    hounsfield, truth = _render(grid, signed_distance, body, bone)
    hounsfield = ndimage.gaussian_filter(hounsfield, blur / spacing[::-1], mode="nearest")
    hounsfield += np.random.default_rng(seed).normal(0.0, noise, hounsfield.shape)

    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(large.points, axis=0), axis=1))])
    throat = int(np.argmin(np.abs(arc - center)))
    tangent = large.points[throat + 1] - large.points[throat - 1]
    return Phantom(
        image=grid.like(np.rint(hounsfield).astype(np.int16)).image(),
        truth_label=grid.like(truth).image(),
        truth_signed_distance=signed_distance,
        fiducials=_fiducials(body),
        inlet_hint=np.array([1.6, -0.6, 34.0]),
        stenosis_center=large.points[throat],
        stenosis_direction=tangent / np.linalg.norm(tangent),
        stenosis_length=STENOSIS_LENGTH,
        stenosis_ratio=STENOSIS_RATIO,
        healthy_radius=LARGE_RADIUS,
        throat_radius=LARGE_RADIUS * (1.0 - STENOSIS_RATIO),
        centerlines={"parent": parent.points, "large": large.points, "small": small.points},
    )


def _render(
    grid: Grid, vessel: Callable[[Array], Array], body: Callable[[Array], Array], bone: Callable[[Array], Array]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Noise-free densities with partial volume (27 samples in every voxel a surface may cross), and the label."""
    flat = np.arange(grid.values.size)
    points = grid.positions_of(flat)
    reach = 0.5 * float(np.linalg.norm(grid.spacing))
    depth = np.full(len(points), 50.0)
    near = np.flatnonzero(_roughly_near_vessel(points))
    depth[near] = vessel(points[near])
    body_depth, bone_depth = body(points), bone(points)
    density = _densities(depth, body_depth, bone_depth)
    mixed = np.flatnonzero(
        (np.abs(depth) < reach)
        | (np.abs(body_depth) < reach)
        | (np.abs(bone_depth) < reach)
        | (np.abs(bone_depth + 1.5) < reach)
    )
    steps = (np.arange(3) - 1.0) / 3.0
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3) @ grid.matrix.T
    total = np.zeros(len(mixed))
    close = np.abs(depth[mixed]) < 3 * reach
    for offset in offsets:
        moved = points[mixed] + offset
        moved_depth = depth[mixed].copy()
        moved_depth[close] = vessel(moved[close])
        total += _densities(moved_depth, body(moved), bone(moved))
    density[mixed] = total / len(offsets)
    shape = grid.values.shape
    return density.reshape(shape).astype(np.float32), (depth < 0).astype(np.uint8).reshape(shape)


def _roughly_near_vessel(points: Array) -> npt.NDArray[np.bool_]:
    near: npt.NDArray[np.bool_] = (np.abs(points[:, 0]) < 32) & (np.abs(points[:, 1] + 3) < 17)
    return near


def _densities(vessel: Array, body: Array, bone: Array) -> Array:
    density = np.where(body < 0, TISSUE, AIR)
    density = np.where(bone < 0, CORTICAL_BONE, density)
    density = np.where(bone < -1.5, SPONGY_BONE, density)
    return np.where(vessel < 0, BLOOD, density)


def _fiducials(body: Callable[[Array], Array]) -> dict[str, Array]:
    """Six places on the skin, found by walking outward from the axis until the body ends."""
    rays = [
        (-0.9, -0.5, 26.0),
        (0.8, -0.8, 20.0),
        (0.1, -1.0, -4.0),
        (-1.0, 0.2, -14.0),
        (0.9, 0.3, -20.0),
        (0.3, 1.0, 2.0),
    ]
    found = {}
    for number, (x, y, height) in enumerate(rays, start=1):
        low, high = 0.0, 100.0
        outward, start = np.array([x, y, 0.0]), np.array([0.0, 2.0, height])
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if body((start + middle * outward)[None])[0] < 0 else (low, middle)
        found[f"skin_{number}"] = start + low * outward
    return found
