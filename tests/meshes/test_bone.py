"""Bones, plaques and brighter structures that touch a vessel."""

import numpy as np
import pytest
import SimpleITK as sitk

from meshes.grid import Grid
from meshes.segmentation import segment_lumen
from meshes.shapes import Tube, ellipsoid, scanned, turned

SPACING = np.array([0.8, 0.8, 1.0])
BONE = np.array([0.0, 16.5, 2.0])
PLAQUE, PLAQUE_RADIUS = np.array([-3.6, -1.4, -9.0]), 1.8


def vessel():
    return Tube.through([[0.5, 0, -50], [0, 0.3, 0], [-0.5, 0, 50]], lambda arc: np.full_like(arc, 4.0))


def bone(points):
    """A vertebra's body that touches the vessel: its cortex begins 0.1 mm beside the lumen."""
    return ellipsoid(np.atleast_2d(points), BONE, np.array([15.0, 12.1, 13.0]))


def plaque(points):
    return np.linalg.norm(np.atleast_2d(points) - PLAQUE, axis=1) - PLAQUE_RADIUS


def density(depths):
    lumen, cortex, spongy, calcium = depths
    found = np.where(cortex < 0, 700.0, 50.0)
    found = np.where(spongy < 0, 300.0, found)  # as bright as blood, nearly
    found = np.where(lumen < 0, 350.0, found)
    return np.where(calcium < 0, 1100.0, found)


def ct(direction):
    size = np.array([44, 52, 44])
    middle = np.array([0.0, 8.0, 0.0])
    grid = Grid(np.zeros(size[::-1], np.float32), middle - direction @ (SPACING * (size - 1) / 2), SPACING, direction)
    surfaces = [vessel().distance, bone, lambda points: bone(points) + 2.0, plaque]
    values = scanned(grid, surfaces, density, blur=0.5, noise=18.0, generator=np.random.default_rng(5))
    return grid.like(np.rint(values).astype(np.int16)).image()


MIRRORED = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""Axes of another order, one of them turned around: left-handed."""


@pytest.mark.parametrize(
    "direction", [np.eye(3), turned(0.3, -0.4), turned(0.2, 0.1) @ MIRRORED], ids=["plain", "oblique", "left-handed"]
)
def test_a_vessel_that_touches_a_bone_and_bears_a_plaque_is_found_alone(direction):
    image = ct(direction)
    lumen = segment_lumen(image)
    grid = Grid.of(image)
    points = grid.positions_of(np.arange(grid.values.size))
    truth = np.maximum(vessel().distance(points), -plaque(points))
    found = sitk.GetArrayFromImage(lumen.label).ravel() > 0
    assert not found[truth > 1.6].any()
    assert found[truth < -1.2].all()
    assert 2.0 * (found & (truth < 0)).sum() / (found.sum() + (truth < 0).sum()) > 0.96
    # The level set, which the mesh is made from, has no bone in it either, and no plaque.
    level = Grid.of(lumen.level_set)
    within = level.positions_of(np.flatnonzero(level.values < 0))
    assert vessel().distance(within).max() < 1.6
    assert plaque(within).min() > -1.0
    assert not any("Another vessel tree" in note for note in lumen.notes)
