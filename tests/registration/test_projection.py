from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from registration import rigid
from registration.errors import InputError
from registration.projection.carm import WATER_PER_MM, Attenuation, carm_camera, carm_camera_from_dicom, radiograph
from registration.projection.centerline_match import register_centerline
from registration.projection.match import register_projections


def view(primary, secondary=0.0, width=120, pixel=2.4, isocenter=(0.0, 0.0, 0.0)):
    return carm_camera(
        primary_deg=primary,
        secondary_deg=secondary,
        source_to_detector=1100.0,
        source_to_isocenter=750.0,
        pixel_mm=pixel,
        width=width,
        height=width,
        isocenter=isocenter,
    )


def pose(rng, degrees, shift):
    matrix = np.eye(4)
    axis = rng.normal(size=3)
    turn = axis / np.linalg.norm(axis) * np.radians(rng.uniform(-degrees, degrees))
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(turn).as_matrix(), rng.uniform(-shift, shift, 3)
    return matrix


def test_directions_of_the_c_arm():
    left, front, head_side = (50.0, 0, 0), (0, -50.0, 0), (0, 0, 50.0)
    middle = (59.5, 59.5)
    front_view = view(0.0)
    np.testing.assert_allclose(front_view.project([[0.0, 0, 0]]), [middle])
    assert front_view.project([left])[0, 0] < middle[0]  # as seen from the focus, behind the patient
    assert front_view.project([head_side])[0, 1] < middle[1]  # the head is up
    # At the receptor's side things are further from the focus and look smaller.
    wide = middle[0] - front_view.project([[50.0, -50.0, 0], [50.0, 50.0, 0]])[:, 0]
    assert wide[0] < wide[1]
    lateral = view(90.0)  # receptor on the left
    np.testing.assert_allclose(lateral.project([left]), [middle])
    assert lateral.project([front])[0, 0] > middle[0]
    cranial = view(0.0, 30.0)
    np.testing.assert_allclose(np.linalg.norm(cranial.world_from_camera[:3, 3]), 750.0)
    assert cranial.world_from_camera[2, 3] < 0.0  # focus at the feet's side, receptor at the head's


def test_geometry_from_dicom_tags():
    tags = {
        "0018|1110": "1100",
        "0018|1111": "750",
        "0018|1510": "30",
        "0018|1511": "-15",
        "0018|1164": "0.4\\0.4",
        "0028|0010": "512",
        "0028|0011": "512",
    }
    camera = carm_camera_from_dicom(tags)
    assert camera.fx == pytest.approx(2750.0)
    by_name = {"PositionerPrimaryAngle": 30.0, "PositionerSecondaryAngle": -15.0, "DistanceSourceToDetector": 1100}
    by_name |= {"DistanceSourceToPatient": 750, "ImagerPixelSpacing": "0.4", "Rows": 512, "Columns": 512}
    np.testing.assert_allclose(carm_camera_from_dicom(by_name).camera_from_world, camera.camera_from_world)
    with pytest.raises(InputError, match=r"PositionerPrimaryAngle \(0018,1510\)"):
        carm_camera_from_dicom({k: v for k, v in tags.items() if k != "0018|1510"})
    with pytest.raises(InputError, match="no number"):
        carm_camera_from_dicom(tags | {"0018|1510": "left"})
    with pytest.raises(InputError, match="between source and detector"):
        carm_camera_from_dicom(tags | {"0018|1111": "1200"})


def test_a_radiograph_of_a_ball_is_its_chord_length():
    size, spacing, radius = 61, 2.0, 40.0
    z, y, x = (np.indices((size,) * 3) - (size - 1) / 2) * spacing
    hu = np.where(x**2 + y**2 + z**2 < radius**2, 0.0, -1000.0)
    image = sitk.GetImageFromArray(hu.astype(np.float32))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([-0.5 * (size - 1) * spacing] * 3)
    volume = Attenuation.from_ct(image)
    shift = np.eye(4)
    shift[:3, 3] = (5.0, -3.0, 8.0)
    for camera in (view(20.0, 10.0), view(-70.0)):
        pixels = camera.project(shift[:3, 3] + np.random.default_rng(0).uniform(-15, 15, (30, 3)))
        rays = np.column_stack([camera.rays(pixels), np.ones(30)])
        rays /= np.linalg.norm(rays, axis=1)[:, None]
        center = rigid.apply_to_points(camera.camera_from_world, shift[:3, 3])
        gap = np.linalg.norm(center - (rays @ center)[:, None] * rays, axis=1)
        chord = 2 * np.sqrt(radius**2 - gap**2) * WATER_PER_MM
        drawn = radiograph(volume, camera, shift, step_mm=1.0, pixels=pixels)
        np.testing.assert_allclose(drawn, chord, rtol=0.05)
        thin = radiograph(volume.thinned(2), camera, shift, step_mm=1.0, pixels=pixels)
        np.testing.assert_allclose(thin, chord, rtol=0.05)


@pytest.fixture(scope="module")
def volume(head_ct):
    return Attenuation.from_ct(head_ct())


def test_two_views_find_a_volume_from_a_far_start(volume):
    rng = np.random.default_rng(3)
    cameras = [view(0.0), view(90.0)]
    truth = pose(rng, 20.0, 15.0)
    images = [radiograph(volume, c, truth, step_mm=1.5) + rng.normal(size=(120, 120)) * 0.02 for c in cameras]
    result = register_projections(images, cameras, volume, start=pose(rng, 8.0, 14.0) @ truth, fine_mm=3.0)
    points = rng.uniform(-50, 50, (30, 3))
    miss = rigid.apply_to_points(result.world_from_volume, points) - rigid.apply_to_points(truth, points)
    assert np.linalg.norm(miss, axis=1).mean() < 2.0
    assert result.verdict.level == "pass"
    assert result.similarity > result.start_similarity


def test_a_radiograph_of_something_else_does_not_pass(volume):
    rng = np.random.default_rng(4)
    other = gaussian_filter(rng.normal(size=(120, 120)), 3.0)
    assert register_projections([other], [view(0.0)], volume, coarse_mm=10.0, fine_mm=8.0).verdict.level == "fail"


def tree():
    s = np.linspace(0, 1, 80)[:, None]
    trunk = np.array([0, 0, -60.0]) + np.array([0, 0, 70.0]) * s + 10 * np.sin(3 * s) * (1, 0.4, 0)
    left = trunk[-1] + np.array([45.0, 10, 40]) * s + 6 * np.sin(4 * s) * (0, 1, 0)
    right = trunk[-1] + np.array([-35.0, -20, 45]) * s + 5 * np.sin(5 * s) * (0.5, 1, 0)
    return np.concatenate([trunk, left, right])


def drawn(camera, points):
    mask = np.zeros((camera.height, camera.width))
    for a, b in pairwise(points):
        if np.linalg.norm(b - a) < 5.0:
            column, row = np.rint(camera.project(a + np.linspace(0, 1, 6)[:, None] * (b - a))).astype(int).T
            mask[row, column] = 1.0
    return mask


@pytest.mark.parametrize("views", [1, 2])
def test_a_centerline_is_laid_on_its_angiogram(views):
    rng = np.random.default_rng(5)
    points = tree()
    cameras = [view(10.0, width=400, pixel=0.6), view(80.0, width=400, pixel=0.6)][:views]
    truth = pose(rng, 15.0, 10.0)
    masks = [drawn(camera, rigid.apply_to_points(truth, points)) for camera in cameras]
    result = register_centerline(points, masks, cameras, start=pose(rng, 8.0, 12.0) @ truth)
    miss = rigid.apply_to_points(result.world_from_tree, points) - rigid.apply_to_points(truth, points)
    assert result.rms_px < 1.5
    assert result.matched > 0.95
    if views == 2:
        assert np.linalg.norm(miss, axis=1).mean() < 1.0
        assert result.verdict.level == "pass"
    else:
        # What one view cannot see is the depth, and the result says so.
        beam = cameras[0].camera_from_world[2, :3]
        across = miss - np.outer(miss @ beam, beam)
        assert np.linalg.norm(across, axis=1).mean() < 1.0
        assert result.depth_std_mm[0] > 0.5


def test_views_that_cannot_be_used_are_named(volume):
    camera = view(0.0)
    with pytest.raises(InputError, match="1 images and 2 cameras"):
        register_projections([np.eye(120)], [camera, camera], volume)
    with pytest.raises(InputError, match="view 1 has shape"):
        register_projections([np.eye(60)], [camera], volume)
    with pytest.raises(InputError, match="flat"):
        register_projections([np.ones((120, 120))], [camera], volume)
    with pytest.raises(InputError, match="view 1 shows no vessel"):
        register_centerline(tree(), [np.zeros((120, 120))], [camera])
