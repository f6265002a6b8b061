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

from meshes.grid import Array, Grid
from meshes.shapes import Tube, ellipsoid, narrowing, scanned, smooth_minimum, turned

AIR, TISSUE, BLOOD, SPONGY_BONE, CORTICAL_BONE = -1000.0, 40.0, 350.0, 720.0, 880.0

PARENT_RADIUS, LARGE_RADIUS, SMALL_RADIUS = 4.5, 3.6, 3.0
STENOSIS_RATIO = 0.55
STENOSIS_LENGTH = 14.0
STENOSIS_FROM_BIFURCATION = 15.0
SMOOTH_UNION = 2.0
BODY_AXES = np.array([42.0, 33.0, 75.0])
CORTEX = 1.5
BONE_CENTER, BONE_AXES = np.array([2.0, 18.6, 14.0]), np.array([13.0, 11.0, 17.0])


@dataclass(frozen=True)
class Phantom:
    """The image (int16, HU), and everything that is true of it; positions in mm, LPS.

    ``truth_signed_distance`` maps positions (n, 3) to distances (n,) from the wall, negative in the lumen; it is
    exact to second order in the taper and within the smooth union to the width of the fillet.
    """

    image: sitk.Image
    truth_label: sitk.Image
    truth_level_set: sitk.Image
    """distance from the true wall, mm, negative in the lumen; 50 mm far away from the vessel"""
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


def stenosed_bifurcation(
    *, seed: int, noise: float = 20.0, blur: float = 0.5, stenosis: float = STENOSIS_RATIO
) -> Phantom:
    """Make the phantom.

    Args:
        seed: draws the noise only.
        noise: its deviation, HU.
        blur: the point spread's deviation, mm.
        stenosis: reduction of the larger daughter's diameter, 0 for a healthy one.
    """
    # The parent comes from above (LPS z is superior) and the branches leave the image at the bottom.
    fork = np.array([0.0, 0.0, 6.0])
    parent = Tube.through(
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
    large = Tube.through(large_knots, lambda arc: LARGE_RADIUS * narrowing(arc, center, STENOSIS_LENGTH, stenosis))
    small_knots = np.array(
        [
            fork + [0.3, -0.1, 4.0],
            fork + [1.4, 0.0, -3.5],
            *np.array([[8.0, -1.0, -9.0], [14.5, -2.0, -24.0], [18.0, -1.0, -38.0], [21.0, 2.0, -75.0]]),
        ]
    )
    small = Tube.through(small_knots, lambda arc: np.full_like(arc, SMALL_RADIUS))

    def signed_distance(points: npt.ArrayLike) -> Array:
        positions = np.atleast_2d(np.asarray(points, dtype=float))
        daughters = smooth_minimum(large.distance(positions), small.distance(positions), SMOOTH_UNION)
        return smooth_minimum(parent.distance(positions), daughters, SMOOTH_UNION)

    def vessel(points: npt.ArrayLike) -> Array:
        # Distances are needed near the vessel only; far away any that says so will do.
        positions = np.atleast_2d(np.asarray(points, dtype=float))
        near = (np.abs(positions[:, 0]) < 32) & (np.abs(positions[:, 1] + 3) < 17)
        distance = np.full(len(positions), 50.0)
        distance[near] = signed_distance(positions[near])
        return distance

    def body(points: npt.ArrayLike) -> Array:
        return ellipsoid(np.asarray(points, dtype=float), np.array([0.0, 2.0, -3.0]), BODY_AXES)

    def bone(points: npt.ArrayLike) -> Array:
        return ellipsoid(np.asarray(points, dtype=float), BONE_CENTER, BONE_AXES)

    spacing, size = np.array([0.6, 0.6, 0.9]), np.array([152, 128, 92])
    direction = turned(np.deg2rad(17.0), np.deg2rad(-15.0))
    origin = np.array([0.0, 2.0, -3.0]) - direction @ (spacing * (size - 1) / 2)
    grid = Grid(np.zeros(size[::-1], dtype=np.float32), origin, spacing, direction)
    hounsfield = scanned(
        grid,
        [vessel, body, bone, lambda points: bone(points) + CORTEX],
        _densities,
        blur=blur,
        noise=noise,
        generator=np.random.default_rng(seed),
    )
    depth = vessel(grid.positions_of(np.arange(grid.values.size))).reshape(grid.values.shape)

    throat = int(np.argmin(np.abs(large.arc - center)))
    tangent = large.points[throat + 1] - large.points[throat - 1]
    return Phantom(
        image=grid.like(np.rint(hounsfield).astype(np.int16)).image(),
        truth_label=grid.like((depth < 0).astype(np.uint8)).image(),
        truth_level_set=grid.like(depth.astype(np.float32)).image(),
        truth_signed_distance=signed_distance,
        fiducials=_fiducials(body),
        inlet_hint=np.array([1.6, -0.6, 34.0]),
        stenosis_center=large.points[throat],
        stenosis_direction=tangent / np.linalg.norm(tangent),
        stenosis_length=STENOSIS_LENGTH,
        stenosis_ratio=stenosis,
        healthy_radius=LARGE_RADIUS,
        throat_radius=LARGE_RADIUS * (1.0 - stenosis),
        centerlines={"parent": parent.points, "large": large.points, "small": small.points},
    )


def _densities(depths: list[Array]) -> Array:
    vessel, body, bone, spongy = depths
    density = np.where(body < 0, TISSUE, AIR)
    density = np.where(bone < 0, CORTICAL_BONE, density)
    density = np.where(spongy < 0, SPONGY_BONE, density)
    return np.where(vessel < 0, BLOOD, density)


def _fiducials(body: Callable[[npt.ArrayLike], Array]) -> dict[str, Array]:
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
