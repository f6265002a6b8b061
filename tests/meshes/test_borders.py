"""Vessels that the image's border cuts."""

import numpy as np
import pytest

from meshes.borders import lengthwise_cuts
from meshes.grid import Grid
from meshes.shapes import turned


def cut(start, end, radius=4.0):
    """What is told of a straight vessel in a turned image of 40 x 40 x 60 voxels of 1 mm; ends in voxels."""
    grid = Grid(np.zeros((60, 40, 40), dtype=np.float32), np.array([5.0, -3.0, 8.0]), np.ones(3), turned(0.3, -0.4))
    k, j, i = np.indices(grid.values.shape).reshape(3, -1)
    places, axis = np.stack([i, j, k], axis=1), np.array(end) - np.array(start)
    along = np.clip((places - start) @ axis / (axis @ axis), 0, 1)
    mask = (np.linalg.norm(places - start - along[:, None] * axis, axis=1) < radius).reshape(grid.values.shape)
    return lengthwise_cuts(mask, grid)


@pytest.mark.parametrize("side", [0.0, 39.0])
def test_a_vessel_along_the_border_is_told_of(side):
    (told,) = cut([side, 20.0, -9.0], [side, 20.0, 69.0])
    assert "lengthwise over some 60 mm" in told


@pytest.mark.parametrize("lean", [0.0, 30.0, 60.0])
def test_a_vessel_that_leaves_through_the_border_is_not(lean):
    assert cut([20.0 - lean / 2, 20.0, -9.0], [20.0 + lean / 2, 20.0, 69.0]) == []
    assert cut([20.0, 20.0, 10.0], [20.0, 20.0, 50.0]) == []
