import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from registration.calibration.camera_intrinsics import calibrate_camera
from registration.calibration.camera_pose import locate_camera
from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.rigid import rotation_angle

GRID = np.array([[x * 10.0, y * 10.0, 0.0] for y in range(8) for x in range(11)])
TRUTH = PinholeCamera(1280, 720, 1050.0, 1060.0, 655.0, 352.0, (-0.28, 0.11, 0.001, -0.0008, 0.0))


def views(rng, count, *, tilt=0.5, noise=0.1):
    poses, pixels = [], []
    while len(pixels) < count:
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * (tilt, tilt, 0.3)).as_matrix()
        pose[:3, 3] = rng.uniform((-60, -40, 110), (60, 40, 180)) - pose[:3, :3] @ GRID.mean(axis=0)
        camera = TRUTH.posed(pose)
        if camera.visible(GRID).all():
            poses.append(pose)
            pixels.append(camera.project(GRID) + rng.normal(size=(len(GRID), 2)) * noise)
    return np.array(poses), pixels


def test_intrinsics_come_back_within_their_own_error():
    rng = np.random.default_rng(0)
    poses, pixels = views(rng, 15)
    result = calibrate_camera([GRID] * 15, pixels, (1280, 720))
    found = np.array([result.camera.fx, result.camera.fy, result.camera.cx, result.camera.cy])
    assert (np.abs(found - (1050, 1060, 655, 352)) < 4.0 * result.intrinsics_std).all()
    assert result.rms_px == pytest.approx(0.1 * np.sqrt(2), rel=0.1)
    np.testing.assert_allclose(result.camera_from_grid[:, :3, 3], poses[:, :3, 3], atol=1.0)
    assert result.verdict.level == "pass"


def test_a_wrong_view_is_left_out_by_number():
    rng = np.random.default_rng(1)
    _, pixels = views(rng, 12)
    pixels[5] = pixels[5][::-1] + rng.normal(size=(88, 2)) * 8.0
    result = calibrate_camera([GRID] * 12, pixels, (1280, 720))
    assert result.excluded == (5,)
    assert "views 5" in result.verdict.reason


def test_frontal_views_are_told():
    rng = np.random.default_rng(2)
    _, pixels = views(rng, 8, tilt=0.01)
    assert calibrate_camera([GRID] * 8, pixels, (1280, 720)).verdict.level != "pass"


@pytest.mark.parametrize(
    ("grids", "pixels", "words"),
    [
        ([GRID] * 3, [GRID[:, :2]] * 3, "3 views"),
        ([GRID] * 6, [GRID[:5, :2]] * 6, "view 1 has 88 grid points and 5 pixels"),
        ([GRID] * 6, [np.full((88, 2), np.nan)] * 6, "finite"),
        ([GRID + (0, 0, 1.0)] * 6, [GRID[:, :2]] * 6, "not flat"),
        ([GRID] * 6, [GRID[:, :2]] * 7, "6 grids but 7"),
    ],
)
def test_views_that_cannot_be_used_are_named(grids, pixels, words):
    with pytest.raises(InputError, match=words):
        calibrate_camera(grids, pixels, (1280, 720))


def test_a_camera_is_located_within_its_own_error():
    rng = np.random.default_rng(3)
    points = rng.uniform(-50, 50, (12, 3))
    inside = []
    for _ in range(60):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec(rng.normal(size=3) * 0.5).as_matrix(), (5.0, -4.0, 250.0)
        pixels = TRUTH.posed(pose).project(points) + rng.normal(size=(12, 2)) * 0.5
        result = locate_camera(TRUTH, points, pixels)
        difference = result.camera.camera_from_world @ np.linalg.inv(pose)
        assert np.degrees(rotation_angle(difference)) < 1.0
        xi = np.concatenate([Rotation.from_matrix(difference[:3, :3]).as_rotvec(), difference[:3, 3]])
        inside.append(xi @ np.linalg.solve(result.covariance, xi) < 1.4 * 12.6)
    assert np.mean(inside) > 0.88
    with pytest.raises(InputError, match="line"):
        locate_camera(TRUTH, np.outer(np.arange(6), (1.0, 2, 3)), pixels[:6])
    with pytest.raises(InputError, match="at least 4"):
        locate_camera(TRUTH, points[:3], pixels[:3])
