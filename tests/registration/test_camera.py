from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from registration.camera import PinholeCamera
from registration.errors import InputError

few = settings(max_examples=30, deadline=None)
LAPAROSCOPE = Path(__file__).parents[3] / "shared/data/streams_tracked_laparoscope_calibration"


def random_camera(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(rng=rng).as_matrix()
    matrix[:3, 3] = rng.uniform(-100, 100, 3)
    return PinholeCamera(
        width=int(rng.integers(320, 1920)),
        height=int(rng.integers(240, 1080)),
        fx=float(rng.uniform(500, 1800)),
        fy=float(rng.uniform(500, 1800)),
        cx=float(rng.uniform(200, 900)),
        cy=float(rng.uniform(150, 600)),
        distortion=tuple(rng.uniform(-1, 1, 5) * (0.3, 0.1, 0.003, 0.003, 0.05)),
        camera_from_world=matrix,
    )


def points_in_view(camera, seed, count=50):
    """World points that an ideal lens would show."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform((0, 0), (camera.width - 1, camera.height - 1), (count, 2))
    depth = rng.uniform(50, 500, (count, 1))
    inside = np.hstack([(pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy), np.ones((count, 1))]) * depth
    return inside @ camera.camera_from_world[:3, :3] + camera.world_from_camera[:3, 3]


def by_opencv(camera, points):
    pose = camera.camera_from_world
    rotation, _ = cv2.Rodrigues(pose[:3, :3])
    return cv2.projectPoints(points, rotation, pose[:3, 3], camera.matrix, np.array(camera.distortion))[0][:, 0]


@few
@given(st.integers(0, 2**32 - 1))
def test_projection_agrees_with_opencv(seed):
    camera = random_camera(seed)
    points = points_in_view(camera, seed)
    np.testing.assert_allclose(camera.project(points), by_opencv(camera, points), atol=1e-6)


@few
@given(st.integers(0, 2**32 - 1))
def test_rays_undo_the_lens(seed):
    camera = random_camera(seed)
    points = points_in_view(camera, seed)
    seen = camera.visible(points)
    inside = points @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
    # Where the lens folds back two rays meet in one pixel, and no inverse can tell them apart.
    seen &= np.hypot(*(inside[:, :2] / inside[:, 2:]).T) < 0.9 * camera.fold_radius
    rays = camera.rays(by_opencv(camera, points))
    np.testing.assert_allclose(rays[seen], (inside[:, :2] / inside[:, 2:])[seen], atol=1e-7)


@few
@given(st.integers(0, 2**32 - 1))
def test_vtk_projection_lands_on_the_ideal_pixels(seed):
    camera = random_camera(seed)
    points = points_in_view(camera, seed)
    inside = points @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
    clip = np.hstack([inside * (1, -1, -1), np.ones((len(points), 1))]) @ camera.vtk_projection_matrix(10, 1000).T
    device = clip[:, :3] / clip[:, 3:]
    # OpenGL's viewport runs from edge to edge and upwards; pixel centers are at halves.
    pixels = np.column_stack(
        [(device[:, 0] + 1) / 2 * camera.width - 0.5, (1 - device[:, 1]) / 2 * camera.height - 0.5]
    )
    np.testing.assert_allclose(pixels, by_opencv(camera.undistorted(), points), atol=1e-6)
    assert np.all(np.abs(device[:, 2]) <= 1.0)


def test_near_and_far_map_to_the_ends_of_the_depth_range():
    matrix = PinholeCamera(640, 480, 500, 500, 320, 240).vtk_projection_matrix(10.0, 400.0)
    for depth, expected in ((10.0, -1.0), (400.0, 1.0)):
        clip = matrix @ (0, 0, -depth, 1)
        assert clip[2] / clip[3] == pytest.approx(expected)
    with pytest.raises(InputError, match="near"):
        PinholeCamera(640, 480, 500, 500, 320, 240).vtk_projection_matrix(10.0, 5.0)


@few
@given(st.integers(0, 2**32 - 1))
def test_moving_world_and_camera_together_changes_no_pixel(seed):
    camera = random_camera(seed)
    points = points_in_view(camera, seed)
    rng = np.random.default_rng(seed + 1)
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.uniform(-50, 50, 3)
    moved = points @ move[:3, :3].T + move[:3, 3]
    other = camera.posed(camera.camera_from_world @ np.linalg.inv(move))
    np.testing.assert_allclose(other.project(moved), camera.project(points), atol=1e-6)
    np.testing.assert_array_equal(other.visible(moved), camera.visible(points))


def test_points_behind_the_camera_are_neither_projected_nor_visible():
    camera = PinholeCamera(640, 480, 500, 500, 320, 240)
    points = np.array([[0, 0, -50.0], [0, 0, 0.0], [0, 0, 50.0], [100, 0, 50.0]])
    assert np.isnan(camera.project(points)[:2]).all()
    np.testing.assert_array_equal(camera.visible(points), [False, False, True, False])


def test_points_that_the_distortion_folds_back_into_the_image_are_not_visible():
    camera = PinholeCamera(640, 480, 500, 500, 320, 240, (-0.35, 0.0, 0.0, 0.0, 0.0))
    assert camera.fold_radius == pytest.approx(np.sqrt(1 / 1.05))
    far_out = np.array([[1.6, 0.0, 1.0]])
    assert 0 <= camera.project(far_out)[0, 0] < 640  # OpenCV's polynomial puts it into the image
    assert not camera.visible(far_out)[0]
    assert camera.visible([[0.5, 0.0, 1.0]])[0]
    # No ideal ray is bent as far as this pixel, so none is made up.
    assert np.isnan(camera.rays([[320 + 500 * 0.7, 240]])).all()


def test_laparoscope_dots_reproject_to_the_published_error():
    if not LAPAROSCOPE.is_dir():
        pytest.skip(f"the laparoscope calibration is not at {LAPAROSCOPE}")
    k = np.loadtxt(LAPAROSCOPE / "viking.left.intrinsics.txt")
    dots = np.loadtxt(LAPAROSCOPE / "viking.left.image_points.0.subset.txt")
    camera = PinholeCamera(
        1920,
        1080,
        k[0, 0],
        k[1, 1],
        k[0, 2],
        k[1, 2],
        tuple(np.loadtxt(LAPAROSCOPE / "viking.left.distortion.txt")),
        np.loadtxt(LAPAROSCOPE / "viking.left.extrinsics.0.txt"),
    )
    index = dots[:, 0].astype(int)
    grid = np.column_stack([index % 25 * 5.0, index // 25 * 5.0, np.zeros(len(index))])
    misses = np.linalg.norm(camera.project(grid) - dots[:, 1:], axis=1)
    assert np.sqrt(np.mean(misses**2)) == pytest.approx(2.65, abs=0.01)
    assert misses.max() == pytest.approx(4.0, abs=0.1)
    assert camera.visible(grid).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 0}, "empty"),
        ({"fx": -500.0}, "focal"),
        ({"cy": np.nan}, "finite"),
        ({"distortion": (0.1, 0.2)}, "five"),
        ({"camera_from_world": np.diag([1.0, 1, -1, 1])}, "reflection"),
    ],
)
def test_cameras_that_cannot_be_are_refused(changes, words):
    values = {"width": 640, "height": 480, "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0} | changes
    with pytest.raises(InputError, match=words):
        PinholeCamera(**values)
