"""Vessels whose every measure is known, and images of them: what the accuracy of ``meshes`` is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from meshes.grid import Array, Grid
from meshes.shapes import SignedDistance, Tube, narrowing, scanned, smooth_minimum, turned

BLOOD, TISSUE = 400.0, 40.0
SNR = 10.0
"""Contrast between blood and tissue over the noise's standard deviation."""

RADIUS = 3.0
STENOSIS_LENGTH = 12.0


@dataclass(frozen=True)
class AnalyticVessel:
    """A vessel made from formulas; mm."""

    name: str
    distance: SignedDistance
    tubes: tuple[Tube, ...]
    low: Array
    high: Array
    """The image's box, which cuts the vessel's ends off."""
    stenosis: float | None = None
    """Diameter reduction."""
    sac_volume_ml: float | None = None
    junctions: tuple[tuple[Array, float], ...] = ()
    """Where branches or a sac join, and the radius there: no single radius is true beside it."""


def vessels() -> dict[str, Callable[[], AnalyticVessel]]:
    """Each vessel by its name."""
    made: dict[str, Callable[[], AnalyticVessel]] = {
        "tube": _straight,
        "torus": _torus,
        "bifurcation": _bifurcation,
        "aneurysm": _aneurysm,
    }
    for percent in (50, 70, 90):
        made[f"stenosis_{percent}"] = lambda percent=percent: _stenosed(percent / 100.0)
    return made


def image_of(vessel: AnalyticVessel, spacing: tuple[float, float, float], seed: int) -> sitk.Image:
    """A scan: partial volume, a point spread of half a voxel of the plane, noise, oblique axes."""
    steps = np.array(spacing)
    direction = turned(np.deg2rad(12.0), np.deg2rad(-9.0))
    size = np.ceil((vessel.high - vessel.low) / steps).astype(int) + 1
    origin = 0.5 * (vessel.low + vessel.high) - direction @ (steps * (size - 1) / 2)
    grid = Grid(np.zeros(size[::-1], dtype=np.float32), origin, steps, direction)
    values = scanned(
        grid,
        [vessel.distance],
        lambda depths: np.where(depths[0] < 0, BLOOD, TISSUE),
        blur=0.5 * spacing[0],
        noise=(BLOOD - TISSUE) / SNR,
        generator=np.random.default_rng(seed),
    )
    return grid.like(np.rint(values).astype(np.int16)).image()


def _constant(radius: float) -> Callable[[Array], Array]:
    return lambda arc: np.full_like(arc, radius)


def _straight() -> AnalyticVessel:
    tube = Tube.through([[-4, 3, -60], [0, 0, 0], [4, -3, 60]], _constant(RADIUS))
    return AnalyticVessel("tube", tube.distance, (tube,), np.array([-16.0, -16, -30]), np.array([16.0, 16, 30]))


def _torus() -> AnalyticVessel:
    angle = np.linspace(-0.25 * np.pi, 1.25 * np.pi, 60)
    tube = Tube.through(np.stack([20 * np.cos(angle), 0 * angle, 20 * np.sin(angle)], axis=1), _constant(RADIUS))
    return AnalyticVessel("torus", tube.distance, (tube,), np.array([-30.0, -12, -6]), np.array([30.0, 12, 30]))


def _bifurcation() -> AnalyticVessel:
    parent = Tube.through([[0, 0, 60], [0, 0, 30], [0, 0, 2]], _constant(4.0))
    large = Tube.through([[0, 0, 8], [0.5, 0, 0], [6, 1, -14], [12, 2, -30], [22, 4, -60]], _constant(3.3))
    small = Tube.through([[0, 0, 8], [-0.5, 0, 0], [-7, -1, -14], [-13, -2, -30], [-23, -4, -60]], _constant(2.7))

    def distance(points: Array) -> Array:
        daughters = smooth_minimum(large.distance(points), small.distance(points), 1.5)
        return smooth_minimum(parent.distance(points), daughters, 1.5)

    return AnalyticVessel(
        "bifurcation",
        distance,
        (parent, large, small),
        np.array([-26.0, -16, -32]),
        np.array([26.0, 16, 30]),
        junctions=((np.array([0.0, 0.0, -3.0]), 4.0),),
    )


def _stenosed(ratio: float) -> AnalyticVessel:
    knots = np.array([[-2, 1, -60], [-1, 0, -30], [0.5, 0.5, 0], [-1, -0.5, 30], [2, 1, 60]])
    middle = float(np.linalg.norm(np.diff(knots[:3], axis=0), axis=1).sum())
    tube = Tube.through(knots, lambda arc: RADIUS * narrowing(arc, middle, STENOSIS_LENGTH, ratio), step=0.05)
    name = f"stenosis_{round(100 * ratio)}"
    return AnalyticVessel(
        name, tube.distance, (tube,), np.array([-14.0, -14, -32]), np.array([14.0, 14, 32]), stenosis=ratio
    )


def _aneurysm() -> AnalyticVessel:
    tube = Tube.through([[0, 0, -60], [0.5, 0, 0], [0, 0, 60]], _constant(RADIUS))
    center, radius = np.array([8.0, 0.0, 0.0]), 6.0

    def distance(points: Array) -> Array:
        positions = np.atleast_2d(np.asarray(points, dtype=float))
        ball = np.linalg.norm(positions - center, axis=1) - radius
        return smooth_minimum(tube.distance(positions), ball, 1.0)

    low, high = np.array([-14.0, -16, -30]), np.array([24.0, 16, 30])
    axes = [np.arange(a, b, 0.2) for a, b in zip([-6.0, -8, -9], [16.0, 8, 9], strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    sac = (distance(points) < 0) & (tube.distance(points) > 0)
    return AnalyticVessel(
        "aneurysm",
        distance,
        (tube,),
        low,
        high,
        sac_volume_ml=float(sac.sum()) * 0.2**3 / 1000,
        junctions=((np.array([3.0, 0.0, 0.0]), RADIUS),),
    )
