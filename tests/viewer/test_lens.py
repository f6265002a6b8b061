"""Where things land in the rendered image, against OpenCV's own projection of the same points."""

import cv2
import numpy as np
import pytest
import pyvista as pv
from scipy.spatial.transform import Rotation

from registration.camera import PinholeCamera
from viewer.errors import InputError
from viewer.lens import LARGEST, Lens, picture
from viewer.overlay import Overlay
from viewer.photograph import Surface, photograph

VIKING = dict(fx=1745.7, fy=1758.5, cx=915.25, cy=602.95, distortion=(-0.354, 0.267, 0.0021, 0.0025, -0.165))


def looking_at(target, distance, seed):
    """A camera pose that has `target` a little off the optical axis at a distance."""
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(rng=rng).as_matrix()
    pose[:3, 3] = np.array([*rng.uniform(-5, 5, 2), distance]) - pose[:3, :3] @ target
    return pose


def random_camera(seed):
    """Unequal focal lengths, an off-center principal point, and a lens that bends by tens of pixels."""
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(500, 900)), int(rng.integers(400, 700))
    return PinholeCamera(
        width,
        height,
        float(rng.uniform(0.9, 1.3) * width),
        float(rng.uniform(0.9, 1.3) * width),
        float(width * rng.uniform(0.42, 0.58)),
        float(height * rng.uniform(0.42, 0.58)),
        tuple(rng.uniform(-1, 1, 5) * (0.3, 0.15, 0.003, 0.003, 0.05)),
        looking_at(np.array([5.0, -8.0, 12.0]), 300.0, seed),
    )


def by_opencv(camera, points):
    pose = camera.camera_from_world
    rotation, _ = cv2.Rodrigues(pose[:3, :3])
    return cv2.projectPoints(points, rotation, pose[:3, 3], camera.matrix, np.array(camera.distortion))[0][:, 0]


def points_before(camera, count, seed):
    """World points spread over the image, at several depths."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform((30, 30), (camera.width - 30, camera.height - 30), (count, 2))
    depth = rng.uniform(220, 380, (count, 1))
    inside = np.hstack([camera.rays(pixels), np.ones((count, 1))]) * depth
    return (inside - camera.camera_from_world[:3, 3]) @ camera.camera_from_world[:3, :3]


@pytest.mark.parametrize("seed", range(6))
def test_small_spheres_land_where_opencv_projects_them(seed):
    camera = random_camera(seed)
    points = points_before(camera, 6, seed)
    expected = by_opencv(camera, points)
    lens = Lens.of(camera)
    bend = np.linalg.norm(expected - by_opencv(camera.undistorted(), points), axis=1)
    for point, pixel in zip(points, expected, strict=True):
        plotter = pv.Plotter(off_screen=True, lighting="none")
        plotter.set_background("black")
        plotter.add_mesh(pv.Sphere(radius=1.2, center=point, theta_resolution=24), color="white", lighting=False)
        lens.aim(plotter, camera.camera_from_world, plotter.bounds)
        image = lens.bend(picture(plotter, (lens.ideal.width, lens.ideal.height), transparent=False))
        plotter.close()
        weight = image[..., 0].astype(float)
        assert image.shape[:2] == (camera.height, camera.width)
        assert weight.sum() > 255 * 4
        rows, columns = np.indices(weight.shape)
        found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(found, pixel, atol=0.25)
    if abs(camera.distortion[0]) > 0.1:
        assert bend.max() > 2.0  # the lens would have been noticed if left out


def test_a_bent_grid_line_stays_on_its_line():
    """The laparoscope's own lens: a straight rod must be drawn along the curve OpenCV bends it to."""
    camera = PinholeCamera(1920, 1080, **VIKING, camera_from_world=np.eye(4))
    ends = np.array([[-95.0, -52.0, 200.0], [95.0, -45.0, 200.0]])
    rod = ends[0] + np.linspace(0, 1, 400)[:, None] * (ends[1] - ends[0])
    curve = by_opencv(camera, rod)
    curve = curve[camera.visible(rod)]
    lens = Lens.of(camera)
    plotter = pv.Plotter(off_screen=True, lighting="none")
    plotter.set_background("black")
    plotter.add_mesh(pv.Line(*ends).tube(radius=0.25), color="white", lighting=False)
    lens.aim(plotter, camera.camera_from_world, plotter.bounds)
    image = lens.bend(picture(plotter, (lens.ideal.width, lens.ideal.height), transparent=False))[..., 0].astype(float)
    plotter.close()
    rows = np.arange(1080)[:, None]
    columns = np.arange(200, 1700, 50)
    center = (rows * image).sum(axis=0)[columns] / image.sum(axis=0)[columns]
    np.testing.assert_allclose(center, np.interp(columns, curve[:, 0], curve[:, 1]), atol=0.3)
    chord = np.interp(columns, curve[[0, -1], 0], curve[[0, -1], 1])
    assert np.abs(center - chord).max() > 10.0


def test_bending_an_image_undoes_what_opencv_undistorts():
    """Independent inverse: OpenCV undistorts our bent image back to the ideal one."""
    camera = PinholeCamera(640, 480, 600, 610, 310, 250, (-0.25, 0.08, 0.001, -0.002, 0.0))
    lens = Lens.of(camera)
    rows, columns = np.indices((lens.ideal.height, lens.ideal.width))
    wave = 127 + 100 * np.sin(columns / 23.0) * np.sin(rows / 19.0)
    ideal = np.repeat(wave[..., None], 3, axis=2).astype(np.uint8)
    straight = cv2.undistort(lens.bend(ideal), camera.matrix, np.array(camera.distortion))
    x0, y0 = round(lens.ideal.cx - camera.cx), round(lens.ideal.cy - camera.cy)
    crop = ideal[y0 : y0 + 480, x0 : x0 + 640]
    difference = np.abs(straight.astype(int) - crop.astype(int))[20:-20, 20:-20]
    assert difference.max() <= 4


def test_an_ideal_lens_copies_pixels():
    camera = PinholeCamera(320, 240, 300, 300, 160, 120)
    lens = Lens.of(camera)
    image = np.random.default_rng(0).integers(0, 255, (lens.ideal.height, lens.ideal.width, 3)).astype(np.uint8)
    x0, y0 = round(lens.ideal.cx - 160), round(lens.ideal.cy - 120)
    np.testing.assert_array_equal(lens.bend(image), image[y0 : y0 + 240, x0 : x0 + 320])


def test_a_very_wide_lens_is_bounded():
    camera = PinholeCamera(640, 480, 250, 250, 320, 240, (-0.24, 0.03, 0.0, 0.0, 0.0))
    ideal = Lens.of(camera).ideal
    assert ideal.width <= LARGEST * 640 + 4
    assert ideal.height <= LARGEST * 480 + 4


@pytest.fixture
def camera():
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # from the front of the patient, head up
    pose[:3, 3] = (0, 0, 330)
    return PinholeCamera(800, 600, 900, 910, 410, 290, (-0.2, 0.05, 0.001, 0.001, 0.0), pose)


def test_overlay_draws_only_where_the_vessel_is(lumen, centerline, camera, state):
    overlay = Overlay(lumen, camera, centerline=centerline)
    overlay.update(state())
    drawing = overlay.render()
    assert drawing.shape == (600, 800, 4)
    covered = drawing[..., 3] > 128
    # Drawn eight times as fine, because OpenCV also fills the pixels a triangle's edge touches.
    fine = np.zeros((4800, 6400), np.uint8)
    for corners in by_opencv(camera, np.asarray(lumen.points, float))[lumen.regular_faces]:
        cv2.fillConvexPoly(fine, np.round((corners + 0.5) * 8 - 0.5).astype(np.int32), 255)
    expected = (cv2.resize(fine, (800, 600), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
    overlap = (covered & (expected > 0)).sum() / (covered | (expected > 0)).sum()
    assert overlap > 0.98
    photo = np.full((600, 800, 3), 120, np.uint8)
    mixed = overlay.compose(photo, readout=False)
    outside = cv2.dilate(expected, np.ones((9, 9))) == 0
    np.testing.assert_array_equal(mixed[outside], photo[outside])
    assert np.abs(mixed[cv2.erode(expected, np.ones((9, 9))) > 0].astype(int) - 120).sum(axis=1).min() > 10
    overlay.close()


def test_overlay_follows_the_camera(lumen, camera, state):
    overlay = Overlay(lumen, camera)
    overlay.update(state(tip=None, tip_covariance=None, tip_valid=False))
    before = np.argwhere(overlay.render()[..., 3] > 128).mean(axis=0)
    pose = camera.camera_from_world.copy()
    pose[0, 3] += 20.0  # everything moves 20 mm to the camera's right: about 900 / 330 * 20 px
    overlay.look(pose)
    after = np.argwhere(overlay.render()[..., 3] > 128).mean(axis=0)
    assert after[1] - before[1] == pytest.approx(900 / 330 * 20, rel=0.05)
    overlay.close()


def test_untrusted_overlay_is_grey_and_says_so(lumen, camera, state):
    overlay = Overlay(lumen, camera)
    overlay.update(state(tip=None, tip_covariance=None, tip_valid=False))
    colored = overlay.render()
    overlay.update(state(tip=None, tip_covariance=None, tip_valid=False, flags=("tip_unknown",)))
    grey = overlay.render()

    def colorfulness(image):
        return float(np.ptp(image[image[..., 3] > 200][:, :3].astype(int), axis=1).mean())

    assert colorfulness(grey) < 25 < 60 < colorfulness(colored)
    top = overlay.compose(np.zeros((600, 800, 3), np.uint8))[:20]
    assert (top[..., 0].astype(int) - top[..., 1]).mean() > 80  # the red banner
    overlay.close()


def test_overlay_refuses_an_image_of_another_camera(lumen, camera, state):
    overlay = Overlay(lumen, camera)
    with pytest.raises(InputError, match="calibrated for"):
        overlay.compose(np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(InputError, match="calibrated for"):
        overlay.compose(np.zeros((600, 800, 3), float))
    with pytest.raises(InputError, match="opacity"):
        Overlay(lumen, camera, opacity=0.0)
    overlay.close()


def test_photograph_shows_markers_where_the_camera_sees_them(camera):
    skin = pv.Sphere(radius=60, center=(0, 60, 0))
    markers = {"F1": (-25.0, 3.0, 20.0), "F2": (30.0, 4.0, -20.0)}
    image = photograph([Surface(skin)], camera, markers=markers, rng=np.random.default_rng(1), noise=0.0)
    bare = photograph([Surface(skin)], camera, rng=np.random.default_rng(1), noise=0.0)
    changed = np.abs(image.astype(int) - bare.astype(int)).sum(axis=2) > 12
    expected = by_opencv(camera, np.array(list(markers.values())))
    count, labels = cv2.connectedComponents(changed.astype(np.uint8))
    spots = [np.argwhere(labels == k)[:, ::-1] for k in range(1, count)]
    centers = np.array([spot.mean(axis=0) for spot in spots if len(spot) > 50])
    assert len(centers) == 2
    for pixel in expected:
        assert np.linalg.norm(centers - pixel, axis=1).min() < 2.0


def test_photograph_noise_is_seeded_and_as_strong_as_asked(camera):
    skin = [Surface(pv.Sphere(radius=60, center=(0, 60, 0)))]
    clean = photograph(skin, camera, rng=np.random.default_rng(0), noise=0.0).astype(float)
    one = photograph(skin, camera, rng=np.random.default_rng(3), noise=0.05)
    again = photograph(skin, camera, rng=np.random.default_rng(3), noise=0.05)
    np.testing.assert_array_equal(one, again)
    bright = clean[..., 0] > 120
    bright &= clean[..., 0] < 200
    deviation = np.std((one[..., 0] - clean[..., 0])[bright] / np.sqrt(clean[..., 0][bright] / 255)) / 255
    assert deviation == pytest.approx(0.05, rel=0.1)
    with pytest.raises(InputError, match="nothing"):
        photograph([], camera, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="between 0 and 1"):
        photograph(skin, camera, rng=np.random.default_rng(0), noise=2.0)
