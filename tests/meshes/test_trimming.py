"""What is kept of a lumen: analytic vessels with a side twig, and with a throat thinner than a voxel."""

import numpy as np
import pytest

from meshes.centerline import RESOLVED_VOXELS
from meshes.grid import Grid
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline, unresolved_narrowing

SHAPE = (41, 41, 100)
VOXEL = 0.6
AXIS = np.array([12.0, 12.0, 0.0])


@pytest.fixture
def vessel(analytic):
    """A straight vessel of radius 3 mm from z = 6 to 54 mm, and what is added to it or taken off."""
    grid_points, image_of, capsule = analytic
    points = grid_points(SHAPE)

    def made(change):
        straight = capsule(points, AXIS + [0, 0, 6.0], AXIS + [0, 0, 54.0], 3.0)
        return image_of(change(points, straight), SHAPE)

    return made


def with_throat(radius):
    def change(points, straight):
        wide = 0.5 * (1 - np.cos(np.pi * np.clip(np.abs(points[:, 2] - 30.0) / 6.0, 0, 1)))
        return straight + (3.0 - radius) * (1 - wide)

    return change


def test_a_wide_vessel_is_left_as_it_is(vessel):
    level_set = vessel(lambda points, straight: straight)
    centerline = extract_centerline(level_set)
    assert unresolved_narrowing(level_set, centerline) is None
    before, after = Grid.of(level_set).values, Grid.of(trim_to_centerline(level_set, centerline)).values
    near = np.abs(before) < VOXEL
    assert np.abs(after - before)[near].max() < 0.05 * VOXEL


def test_a_twig_is_closed_beside_the_vessel(vessel, analytic):
    capsule = analytic[2]
    start = AXIS + [0, 0, 30.0]

    def change(points, straight):
        return np.minimum(straight, capsule(points, start, start + [10.0, 0, 0], 0.4))

    level_set = vessel(change)
    centerline = extract_centerline(level_set)
    assert len(centerline.branches) == 1
    trimmed = Grid.of(trim_to_centerline(level_set, centerline))
    assert Grid.of(level_set).sample(np.array([start + [6.0, 0, 0]]))[0] < 0
    along = start + np.linspace(3.0 * 1.4, 10.0, 20)[:, None] * [1.0, 0, 0]
    assert (trimmed.sample(along) > 0).all()


def test_a_throat_thinner_than_the_image_resolves_stays_open_and_is_told(vessel):
    level_set = vessel(with_throat(0.35))
    centerline = extract_centerline(level_set)
    assert unresolved_narrowing(level_set, centerline) == pytest.approx(0.35, abs=0.15)
    trimmed = trim_to_centerline(level_set, centerline)
    throat = -Grid.of(trimmed).sample(np.array([AXIS + [0, 0, 30.0]]))[0]
    assert throat == pytest.approx(RESOLVED_VOXELS * VOXEL, rel=0.15)
    ports, _ = find_ports(trimmed, centerline)
    quality = mesh_quality(mesh_lumen(trimmed, ports, max_tetrahedra=40_000))
    assert quality.watertight
    assert quality.min_scaled_jacobian > 0.02


def test_a_throat_that_is_resolved_is_not_widened(vessel):
    level_set = vessel(with_throat(0.9))
    centerline = extract_centerline(level_set)
    assert unresolved_narrowing(level_set, centerline) is None
    trimmed = trim_to_centerline(level_set, centerline)
    throat = -Grid.of(trimmed).sample(np.array([AXIS + [0, 0, 30.0]]))[0]
    assert throat == pytest.approx(0.9, abs=0.1)
