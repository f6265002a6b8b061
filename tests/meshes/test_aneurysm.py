"""The volume of an aneurysm's sac, against vessels made from formulas; and none where there is none."""

import numpy as np
import pytest
from scipy import integrate

from meshes.aneurysm import find_aneurysms
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline

SPACING = 0.8


def tree(analytic, distance):
    """Centerline and trimmed lumen of a vessel along z, on voxels of 0.8 mm."""
    grid_points, image_of, _ = analytic
    shape, spacing = (40, 34, 90), np.full(3, SPACING)
    points = grid_points(shape, spacing) - [12.0, 13.2, 36.0]
    level_set = image_of(np.maximum(distance(points), np.abs(points[..., 2]) - 33.0), shape, spacing)
    centerline = extract_centerline(level_set)
    return trim_to_centerline(level_set, centerline), centerline


def test_a_sac_at_the_side_has_its_volume(analytic):
    """A ball of radius 6 mm whose middle is 8 mm beside a vessel of radius 3."""

    def distance(points):
        tube = np.linalg.norm(points[..., :2], axis=-1) - 3.0
        return np.minimum(tube, np.linalg.norm(points - [8.0, 0.0, 0.0], axis=-1) - 6.0)

    (found,) = find_aneurysms(*tree(analytic, distance))
    # The ball without the part that lies in the vessel.
    random = np.random.default_rng(0).uniform(-6.0, 6.0, (400_000, 3))
    inside = np.linalg.norm(random, axis=1) < 6.0
    outside = np.linalg.norm(random[:, :2] + [8.0, 0.0], axis=1) > 3.0
    volume = 12.0**3 * (inside & outside).mean() / 1000.0
    assert found.volume_ml == pytest.approx(volume, rel=0.08)
    assert found.position == pytest.approx([20.0, 13.2, 36.0], abs=1.0)
    assert found.width == pytest.approx(12.0, rel=0.12)
    assert found.vessel_diameter == pytest.approx(6.0, rel=0.08)
    assert not found.fusiform


def test_a_vessel_that_is_wide_all_around_is_a_fusiform_one(analytic):
    """A vessel of radius 3 mm that swells to 6.5."""

    def radius(z):
        return 3.0 + 3.5 * np.exp(-((z / 6.0) ** 2))

    (found,) = find_aneurysms(
        *tree(analytic, lambda points: np.linalg.norm(points[..., :2], axis=-1) - radius(points[..., 2]))
    )
    volume = np.pi * integrate.quad(lambda z: radius(z) ** 2 - 9.0, -33, 33)[0] / 1000.0
    assert found.fusiform
    assert found.volume_ml == pytest.approx(volume, rel=0.1)
    assert found.width == pytest.approx(13.0, rel=0.1)
    assert found.position == pytest.approx([12.0, 13.2, 36.0], abs=2.0)


def test_neither_a_vessel_nor_a_fork_has_a_sac(analytic, y_shape):
    assert find_aneurysms(*tree(analytic, lambda points: np.linalg.norm(points[..., :2], axis=-1) - 3.0)) == ()
    level_set = y_shape[0]
    centerline = extract_centerline(level_set)
    assert find_aneurysms(trim_to_centerline(level_set, centerline), centerline) == ()


def along_z(radius):
    """The signed distance, to first order, to a vessel along z."""
    return lambda points: np.linalg.norm(points[..., :2], axis=-1) - radius(points[..., 2])


def test_a_vessel_behind_an_occlusion_is_no_aneurysm(analytic):
    """It is as wide as ever between a severe stenosis and an end where it thins out: half of its length is thin."""

    def radius(z):
        return 2.0 + 0.9 / (1 + np.exp(-(z + 6) / 2)) - 1.6 * np.exp(-(((z + 8) / 5) ** 2)) - 1.5 / (1 + np.exp(18 - z))

    assert find_aneurysms(*tree(analytic, along_z(radius))) == ()


def test_an_aneurysm_behind_a_stenosis_is_found_beside_the_healthy_vessel(analytic):
    def radius(z):
        return 3.0 - 1.8 * np.exp(-(((z + 18) / 4) ** 2)) + 3.5 * np.exp(-(((z - 6) / 5) ** 2))

    (found,) = find_aneurysms(*tree(analytic, along_z(radius)))
    assert found.fusiform
    assert found.vessel_diameter == pytest.approx(6.0, rel=0.1)
    assert found.position == pytest.approx([12.0, 13.2, 42.0], abs=2.0)


def test_the_stump_of_a_branch_that_was_left_out_is_no_sac(analytic):
    """A side branch nearly as wide as the vessel, which a centerline of two ends leaves out; and a sac in its place."""
    grid_points, image_of, capsule = analytic
    shape, spacing = (70, 34, 90), np.full(3, SPACING)
    points = grid_points(shape, spacing) - [12.0, 13.2, 36.0]
    vessel = np.maximum(np.linalg.norm(points[..., :2], axis=-1) - 3.0, np.abs(points[..., 2]) - 33.0)
    for end, sacs in ((38.0, 0), (7.5, 1)):
        branch = capsule(points, np.zeros(3), np.array([end, 0.0, 0.0]), 2.6)
        if sacs:
            branch = np.linalg.norm(points - [end, 0.0, 0.0], axis=-1) - 5.5
        level_set = image_of(np.minimum(vessel, branch), shape, spacing)
        centerline = extract_centerline(level_set, max_ends=2)
        trimmed = trim_to_centerline(level_set, centerline)
        assert len(centerline.branches) == 1
        assert len(find_aneurysms(trimmed, centerline, whole=level_set)) == sacs
